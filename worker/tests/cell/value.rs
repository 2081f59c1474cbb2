//! Tensors as a test writes them.

use casemate_ipc::tensor::DType;

/// One tensor.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Value {
    pub(crate) dtype: DType,
    pub(crate) dims: Vec<u64>,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) fn f32s(dims: &[u64], values: &[f32]) -> Value {
    Value { dtype: DType::Fp32, dims: dims.to_vec(), bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect() }
}

pub(crate) fn i64s(dims: &[u64], values: &[i64]) -> Value {
    Value { dtype: DType::Int64, dims: dims.to_vec(), bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect() }
}

impl Value {
    pub(crate) fn to_f32s(&self) -> Vec<f32> {
        assert_eq!(self.dtype, DType::Fp32);
        self.bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }
}
