//! A tensor's bytes as JSON numbers.

use casemate_ipc::tensor::DType;
use half::{bf16, f16};
use serde::Serialize;

/// Appends a dense tensor as a flat JSON array. Floats are the shortest text that reads back as the same value; NaN and
/// the infinities, which JSON lacks, are the strings that [`super::read`] takes.
pub fn write(data: &[u8], dtype: DType, out: &mut Vec<u8>) {
    out.push(b'[');
    match dtype {
        DType::Bool => list(data, out, |[b]: [u8; 1], out| plain(b != 0, out)),
        DType::Uint8 => list(data, out, |[b]: [u8; 1], out| plain(b, out)),
        DType::Int8 => list(data, out, |b, out| plain(i8::from_le_bytes(b), out)),
        DType::Int16 => list(data, out, |b, out| plain(i16::from_le_bytes(b), out)),
        DType::Int32 => list(data, out, |b, out| plain(i32::from_le_bytes(b), out)),
        DType::Int64 => list(data, out, |b, out| plain(i64::from_le_bytes(b), out)),
        DType::Fp16 => list(data, out, |b, out| single(f16::from_le_bytes(b).to_f32(), out)),
        DType::Bf16 => list(data, out, |b, out| single(bf16::from_le_bytes(b).to_f32(), out)),
        DType::Fp32 => list(data, out, |b, out| single(f32::from_le_bytes(b), out)),
        DType::Fp64 => list(data, out, |b, out| {
            let v = f64::from_le_bytes(b);
            if v.is_finite() { plain(v, out) } else { out.extend(named(v).as_bytes()) }
        }),
    }
    out.push(b']');
}

fn list<const N: usize>(data: &[u8], out: &mut Vec<u8>, one: impl Fn([u8; N], &mut Vec<u8>)) {
    for (i, element) in data.as_chunks::<N>().0.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        one(*element, out);
    }
}

fn single(value: f32, out: &mut Vec<u8>) {
    if value.is_finite() { plain(value, out) } else { out.extend(named(f64::from(value)).as_bytes()) }
}

fn plain(value: impl Serialize, out: &mut Vec<u8>) {
    // Writing a number or a boolean into memory has no way to fail.
    let _ = serde_json::to_writer(out, &value);
}

fn named(value: f64) -> &'static str {
    match value {
        v if v.is_nan() => "\"NaN\"",
        v if v > 0.0 => "\"Infinity\"",
        _ => "\"-Infinity\"",
    }
}
