//! What the workers of a model have printed: counted, and the last lines kept. Bounded, whatever is printed.

use std::collections::VecDeque;

use crate::status::OutputStatus;
use crate::telemetry;

/// The counts of a model, and the last lines of its worker.
#[derive(Debug, Default)]
pub struct Printed {
    counts: OutputStatus,
    line: Vec<u8>,
    tail: VecDeque<String>,
}

/// Lines that are kept.
pub const LINES: usize = 64;
/// Bytes of one, made safe.
pub const LINE: usize = 512;
/// Lines that the log tells when a worker ended badly; all of them would drown it.
const TOLD: usize = 8;

impl Printed {
    /// Another worker: what the last one said is no longer of interest.
    pub fn begin(&mut self) {
        self.line.clear();
        self.tail.clear();
    }

    /// Takes what came, whatever of it reaches the log: `dropped` bytes did not.
    pub fn take(&mut self, bytes: &[u8], dropped: u64) {
        self.counts.bytes = self.counts.bytes.saturating_add(bytes.len() as u64);
        self.counts.dropped = self.counts.dropped.saturating_add(dropped);
        for byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                // The rest of a long line is counted and not kept.
                _ if self.line.len() < LINE => self.line.push(*byte),
                _ => {}
            }
        }
    }

    /// What it was, for the status.
    pub fn counts(&self) -> OutputStatus {
        self.counts
    }

    /// The last lines, safe to print, the last one perhaps not ended.
    pub fn tail(&self) -> String {
        let open = (!self.line.is_empty()).then(|| safe(&self.line));
        let lines: Vec<String> = self.tail.iter().cloned().chain(open).collect();
        lines.get(lines.len().saturating_sub(TOLD)..).unwrap_or_default().join(" | ")
    }

    fn end_line(&mut self) {
        self.counts.lines = self.counts.lines.saturating_add(1);
        let line = safe(&self.line);
        self.line.clear();
        if self.tail.len() >= LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }
}

fn safe(line: &[u8]) -> String {
    telemetry::escape_to(&String::from_utf8_lossy(line), LINE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_safe_and_bounded() {
        let mut printed = Printed::default();
        printed.take(b"first \x1b[31m\nsec", 0);
        printed.take(b"ond\n\xff open", 3);
        assert_eq!(printed.counts(), OutputStatus { lines: 2, bytes: 25, dropped: 3 });
        assert_eq!(printed.tail(), "first \\u{1b}[31m | second | \u{fffd} open");
        for _ in 0..1000 {
            printed.take(&[b"\x07".repeat(9000).as_slice(), b"\n"].concat(), 0);
        }
        assert_eq!(printed.tail.len(), LINES);
        assert!(printed.tail.iter().all(|line| line.len() <= LINE));
        assert!(printed.tail().len() <= TOLD * (LINE + 3));
        printed.begin();
        assert_eq!(printed.tail(), "");
        assert_eq!(printed.counts().lines, 1002);
    }
}
