//! Open Inference Protocol v2: a request's body into an [`InferRequest`], and an [`InferResponse`] into a body. Pure:
//! no HTTP, no clock. What the binary extension adds lies in [`super::binary`].

use bytes::Bytes;
use casemate_ipc::id::{ModelName, Version};
use casemate_ipc::tensor::{DType, MAX_NAME, Shape};
use serde::Serialize;

use super::super::numbers;
use super::binary::{self, Tail};
use super::head::{InputHead, InputParameters, Listing, OutputHead, RequestHead};
use super::lift::{Lifted, lift};
use crate::refusal::{Kind, Refusal};
use crate::request::{InferRequest, InputTensor, InputTensors, Inputs};
use crate::response::{InferResponse, OutputTensor};

/// What the parser knows of a request besides its body.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// The model, out of the path.
    pub model: ModelName,
    /// The version, out of the path.
    pub version: Option<Version>,
    /// Length of the JSON at the start of the body, where the client said one: the binary extension.
    pub json_length: Option<u64>,
    /// Most bytes of the tensors together; JSON text can stand for four times its own length.
    pub most: u64,
}

/// Which outputs the client wants as bytes behind the JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    others: bool,
    named: Vec<(String, bool)>,
}

/// A body to answer with.
#[derive(Debug, Clone)]
pub struct Rendered {
    /// JSON, and the binary tensors behind it where they are small.
    pub body: Bytes,
    /// Large binary tensors, which follow the body as they lie.
    pub tail: Vec<Bytes>,
    /// Length of the JSON, where tensors follow it: goes into the header `Inference-Header-Content-Length`.
    pub json_length: Option<usize>,
}

/// Reads a request.
pub fn parse(envelope: Envelope, body: &Bytes) -> Result<(InferRequest, Wanted), Refusal> {
    let Envelope { model, version, json_length, most } = envelope;
    if json_length == Some(0) {
        let request = InferRequest { model, version, id: None, inputs: Inputs::Raw(body.clone()), outputs: None };
        return Ok((request, Wanted { others: true, named: Vec::new() }));
    }
    let (json, tail) = binary::split(json_length, body)?;
    // Where anything is wrong, the careful way says what.
    let lifted = lift(&json).and_then(|lifted| read(lifted.head(), Some(&lifted), tail.clone(), most).ok());
    let Parsed { id, inputs, outputs, wanted } = lifted.map_or_else(|| read(&json, None, tail, most), Ok)?;
    Ok((InferRequest { model, version, id, inputs: Inputs::Named(inputs), outputs }, wanted))
}

/// A request, but for what the path says.
struct Parsed {
    id: Option<String>,
    inputs: InputTensors,
    outputs: Option<Vec<String>>,
    wanted: Wanted,
}

fn read(json: &[u8], lifted: Option<&Lifted<'_>>, mut tail: Tail, most: u64) -> Result<Parsed, Refusal> {
    // serde would take a list for an object whose fields stand in order, and complain of it in Rust's words.
    if json.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
        return Err(Refusal::invalid(
            "the body is not an inference request: it must be an object, {\"inputs\": [{\"name\", \"shape\", \"datatype\", \
             \"data\"}]}",
        ));
    }
    let head: RequestHead<'_> = serde_json::from_slice(json).map_err(|e| {
        let place = format!("the body is not an inference request: {e}");
        Refusal::invalid(place.chars().take(MAX_MESSAGE).collect::<String>())
    })?;
    // One that belongs to no input is looked at by nobody else.
    let of_inputs =
        |lifted: &Lifted<'_>| head.inputs.0.iter().flat_map(|i| i.data).filter_map(|d| lifted.array(d)).count();
    if lifted.is_some_and(|lifted| of_inputs(lifted) != lifted.count()) {
        return Err(Refusal::invalid("a list of numbers that is no input's"));
    }
    let id = head.id.map(|id| checked_id(&id)).transpose()?;
    let (outputs, named) = wanted(head.outputs.map(|list| list.0))?;
    let others = head.parameters.unwrap_or_default().binary_data_output.unwrap_or(false);
    if head.inputs.0.is_empty() {
        return Err(Refusal::invalid("'inputs' is empty; send one entry for each input of the model"));
    }
    let mut inputs = InputTensors::with_capacity(head.inputs.0.len());
    let mut room = most;
    for (index, input) in head.inputs.0.into_iter().enumerate() {
        let input = tensor(index, input, lifted, &mut tail, &mut room, most)?;
        if inputs.iter().any(|i| i.name == input.name) {
            return Err(Refusal::invalid(format!("inputs[{index}]: '{}' comes twice", input.name)));
        }
        inputs.push(input);
    }
    tail.finish()?;
    Ok(Parsed { id, inputs, outputs, wanted: Wanted { others, named } })
}

