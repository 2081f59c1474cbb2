//! Rust source as words and signs, without comments and literals: enough to see what a file names.

/// A token with its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) line: usize,
    pub(super) kind: Kind<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    /// An identifier, keyword or number; a raw identifier without its `r#`.
    Word(&'a str),
    /// `::`
    Path,
    Sign(char),
}

/// Text that is no Rust gives some tokens or other: the compiler, not we, will complain.
pub(super) fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut reader = Reader { rest: text, line: 1 };
    std::iter::from_fn(|| reader.next()).collect()
}

struct Reader<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Option<Token<'a>> {
        loop {
            let first = self.rest.chars().next()?;
            let line = self.line;
            let found = |kind| Some(Token { line, kind });
            if self.rest.starts_with("//") {
                self.skip(self.rest.find('\n').unwrap_or(self.rest.len()));
            } else if self.rest.starts_with("/*") {
                self.comment();
            } else if first == '"' {
                self.string();
            } else if first == '\'' {
                self.quote();
            } else if self.rest.starts_with("::") {
                self.skip(2);
                return found(Kind::Path);
            } else if is_word(first) {
                let word = self.take(self.rest.find(|c| !is_word(c)).unwrap_or(self.rest.len()));
                let hashes = self.rest.len() - self.rest.trim_start_matches('#').len();
                if matches!(word, "r" | "br" | "cr") && self.rest[hashes..].starts_with('"') {
                    self.raw_string(hashes);
                } else if word == "r" && hashes == 1 {
                    self.skip(1);
                } else {
                    return found(Kind::Word(word));
                }
            } else {
                self.skip(first.len_utf8());
                if !first.is_whitespace() {
                    return found(Kind::Sign(first));
                }
            }
        }
    }

    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes.min(self.rest.len()));
        self.line += taken.matches('\n').count();
        self.rest = rest;
        taken
    }

    fn skip(&mut self, bytes: usize) {
        self.take(bytes);
    }

    /// Block comments nest.
    fn comment(&mut self) {
        let mut depth = 0;
        while let Some(first) = self.rest.chars().next() {
            if self.rest.starts_with("/*") {
                depth += 1;
                self.skip(2);
            } else if self.rest.starts_with("*/") {
                depth -= 1;
                self.skip(2);
                if depth == 0 {
                    return;
                }
            } else {
                self.skip(first.len_utf8());
            }
        }
    }

    fn string(&mut self) {
        let mut escaped = true; // the opening quote
        let end = self.rest.char_indices().find(|&(_, c)| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        self.skip(end.map_or(self.rest.len(), |(at, _)| at + 1));
    }

    fn raw_string(&mut self, hashes: usize) {
        self.skip(hashes + 1);
        let end = format!("\"{}", "#".repeat(hashes));
        self.skip(self.rest.find(&end).map_or(self.rest.len(), |at| at + end.len()));
    }

    /// A character, or a lifetime.
    fn quote(&mut self) {
        let mut inside = self.rest[1..].chars();
        match (inside.next(), inside.next()) {
            (Some('\\'), Some(escaped)) => {
                self.skip(2 + escaped.len_utf8());
                self.skip(self.rest.find('\'').map_or(self.rest.len(), |at| at + 1));
            }
            (Some(one), Some('\'')) => self.skip(2 + one.len_utf8()),
            _ => {
                self.skip(1);
                self.skip(self.rest.find(|c| !is_word(c)).unwrap_or(self.rest.len()));
            }
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<&str> {
        let words = tokens(text).into_iter().filter_map(|token| match token.kind {
            Kind::Word(word) => Some(word),
            _ => None,
        });
        words.collect()
    }

    #[test]
    fn comments_and_literals_are_not_code() {
        let text =
            "a /* unsafe /* nested */ unsafe */ b // unsafe\nc \"unsafe \\\" unsafe\" d r#\"unsafe \" unsafe\"# e";
        assert_eq!(words(text), ["a", "b", "c", "d", "e"]);
    }

    #[test]
    fn characters_and_lifetimes_are_told_apart() {
        assert_eq!(words(r#"a '"' b '\'' c '\u{1F600}' d &'static e b'"' f"#), ["a", "b", "c", "d", "e", "b", "f"]);
    }

    #[test]
    fn raw_identifiers_lose_their_mark() {
        assert_eq!(words("r#type rest"), ["type", "rest"]);
    }

    #[test]
    fn lines_are_counted_through_literals() {
        let last = tokens("\"one\ntwo\"\n/* three\n*/ last").pop();
        assert_eq!(last, Some(Token { line: 4, kind: Kind::Word("last") }));
    }
}
