//! JSON numbers into a tensor's bytes and back. Knows the element type and the shape beforehand, so it can refuse as
//! soon as there is one number too many, and never holds more than the tensor that was announced.
//!
//! One pass over the text's bytes, without recursion, with a counter for each dimension; nesting beyond the shape's own ends
//! the pass. Text that comes as a [`RawValue`] serde has proved to be JSON. Of other text the pass itself sees to that.

use std::fmt;
use std::str::FromStr;

use casemate_ipc::tensor::{DType, MAX_RANK, Shape, TensorError};

use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use thiserror::Error;

mod lane;
mod write;

pub use write::write;

/// Why a JSON array is not the tensor that was announced. `index` counts elements, rows first, from 0.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NumberError {
    /// The shape itself has no size.
    #[error(transparent)]
    Shape(#[from] TensorError),
    /// Neither flat nor nested like the shape.
    #[error("'data' is nested {found} deep; shape {shape} wants one flat array or {} levels", .shape.dims().len())]
    Nesting {
        /// Depth at which that showed.
        found: usize,
        /// The announced shape.
        shape: Shape,
    },
    /// An array at some depth has the wrong length.
    #[error("an array at depth {depth} of 'data' has {found} entries; shape {shape} wants {wanted}")]
    Ragged {
        /// Counted from 1.
        depth: usize,
        /// Entries found.
        found: u64,
        /// Entries that the shape wants.
        wanted: u64,
        /// The announced shape.
        shape: Shape,
    },
    /// Too many or too few numbers.
    #[error("'data' has {}{found} numbers; shape {shape} wants {wanted}", if .found > .wanted { "at least " } else { "" })]
    Count {
        /// Numbers found.
        found: usize,
        /// Numbers that the shape wants.
        wanted: usize,
        /// The announced shape.
        shape: Shape,
    },
    /// No JSON at all.
    #[error("'data' is not JSON")]
    Malformed,
    /// A number that the type cannot hold.
    #[error("data[{index}] is {found}, which {dtype} cannot hold; {wanted}", wanted = wanted(*.dtype))]
    Range {
        /// Which element.
        index: usize,
        /// As it was written, cut.
        found: String,
        /// The announced type.
        dtype: DType,
    },
    /// Something else than a number of this type.
    #[error("data[{index}] is {found}; {wanted}", wanted = wanted(*.dtype))]
    Kind {
        /// Which element.
        index: usize,
        /// As it was written, cut.
        found: String,
        /// The announced type.
        dtype: DType,
    },
}

/// Little-endian bytes of a tensor that was written as JSON, flat or nested exactly like its shape.
pub fn read(data: &RawValue, dtype: DType, shape: &Shape) -> Result<Vec<u8>, NumberError> {
    pass(Text { text: data.get(), proved: true }, dtype, shape)
}

/// The same from text that nobody has looked at.
pub fn read_unproved(text: &str, dtype: DType, shape: &Shape) -> Result<Vec<u8>, NumberError> {
    pass(Text { text, proved: false }, dtype, shape)
}

#[derive(Clone, Copy)]
struct Text<'a> {
    text: &'a str,
    proved: bool,
}