/// Writes an answer. Tensors stand in the order of the response, whichever form each has.
pub fn render(response: &InferResponse, wanted: &Wanted) -> Rendered {
    let mut body = Vec::with_capacity(room(response, wanted));
    let (tail, json_length) = write(response, wanted, &mut body);
    Rendered { body: body.into(), tail, json_length }
}

/// The same into memory that is there. Gives what is not in it: large binary tensors, and where the JSON ends.
pub fn write(response: &InferResponse, wanted: &Wanted, out: &mut Vec<u8>) -> (Vec<Bytes>, Option<usize>) {
    let binary = |o: &&OutputTensor| wanted.is_binary(&o.name);
    let bytes: usize = response.outputs.iter().filter(binary).map(|o| o.data.len()).sum();
    let apart = bytes > SMALL;
    out.extend(b"{\"model_name\":");
    text(response.model.name.as_str(), out);
    out.extend(b",\"model_version\":");
    text(response.model.version.as_str(), out);
    if let Some(id) = &response.id {
        out.extend(b",\"id\":");
        text(id, out);
    }
    out.extend(b",\"outputs\":[");
    for (i, output) in response.outputs.iter().enumerate() {
        out.extend(if i == 0 { &b"{\"name\":"[..] } else { b",{\"name\":" });
        text(&output.name, out);
        out.extend(b",\"datatype\":");
        text(output.dtype.name(), out);
        out.extend(b",\"shape\":");
        text(output.shape.dims(), out);
        if wanted.is_binary(&output.name) {
            out.extend(b",\"parameters\":{\"binary_data_size\":");
            text(&output.data.len(), out);
            out.extend(b"}}");
        } else {
            out.extend(b",\"data\":");
            numbers::write(&output.data, output.dtype, out);
            out.push(b'}');
        }
    }
    out.extend(b"]}");
    let (mut json_length, mut tail) = (None, Vec::new());
    for output in response.outputs.iter().filter(binary) {
        json_length.get_or_insert(out.len());
        if apart {
            tail.push(output.data.clone());
        } else {
            out.extend_from_slice(&output.data);
        }
    }
    (tail, json_length)
}

/// About how long an answer will be, in bytes: its text, and the binary tensors that go behind it in one piece.
pub fn room(response: &InferResponse, wanted: &Wanted) -> usize {
    let binary = response.outputs.iter().filter(|o| wanted.is_binary(&o.name));
    let bytes: usize = binary.map(|o| o.data.len()).sum();
    text_length(response, wanted).saturating_add(if bytes > SMALL { 0 } else { bytes })
}

/// About how long the text of an answer will be, in bytes.
pub fn text_length(response: &InferResponse, wanted: &Wanted) -> usize {
    let texts = response.outputs.iter().filter(|o| !wanted.is_binary(&o.name));
    texts.map(|o| o.data.len().saturating_mul(2)).fold(256, usize::saturating_add)
}

