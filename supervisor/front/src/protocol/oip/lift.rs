//! Long arrays of numbers, lifted out of a request's text before serde reads the rest: serde would go over every number
//! only to find where the array ends. Nothing is proved here. What was lifted is read by a pass that takes only JSON, and
//! what remains by serde; if either finds anything wrong, the whole text is read again without lifting.

use memchr::{memchr3_iter, memmem};
use serde_json::value::RawValue;

/// A request's text without its long arrays, and the arrays.
#[derive(Debug)]
pub(super) struct Lifted<'a> {
    head: Vec<u8>,
    /// Where in the head an array is missing, and its text.
    arrays: Vec<(usize, &'a str)>,
}

/// Lifts the arrays of all members called `data`, where there are any and they are worth it.
pub(super) fn lift(json: &[u8]) -> Option<Lifted<'_>> {
    if json.len() < WORTH {
        return None;
    }
    let key = memmem::Finder::new(KEY);
    let mut lifted = Lifted { head: Vec::with_capacity(WORTH), arrays: Vec::new() };
    let (mut copied, mut looked) = (0, 0);
    while let Some(at) = key.find(&json[looked..]).map(|at| looked + at) {
        looked = at + KEY.len();
        // Behind a backslash the first quote is a text's own, and this is the end of some other name.
        let escaped = json[..at].last() == Some(&b'\\');
        let value = json[looked..].trim_ascii_start().strip_prefix(b":").map(<[u8]>::trim_ascii_start);
        let Some(value) = value.filter(|_| !escaped) else { continue };
        let Some(array) = array(value) else { continue };
        let start = json.len() - value.len();
        if lifted.head.len() + (start - copied) > MOST_HEAD {
            return None;
        }
        lifted.head.extend_from_slice(&json[copied..start]);
        lifted.arrays.push((lifted.head.len(), array));
        lifted.head.extend_from_slice(b"[]");
        copied = start + array.len();
        looked = copied;
    }
    if lifted.head.len() + (json.len() - copied) > MOST_HEAD {
        return None;
    }
    lifted.head.extend_from_slice(&json[copied..]);
    (!lifted.arrays.is_empty()).then_some(lifted)
}

impl<'a> Lifted<'a> {
    /// The text that is left: an empty array stands where one was lifted.
    pub(super) fn head(&self) -> &[u8] {
        &self.head
    }

    /// How many were lifted.
    pub(super) fn count(&self) -> usize {
        self.arrays.len()
    }

    /// The array that was lifted from here. A value of the head is known by where it lies, which no client can feign.
    pub(super) fn array(&self, value: &RawValue) -> Option<&'a str> {
        let place = value.get().as_ptr().addr().checked_sub(self.head.as_ptr().addr())?;
        self.arrays.iter().find(|(at, _)| *at == place).map(|(_, array)| *array)
    }
}

/// The array that the text begins with, brackets and all, if nothing but numbers can be in it and it is long.
fn array(text: &[u8]) -> Option<&str> {
    if text.first() != Some(&b'[') {
        return None;
    }
    let mut depth = 0usize;
    for at in memchr3_iter(b'[', b']', b'"', text) {
        match text[at] {
            b'[' => depth += 1,
            b']' => depth -= 1,
            _ => return None,
        }
        if depth == 0 {
            let array = text.get(..=at).filter(|array| array.len() >= WORTH / 2)?;
            return std::str::from_utf8(array).ok().filter(|array| array.is_ascii());
        }
    }
    None
}

const KEY: &[u8] = b"\"data\"";
/// A shorter text is read as it stands, in bytes.
const WORTH: usize = 512;
/// Most of a text that is copied, in bytes; these are not counted among those of requests.
const MOST_HEAD: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn zeros(count: usize) -> String {
        format!("[{}]", vec!["0"; count].join(","))
    }

    #[test]
    fn long_arrays_are_lifted_and_what_is_left_is_known_by_its_place() {
        let (long, other) = (zeros(400), format!("[{},{}]", zeros(200), zeros(200)));
        let text =
            format!(r#"[{{"data":{long}}},{{"data" : {other} }},{{"data":[]}},{{"x\"data":{long}}},{{"data":[0]}}]"#);
        let lifted = lift(text.as_bytes()).unwrap();
        let left = format!(r#"[{{"data":[]}},{{"data" : [] }},{{"data":[]}},{{"x\"data":{long}}},{{"data":[0]}}]"#);
        assert_eq!(String::from_utf8_lossy(lifted.head()), left);
        let found: Vec<std::collections::BTreeMap<String, &RawValue>> = serde_json::from_slice(lifted.head()).unwrap();
        let found: Vec<Option<&str>> =
            found.iter().flat_map(|entry| entry.values()).map(|raw| lifted.array(raw)).collect();
        assert_eq!(found, [Some(long.as_str()), Some(&other), None, None, None]);
        let elsewhere: &RawValue = serde_json::from_str("[]").unwrap();
        assert_eq!(lifted.array(elsewhere), None);
    }

    #[test]
    fn what_has_texts_in_it_has_no_end_or_is_short_stays() {
        let pad = " ".repeat(WORTH);
        let long = zeros(400);
        let open = long.trim_end_matches(']');
        for value in ["[0]", "0", "null", "{}", &format!("[\"NaN\",{}]", zeros(400)), open, &format!("[{long}")] {
            assert!(lift(format!("{{\"data\":{value}{pad}").as_bytes()).is_none(), "{value}");
        }
        assert!(lift(format!("{{\"data\" {long}}}{pad}").as_bytes()).is_none());
        // What is no number of JSON's, and more beside the array than is worth a copy.
        assert!(lift(format!("{{\"data\":[é,{}]}}{pad}", zeros(400)).as_bytes()).is_none());
        let wide = " ".repeat(MOST_HEAD);
        assert!(lift(format!("{{\"data\":{long}}}{wide}").as_bytes()).is_none());
        assert!(lift(format!("{{\"data\":{long}}}{pad}").as_bytes()).is_some());
        assert!(lift(format!("{{\"data\":}}{pad}\"data\"").as_bytes()).is_none());
    }
}
