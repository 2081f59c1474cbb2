//! Operations of every kind, each for the first time after the last filter is on: what a model does must not need more of
//! the kernel than memory, and where it may write machine code, not more than that.

mod cell;
mod operations;

use std::collections::HashMap;

use casemate_ipc::launch::RunTimeCode;
use casemate_ipc::work::FromWorker;
use operations::{OPERATIONS, birth, inputs};

#[test]
fn no_operation_needs_more_than_memory() {
    every_operation(RunTimeCode::Refused, &[1, 2, 5]);
}

#[test]
fn no_operation_needs_more_than_memory_and_code() {
    every_operation(RunTimeCode::Allowed, &[1, 2]);
}

fn every_operation(code: RunTimeCode, threads: &[u32]) {
    let mut answers = HashMap::new();
    for threads in threads.iter().copied() {
        let mut cell = birth(threads, code).ready();
        let mut faults: Vec<String> = Vec::new();
        for (at, (name, _)) in OPERATIONS.iter().enumerate() {
            cell.send(&inputs(at));
            match cell.try_hear() {
                Some(FromWorker::Done { outputs, .. }) => {
                    let y = cell.take(&outputs[0]).to_f32s()[0];
                    let first = *answers.entry(name).or_insert(y);
                    // Sums depend on the order; what is random differs more than that.
                    if (y - first).abs() > 0.01 + first.abs() * 0.001 && !name.contains("(random)") {
                        faults.push(format!("{name}: {y} and not {first}"));
                    }
                }
                Some(other) => faults.push(format!("{name}: {other:?}")),
                None => {
                    faults.push(format!("{name}: {}", cell.wait()));
                    cell = birth(threads, code).ready();
                }
            }
        }
        assert!(faults.is_empty(), "{threads} threads:\n{}", faults.join("\n"));
    }
}
