//! The binary tensor extension: JSON first, then the tensors' bytes in the order of the inputs, nothing between them.
//! A tensor is a slice of the body, never a copy.

use axum::http::{HeaderMap, HeaderName};
use bytes::Bytes;

use crate::refusal::Refusal;

/// The header that says how long the JSON is; 0 for a body that is one tensor and nothing else.
pub const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// The bytes behind the JSON, taken from the front.
#[derive(Debug, Clone)]
pub struct Tail {
    rest: Option<Bytes>,
}

/// Reads [`JSON_LENGTH`], if it is there.
pub fn json_length(headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    let mut values = headers.get_all(JSON_LENGTH).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let digits = value.to_str().ok().filter(|v| !v.is_empty() && v.bytes().all(|b| b.is_ascii_digit()));
    match (digits.and_then(|v| v.parse().ok()), values.next()) {
        (Some(length), None) => Ok(Some(length)),
        _ => Err(Refusal::invalid(
            "Inference-Header-Content-Length must come once and be the length of the JSON in bytes",
        )),
    }
}

/// Parts a body into its JSON and the tensors behind it.
pub fn split(json_length: Option<u64>, body: &Bytes) -> Result<(Bytes, Tail), Refusal> {
    let Some(length) = json_length else { return Ok((body.clone(), Tail { rest: None })) };
    match usize::try_from(length).ok().filter(|length| *length <= body.len()) {
        Some(length) => Ok((body.slice(..length), Tail { rest: Some(body.slice(length..)) })),
        None => Err(Refusal::invalid(format!(
            "Inference-Header-Content-Length is {length}, but the body has {} bytes",
            body.len()
        ))),
    }
}

impl Tail {
    /// The next tensor. The error says what is wrong; the caller knows with which input.
    pub fn take(&mut self, bytes: usize) -> Result<Bytes, String> {
        let Some(rest) = &mut self.rest else {
            return Err("has binary data, but the request has no header Inference-Header-Content-Length".into());
        };
        if bytes > rest.len() {
            return Err(format!("binary_data_size is {bytes}, but only {} bytes of the body are left", rest.len()));
        }
        Ok(rest.split_to(bytes))
    }

    /// Nothing may be left: a client that sends more than it says means something that this server would miss.
    pub fn finish(self) -> Result<(), Refusal> {
        match self.rest {
            Some(rest) if !rest.is_empty() => Err(Refusal::invalid(format!(
                "{} bytes are left behind the last tensor; the sizes in 'binary_data_size' must cover the whole body",
                rest.len()
            ))),
            _ => Ok(()),
        }
    }
}
