//! Models that somebody saved, through the strict gate and then in a caged worker: what each comes to. A folder for each, with
//! a `model.pt` and a `model.toml`; and a file `fails`, where a model is known not to run, with the words that its failure
//! begins with. A model that runs although it is said to fail is as wrong as one that fails.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may")]

mod cell;

use std::fs;
use std::path::{Path, PathBuf};

use casemate_gate::{Level, Policy, judge};
use casemate_ipc::tensor::DType;
use casemate_ipc::work::FromWorker;
use casemate_manifest::Manifest;
use casemate_tests::models::{self, When};
use cell::{Birth, Value};

/// What the forge can make of honest models, and one for each place where a model can fail.
#[test]
fn models_of_the_forge_come_to_what_is_said_of_them() {
    let store = empty("said");
    let put = |name: &str, birth: Birth, fails: &str| {
        let folder = store.join(name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("model.toml"), birth.manifest_text()).unwrap();
        fs::write(folder.join("model.pt"), birth.model).unwrap();
        if !fails.is_empty() {
            fs::write(folder.join("fails"), fails).unwrap();
        }
    };
    let plain = [
        ("double", models::double()),
        ("dice", models::dice()),
        ("identity", models::identity()),
        ("linear", models::linear(4, 4)),
        ("in-place", models::in_place()),
        ("batch-rows", models::batch_rows()),
        ("keeps-state", models::keeps_state()),
    ];
    for (name, model) in plain {
        put(name, Birth::torch(model), "");
    }
    put("sum", Birth::torch(models::sum_int64()).inputs(&["x:INT64[-1,4]"]).outputs(&["y:INT64[-1]"]), "");
    let two = Birth::torch(models::two_inputs_two_outputs()).inputs(&["a:FP32[-1,4]", "b:FP32[-1,4]"]);
    put("two", two.outputs(&["sum:FP32[-1,4]", "difference:FP32[-1,4]"]), "");
    let both = ["double:FP32[-1,4]", "half:FP32[-1,4]"];
    put("dictionary", Birth::torch(models::dict_output()).outputs(&both), "");
    put("list", Birth::torch(models::list_output()).outputs(&both), "");
    put("reads", Birth::torch(models::from_file_read(When::Asked, "/etc/passwd")), "gate: ");
    put("crooked", Birth::torch(models::wrong_shape_output(When::Always)), "Refused");
    put("raises", Birth::torch(models::raises(When::Always, "no")), "Refused");
    assert_eq!(faults(&store), Vec::<String>::new());

    // The controls: what is said and not so is a fault, both ways, and so is an empty folder.
    let wrong = empty("wrong");
    assert_eq!(faults(&wrong).len(), 1);
    for (from, fails) in [("double", Some("gate: ")), ("reads", None)] {
        let folder = wrong.join(from);
        fs::create_dir(&folder).unwrap();
        for file in ["model.pt", "model.toml"] {
            fs::copy(store.join(from).join(file), folder.join(file)).unwrap();
        }
        if let Some(words) = fails {
            fs::write(folder.join("fails"), words).unwrap();
        }
    }
    let found = faults(&wrong);
    assert!(found.len() == 2 && found[0].contains("runs") && found[1].contains("gate: "), "{found:?}");
}

/// A folder of this test's own.
fn empty(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("honest").join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder).unwrap();
    }
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Models that Python made, as many as there are. By hand:
/// `CASEMATE_MODELS=FOLDER cargo test -p casemate-worker --test honest -- --ignored --nocapture`.
#[test]
#[ignore = "the models are not in the repository; Python makes them"]
fn models_of_a_folder_pass_load_and_run() {
    let store = PathBuf::from(std::env::var_os("CASEMATE_MODELS").unwrap());
    let found = faults(&store);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Which models of a folder come to something else than is said of them.
fn faults(store: &Path) -> Vec<String> {
    let mut folders: Vec<PathBuf> = fs::read_dir(store).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    if folders.is_empty() {
        return vec![format!("{}: no models", store.display())];
    }
    let mut faults = Vec::new();
    for folder in &folders {
        let name = folder.file_name().unwrap().to_string_lossy();
        let fails = fs::read_to_string(folder.join("fails")).ok();
        match (life(folder), fails) {
            (Ok(()), None) => {}
            (Err(why), Some(fails)) if why.starts_with(fails.trim_end_matches('\n')) => println!("{name}: {why}"),
            (Ok(()), Some(fails)) => faults.push(format!("{name}: it runs, and is said to fail: {fails}")),
            (Err(why), _) => faults.push(format!("{name}: {why}")),
        }
    }
    println!("{} of {} come to what is said of them", folders.len() - faults.len(), folders.len());
    faults
}

fn life(folder: &Path) -> Result<(), String> {
    let model = fs::read(folder.join("model.pt")).unwrap();
    judge(&model, &Policy::new(Level::Strict, []).unwrap()).map_err(|refusal| format!("gate: {refusal}"))?;
    let text = fs::read_to_string(folder.join("model.toml")).unwrap();
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
    let birth = Birth { manifest: Some(text), slot_bytes: 32 << 20, jailed: namespaces(), ..Birth::torch(model) };
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

/// Whether a user namespace can be made here, so that the whole cage goes on.
fn namespaces() -> bool {
    let can = std::process::Command::new("unshare").args(["--user", "--mount", "true"]).status();
    can.is_ok_and(|status| status.success())
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
