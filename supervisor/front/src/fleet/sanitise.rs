//! The only reader of a worker's tensors: copies first, then checks the copy. Nothing that a worker can still change is
//! looked at twice.

use bytes::Bytes;
use casemate_ipc::shm::arena::Reader;
use casemate_ipc::tensor::{DType, ModelSignature, TensorError, TensorSpec};
use casemate_ipc::work::{Declared, MAX_BATCH_DELAY_US, MAX_BATCH_SIZE, MAX_DEADLINE_MS, Placed};
use thiserror::Error;

use crate::batch::job::{Tensor, Tensors};

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
) -> Result<Tensors, Unbelieved> {
    let specs = &declared.signature.outputs;
    if placed.len() != specs.len() {
        return Err(Unbelieved::Lie(format!("{} outputs came, {} are declared", placed.len(), specs.len())));
    }
    let batched = declared.signature.is_batched();
    let mut outputs = Tensors::with_capacity(placed.len());
    let mut free = 0;
    for (index, (place, spec)) in placed.iter().zip(specs).enumerate() {
        // The worker has checked type and shape before it answered, so another one here is not the model's doing.
        if place.dtype != spec.dtype {
            return Err(Unbelieved::Lie(format!("output {:?} came as {}, declared is {spec}", spec.name, place.dtype)));
        }
        spec.check(&place.shape).map_err(|e| Unbelieved::Lie(format!("output {:?}: {e}", spec.name)))?;
        // Each behind the last, as a worker fills a slot: 64 outputs of one and the same place would be 64 copies of it.
        if place.offset < free {
            return Err(Unbelieved::Lie(format!("output {:?} lies over the one before it", spec.name)));
        }
        free = place.offset.saturating_add(place.bytes);
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
        if spec.dtype == DType::Bool && first(&data, |[b]| b > 1).is_some() {
            return Err(Unbelieved::Lie(format!("output {:?} holds a BOOL that is neither 0 nor 1", spec.name)));
        }
        outputs.push(Tensor { shape: place.shape.clone(), data: Bytes::from(data) });
    }
    Ok(outputs)
}

/// Whether a declaration can be believed: what a worker says once, before it has read a byte of its model. It passes
/// exactly if a manifest can make it.
pub fn check_declared(declared: &Declared) -> Result<(), String> {
    let ModelSignature { inputs, outputs } = &declared.signature;
    let again = |side: &[TensorSpec]| -> Result<Vec<TensorSpec>, TensorError> {
        side.iter().map(|spec| TensorSpec::new(spec.name.clone(), spec.dtype, spec.dims.clone())).collect()
    };
    let signature = again(inputs).and_then(|inputs| ModelSignature::new(inputs, again(outputs)?));
    let signature = signature.map_err(|e| e.to_string())?;
    let rows = declared.max_batch_size;
    let fits = declared.non_finite.len() == outputs.len()
        && (1..=MAX_BATCH_SIZE).contains(&rows)
        && (rows == 1 || signature.is_batched())
        && declared.max_batch_delay_us <= MAX_BATCH_DELAY_US
        && (1..=MAX_DEADLINE_MS).contains(&declared.deadline_ms)
        && declared.platform.len() <= 128;
    if fits { Ok(()) } else { Err("its declaration is not one that a manifest can make".to_owned()) }
}

/// The first element whose exponent bits are all set. Works on the bytes, so that no type is converted.
fn first_non_finite(dtype: DType, data: &[u8]) -> Option<usize> {
    match dtype {
        DType::Fp32 => first(data, |b| u32::from_le_bytes(b) & 0x7f80_0000 == 0x7f80_0000),
        DType::Fp64 => first(data, |b| u64::from_le_bytes(b) & 0x7ff0_0000_0000_0000 == 0x7ff0_0000_0000_0000),
        DType::Fp16 => first(data, |b| u16::from_le_bytes(b) & 0x7c00 == 0x7c00),
        DType::Bf16 => first(data, |b| u16::from_le_bytes(b) & 0x7f80 == 0x7f80),
        _ => None,
    }
}

