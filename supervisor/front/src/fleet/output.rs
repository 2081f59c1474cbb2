//! What a worker prints: a bounded part of it reaches the log, a line an event, made safe; the rest is counted.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use casemate_ipc::id::{ModelId, WorkerId};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::registered;
use super::seat::Seat;
use crate::metrics::Metrics;
use crate::telemetry;

/// Longest line that is logged whole.
const LINE: usize = 1024;

/// Reads a worker's output until its end. The pipe is non-blocking on the worker's side, so a worker never waits for us.
pub async fn drain(pipe: OwnedFd, seat: Seat, worker: WorkerId, bytes_per_second: u64, metrics: Metrics) {
    let model = seat.handle.model.clone();
    // This end is the launcher's make, and blocks: a runtime thread would sleep in its read.
    if fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).is_err() {
        return;
    }
    let Ok(pipe) = registered::register(pipe) else { return };
    let mut budget = Budget::new(bytes_per_second, Instant::now());
    let mut chunk = [0; 4096];
    let mut line = Vec::with_capacity(LINE);
    loop {
        let Ok(mut ready) = pipe.readable().await else { return };
        let read = match ready.try_io(|pipe| Ok(nix::unistd::read(pipe.get_ref(), &mut chunk)?)) {
            Ok(Ok(0)) | Ok(Err(_)) => break,
            Ok(Ok(read)) => read,
            Err(_would_block) => continue,
        };
        let allowed = budget.take(read as u64, Instant::now());
        let kept = usize::try_from(allowed).unwrap_or(read).min(read);
        let dropped = (read - kept) as u64;
        metrics.log_dropped(&model, dropped);
        seat.printed(chunk.get(..read).unwrap_or_default(), dropped);
        for byte in chunk.iter().take(kept) {
            if *byte == b'\n' || line.len() >= LINE {
                log(&model, worker, &mut line);
            }
            if *byte != b'\n' {
                line.push(*byte);
            }
        }
        if kept < read {
            // A flood: look at it a few times a second, not as fast as it comes.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    log(&model, worker, &mut line);
}

fn log(model: &ModelId, worker: WorkerId, line: &mut Vec<u8>) {
    if !line.is_empty() {
        let text = telemetry::escape(&String::from_utf8_lossy(line));
        tracing::info!(%model, %worker, output = text, "worker printed");
        line.clear();
    }
}

/// Bytes per second, with one second's worth saved up.
#[derive(Debug)]
struct Budget {
    rate: u64,
    left: u64,
    filled: Instant,
}

impl Budget {
    fn new(rate: u64, now: Instant) -> Self {
        Self { rate, left: rate, filled: now }
    }

    fn take(&mut self, wanted: u64, now: Instant) -> u64 {
        let millis = u64::try_from(now.duration_since(self.filled).as_millis()).unwrap_or(u64::MAX);
        let gained = self.rate.saturating_mul(millis) / 1000;
        if gained > 0 {
            self.left = self.left.saturating_add(gained).min(self.rate);
            self.filled = now;
        }
        let given = wanted.min(self.left);
        self.left -= given;
        given
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_gets_its_share_and_no_more() {
        let start = Instant::now();
        let mut budget = Budget::new(1000, start);
        assert_eq!(budget.take(5000, start), 1000);
        assert_eq!(budget.take(5000, start), 0);
        assert_eq!(budget.take(5000, start + Duration::from_millis(500)), 500);
        assert_eq!(budget.take(5000, start + Duration::from_secs(3600)), 1000);
    }
}
