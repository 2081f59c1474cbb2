//! The log: lines on stderr, which belongs to the launcher's. Also how text of others is made fit to stand in one.

use std::fmt::Write;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt;

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// For a person.
    #[default]
    Plain,
    /// One JSON object a line.
    Json,
}

/// Starts the log. A second call changes nothing, so that tests may call it as they like.
pub fn init(form: Form, level: LevelFilter) {
    // No colours: they would be control characters in the journal.
    let log = fmt().with_max_level(level).with_ansi(false).with_writer(std::io::stderr);
    let _ = match form {
        Form::Plain => log.try_init(),
        Form::Json => log.json().flatten_event(true).try_init(),
    };
}

/// Text of a worker or a client, fit for a log: no control character, nothing that turns the reading direction or
/// hides, and at most [`MAX_TEXT`] bytes. Each such character becomes its escape.
pub fn escape(text: &str) -> String {
    escape_to(text, MAX_TEXT)
}

/// The same, of at most `most` bytes, which must be more than a mark of a cut takes.
pub fn escape_to(text: &str, most: usize) -> String {
    let mut safe = String::with_capacity(text.len().min(most));
    for c in text.chars() {
        if safe.len() + MAX_ESCAPE > most {
            safe.push('…');
            break;
        }
        if c.is_control() || is_unseen(c) {
            // Writing into a String has no way to fail.
            let _ = write!(safe, "{}", c.escape_unicode());
        } else {
            safe.push(c);
        }
    }
    safe
}

/// Longest text that [`escape`] lets through, in bytes.
pub const MAX_TEXT: usize = 1024;
/// Longest that one character becomes: `\u{10ffff}`; as much is left for the mark of a cut.
const MAX_ESCAPE: usize = 10 + '…'.len_utf8();

/// Format characters: they take no place, and some reorder what stands around them.
fn is_unseen(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_can_forge_a_line_or_colour_a_terminal() {
        assert_eq!(escape("a\nERROR b\r\u{1b}[31m"), "a\\u{a}ERROR b\\u{d}\\u{1b}[31m");
        assert_eq!(escape("\u{202e}cod\u{200b}"), "\\u{202e}cod\\u{200b}");
        assert_eq!(escape("plain é € 模"), "plain é € 模");
        for long in ["x".repeat(5000), "\u{e0001}".repeat(2000), "€".repeat(2000), "\u{7f}".repeat(1024)] {
            assert!(escape(&long).len() <= MAX_TEXT && escape(&long).ends_with('…'));
        }
    }
}
