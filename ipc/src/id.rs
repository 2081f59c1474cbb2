//! Names and numbers that cross a process boundary. A name is checked when it is made or decoded, so whoever holds one
//! may put it in a path, a log line or a metric label.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use bincode::de::Decoder;
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{Decode, Encode, impl_borrow_decode};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A model's name: 1 to 63 characters of `[A-Za-z0-9._-]`, starting with a letter or digit. Never a path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModelName(Text<{ ModelName::MAX }>);

/// A model's version: 1 to 31 characters of the same alphabet. `10` sorts after `9`, `1.10` after `1.9`.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version(Text<{ Version::MAX }>);

/// Who a model belongs to: a name of the same alphabet and length as a model's.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TenantName(Text<{ TenantName::MAX }>);

/// A checked text of at most `MOST` bytes, where it is named: names go along with every request. Behind it are zeros, which no
/// name has, so comparing all of it is comparing the texts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Text<const MOST: usize> {
    bytes: [u8; MOST],
    length: u8,
}

/// One version of one model: what a worker serves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize)]
pub struct ModelId {
    /// The model.
    pub name: ModelName,
    /// Its version.
    pub version: Version,
}

/// A worker process of this run of the launcher; never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize)]
pub struct WorkerId(pub u64);

/// A batch that a front sent to a worker; never given twice to one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct BatchId(pub u64);

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// Nothing there.
    #[error("it is empty")]
    Empty,
    /// Over the limit.
    #[error("it has {found} characters, at most {limit} are allowed")]
    TooLong {
        /// Characters found.
        found: usize,
        /// Characters allowed.
        limit: usize,
    },
    /// A character that could mean something in a path, a label or a terminal.
    #[error("{0:?} is not allowed; use letters, digits, '.', '_' and '-', starting with a letter or digit")]
    Character(char),
}

// === impl ModelName ===

impl ModelName {
    /// Longest name, in characters.
    pub const MAX: usize = 63;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

// === impl TenantName ===

impl TenantName {
    /// Longest name, in characters.
    pub const MAX: usize = ModelName::MAX;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

// === impl Version ===

impl Version {
    /// Longest version, in characters.
    pub const MAX: usize = 31;

    /// The version as text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl Ord for Version {
    /// Part by part between dots: numbers by value, other parts by text, a number before a text.
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |part: &str| part.parse::<u64>().map_or_else(|_| (1, 0, part.to_owned()), |n| (0, n, String::new()));
        let ours = self.as_str().split('.').map(key);
        // Two spellings of one number ("1" and "01") still need an order, or a map would merge them.
        ours.cmp(other.as_str().split('.').map(key)).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

// === what both names share ===

macro_rules! name_text {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($name)).field(&self.as_str()).finish()
            }
        }
        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Text::new(text).map(Self)
            }
        }
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.as_str().to_owned()
            }
        }
        impl Encode for $name {
            fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
                self.as_str().encode(encoder)
            }
        }
        // By hand, so that a decoded name has passed the same check as any other.
        impl<C> Decode<C> for $name {
            fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
                let text = String::decode(decoder)?;
                Self::try_from(text).map_err(|e| DecodeError::OtherString(e.to_string()))
            }
        }
        impl_borrow_decode!($name);
    };
}
name_text!(ModelName);
name_text!(Version);
name_text!(TenantName);

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.name, self.version)
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "w{}", self.0)
    }
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b{}", self.0)
    }
}

// === impl Text ===

impl<const MOST: usize> Text<MOST> {
    fn new(text: &str) -> Result<Self, NameError> {
        check(text, MOST)?;
        let mut bytes = [0; MOST];
        let too_long = NameError::TooLong { found: text.len(), limit: MOST };
        // Checked, so every character is one byte.
        bytes.get_mut(..text.len()).ok_or(too_long)?.copy_from_slice(text.as_bytes());
        Ok(Self { bytes, length: text.len() as u8 })
    }

    fn as_str(&self) -> &str {
        // Nothing but letters, digits and marks of ASCII is ever in it.
        std::str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or_default()
    }
}

fn check(text: &str, limit: usize) -> Result<(), NameError> {
    let first = text.chars().next().ok_or(NameError::Empty)?;
    let found = text.chars().count();
    if found > limit {
        return Err(NameError::TooLong { found, limit });
    }
    if !first.is_ascii_alphanumeric() {
        return Err(NameError::Character(first));
    }
    match text.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '_' | '-')) {
        Some(c) => Err(NameError::Character(c)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_be_paths_or_labels_are_refused() {
        for bad in ["", ".", "..", "../x", "a/b", "a\\b", "a b", "a\n", "-a", "_a", "é", "a\"", "a{", &"x".repeat(64)]
        {
            assert!(bad.parse::<ModelName>().is_err(), "{bad:?} passed");
        }
        for good in ["a", "digits", "all-MiniLM.v2_x", "0", &"x".repeat(63)] {
            assert!(good.parse::<ModelName>().is_ok(), "{good:?} was refused");
        }
    }

    #[test]
    fn versions_sort_by_number() {
        let mut versions: Vec<Version> = ["10", "9", "1.10", "1.9", "2", "1.0a"].map(|v| v.parse().unwrap()).into();
        versions.sort();
        assert_eq!(versions.iter().map(Version::as_str).collect::<Vec<_>>(), ["1.9", "1.10", "1.0a", "2", "9", "10"]);
    }
}
