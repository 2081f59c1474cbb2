//! One line an event, on stderr: `casemate-launcher: level=info event=started worker=w1 …`.
//!
//! Values are escaped, so that no name out of a store or a kernel file can forge a line or reach a terminal.

use std::fmt::{self, Display, Write as _};
use std::io::Write as _;

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// As expected.
    Info,
    /// The server goes on, and somebody should look.
    Warn,
    /// Something ends here.
    Error,
}

/// Something as expected.
pub fn info(event: &str, fields: &[(&str, &dyn Display)]) {
    put(Level::Info, event, fields);
}

/// Something to look at.
pub fn warn(event: &str, fields: &[(&str, &dyn Display)]) {
    put(Level::Warn, event, fields);
}

/// The end of something.
pub fn error(event: &str, fields: &[(&str, &dyn Display)]) {
    put(Level::Error, event, fields);
}

/// The one line that is not of this form: what the command and the tests wait for.
pub fn listening(address: impl Display) {
    emit(&format!("casemate: listening on http://{address}\n"));
}

fn put(level: Level, event: &str, fields: &[(&str, &dyn Display)]) {
    emit(&line(level, event, fields));
}

fn emit(line: &str) {
    // One write, so that lines of other programs on the same pipe do not fall in between; a log that nobody reads any
    // more must not stop the server.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

fn line(level: Level, event: &str, fields: &[(&str, &dyn Display)]) -> String {
    let mut line = format!("casemate-launcher: level={level} event={event}");
    for (key, value) in fields {
        let _ = write!(line, " {key}={}", Escaped(&value.to_string()));
    }
    line.push('\n');
    line
}

struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:+,@%".contains(c);
        if !self.0.is_empty() && self.0.chars().all(plain) {
            return f.write_str(self.0);
        }
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                ' '..='~' => f.write_char(c)?,
                _ => write!(f, "{}", c.escape_default())?,
            }
        }
        f.write_char('"')
    }
}

impl Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_can_not_forge_a_line() {
        let nasty = "x\nlevel=error \u{1b}[2J \"é\" \\";
        let line = line(Level::Warn, "ignored", &[("name", &nasty), ("empty", &""), ("path", &"/srv/a-b_1.pt")]);
        let expected = concat!(
            "casemate-launcher: level=warn event=ignored ",
            r#"name="x\nlevel=error \u{1b}[2J \"\u{e9}\" \\" empty="" path=/srv/a-b_1.pt"#,
            "\n"
        );
        assert_eq!(line, expected);
    }
}
