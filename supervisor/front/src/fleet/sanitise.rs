//! The only reader of a worker's tensors: copies first, then checks the copy. Nothing that a worker can still change is
//! looked at twice.

use bytes::Bytes;
use casemate_ipc::shm::arena::Reader;
use casemate_ipc::tensor::{DType, ModelSignature};
use casemate_ipc::work::{Declared, Placed};
use thiserror::Error;

use crate::batch::job::Tensor;

/// Why a worker's answer is not believed. Its text is ours, but it speaks of the model, so it goes to the log.
#[derive(Debug, Error)]
pub enum Unbelieved {
    /// The worker claims what cannot be: it is lying or broken, and has to go.
    #[error("{0}")]
    Lie(String),
    /// The model's output is well formed but not what its manifest declares. The worker may stay.
    #[error("{0}")]
    Undeclared(String),
}

/// The outputs of one batch, one for each declared output.
pub fn sanitise(
    reader: &Reader,
    slot: u32,
    placed: &[Placed],
    declared: &Declared,
    rows: Option<u64>,
) -> Result<Vec<Tensor>, Unbelieved> {
    let specs = &declared.signature.outputs;
    if placed.len() != specs.len() {
        return Err(Unbelieved::Lie(format!("{} outputs came, {} are declared", placed.len(), specs.len())));
    }
    let batched = declared.signature.is_batched();
    let mut outputs = Vec::with_capacity(placed.len());
    for (index, (place, spec)) in placed.iter().zip(specs).enumerate() {
        // The worker has checked type and shape before it answered, so another one here is not the model's doing.
        if place.dtype != spec.dtype {
            return Err(Unbelieved::Lie(format!("output {:?} came as {}, declared is {spec}", spec.name, place.dtype)));
        }
        spec.check(&place.shape).map_err(|e| Unbelieved::Lie(format!("output {:?}: {e}", spec.name)))?;
        let data = reader.take(slot, place).map_err(|e| Unbelieved::Lie(format!("output {:?}: {e}", spec.name)))?;
        if let (true, Some(rows)) = (batched, rows)
            && place.shape.dims().first() != Some(&rows)
        {
            let message = format!("output {:?} has shape {}, but {rows} rows went in", spec.name, place.shape);
            return Err(Unbelieved::Undeclared(message));
        }
        let allowed = declared.non_finite.get(index).copied().unwrap_or(false);
        if !allowed && let Some(at) = first_non_finite(spec.dtype, &data) {
            let message = format!(
                "output {:?} holds NaN or an infinity at element {at}; set non_finite = true for it in the model's \
                 manifest if that is meant",
                spec.name
            );
            return Err(Unbelieved::Undeclared(message));
        }
        if spec.dtype == DType::Bool && data.iter().any(|b| *b > 1) {
            return Err(Unbelieved::Lie(format!("output {:?} holds a BOOL that is neither 0 nor 1", spec.name)));
        }
        outputs.push(Tensor { shape: place.shape.clone(), data: Bytes::from(data) });
    }
    Ok(outputs)
}

/// Whether a declaration can be believed: what a worker says once, before it has read a byte of its model.
pub fn check_declared(declared: &Declared) -> Result<(), String> {
    let ModelSignature { inputs, outputs } = declared.signature.clone();
    let flags = declared.non_finite.len() == outputs.len();
    ModelSignature::new(inputs, outputs).map_err(|e| e.to_string())?;
    if !flags || declared.max_batch_size == 0 || declared.deadline_ms == 0 || declared.platform.len() > 128 {
        return Err("its declaration is not one that a manifest can make".to_owned());
    }
    Ok(())
}

/// The first element whose exponent bits are all set. Works on the bytes, so that no type is converted.
fn first_non_finite(dtype: DType, data: &[u8]) -> Option<usize> {
    match dtype {
        DType::Fp32 => data.as_chunks().0.iter().position(|b| !f32::from_le_bytes(*b).is_finite()),
        DType::Fp64 => data.as_chunks().0.iter().position(|b| !f64::from_le_bytes(*b).is_finite()),
        DType::Fp16 => data.as_chunks().0.iter().position(|b| u16::from_le_bytes(*b) & 0x7c00 == 0x7c00),
        DType::Bf16 => data.as_chunks().0.iter().position(|b| u16::from_le_bytes(*b) & 0x7f80 == 0x7f80),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use casemate_ipc::launch::Geometry;
    use casemate_ipc::shm::arena::{self, Writer};
    use casemate_ipc::tensor::Shape;

    use super::*;

    const GEOMETRY: Geometry = Geometry { slots: 1, slot_bytes: 4096 };

    fn declared(output: &str) -> Declared {
        let spec = |t: &str| t.parse().unwrap();
        Declared {
            signature: ModelSignature::new(vec![spec("x:f32[-1]")], vec![spec(output)]).unwrap(),
            non_finite: vec![false],
            max_batch_size: 4,
            max_batch_delay_us: 0,
            deadline_ms: 1,
            sha256: [0; 32],
            platform: String::new(),
        }
    }

    fn answer(output: &str, dtype: DType, dims: &[u64], data: &[u8], rows: u64) -> Result<Vec<Tensor>, Unbelieved> {
        let (reader, file) = arena::responses(GEOMETRY).unwrap();
        let writer = Writer::open(&file, GEOMETRY).unwrap();
        let placed = writer.slot(0).unwrap().place(dtype, Shape::new(dims.to_vec()).unwrap(), &[data]).unwrap();
        sanitise(&reader, 0, &[placed], &declared(output), Some(rows))
    }

    #[test]
    fn what_is_declared_passes() {
        let data = 1.5f32.to_le_bytes().repeat(2);
        assert_eq!(answer("y:f32[-1]", DType::Fp32, &[2], &data, 2).unwrap()[0].data, data);
    }

    #[test]
    fn lies_and_undeclared_outputs_are_told_apart() {
        let two = 1.5f32.to_le_bytes().repeat(2);
        let lie = |r| matches!(r, Err(Unbelieved::Lie(_)));
        let undeclared = |r| matches!(r, Err(Unbelieved::Undeclared(_)));
        assert!(lie(answer("y:i32[-1]", DType::Fp32, &[2], &two, 2)));
        assert!(lie(answer("y:f32[-1,1]", DType::Fp32, &[2], &two, 2)));
        assert!(undeclared(answer("y:f32[-1]", DType::Fp32, &[2], &two, 1)));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(undeclared(answer("y:f32[-1]", DType::Fp32, &[1], &bad.to_le_bytes(), 1)), "{bad}");
        }
        assert!(undeclared(answer("y:f64[-1]", DType::Fp64, &[1], &f64::NAN.to_le_bytes(), 1)));
        assert!(undeclared(answer("y:f16[-1]", DType::Fp16, &[1], &[0, 0x7e], 1)));
        assert!(undeclared(answer("y:bf16[-1]", DType::Bf16, &[1], &[0x80, 0xff], 1)));
        assert!(lie(answer("y:bool[-1]", DType::Bool, &[1], &[2], 1)));
        let (reader, _file) = arena::responses(GEOMETRY).unwrap();
        assert!(lie(sanitise(&reader, 0, &[], &declared("y:f32[-1]"), Some(1))));
    }
}