impl Rendered {
    /// All of it, in bytes.
    pub fn len(&self) -> usize {
        self.tail.iter().map(Bytes::len).fold(self.body.len(), usize::saturating_add)
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Wanted {
    /// Whether this output is to be sent as bytes.
    pub fn is_binary(&self, name: &str) -> bool {
        self.named.iter().find(|(n, _)| n == name).map_or(self.others, |(_, binary)| *binary)
    }
}

// === one tensor ===

fn tensor(
    index: usize,
    input: InputHead<'_>,
    lifted: Option<&Lifted<'_>>,
    tail: &mut Tail,
    room: &mut u64,
    most: u64,
) -> Result<InputTensor, Refusal> {
    let InputHead { name, shape, datatype, parameters, data } = input;
    let name = checked_name(&name).ok_or_else(|| Refusal::invalid(format!("inputs[{index}]: {BAD_NAME}")))?;
    let wrong = |why: String| Refusal::invalid(format!("inputs[{index}] '{name}': {why}"));
    let InputParameters { binary_data_size, shared_memory_region } = parameters.unwrap_or_default();
    if shared_memory_region.is_some() {
        return Err(wrong(format!("{NO_SHARED_MEMORY}; send 'data', or binary data behind the JSON")));
    }
    if datatype.eq_ignore_ascii_case("BYTES") {
        return Err(wrong("datatype BYTES is for texts; the models of this server take numbers only".into()));
    }
    let dtype: DType = datatype.parse().map_err(|e| wrong(format!("{e}")))?;
    if let Some((i, dim)) = shape.list().iter().enumerate().find(|(_, dim)| **dim < 0) {
        return Err(wrong(format!("shape[{i}] is {dim}; a tensor's own shape has no negative size")));
    }
    let shape =
        Shape::from_dims(shape.list().iter().map(|dim| dim.unsigned_abs())).map_err(|e| wrong(e.to_string()))?;
    let bytes = shape.bytes(dtype).map_err(|e| wrong(e.to_string()))?;
    *room = room.checked_sub(bytes as u64).ok_or_else(|| {
        let why = format!("inputs[{index}] '{name}': its {bytes} bytes bring the tensors beyond {most}, the limit");
        Refusal::new(Kind::TooLarge, why)
    })?;
    let data = match (data, binary_data_size) {
        (Some(_), Some(_)) => return Err(wrong("has both 'data' and 'binary_data_size'; send one of them".into())),
        (None, None) => return Err(wrong("has neither 'data' nor a parameter 'binary_data_size'".into())),
        (Some(data), None) => {
            let read = match lifted.and_then(|lifted| lifted.array(data)) {
                Some(array) => numbers::read_unproved(array, dtype, &shape),
                None => numbers::read(data, dtype, &shape),
            };
            read.map_err(|e| wrong(e.to_string()))?.into()
        }
        (None, Some(size)) => {
            if size != bytes as u64 {
                return Err(wrong(format!("binary_data_size is {size}; {dtype} of shape {shape} has {bytes} bytes")));
            }
            tail.take(bytes).map_err(wrong)?
        }
    };
    if dtype == DType::Bool
        && let Some(at) = numbers::not_truth(&data)
    {
        return Err(wrong(format!("byte {at} is {}; a BOOL is 0 or 1", data[at])));
    }
    Ok(InputTensor { name, dtype, shape, data })
}

/// The names that are wanted, and for each whether as bytes where that was said.
type Outputs = (Option<Vec<String>>, Vec<(String, bool)>);

fn wanted(list: Option<Listing<OutputHead<'_>>>) -> Result<Outputs, Refusal> {
    // Triton's clients send an empty list for "all of them".
    let Some(list) = list.filter(|list| !list.is_empty()) else { return Ok((None, Vec::new())) };
    let mut names: Vec<String> = Vec::with_capacity(list.len());
    let mut binary = Vec::new();
    for (index, output) in list.into_iter().enumerate() {
        let name = checked_name(&output.name);
        let name = name.ok_or_else(|| Refusal::invalid(format!("outputs[{index}]: {BAD_NAME}")))?;
        let wrong = |why: &str| Refusal::invalid(format!("outputs[{index}] '{name}': {why}"));
        let parameters = output.parameters.unwrap_or_default();
        if parameters.shared_memory_region.is_some() {
            return Err(wrong(NO_SHARED_MEMORY));
        }
        if parameters.classification.is_some() {
            return Err(wrong("this server does not classify outputs; leave 'classification' out"));
        }
        if names.contains(&name) {
            return Err(wrong("comes twice"));
        }
        binary.extend(parameters.binary_data.map(|yes| (name.clone(), yes)));
        names.push(name);
    }
    Ok((Some(names), binary))
}

fn checked_name(name: &str) -> Option<String> {
    let fits = !name.is_empty() && name.len() <= MAX_NAME && !name.chars().any(char::is_control);
    fits.then(|| name.to_owned())
}

fn checked_id(id: &str) -> Result<String, Refusal> {
    if id.len() > MAX_ID {
        return Err(Refusal::invalid(format!("'id' has {} bytes; at most {MAX_ID} are given back", id.len())));
    }
    Ok(id.to_owned())
}

fn text(value: &(impl Serialize + ?Sized), out: &mut Vec<u8>) {
    // Writing a text or a list of numbers into memory has no way to fail.
    let _ = serde_json::to_writer(out, value);
}

/// Up to here a copy costs less than one more part of an answer.
const SMALL: usize = 16 * 1024;
/// Longest `id`, in bytes.
const MAX_ID: usize = 256;
/// Longest message about JSON that cannot be read; serde quotes the client's own text in some.
const MAX_MESSAGE: usize = 400;
const BAD_NAME: &str = "'name' must have 1 to 128 bytes and no control character";
const NO_SHARED_MEMORY: &str = "this server shares no memory with its clients";

#[cfg(test)]
mod tests;