/// The first element that is bad. Looks at whole blocks without leaving one early, which is what lets the compiler compare
/// many elements at once.
fn first<const N: usize>(data: &[u8], bad: impl Fn([u8; N]) -> bool) -> Option<usize> {
    const BLOCK: usize = 256;
    let any = |block: &[[u8; N]]| block.iter().fold(false, |any, element| any | bad(*element));
    let (index, block) = data.as_chunks().0.chunks(BLOCK).enumerate().find(|(_, block)| any(block))?;
    block.iter().position(|element| bad(*element)).map(|at| index * BLOCK + at)
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

    fn answer(output: &str, dtype: DType, dims: &[u64], data: &[u8], rows: u64) -> Result<Tensors, Unbelieved> {
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

    #[test]
    fn the_first_bad_element_is_found_wherever_it_lies() {
        let good = [1.5f32, f32::MAX, -0.0, f32::MIN_POSITIVE / 2.0].map(f32::to_le_bytes);
        let mut data: Vec<u8> = (0..1000).flat_map(|i| good[i % 4]).collect();
        assert_eq!(first_non_finite(DType::Fp32, &data), None);
        for at in [999, 600, 256, 255, 0] {
            data[at * 4..][..4].copy_from_slice(&f32::NEG_INFINITY.to_le_bytes());
            assert_eq!(first_non_finite(DType::Fp32, &data), Some(at));
        }
    }

    #[test]
    fn one_place_cannot_be_two_outputs() {
        let (reader, file) = arena::responses(GEOMETRY).unwrap();
        let writer = Writer::open(&file, GEOMETRY).unwrap();
        let mut slot = writer.slot(0).unwrap();
        let mut place = || slot.place(DType::Fp32, Shape::new(vec![2]).unwrap(), &[&[0; 8]]).unwrap();
        let (first, second) = (place(), place());
        let mut declared = declared("y:f32[-1]");
        declared.signature.outputs.push("z:f32[-1]".parse().unwrap());
        declared.non_finite.push(false);
        let take = |placed: [&Placed; 2]| sanitise(&reader, 0, &placed.map(Clone::clone), &declared, Some(2));
        assert_eq!(take([&first, &second]).unwrap().len(), 2);
        for twice in [[&first, &first], [&second, &first]] {
            assert!(matches!(take(twice), Err(Unbelieved::Lie(_))), "{twice:?}");
        }
    }

    #[test]
    fn only_what_a_manifest_can_make_is_a_declaration() {
        let good = Declared { max_batch_size: 8, ..declared("y:f32[-1]") };
        assert_eq!(check_declared(&good), Ok(()));
        let spoil: [fn(&mut Declared); 13] = [
            |d| d.max_batch_size = 0,
            |d| d.max_batch_size = u32::MAX,
            |d| d.signature.outputs[0].dims = vec![Some(1)],
            |d| d.max_batch_delay_us = u64::MAX,
            |d| d.deadline_ms = 0,
            |d| d.deadline_ms = u64::MAX,
            |d| d.platform = "x".repeat(129),
            |d| d.non_finite.clear(),
            |d| d.signature.inputs.clear(),
            |d| d.signature.outputs[0].name = "a\n\u{1b}[31m".to_owned(),
            |d| d.signature.outputs[0].name = "x".repeat(60_000),
            |d| d.signature.outputs[0].dims = vec![None; 17],
            |d| d.signature.outputs[0].dims = vec![None, Some(1 << 62), Some(1 << 62)],
        ];
        for (index, spoil) in spoil.iter().enumerate() {
            let mut bad = good.clone();
            spoil(&mut bad);
            assert!(check_declared(&bad).is_err(), "{index}");
        }
    }
}
