//! Several instances in one worker: they run at the same time, answer what they were asked, share the weights and nothing
//! else, and live under the last filter on every thread.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod cell;
mod operations;

use std::collections::BTreeMap;

use casemate_ipc::launch::RunTimeCode;
use casemate_ipc::work::{Failure, FromWorker, Step};
use casemate_tests::forge::{self, Forge, Tensor};
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

/// A forward that counts in an attribute how often it was asked, and then cuts a tensor of the module's down to one number.
/// The answer is the count, and four bits on the number of numbers that the tensor had before.
fn cuts_down(holder: &str) -> String {
    format!(
        "def forward(self, x: Tensor) -> Tensor:
  y = x * 0
  if bool(x[0, 0] > 0.5):
    count = {holder}.count
    size = {holder}.w.size(0)
    {holder}.count = count + 1
    w = torch.as_strided_({holder}.w, [1], [1], 0)
    y = y + (count * 16 + size) + w[0] * 0
  return y"
    )
}

fn counts(inner: Forge) -> Forge {
    inner.attribute("count", 0).attribute("w", Tensor::zeros(&[4]))
}

/// What the first answers of all instances are, with as many batches under way as there are instances and one.
fn firsts(mut cell: Cell, instances: u32) -> Vec<u32> {
    let asked: Vec<_> = (0..600).map(|_| vec![f32s(&[1, 4], &[1.0; 4])]).collect();
    let answers = all(&mut cell, instances + 1, &asked);
    assert_eq!(cell.drain(), Some(0));
    let numbers = answers.iter().map(|answer| answer[0].to_f32s()[0] as u32);
    numbers.filter(|number| number / 16 == 0).map(|number| number % 16).collect()
}

/// Two that wrote one tensor's sizes would read beyond its end.
#[test]
fn a_tensors_sizes_are_an_instances_own() {
    let model = || Birth::torch(counts(Forge::new("M")).forward(&cuts_down("self")).bytes());
    assert_eq!(firsts(model().instances(3).ready(), 3), [4; 3], "each cuts down its own");
    // Control: the second time the same instance sees what it did.
    let mut alone = model().ready();
    let one = [f32s(&[1, 4], &[1.0; 4])];
    assert_eq!([0; 2].map(|_| alone.run(&one)[0].to_f32s()[0]), [4.0, 17.0]);
}

/// It says how it wants to be copied, and that would be code of its own.
#[test]
fn an_object_that_knows_how_to_be_copied_is_an_instances_own() {
    let inner = counts(Forge::new("Inner")).set_state(
        0,
        "def __setstate__(self, state: int) -> NoneType:
  self.training = False
  self.count = state
  self.w = torch.zeros([4])",
    );
    let model = Forge::new("M").attribute("inner", inner).forward(&cuts_down("self.inner")).bytes();
    let birth = || Birth::torch(model.clone()).past_the_gate(&["__setstate__"]);
    assert_eq!(firsts(birth().instances(3).ready(), 3), [4; 3], "each has one of its own");
}

/// A tensor that stands in the code.
fn with_a_constant(forward: &str) -> Vec<u8> {
    let text = |text: &str| {
        let length = u32::try_from(text.len()).unwrap().to_le_bytes();
        [b"X".as_slice(), &length, text.as_bytes()].concat()
    };
    // Four numbers of the first storage.
    let pickle = [
        b"\x80\x02(ctorch._utils\n_rebuild_tensor_v2\n((".as_slice(),
        &text("storage"),
        b"ctorch\nFloatStorage\n",
        &text("0"),
        &text("cpu"),
        b"K\x04tQK\0(K\x04t(K\x01t\x89ccollections\nOrderedDict\n)RtRt.",
    ];
    let module = Forge::new("M").forward(forward);
    let mut records = module.records();
    records.retain(|(name, _)| name != "constants.pkl");
    records.push(("constants.pkl".to_owned(), pickle.concat()));
    records.push(("constants/0".to_owned(), vec![0; 16]));
    forge::stored(module.name(), &records)
}

/// All instances run the same code, with what stands in it.
#[test]
fn a_model_that_may_change_what_stands_in_its_code_has_one_instance() {
    let only_reads = "def forward(self, x: Tensor) -> Tensor:\n  return torch.relu_(x + CONSTANTS.c0)";
    let writes = "def forward(self, x: Tensor) -> Tensor:
  c = CONSTANTS.c0
  y = x + c
  if bool(x[0, 0] > 0.5):
    c = torch.as_strided_(c, [1], [1], 0)
    y = y + c
  return y";
    let (mut cell, step, why) = Birth::torch(with_a_constant(writes)).instances(2).refused();
    let clear = why.contains("one instance only") && why.contains("aten::as_strided_") && why.contains("workers");
    assert!(step == Step::Load && clear, "{step:?}: {why}\n{}", cell.log());
    let one = [f32s(&[1, 4], &[1.0; 4])];
    // What stands for an argument that nobody gives is the same for every call.
    for default in ["l: List[int]=[1]", "w: Tensor=CONSTANTS.c0"] {
        let forward = format!("def forward(self, x: Tensor, {default}) -> Tensor:\n  return x");
        let model = with_a_constant(&forward);
        let (_, _, why) = Birth::torch(model.clone()).instances(2).refused();
        assert!(why.contains("stands for itself"), "{default}: {why}");
        assert_eq!(Birth::torch(model).ready().run(&one)[0].to_f32s(), [1.0; 4]);
    }
    let number = Forge::new("M").forward("def forward(self, x: Tensor, n: int=1) -> Tensor:\n  return x * n").bytes();
    assert_eq!(Birth::torch(number).instances(2).ready().run(&one)[0].to_f32s(), [1.0; 4]);
    // Controls: alone it runs, and one that only reads has as many as it likes.
    assert_eq!(Birth::torch(with_a_constant(writes)).ready().run(&one)[0].to_f32s(), [1.0; 4]);
    let mut cell = Birth::torch(with_a_constant(only_reads)).instances(2).ready();
    assert_eq!(cell.run(&one)[0].to_f32s(), [1.0; 4]);
}

/// Memory that one instance has let go of is memory that the others read.
#[test]
fn no_instance_takes_the_weights_memory_away() {
    let forward = "def forward(self, x: Tensor) -> Tensor:
  if bool(x[0, 0] > 0.5):
    w = torch.resize_(self.w, [100000])
    x = x + w[0] * 0
  return x + self.w[0]";
    // Made while it is loaded: what lies in the archive has a fixed size anyway.
    let state = "def __setstate__(self, state: int) -> NoneType:
  self.training = False
  self.w = torch.zeros([4])";
    let model = Forge::new("M").attribute("w", Tensor::zeros(&[4])).set_state(0, state).forward(forward).bytes();
    let birth = || Birth::torch(model.clone()).past_the_gate(&["aten::resize_", "__setstate__"]);
    let one = [f32s(&[1, 4], &[1.0; 4])];
    let mut cell = birth().instances(2).ready();
    let (failure, why) = cell.fails(&one);
    assert!(failure == Failure::Model && why.contains("not resizable"), "{failure:?}: {why}");
    assert_eq!(cell.run(&[f32s(&[1, 4], &[0.0; 4])])[0].to_f32s(), [0.0; 4]);
    // Control: it is its own affair where nobody else reads it.
    assert_eq!(birth().ready().run(&one)[0].to_f32s(), [1.0; 4]);
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
