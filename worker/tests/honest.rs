//! Models that somebody saved with `torch.jit.save`, through the strict gate and then in a caged worker: what each comes to.
//! A folder for each, with a `model.pt` and a `model.toml`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may")]

mod cell;

use std::path::{Path, PathBuf};

use casemate_gate::{Level, Policy, judge};
use casemate_ipc::tensor::DType;
use casemate_ipc::work::FromWorker;
use casemate_manifest::Manifest;
use cell::{Birth, Value};

/// By hand: `CASEMATE_MODELS=FOLDER cargo test -p casemate-worker --test honest -- --ignored --nocapture`.
#[test]
#[ignore = "the models are not in the repository; Python makes them"]
fn models_of_a_folder_pass_load_and_run() {
    let store = PathBuf::from(std::env::var_os("CASEMATE_MODELS").unwrap());
    let mut folders: Vec<PathBuf> = std::fs::read_dir(store).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    let mut ran = 0;
    for folder in &folders {
        let name = folder.file_name().unwrap().to_string_lossy();
        match life(folder) {
            Ok(()) => ran += 1,
            Err(why) => println!("{name}: {why}"),
        }
    }
    println!("{ran} of {} pass, load and run", folders.len());
}

fn life(folder: &Path) -> Result<(), String> {
    let model = std::fs::read(folder.join("model.pt")).unwrap();
    judge(&model, &Policy::new(Level::Strict, []).unwrap()).map_err(|refusal| format!("gate: {refusal}"))?;
    let text = std::fs::read_to_string(folder.join("model.toml")).unwrap();
    let manifest = Manifest::parse(&text).map_err(|e| format!("manifest: {e}"))?;
    let inputs: Vec<Value> = manifest
        .inputs
        .iter()
        .map(|spec| {
            let dims: Vec<u64> = spec.dims.iter().map(|dim| dim.unwrap_or(2)).collect();
            let count = dims.iter().product::<u64>() as usize;
            Value { dtype: spec.dtype, dims, bytes: one(spec.dtype).repeat(count) }
        })
        .collect();
    let birth = Birth { manifest: Some(text), slot_bytes: 32 << 20, ..Birth::torch(model) };
    let mut worker = birth.spawn();
    loop {
        match worker.try_hear() {
            Some(FromWorker::Verified { .. }) => {}
            Some(FromWorker::Ready { .. }) => break,
            Some(other) => return Err(format!("{other:?}")),
            None => return Err(format!("gone: {} {}", worker.wait(), worker.log())),
        }
    }
    worker.send(&inputs);
    match worker.try_hear() {
        Some(FromWorker::Done { .. }) => Ok(()),
        Some(other) => Err(format!("{other:?}")),
        None => Err(format!("gone: {} {}", worker.wait(), worker.log())),
    }
}

fn one(dtype: DType) -> Vec<u8> {
    match dtype {
        DType::Bool | DType::Uint8 | DType::Int8 => vec![1],
        DType::Int16 => 1i16.to_le_bytes().to_vec(),
        DType::Int32 => 1i32.to_le_bytes().to_vec(),
        DType::Int64 => 1i64.to_le_bytes().to_vec(),
        DType::Fp16 => vec![0, 0x3c],
        DType::Bf16 => vec![0x80, 0x3f],
        DType::Fp32 => 1f32.to_le_bytes().to_vec(),
        DType::Fp64 => 1f64.to_le_bytes().to_vec(),
    }
}
