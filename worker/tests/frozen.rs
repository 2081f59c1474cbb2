//! What a manifest asks of the engine: freezing, which gives the same answers or leaves the model as it is; and threads, which
//! are the operator's to give.

#![allow(clippy::cloned_ref_to_slice_refs, reason = "a list of inputs reads as one")]

mod cell;

use casemate_ipc::work::Failure;
use casemate_tests::forge::Forge;
use cell::{Birth, f32s};
use sha2::{Digest, Sha256};

const ROWS: [f32; 8] = [1.0, 2.0, 3.0, 4.0, -1.0, 0.0, 5.0, 2.0];

fn birth(forward: &str, engine: &str) -> Birth {
    of(Forge::new("M").forward(&format!("def forward(self, x: Tensor) -> Tensor:\n  return {forward}")).bytes(), engine)
}

fn of(model: Vec<u8>, engine: &str) -> Birth {
    let sha256: String = Sha256::digest(&model).iter().map(|b| format!("{b:02x}")).collect();
    let manifest = format!(
        "format = \"torchscript\"\nsha256 = \"{sha256}\"\n[[input]]\nname = \"x\"\ndtype = \"FP32\"\nshape = [-1, 4]\n\
         [[output]]\nname = \"y\"\ndtype = \"FP32\"\nshape = [-1, 4]\n{engine}"
    );
    Birth { manifest: Some(manifest), ..Birth::torch(model) }
}

#[test]
fn a_frozen_model_answers_as_before() {
    let forward = "torch.relu(torch.linear(x, torch.ones([4, 4]).mul(0.5), torch.ones([4])))";
    let answer = |engine: &str| {
        let mut cell = birth(forward, engine).ready();
        let answer = cell.run(&[f32s(&[2, 4], &ROWS)])[0].to_f32s();
        (answer, cell.log())
    };
    let (plain, said) = answer("");
    assert!(!said.contains("frozen"), "{said}");
    let (frozen, said) = answer("[engine]\nfreeze = true\n");
    assert!(said.contains("frozen: its answers are 0.0e0 apart"), "{said}");
    assert_eq!(plain, frozen);
}

/// Numbers at random, and one without end: no difference is large beside that.
#[test]
fn an_answer_without_end_hides_no_difference() {
    for end in ["inf", "-inf", "nan"] {
        let forward = format!("torch.cat([torch.ones([1, 1]) * {end}, torch.rand([1, 3])], 1) + x[:1] * 0");
        let mut cell = birth(&forward, "[engine]\nfreeze = true\n").ready();
        let said = cell.log();
        assert!(said.contains("not frozen: its answers are"), "{end}: {said}");
    }
}

#[test]
fn the_same_ends_in_the_same_places_are_no_difference() {
    let ends = "torch.ones([1, 1]) * inf, torch.ones([1, 1]) * -inf, torch.ones([1, 1]) * nan";
    let forward = format!("torch.cat([x[:1, :1] + 1, {ends}], 1)");
    let mut cell = birth(&forward, "[engine]\nfreeze = true\n").ready();
    let said = cell.log();
    assert!(said.contains("\nfrozen: its answers are 0.0e0 apart"), "{said}");
}

/// What its answer is a view of, where `when` holds: one number before its memory, or far behind it.
fn beyond(when: &str, offset: &str) -> Vec<u8> {
    let forward = format!(
        "def forward(self, x: Tensor) -> Tensor:
  y = x + 1
  if bool({when}):
    y = ops.inductor._reinterpret_tensor(y, [1, 4], [4, 1], {offset})
  return y"
    );
    Forge::new("M").forward(&forward).bytes()
}

const VIEW: &str = "inductor::_reinterpret_tensor";

/// Not for the comparison, which sees it before anything else has looked.
#[test]
fn an_answer_that_leaves_its_memory_is_not_compared() {
    for offset in ["-1", "1000000000"] {
        // The numbers that are compared begin with nought, and then there is more; those of the trial are noughts.
        let model = beyond("x[0, 1] > 0.01", offset);
        let mut cell = of(model, "[engine]\nfreeze = true\n").past_the_gate(&[VIEW]).ready();
        let said = cell.log();
        assert!(said.contains("not frozen: a tensor reaches beyond its storage"), "{offset}: {said}");
        // Control: the act was its own.
        let (failure, why) = cell.fails(&[f32s(&[1, 4], &[1.0; 4])]);
        assert!(failure == Failure::Output && why.contains("beyond its storage"), "{offset}: {failure:?}: {why}");
        assert_eq!(cell.run(&[f32s(&[1, 4], &[0.0; 4])])[0].to_f32s(), [1.0; 4]);
    }
    let control = of(beyond("x[0, 1] > 0.01", "0"), "[engine]\nfreeze = true\n").past_the_gate(&[VIEW]);
    let said = control.ready().log();
    assert!(said.contains("\nfrozen: its answers are"), "{said}");
}

/// It answers otherwise each time, so a copy of it answers otherwise than it did.
#[test]
fn a_model_that_answers_otherwise_is_left_as_it_is() {
    let mut cell = birth("torch.rand([x.size(0), 4])", "[engine]\nfreeze = true\n").ready();
    let said = cell.log();
    assert!(said.contains("not frozen: its answers are"), "{said}");
    cell.run(&[f32s(&[2, 4], &ROWS)]);
}

#[test]
fn threads_are_a_wish_and_the_log_says_where_it_is_not_met() {
    let said = |engine: &str| birth("torch.relu(x)", engine).ready().log();
    let wish = "engine.threads: 3 threads for one operation pay; it has 1 (models.NAME.threads)";
    assert!(said("[engine]\nthreads = 3\n").contains(wish));
    for met in ["", "[engine]\nthreads = 1\n"] {
        assert!(!said(met).contains("engine.threads"), "{met:?}");
    }
}