fn pass(text: Text<'_>, dtype: DType, shape: &Shape) -> Result<Vec<u8>, NumberError> {
    let bytes = shape.bytes(dtype)?;
    // Every number but the last takes a digit and a comma, so a short text cannot reserve a large tensor.
    let mut out = Vec::with_capacity(bytes.min((text.text.len() / 2 + 1).saturating_mul(dtype.size())));
    match dtype {
        DType::Bool => scan(text, shape, &mut out, |_| None, |i, t| t.truth(i).map(|v| [v]))?,
        DType::Uint8 => scan(text, shape, &mut out, lane::uint8, |i, t| t.whole(i, dtype).map(u8::to_le_bytes))?,
        DType::Int8 => scan(text, shape, &mut out, lane::int8, |i, t| t.whole(i, dtype).map(i8::to_le_bytes))?,
        DType::Int16 => scan(text, shape, &mut out, lane::int16, |i, t| t.whole(i, dtype).map(i16::to_le_bytes))?,
        DType::Int32 => scan(text, shape, &mut out, lane::int32, |i, t| t.whole(i, dtype).map(i32::to_le_bytes))?,
        DType::Int64 => scan(text, shape, &mut out, lane::int64, |i, t| t.whole(i, dtype).map(i64::to_le_bytes))?,
        DType::Fp16 => scan(text, shape, &mut out, lane::fp16, |i, t| t.half(i, dtype).map(lane::to_fp16))?,
        DType::Bf16 => scan(text, shape, &mut out, lane::bf16, |i, t| t.half(i, dtype).map(lane::to_bf16))?,
        DType::Fp32 => scan(text, shape, &mut out, lane::fp32, |i, t| t.single(i).map(f32::to_le_bytes))?,
        DType::Fp64 => scan(text, shape, &mut out, lane::fp64, |i, t| t.double(i, dtype).map(f64::to_le_bytes))?,
    }
    Ok(out)
}

/// The first byte of a BOOL tensor that is neither 0 nor 1. C++ must never see such a `bool`.
pub fn not_truth(data: &[u8]) -> Option<usize> {
    data.iter().position(|b| *b > 1)
}

// === reading ===

/// One element, as it stands in the text.
#[derive(Clone, Copy)]
enum Token<'a> {
    Number(&'a str),
    /// `true`, `false`, `null`, a string with its quotes, or the start of an object.
    Other(&'a str),
}

/// Walks over the array and appends its elements' bytes. The usual number is read in the fast `lane`; what that does not
/// take is for `careful`, which gets the element and its index.
fn scan<'a, const N: usize>(
    Text { text, proved }: Text<'a>,
    shape: &Shape,
    out: &mut Vec<u8>,
    lane: impl Fn(&'a [u8]) -> lane::Read<'a, N>,
    careful: impl Fn(usize, Token<'a>) -> Result<[u8; N], NumberError>,
) -> Result<(), NumberError> {
    let dims = shape.dims();
    let wanted = shape.elements()?;
    let nesting = |found| NumberError::Nesting { found, shape: shape.clone() };
    let deepest = dims.len().max(1);
    let bytes = text.as_bytes();
    // Entries so far of the open array at each depth; index 0 is the outermost.
    let mut entries = [0u64; MAX_RANK];
    let (mut at, mut depth, mut found) = (0usize, 0usize, 0usize);
    // The depth at which the elements lie, known from the first one on.
    let mut level: Option<usize> = None;
    let mut next = Next::Entry;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => at += 1,
            b',' => {
                next = next.step(&[Next::CommaOrEnd], Next::Entry)?;
                at += 1;
            }
            b'[' => {
                next = next.step(&[Next::Entry, Next::EntryOrEnd], Next::EntryOrEnd)?;
                if depth >= deepest || level.is_some_and(|level| depth >= level) {
                    return Err(nesting(depth + 1));
                }
                if let Some(outer) = depth.checked_sub(1) {
                    entries[outer] += 1;
                }
                entries[depth] = 0;
                depth += 1;
                at += 1;
            }
            b']' => {
                next = next.step(&[Next::CommaOrEnd, Next::EntryOrEnd], Next::CommaOrEnd)?;
                depth = depth.checked_sub(1).ok_or_else(|| nesting(0))?;
                at += 1;
                let flat = depth == 0 && (level == Some(1) || level.is_none());
                if let (false, Some(dim)) = (flat, dims.get(depth))
                    && entries[depth] != *dim
                {
                    let (found, wanted) = (entries[depth], *dim);
                    return Err(NumberError::Ragged { depth: depth + 1, found, wanted, shape: shape.clone() });
                }
            }
            _ => {
                next = next.step(&[Next::Entry, Next::EntryOrEnd], Next::CommaOrEnd)?;
                if *level.get_or_insert(depth) != depth || (depth != 1 && depth != dims.len()) {
                    return Err(nesting(depth));
                }
                let before = found;
                let mut rest = &bytes[at..];
                loop {
                    if found == wanted {
                        return Err(NumberError::Count { found: found + 1, wanted, shape: shape.clone() });
                    }
                    let (element, behind) = match lane(rest) {
                        Some(read) => read,
                        None => {
                            let start = bytes.len() - rest.len();
                            let end = end_of_token(bytes, start);
                            // Nothing in what is not JSON; a token may then end in the middle of a character.
                            let token = text.get(start..end).ok_or(NumberError::Malformed)?;
                            if !proved && serde_json::from_str::<IgnoredAny>(token).is_err() {
                                return Err(NumberError::Malformed);
                            }
                            (careful(found, Token::of(token))?, &bytes[end..])
                        }
                    };
                    out.extend_from_slice(&element);
                    found += 1;
                    rest = behind;
                    // One array's elements follow each other, with a comma between them and often a blank.
                    match behind {
                        [b',', b'-' | b'0'..=b'9', ..] => rest = &behind[1..],
                        [b',', b' ', b'-' | b'0'..=b'9', ..] => rest = &behind[2..],
                        _ => break,
                    }
                }
                at = bytes.len() - rest.len();
                if let Some(inner) = depth.checked_sub(1) {
                    entries[inner] += (found - before) as u64;
                }
            }
        }
    }
    if depth != 0 || next != Next::CommaOrEnd {
        return Err(NumberError::Malformed);
    }
    if found != wanted {
        return Err(NumberError::Count { found, wanted, shape: shape.clone() });
    }
    // `[]` for an empty tensor is flat; `[[]]` must have the shape's own outer length, which the flat case above skips.
    match (level, dims.first()) {
        (None, Some(dim)) if entries[0] != 0 && entries[0] != *dim => {
            Err(NumberError::Ragged { depth: 1, found: entries[0], wanted: *dim, shape: shape.clone() })
        }
        _ => Ok(()),
    }
}

