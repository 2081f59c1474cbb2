//! Several instances in one worker: they run at the same time, answer what they were asked, share the weights and nothing
//! else, and live under the last filter on every thread.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod cell;
mod operations;

use std::collections::BTreeMap;

use casemate_ipc::launch::RunTimeCode;
use casemate_ipc::work::{Failure, FromWorker};
use casemate_tests::forge::{Forge, Tensor};
use casemate_tests::models;
use cell::{Birth, Cell, Value, f32s};
use operations::OPERATIONS;

/// Keeps every slot busy until all is answered: what is asked, and what comes back, in the order of asking.
fn all(cell: &mut Cell, slots: u32, asked: &[Vec<Value>]) -> Vec<Vec<Value>> {
    let (mut free, mut waiting): (Vec<u32>, BTreeMap<_, _>) = ((0..slots).collect(), BTreeMap::new());
    let (mut next, mut answers) = (0, vec![Vec::new(); asked.len()]);
    while next < asked.len() || !waiting.is_empty() {
        if let Some(slot) = free.pop_if(|_| next < asked.len()) {
            waiting.insert(cell.send_in(slot, &asked[next]), (slot, next));
            next += 1;
            continue;
        }
        match cell.hear() {
            FromWorker::Done { batch, outputs, .. } => {
                let (slot, place) = waiting.remove(&batch).unwrap();
                answers[place] = outputs.iter().map(|placed| cell.take_from(slot, placed)).collect();
                free.push(slot);
            }
            other => panic!("{other:?}\n{}", cell.log()),
        }
    }
    answers
}

#[test]
fn they_run_at_the_same_time() {
    let two = [f32s(&[1, 4], &[1.0; 4]), f32s(&[1, 4], &[2.0; 4])];
    let mut cell = Birth::echo("meet = 2").instances(2).ready();
    for _ in 0..20 {
        cell.send_in(0, &two[..1]);
        cell.send_in(1, &two[1..]);
        for _ in 0..2 {
            let answer = cell.hear();
            assert!(matches!(answer, FromWorker::Done { .. }), "{answer:?}");
        }
    }
    // Control: one instance runs them one after the other, and nobody meets anybody.
    let mut alone = Birth::echo("meet = 2").ready();
    let (failure, why) = alone.fails(&two[..1]);
    assert_eq!((failure, why.as_str()), (Failure::Model, "nobody else came"));
}

#[test]
fn each_answer_is_that_of_its_batch() {
    const INSTANCES: u32 = 4;
    let mut cell = Birth::torch(models::linear(4, 4)).instances(INSTANCES).ready();
    let rows: Vec<[f32; 4]> = (0..4000_u16).map(|n| [0, 1, 2, 3].map(|d| f32::from((n * 7 + d * 13) % 97))).collect();
    let asked: Vec<_> = rows.iter().map(|row| vec![f32s(&[1, 4], row)]).collect();
    let answers = all(&mut cell, INSTANCES + 1, &asked);
    for (row, answer) in rows.iter().zip(answers) {
        assert_eq!(answer[0].to_f32s(), models::linear_answer(row, 4), "{row:?}");
    }
    assert_eq!(cell.drain(), Some(0));
}

/// Weights of 64 MiB, as much in one tensor as MiniLM's largest has and all of them touched in every run.
fn heavy() -> Vec<u8> {
    const SIDE: usize = 2048;
    let layer = |seed: usize| {
        let weights: Vec<f32> = (0..SIDE * SIDE).map(|at| ((at * 31 + seed) % 17) as f32 / 1024.0).collect();
        Tensor::new(&[SIDE, SIDE], weights)
    };
    Forge::new("Heavy")
        .parameter("a", layer(1))
        .parameter("b", layer(2))
        .parameter("c", layer(3))
        .parameter("d", layer(4))
        .forward(
            "def forward(self, x: Tensor) -> Tensor:
  y = x.expand([8, 4]).repeat([1, 512])
  y = torch.relu(y @ self.a) @ self.b
  y = torch.relu(y @ self.c) @ self.d
  return x + (y.sum() * 0)",
        )
        .bytes()
}

