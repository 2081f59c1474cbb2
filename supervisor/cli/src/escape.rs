//! Text from a model file or a server, made harmless for a terminal.
//!
//! A name may hold an escape sequence that rewrites the screen, or a control that turns the reading direction.

use std::fmt::Write;

/// The text with everything but letters, digits, ASCII signs and spaces written as `\u{…}`.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c == ' ' || (c.is_ascii_graphic() && c != '\\') || (!c.is_ascii() && c.is_alphanumeric()) {
            out.push(c);
        } else {
            out.extend(c.escape_default());
        }
    }
    out
}

/// [`printable`], cut to some characters.
pub(crate) fn short(text: &str, most: usize) -> String {
    let cut: String = text.chars().take(most).collect();
    let dots = if cut.len() < text.len() { "..." } else { "" };
    printable(&cut) + dots
}

/// JSON in ASCII alone: it means the same, and a terminal that it is printed on sees no control characters.
pub(crate) fn ascii_json(value: &serde_json::Value) -> String {
    let mut out = String::new();
    for c in format!("{value:#}").chars() {
        if c == '\n' || c == ' ' || c.is_ascii_graphic() {
            out.push(c);
        } else {
            // Only inside strings can such a character stand; serde_json has escaped the controls below 0x20.
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_steers_a_terminal_comes_through() {
        let hostile =
            ["\x1b[2J", "\u{9b}31m", "a\rb", "a\nb", "\u{202e}gpj.exe", "\u{200b}", "\x7f", "\u{e000}", "\\x1b"];
        for text in hostile {
            let shown = printable(text);
            assert!(!shown.chars().any(|c| c.is_control() || (!c.is_ascii() && !c.is_alphanumeric())), "{shown:?}");
            assert_ne!(shown, text);
        }
        assert_eq!(printable("déjà vu/data.pkl, [1]"), "déjà vu/data.pkl, [1]");
        assert_eq!(short("abcdef", 3), "abc...");
    }

    #[test]
    fn json_stays_the_same_json() {
        let value = serde_json::json!({ "\u{9b}31m\u{202e}": ["é", "𝄞", "\x1b\x7f\n"] });
        let text = ascii_json(&value);
        assert!(text.chars().all(|c| c == '\n' || c == ' ' || c.is_ascii_graphic()), "{text:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }
}
