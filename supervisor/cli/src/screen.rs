//! The one place that writes to the terminal: knows whether there is one, whether it has colour and whether it has UTF-8.

use std::env;
use std::error::Error;
use std::fmt::{self, Display};
use std::io::{self, IsTerminal, Write};

/// Where the command's words go.
pub(crate) struct Screen {
    out: Box<dyn Write>,
    terminal: bool,
    colour: bool,
    utf8: bool,
}

/// What a word means; how that looks is the screen's business.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Strong,
    Quiet,
    Good,
    Bad,
    Warn,
}

impl Screen {
    pub(crate) fn stdout() -> Self {
        Self::on(Box::new(io::stdout()), io::stdout().is_terminal())
    }

    pub(crate) fn stderr() -> Self {
        Self::on(Box::new(io::stderr()), io::stderr().is_terminal())
    }

    /// Whether there are colours: on a terminal that has them, unless NO_COLOR is set (no-color.org).
    pub(crate) fn colour(&self) -> bool {
        self.colour
    }

    /// Whether other signs than ASCII can be shown.
    pub(crate) fn utf8(&self) -> bool {
        self.utf8
    }

    /// One line. A reader that has gone away (`| head`) is no failure of ours.
    pub(crate) fn line(&mut self, text: impl Display) {
        let _ = writeln!(self.out, "{text}");
        let _ = self.out.flush();
    }

    /// One line that the next one takes the place of; nothing where there is no terminal.
    pub(crate) fn passing(&mut self, text: impl Display) {
        if self.terminal {
            let _ = write!(self.out, "\r\x1b[K{text}");
            let _ = self.out.flush();
        }
    }

    /// The text with a tone, where there are colours.
    pub(crate) fn tone(&self, tone: Tone, text: impl Display) -> String {
        let code = match tone {
            Tone::Strong => 1,
            Tone::Quiet => 2,
            Tone::Good => 32,
            Tone::Bad => 31,
            Tone::Warn => 33,
        };
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }

    /// The error with what was behind it.
    pub(crate) fn failure(&mut self, error: &dyn Error) {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(behind) = cause {
            text = format!("{text}: {behind}");
            cause = behind.source();
        }
        let head = self.tone(Tone::Bad, "error:");
        self.line(format_args!("{head} {}", text.trim_end()));
    }

    fn on(out: Box<dyn Write>, terminal: bool) -> Self {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty());
        let dumb = set("TERM").is_none_or(|term| term == "dumb");
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set);
        let utf8 = locale.is_some_and(|name| is_utf8(&name.to_string_lossy()));
        Self { out, terminal: terminal && !dumb, colour: terminal && !dumb && set("NO_COLOR").is_none(), utf8 }
    }
}

impl fmt::Debug for Screen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Screen").field("colour", &self.colour).field("utf8", &self.utf8).finish_non_exhaustive()
    }
}

fn is_utf8(locale: &str) -> bool {
    let name = locale.to_ascii_lowercase();
    name.contains("utf-8") || name.contains("utf8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_locale_that_says_so_is_utf8() {
        assert!(["C.UTF-8", "de_DE.utf8", "en_GB.UTF-8@euro"].into_iter().all(is_utf8));
        assert!(!["C", "POSIX", "de_DE.ISO-8859-1", ""].into_iter().any(is_utf8));
    }

    #[test]
    fn without_colours_a_tone_is_nothing() {
        let plain = Screen { out: Box::new(Vec::new()), terminal: false, colour: false, utf8: true };
        assert_eq!(plain.tone(Tone::Bad, "no"), "no");
    }
}
