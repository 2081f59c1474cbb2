//! The type of a tensor's elements.

use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::TensorError;

/// An element type, in the Open Inference Protocol's names; BF16 is Triton's addition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[allow(missing_docs, reason = "the names are the protocol's own")]
pub enum DType {
    Bool,
    Uint8,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Bf16,
    Fp32,
    Fp64,
}

impl DType {
    /// Every type, for tables and tests.
    pub const ALL: [Self; 10] = [
        Self::Bool,
        Self::Uint8,
        Self::Int8,
        Self::Int16,
        Self::Int32,
        Self::Int64,
        Self::Fp16,
        Self::Bf16,
        Self::Fp32,
        Self::Fp64,
    ];

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => 1,
            Self::Int16 | Self::Fp16 | Self::Bf16 => 2,
            Self::Int32 | Self::Fp32 => 4,
            Self::Int64 | Self::Fp64 => 8,
        }
    }

    /// The protocol's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "UINT8",
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Fp16 => "FP16",
            Self::Bf16 => "BF16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
        }
    }

    /// Rust's and PyTorch's.
    const fn short_name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "U8",
            Self::Int8 => "I8",
            Self::Int16 => "I16",
            Self::Int32 => "I32",
            Self::Int64 => "I64",
            Self::Fp16 => "F16",
            Self::Bf16 => "BF16",
            Self::Fp32 => "F32",
            Self::Fp64 => "F64",
        }
    }

    /// Whether NaN and infinities exist in this type.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::Fp16 | Self::Bf16 | Self::Fp32 | Self::Fp64)
    }
}

impl FromStr for DType {
    type Err = TensorError;
    /// The protocol's names, and Rust's and PyTorch's short ones (`f32`, `i64`, `u8`, `bool`), whatever the case.
    fn from_str(text: &str) -> Result<Self, TensorError> {
        let called =
            |dtype: &Self| [dtype.name(), dtype.short_name()].iter().any(|name| text.eq_ignore_ascii_case(name));
        let found = Self::ALL.into_iter().find(called);
        found.ok_or_else(|| TensorError::DType(text.chars().take(32).collect()))
    }
}

impl TryFrom<String> for DType {
    type Error = TensorError;
    fn try_from(text: String) -> Result<Self, TensorError> {
        text.parse()
    }
}

impl From<DType> for String {
    fn from(dtype: DType) -> String {
        dtype.name().to_owned()
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