/// What may come next in an array.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Entry,
    EntryOrEnd,
    CommaOrEnd,
}

impl Next {
    /// What may come after something that may come only in these places.
    fn step(self, from: &[Self], to: Self) -> Result<Self, NumberError> {
        if from.contains(&self) { Ok(to) } else { Err(NumberError::Malformed) }
    }
}

/// Where the scalar that begins at `at` ends; always further on.
fn end_of_token(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at + 1..];
    let length = if bytes[at] == b'"' {
        let mut escaped = false;
        let close = rest.iter().position(|b| {
            let closes = *b == b'"' && !escaped;
            escaped = *b == b'\\' && !escaped;
            closes
        });
        close.map_or(rest.len(), |n| n + 1)
    } else {
        // An object yields a token of its opening brace, which no type takes.
        let open = bytes[at] == b'{';
        rest.iter()
            .position(|b| open || !matches!(b, b'0'..=b'9' | b'a'..=b'z' | b'E' | b'+' | b'-' | b'.'))
            .unwrap_or(rest.len())
    };
    at + 1 + length
}

impl<'a> Token<'a> {
    fn of(text: &'a str) -> Self {
        if text.starts_with(['-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9']) {
            Self::Number(text)
        } else {
            Self::Other(text)
        }
    }
}

impl Token<'_> {
    fn truth(self, index: usize) -> Result<u8, NumberError> {
        match self {
            Self::Number("0" | "-0") | Self::Other("false") => Ok(0),
            Self::Number("1") | Self::Other("true") => Ok(1),
            _ => Err(self.kind(index, DType::Bool)),
        }
    }

    fn whole<T: FromStr>(self, index: usize, dtype: DType) -> Result<T, NumberError> {
        let Self::Number(text) = self else { return Err(self.kind(index, dtype)) };
        let text = if text == "-0" { "0" } else { text };
        match text.parse() {
            Ok(value) => Ok(value),
            // `1.0` is refused too: whoever sends fractions for integers has mixed up two inputs.
            Err(_) if text.contains(['.', 'e', 'E']) => Err(self.kind(index, dtype)),
            Err(_) => Err(self.range(index, dtype)),
        }
    }

    fn single(self, index: usize) -> Result<f32, NumberError> {
        // Read as f32 at once: by way of f64 the value would be rounded twice.
        let Self::Number(text) = self else { return self.not_finite(index, DType::Fp32).map(|v| v as f32) };
        let value: f32 = text.parse().map_err(|_| self.kind(index, DType::Fp32))?;
        if value.is_finite() { Ok(value) } else { Err(self.range(index, DType::Fp32)) }
    }

    fn double(self, index: usize, dtype: DType) -> Result<f64, NumberError> {
        let Self::Number(text) = self else { return self.not_finite(index, dtype) };
        let value: f64 = text.parse().map_err(|_| self.kind(index, dtype))?;
        if value.is_finite() { Ok(value) } else { Err(self.range(index, dtype)) }
    }

    /// A double that stays finite once it is halved.
    fn half(self, index: usize, dtype: DType) -> Result<f64, NumberError> {
        let value = self.double(index, dtype)?;
        let finite =
            if dtype == DType::Bf16 { lane::bf16_of(value).is_finite() } else { lane::f16_of(value).is_finite() };
        if value.is_finite() && !finite { Err(self.range(index, dtype)) } else { Ok(value) }
    }

    fn not_finite(self, index: usize, dtype: DType) -> Result<f64, NumberError> {
        match self {
            Self::Other("\"NaN\"") => Ok(f64::NAN),
            Self::Other("\"Infinity\"") => Ok(f64::INFINITY),
            Self::Other("\"-Infinity\"") => Ok(f64::NEG_INFINITY),
            _ => Err(self.kind(index, dtype)),
        }
    }

    fn kind(self, index: usize, dtype: DType) -> NumberError {
        NumberError::Kind { index, found: self.to_string(), dtype }
    }

    fn range(self, index: usize, dtype: DType) -> NumberError {
        NumberError::Range { index, found: self.to_string(), dtype }
    }
}

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Number(text) | Self::Other(text)) = self;
        match text.char_indices().nth(MAX_QUOTED) {
            Some((end, _)) => write!(f, "{}…", &text[..end]),
            None if *text == "{" => f.write_str("an object"),
            None => f.write_str(text),
        }
    }
}

