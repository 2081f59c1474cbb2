//! oneDNN's speed without a page of code while a model runs: what one worker met, the next one knows from the start.

#![allow(clippy::unwrap_used, reason = "test code: what cannot be is a failure")]
#![allow(clippy::cloned_ref_to_slice_refs, reason = "a list of inputs reads as one")]

mod cell;

use casemate_ipc::convolution::{Convolution, Convolutions};
use casemate_ipc::launch::RunTimeCode;
use casemate_tests::forge::Forge;
use cell::{Birth, Cell, Value, f32s};
use sha2::{Digest, Sha256};

/// Rows of pictures through convolutions of every kind that oneDNN takes over, and one that it does not.
const FORWARD: &str = "\
def forward(self, x: Tensor) -> Tensor:
  w = torch.arange(600, dtype=6).div(100)
  a = torch.conv2d(x, w.reshape([8, 3, 5, 5]), torch.ones([8]), padding=[2, 2])
  b = torch.conv2d(a, w.slice(0, 0, 72).reshape([8, 1, 3, 3]), groups=8)
  c = torch.conv2d(a, w.slice(0, 0, 576).reshape([8, 8, 3, 3]), stride=[2, 2], padding=[1, 1])
  d = torch.conv2d(a, w.slice(0, 0, 576).reshape([8, 8, 3, 3]), dilation=[2, 2])
  e = torch.conv2d(a.contiguous(memory_format=2), w.slice(0, 0, 576).reshape([8, 8, 3, 3]))
  f = torch.conv1d(a.flatten(2), w.slice(0, 0, 320).reshape([8, 8, 5]), stride=[3])
  g = torch.conv3d(a.unsqueeze(1), w.slice(0, 0, 54).reshape([2, 1, 3, 3, 3]))
  h = torch.conv2d(a, w.slice(0, 0, 32).reshape([4, 8, 1, 1]))
  i = torch.conv_transpose2d(a, w.slice(0, 0, 288).reshape([8, 4, 3, 3]))
  return torch.cat([PARTS], 1)";

fn model() -> Vec<u8> {
    let parts = ["b", "c", "d", "e", "f", "g", "h", "i"].map(|t| format!("{t}.flatten(1).mean([1], True)"));
    Forge::new("M").forward(&FORWARD.replace("PARTS", &parts.join(", "))).bytes()
}

fn birth(model: &[u8]) -> Birth {
    let birth = Birth { max_batch_size: 64, slot_bytes: 4 << 20, ..Birth::torch(model.to_vec()) };
    birth.inputs(&["x:FP32[-1,3,24,24]"]).outputs(&["y:FP32[-1,8]"])
}

fn pictures(rows: u64) -> Value {
    let numbers: Vec<f32> = (0..rows * 3 * 24 * 24).map(|i| ((i * 7919) % 1000) as f32 / 1000.0 - 0.5).collect();
    f32s(&[rows, 3, 24, 24], &numbers)
}

fn text(model: &[u8], list: Vec<Convolution>) -> Vec<u8> {
    Convolutions { sha256: Sha256::digest(model).into(), list }.to_string().into_bytes()
}

/// Bytes without a file that can run, and how many mappings of them can be written; none where only root may look.
fn code(cell: &Cell) -> Option<(u64, usize)> {
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", cell.pid())).ok()?;
    let made = maps.lines().filter(|line| line.contains("xp ") && line.contains(" 00:00 0") && !line.contains('['));
    let made: Vec<&str> = made.collect();
    let bytes = |line: &&str| {
        let (from, to) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        u64::from_str_radix(to, 16).unwrap() - u64::from_str_radix(from, 16).unwrap()
    };
    Some((made.iter().map(bytes).sum(), made.iter().filter(|line| line.contains("rwx")).count()))
}

/// What oneDNN's generator takes for one kernel.
const KERNEL: u64 = 256 << 10;

#[test]
fn what_one_worker_met_the_next_one_knows() {
    let model = model();
    let mut first = birth(&model).ready();
    let rows = [1, 2, 3, 8, 13];
    let answers = rows.map(|rows| first.run(&[pictures(rows)])[0].to_f32s());
    assert_eq!(code(&first).unwrap_or_default(), (0, 0));
    let met = std::mem::take(&mut first.met);
    assert_eq!(first.drain(), Some(0));
    let kinds = |met: &[Convolution]| {
        let mut kinds: Vec<Convolution> = met.iter().map(|one| Convolution { rows: 1, ..one.clone() }).collect();
        kinds.sort();
        kinds.dedup();
        kinds
    };
    // All but the transposed one and, with one thread, that of single points.
    assert_eq!(kinds(&met).len(), 7, "{met:#?}");
    assert_eq!(met.iter().map(|one| one.rows).max(), Some(16));

    for threads in [1, 2] {
        let list: Vec<Convolution> = kinds(&met).into_iter().map(|one| Convolution { rows: 8, ..one }).collect();
        let mut second = Birth { shapes: text(&model, list), threads, ..birth(&model) }.ready();
        let made = code(&second);
        println!("{threads} threads: {made:?} bytes of code; {}", second.log());
        if let Some((made, writable)) = made {
            assert!(made >= 7 * KERNEL && writable == 0, "{made}, {writable}");
        }
        for (rows, expected) in rows.iter().zip(&answers) {
            let found = second.run(&[pictures(*rows)])[0].to_f32s();
            let near = |(a, b): (&f32, &f32)| (a - b).abs() <= b.abs() * 1e-4 + 1e-4;
            assert!(found.iter().zip(expected).all(near), "{rows} rows: {found:?} and {expected:?}");
        }
        // With two threads oneDNN pays for single points as well, and that was not among them.
        assert_eq!(kinds(&second.met).len(), threads as usize - 1, "{:?}", second.met);
        assert_eq!(code(&second), made, "code was made while the model ran");
        assert_eq!(second.drain(), Some(0));
    }
}

/// Sizes that are another model's, or none, or nonsense: the model runs as it does without.
#[test]
fn other_sizes_are_left_aside() {
    let model = model();
    let one = || "conv 2 3 8 1 1 0 24,5,1,2,1 24,5,1,2,1".parse::<Convolution>().unwrap();
    let foreign = text(b"another", vec![one()]);
    for (shapes, says, met) in [
        (foreign, "model.shapes is of another model", 7),
        (b"sha256 nothing".to_vec(), "model.shapes: its first line", 7),
        (text(&model, vec![one()]), "1 convolutions, 2 sizes of batches", 6),
        (text(&model, Vec::new()), "0 convolutions, 0 sizes of batches", 7),
    ] {
        let mut cell = Birth { shapes, ..birth(&model) }.ready();
        let log = cell.log();
        assert!(log.contains(says), "{log}");
        cell.run(&[pictures(1)]);
        assert_eq!(cell.met.iter().filter(|one| one.rows == 1).count(), met, "{:#?}", cell.met);
    }
}

/// Where the operator allows code, oneDNN decides for itself, and nothing is noted.
#[test]
fn with_run_time_code_nothing_is_noted() {
    let model = model();
    let mut cell = Birth { run_time_code: RunTimeCode::Allowed, ..birth(&model) }.ready();
    cell.run(&[pictures(2)]);
    assert!(cell.met.is_empty());
    if let Some((made, writable)) = code(&cell) {
        assert!(made >= 7 * KERNEL && writable == 0, "{made}, {writable}");
    }
}
