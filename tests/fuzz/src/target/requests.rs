//! What clients send: JSON, binary tensors behind it, numbers.

use bytes::Bytes;
use casemate_front::protocol::numbers as front_numbers;
use casemate_front::protocol::oip::binary::{self, JSON_LENGTH};
use casemate_front::protocol::oip::json::{self, Envelope};
use casemate_front::request::{InferRequest, Inputs};
use casemate_front::response::{InferResponse, OutputTensor};
use casemate_ipc::id::ModelId;
use casemate_ipc::tensor::{DType, MAX_TENSORS, Shape};
use http::{HeaderMap, HeaderValue};
use serde_json::Value;
use serde_json::value::RawValue;

const MOST: u64 = 1 << 16;

/// A request without the binary extension.
pub fn oip_json(body: &[u8]) {
    infer(None, body);
}

/// The header's value up to the first line feed, then the body.
pub fn oip_binary(data: &[u8]) {
    let line = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (value, body) = (&data[..line], data.get(line + 1..).unwrap_or_default());
    let Ok(value) = HeaderValue::from_bytes(value) else { return };
    let mut headers = HeaderMap::new();
    headers.insert(JSON_LENGTH, value.clone());
    if let Ok(length) = binary::json_length(&headers) {
        infer(length, body);
    }
    headers.append(JSON_LENGTH, value);
    assert!(binary::json_length(&headers).is_err(), "a length that comes twice is taken");
}

fn infer(json_length: Option<u64>, body: &[u8]) {
    let envelope = Envelope { model: "m".parse().unwrap(), version: None, json_length, most: MOST };
    let Ok((request, wanted)) = json::parse(envelope, &Bytes::copy_from_slice(body)) else { return };
    let InferRequest { inputs: Inputs::Named(inputs), id, .. } = request else { return };
    assert!((1..=MAX_TENSORS).contains(&inputs.len()));
    assert!(inputs.iter().map(|input| input.data.len() as u64).sum::<u64>() <= MOST);
    for input in &inputs {
        assert_eq!(Ok(input.data.len()), input.shape.bytes(input.dtype));
        assert_eq!(inputs.iter().filter(|other| other.name == input.name).count(), 1);
    }
    let model = ModelId { name: "m".parse().unwrap(), version: "1".parse().unwrap() };
    let output = |input: &casemate_front::request::InputTensor| OutputTensor {
        name: input.name.clone(),
        dtype: input.dtype,
        shape: input.shape.clone(),
        data: input.data.clone(),
    };
    let rendered = json::render(&InferResponse { model, id, outputs: inputs.iter().map(output).collect() }, &wanted);
    let end = rendered.json_length.unwrap_or(rendered.body.len());
    let answer: Value = serde_json::from_slice(&rendered.body[..end]).expect("an answer is JSON");
    assert_eq!(answer["outputs"].as_array().map(Vec::len), Some(inputs.len()));
}

/// Type, rank and dimensions in bytes, then the JSON text of the numbers.
pub fn numbers(data: &[u8]) {
    let [dtype, rank, rest @ ..] = data else { return };
    let dtype = DType::ALL[usize::from(*dtype) % DType::ALL.len()];
    let Some((dims, text)) = rest.split_at_checked(usize::from(rank % 5)) else { return };
    let shape = Shape::new(dims.iter().map(|dim| u64::from(*dim)).collect()).unwrap();
    let Ok(text) = std::str::from_utf8(text) else { return };
    let Ok(raw) = serde_json::from_str::<&RawValue>(text) else { return };
    let read = front_numbers::read(raw, dtype, &shape);
    let Ok(value) = serde_json::from_str::<Value>(raw.get()) else { return };
    match read {
        Ok(bytes) => {
            assert_eq!(Ok(bytes.len()), shape.bytes(dtype), "{dtype} {shape}");
            let count = shape.elements().unwrap();
            assert!(is_flat(&value, count) || is_nested(&value, shape.dims()), "{dtype} {shape}: {text}");
            let mut written = Vec::new();
            front_numbers::write(&bytes, dtype, &mut written);
            let written = String::from_utf8(written).expect("numbers are text");
            let again: &RawValue = serde_json::from_str(&written).expect("numbers are JSON");
            let flat = Shape::new(vec![count as u64]).unwrap();
            assert_eq!(front_numbers::read(again, dtype, &flat).as_ref(), Ok(&bytes), "{written}");
        }
        Err(_) if dtype == DType::Int64 && are_whole(&value) => {
            let count = shape.elements().unwrap();
            let fits = is_nested(&value, shape.dims()) || (count > 0 && is_flat(&value, count));
            assert!(!fits, "{shape} was refused: {text}");
        }
        Err(_) => {}
    }
}

fn is_flat(value: &Value, count: usize) -> bool {
    value.as_array().is_some_and(|list| list.len() == count && !list.iter().any(Value::is_array))
}

fn is_nested(value: &Value, dims: &[u64]) -> bool {
    match (value.as_array(), dims.split_first()) {
        (None, None) => true,
        (Some(list), Some((dim, inner))) => {
            list.len() as u64 == *dim && list.iter().all(|entry| is_nested(entry, inner))
        }
        _ => false,
    }
}

fn are_whole(value: &Value) -> bool {
    value.as_array().map_or_else(|| value.is_i64(), |list| list.iter().all(are_whole))
}