#[test]
fn they_share_one_copy_of_the_weights() {
    let model = heavy();
    assert!(model.len() > 64 << 20);
    let used = |instances: u32| {
        let birth = Birth { slot_bytes: 1 << 16, ..Birth::torch(model.clone()) };
        let mut cell = birth.instances(instances).ready();
        let asked: Vec<_> = (0..40).map(|n: u8| vec![f32s(&[1, 4], &[f32::from(n); 4])]).collect();
        let answers = all(&mut cell, instances + 1, &asked);
        assert_eq!(answers, asked);
        let kib: u64 = cell.status("RssAnon").split(' ').next().unwrap().parse().unwrap();
        assert_eq!(cell.drain(), Some(0));
        kib >> 10
    };
    let (one, four) = (used(1), used(4));
    println!("1 instance: {one} MiB, 4 instances: {four} MiB of private memory");
    assert!(one > 64, "the weights are not in it: {one} MiB");
    assert!(four <= one + 40, "1 instance takes {one} MiB, 4 take {four} MiB");
}

/// Attributes are an instance's own: two threads that write the same one would free it twice.
#[test]
fn what_a_module_keeps_is_an_instances_own() {
    let mut cell = Birth::torch(models::keeps_state()).instances(3).ready();
    let asked: Vec<_> = (1..3000_u16).map(|n| vec![f32s(&[1, 4], &[f32::from(n); 4])]).collect();
    for (row, answer) in asked.iter().zip(all(&mut cell, 4, &asked)) {
        let (asked, kept) = (row[0].to_f32s()[0], answer[0].to_f32s()[0]);
        assert!(kept < asked, "{asked} was answered with {kept}, which came later");
    }
    assert_eq!(cell.drain(), Some(0));
}

/// More threads than glibc has arenas before it asks how many CPUs there are, each with a team of its own.
#[test]
fn many_instances_with_teams_live_under_the_last_filter() {
    let birth = Birth { threads: 2, ..Birth::torch(models::linear(4, 4)) };
    let mut cell = birth.instances(16).ready();
    let asked: Vec<_> = (0..400_u16).map(|n| vec![f32s(&[1, 4], &[f32::from(n); 4])]).collect();
    for (row, answer) in asked.iter().zip(all(&mut cell, 17, &asked)) {
        assert_eq!(answer[0].to_f32s(), models::linear_answer(&row[0].to_f32s(), 4));
    }
    // Its thread and its team of two for each, one thread for forks and its team; some libraries have their own.
    assert!(cell.status("Threads").parse::<u32>().unwrap() >= 33);
    assert_eq!(cell.drain(), Some(0));
}

#[test]
fn operations_of_every_kind_run_on_every_instance() {
    const INSTANCES: u32 = 3;
    let mut cell = operations::birth(2, RunTimeCode::Refused).instances(INSTANCES).ready();
    for (at, (name, _)) in OPERATIONS.iter().enumerate() {
        let asked = vec![operations::inputs(at).to_vec(); INSTANCES as usize];
        let answers: Vec<f32> = all(&mut cell, INSTANCES, &asked).iter().map(|a| a[0].to_f32s()[0]).collect();
        let close =
            |a: f32, b: f32| a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-3 * a.abs().max(b.abs());
        let same = answers.iter().all(|answer| close(*answer, answers[0]));
        assert!(same || name.contains("random"), "{name}: {answers:?}");
    }
    assert_eq!(cell.drain(), Some(0));
}

#[test]
fn a_worker_with_no_slot_for_each_instance_does_not_begin() {
    let mut cell = Birth { slots: Some(1), ..Birth::echo("") }.instances(2).spawn();
    match cell.hear() {
        FromWorker::Refused { detail, .. } => assert!(detail.contains("2 instances in 1 slots"), "{detail}"),
        other => panic!("{other:?}"),
    }
}
