//! A request made from what a model declares: zeros, or numbers from a seed.

use casemate_ipc::tensor::{DType, Shape, TensorError, TensorSpec};
use serde_json::json;
use thiserror::Error;

/// The tensors of one request, as the binary extension sends them.
#[derive(Debug, Clone)]
pub(crate) struct Input {
    pub(crate) json: String,
    pub(crate) tensors: Vec<u8>,
}

/// What is in them.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Filling {
    Zeros,
    Random(u64),
}

/// Why there is no request.
#[derive(Debug, Error)]
pub(crate) enum InputError {
    #[error("input {name:?}")]
    Tensor {
        name: String,
        #[source]
        cause: TensorError,
    },
    #[error("its tensors would have more than {MAX_BYTES} bytes; fewer --rows or a smaller --free")]
    TooLarge,
}

/// Largest request.
const MAX_BYTES: usize = 1 << 30;

impl Input {
    pub(crate) fn make(specs: &[TensorSpec], rows: u64, free: u64, filling: Filling) -> Result<Self, InputError> {
        let mut seed = match filling {
            Filling::Zeros => None,
            Filling::Random(seed) => Some(Numbers(seed)),
        };
        let (mut heads, mut tensors) = (Vec::new(), Vec::new());
        for spec in specs {
            let fault = |cause| InputError::Tensor { name: spec.name.clone(), cause };
            let size = |(at, dim): (usize, &Option<u64>)| dim.unwrap_or(if at == 0 { rows } else { free });
            let dims: Vec<u64> = spec.dims.iter().enumerate().map(size).collect();
            let shape = Shape::new(dims.clone()).map_err(fault)?;
            let bytes = shape.bytes(spec.dtype).map_err(fault)?;
            if bytes > MAX_BYTES - tensors.len() {
                return Err(InputError::TooLarge);
            }
            heads.push(json!({
                "name": spec.name, "datatype": spec.dtype, "shape": dims, "parameters": {"binary_data_size": bytes}
            }));
            let end = tensors.len() + bytes;
            while let (Some(seed), true) = (&mut seed, tensors.len() < end) {
                seed.next(spec.dtype, &mut tensors);
            }
            tensors.resize(end, 0);
        }
        // The answer in bytes too: printing numbers would take longer than many a model.
        let json = json!({"inputs": heads, "parameters": {"binary_data_output": true}}).to_string();
        Ok(Self { json, tensors })
    }

    /// Bytes of a request's body.
    pub(crate) fn bytes(&self) -> usize {
        self.json.len() + self.tensors.len()
    }
}

/// xorshift64*, by Marsaglia and Vigna: the same numbers from the same seed on every machine.
struct Numbers(u64);

impl Numbers {
    /// One number of that type: its exponent is that of 1, its fraction random; 0 or 1 where it is a whole number.
    fn next(&mut self, dtype: DType, out: &mut Vec<u8>) {
        // A state of 0 would stay 0.
        self.0 = self.0.max(1);
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D);
        let bytes = match dtype {
            DType::Fp16 => 0x3c00 | (bits >> 54),
            DType::Bf16 => 0x3f80 | (bits >> 57),
            DType::Fp32 => 0x3f80_0000 | (bits >> 41),
            DType::Fp64 => 0x3ff0_0000_0000_0000 | (bits >> 12),
            _ => bits >> 63,
        };
        out.extend_from_slice(bytes.to_le_bytes().get(..dtype.size()).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> TensorSpec {
        text.parse().unwrap()
    }

    #[test]
    fn free_dimensions_are_rows_and_the_others() {
        let specs = [spec("x:f32[-1,3,-1]"), spec("m:bool[2]")];
        let input = Input::make(&specs, 4, 5, Filling::Zeros).unwrap();
        assert_eq!(input.tensors, vec![0; 4 * 3 * 5 * 4 + 2]);
        assert!(input.json.contains(r#""shape":[4,3,5]"#) && input.json.contains(r#""datatype":"BOOL""#));
        assert!(input.json.contains(r#""binary_data_size":240"#), "{}", input.json);
        let huge = Input::make(&[spec("x:f32[-1,-1]")], 1 << 20, 1 << 20, Filling::Zeros);
        assert!(matches!(huge, Err(InputError::TooLarge)), "{huge:?}");
    }

    #[test]
    fn random_numbers_are_between_one_and_two_and_the_same_each_time() {
        let specs =
            [spec("x:f32[100]"), spec("d:f64[100]"), spec("i:i64[100]"), spec("b:bool[100]"), spec("h:f16[100]")];
        let make = |seed| Input::make(&specs, 1, 1, Filling::Random(seed)).unwrap().tensors;
        let tensors = make(7);
        assert_eq!((tensors.len(), &tensors), (100 * (4 + 8 + 8 + 1 + 2), &make(7)));
        assert_ne!(tensors, make(8));
        let number = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().unwrap());
        assert!(tensors[..400].chunks(4).map(number).all(|number| (1.0..2.0).contains(&number)));
        let number = |bytes: &[u8]| f64::from_le_bytes(bytes.try_into().unwrap());
        assert!(tensors[400..1200].chunks(8).map(number).all(|number| (1.0..2.0).contains(&number)));
        let number = |bytes: &[u8]| i64::from_le_bytes(bytes.try_into().unwrap());
        assert!(tensors[1200..2000].chunks(8).map(number).all(|number| (0..2).contains(&number)));
        assert!(tensors[2000..2100].iter().all(|byte| *byte < 2) && tensors[2000..2100].contains(&1));
    }
}
