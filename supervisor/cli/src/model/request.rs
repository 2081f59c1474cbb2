//! A request that a model accepts, and the `curl` line for it, which works as it is pasted.

use casemate_ipc::tensor::{DType, TensorSpec};
use serde::Serialize;

/// Most numbers that are spelt out on a command line.
const MAX_SPELT: usize = 64;

/// An inference request of the Open Inference Protocol.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Request<'a> {
    inputs: Vec<Input<'a>>,
}

#[derive(Debug, Clone, Serialize)]
struct Input<'a> {
    name: &'a str,
    shape: Vec<u64>,
    datatype: DType,
    #[serde(flatten)]
    data: Data,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "lowercase")]
enum Data {
    #[serde(rename = "data")]
    Numbers(Vec<u8>),
    #[serde(rename = "data")]
    Truths(Vec<bool>),
    /// By the binary tensor extension: the bytes come after the JSON.
    Parameters { binary_data_size: usize },
}

impl<'a> Request<'a> {
    /// One input with small numbers in it.
    pub(crate) fn of(spec: &'a TensorSpec, numbers: Vec<u8>) -> Self {
        let shape = spec.smallest().dims().to_vec();
        Self { inputs: vec![Input { name: &spec.name, shape, datatype: spec.dtype, data: Data::Numbers(numbers) }] }
    }

    /// As it is sent.
    pub(crate) fn to_json(&self) -> String {
        // Numbers, and names that have been checked: nothing in here can fail to be written.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The line that sends it.
    pub(crate) fn curl(&self, url: &str) -> String {
        // A tensor's name holds no quote (`TensorSpec::new`), so the body holds no single one.
        format!("curl -s {url} -H 'Content-Type: application/json' -d '{}'", self.to_json())
    }
}

/// The line for a request of zeros, every free dimension 1.
pub(crate) fn curl_zeros(url: &str, inputs: &[TensorSpec]) -> String {
    let numbers = inputs.iter().map(elements).fold(0, usize::saturating_add);
    // The protocol's JSON has no half-precision numbers.
    let halves = inputs.iter().any(|spec| matches!(spec.dtype, DType::Fp16 | DType::Bf16));
    let binary = halves || numbers > MAX_SPELT;
    let request = Request { inputs: inputs.iter().map(|spec| zeros(spec, binary)).collect() };
    if !binary {
        return request.curl(url);
    }
    let head = request.to_json();
    let total = inputs.iter().map(bytes).fold(0, usize::saturating_add);
    format!(
        "{{ printf %s '{head}'; head -c {total} /dev/zero; }} | curl -s {url} \
         -H 'Content-Type: application/octet-stream' -H 'Inference-Header-Content-Length: {}' --data-binary @-",
        head.len()
    )
}

fn zeros(spec: &TensorSpec, binary: bool) -> Input<'_> {
    let data = match spec.dtype {
        _ if binary => Data::Parameters { binary_data_size: bytes(spec) },
        DType::Bool => Data::Truths(vec![false; elements(spec)]),
        _ => Data::Numbers(vec![0; elements(spec)]),
    };
    Input { name: &spec.name, shape: spec.smallest().dims().to_vec(), datatype: spec.dtype, data }
}

// The smallest tensor of a declaration has been checked to exist (`TensorSpec::new`), so neither of the two fails.

fn elements(spec: &TensorSpec) -> usize {
    spec.smallest().elements().unwrap_or(0)
}

fn bytes(spec: &TensorSpec) -> usize {
    spec.smallest().bytes(spec.dtype).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_inputs_are_spelt_and_others_are_sent_as_bytes() {
        let spec = |text: &str| text.parse::<TensorSpec>().unwrap();
        assert_eq!(
            curl_zeros("http://h/infer", &[spec("x:f32[-1,2]"), spec("m:bool[1]")]),
            "curl -s http://h/infer -H 'Content-Type: application/json' -d '{\"inputs\":[\
             {\"name\":\"x\",\"shape\":[1,2],\"datatype\":\"FP32\",\"data\":[0,0]},\
             {\"name\":\"m\",\"shape\":[1],\"datatype\":\"BOOL\",\"data\":[false]}]}'"
        );
        let line = curl_zeros("http://h/infer", &[spec("image:f32[-1,3,224,224]")]);
        assert!(line.contains("head -c 602112 /dev/zero"), "{line}");
        assert!(line.contains("\"parameters\":{\"binary_data_size\":602112}}"), "{line}");
        assert!(curl_zeros("http://h/infer", &[spec("x:f16[2]")]).contains("head -c 4 "));
    }
}