/// Most characters of an element that an error quotes.
const MAX_QUOTED: usize = 32;

fn wanted(dtype: DType) -> &'static str {
    match dtype {
        DType::Bool => "BOOL takes true, false, 0 and 1",
        DType::Uint8 => "UINT8 takes whole numbers from 0 to 255",
        DType::Int8 => "INT8 takes whole numbers from -128 to 127",
        DType::Int16 => "INT16 takes whole numbers from -32768 to 32767",
        DType::Int32 => "INT32 takes whole numbers from -2147483648 to 2147483647",
        DType::Int64 => "INT64 takes whole numbers from -9223372036854775808 to 9223372036854775807",
        DType::Fp16 => "FP16 takes numbers up to 65504 in size, \"NaN\", \"Infinity\" and \"-Infinity\"",
        DType::Bf16 => "BF16 takes numbers up to 3.38e38 in size, \"NaN\", \"Infinity\" and \"-Infinity\"",
        DType::Fp32 => "FP32 takes numbers up to 3.4e38 in size, \"NaN\", \"Infinity\" and \"-Infinity\"",
        DType::Fp64 => "FP64 takes numbers up to 1.79e308 in size, \"NaN\", \"Infinity\" and \"-Infinity\"",
    }
}

#[cfg(test)]
mod tests;
