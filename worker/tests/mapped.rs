//! A loaded model's tensors lie in the model's own file, mapped so that what is written to them stays with one process. What
//! cannot lie there is copied, and answers the same.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may")]

#[path = "../gate/tests/archive/mod.rs"]
mod archive;
mod cell;

use std::ffi::CString;
use std::fs;
use std::os::fd::OwnedFd;

use archive::{object, part, tensor, text, with, zip};
use casemate_gate::layout::Kind;
use casemate_gate::zip::Archive;
use casemate_ipc::shm::map::{Frozen, Private};
use casemate_ipc::shm::seal;
use casemate_ipc::tensor::Shape;
use casemate_ipc::work::Step;
use casemate_tests::forge::{self, Forge, Tensor};
use casemate_tests::models;
use casemate_worker::engine::shim::libtorch::{self, Fault, Module};
use casemate_worker::model::gate::Place;
use cell::{Birth, Cell, f32s};
use nix::sys::resource::Resource;

/// As libtorch aligns what it writes.
const ALIGNED: usize = 64;

/// `y = x · w + b`, all of `w` and of `b` being one number.
fn linear(w: f32, b: f32) -> Forge {
    let forward = "def forward(self, x: Tensor) -> Tensor:\n  return x @ self.w + self.b";
    let forge = Forge::new("M").parameter("w", Tensor::new(&[4, 4], [w; 16])).parameter("b", Tensor::new(&[4], [b; 4]));
    forge.forward(forward)
}

/// Adds one to what it keeps, and answers with it.
fn counts() -> Forge {
    let forward = "def forward(self, x: Tensor) -> Tensor:\n  return x * 0 + self.w.add_(1)";
    Forge::new("M").buffer("w", Tensor::new(&[4], [10.0; 4])).forward(forward)
}

/// The archive with every tensor's bytes this far behind an aligned place: a file of the user's before each takes the room.
fn laid(forge: &Forge, behind: usize) -> Vec<u8> {
    laid_by(forge, |_| behind)
}

/// The same, with a distance for each, by its record's name.
fn laid_by(forge: &Forge, behind: impl Fn(&str) -> usize) -> Vec<u8> {
    const HEADER: usize = 30;
    let (mut records, mut at) = (Vec::new(), 0);
    let mut put = |name: String, bytes: Vec<u8>| {
        at += HEADER + forge.name().len() + 1 + name.len() + bytes.len();
        records.push((name, bytes));
        at
    };
    let mut end = 0;
    for (name, bytes) in forge.records() {
        if let Some(key) = name.strip_prefix("data/") {
            let room = format!("extra/{key}");
            let begins = end + 2 * (HEADER + forge.name().len() + 1) + room.len() + name.len();
            put(room, vec![0; (behind(key) + ALIGNED - begins % ALIGNED) % ALIGNED]);
        }
        end = put(name, bytes);
    }
    forge::stored(forge.name(), &records)
}

/// Where the gate saw the tensors.
fn places(archive: &[u8]) -> Vec<Place> {
    let read = Archive::read(archive).unwrap();
    let tensors = read.records.iter().filter(|record| Kind::of(record.name) == Some(Kind::Storage));
    tensors.map(|record| Place { start: record.start, bytes: record.packed.len() as u64 }).collect()
}

fn file(archive: &[u8]) -> OwnedFd {
    seal::freeze("model", archive, 1 << 30).unwrap()
}

fn mapped(file: &OwnedFd) -> Private {
    let mut own = Private::map(file).unwrap();
    own.make_writable(usize::MAX).unwrap();
    own
}

fn numbers(rows: &[f32], width: usize) -> tch::Tensor {
    let fill = |bytes: &mut [u8]| -> Result<(), ()> {
        bytes.copy_from_slice(&rows.iter().flat_map(|n| n.to_ne_bytes()).collect::<Vec<_>>());
        Ok(())
    };
    let shape = Shape::new(vec![(rows.len() / width) as u64, width as u64]).unwrap();
    libtorch::input(tch::Kind::Float, &shape, fill).unwrap().unwrap()
}

fn ask(module: &mut Module, rows: &[f32]) -> Result<Vec<u8>, Fault> {
    Ok(ask_wide(module, rows, 4, &["y"])?.remove(0))
}

fn ask_wide(module: &mut Module, rows: &[f32], width: usize, names: &[&str]) -> Result<Vec<Vec<u8>>, Fault> {
    let names: Vec<CString> = names.iter().map(|name| CString::new(*name).unwrap()).collect();
    let mut answers = module.forward(&[numbers(rows, width)], &names)?;
    let bytes = |answer: &mut tch::Tensor| {
        libtorch::look(answer)?;
        Ok(libtorch::dense(answer)?.to_vec())
    };
    answers.iter_mut().map(bytes).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|n| f32::from_ne_bytes(n.try_into().unwrap())).collect()
}

const ONES: [f32; 4] = [1.0; 4];

/// The marker: the mapping is of another file of the same build, and its numbers are what the model answers with.
#[test]
fn tensors_are_what_the_mapping_holds() {
    let (one, other) = (laid(&linear(1.0, 2.0), 0), laid(&linear(3.0, 4.0), 0));
    let places = places(&one);
    assert!(places.len() == 2 && places.iter().all(|place| place.start % ALIGNED as u64 == 0), "{places:?}");
    let (mut module, used) = Module::load_in(&one, mapped(&file(&other)), &places).unwrap();
    assert_eq!((used, floats(&ask(&mut module, &ONES).unwrap())), (2, vec![16.0; 4]));
    // Control: copied, they are the archive's; and so they are in its own file.
    assert_eq!(floats(&ask(&mut Module::load(&one).unwrap(), &ONES).unwrap()), [6.0; 4]);
    let (mut module, used) = Module::load_in(&one, mapped(&file(&one)), &places).unwrap();
    assert_eq!((used, floats(&ask(&mut module, &ONES).unwrap())), (2, vec![6.0; 4]));
}

/// By the same marker: the numbers are the archive's, so they were copied.
#[test]
fn what_cannot_lie_there_is_copied() {
    let copied = |archive: &[u8], other: &[u8], places: &[Place]| {
        let (mut module, used) = Module::load_in(archive, mapped(&file(other)), places).unwrap();
        let answer = floats(&ask(&mut module, &ONES).unwrap());
        used == 0 && answer == [6.0; 4]
    };
    // Not aligned.
    let (one, other) = (laid(&linear(1.0, 2.0), 4), laid(&linear(3.0, 4.0), 4));
    assert!(copied(&one, &other, &places(&one)));
    // Places that are not what libtorch finds, and a mapping that ends before them.
    let (one, other) = (laid(&linear(1.0, 2.0), 0), laid(&linear(3.0, 4.0), 0));
    let right = places(&one);
    assert!(!copied(&one, &other, &right));
    let spoilt = |start: u64, bytes: i64| -> Vec<Place> {
        let spoil = |p: &Place| Place { start: p.start + start, bytes: p.bytes.wrapping_add_signed(bytes) };
        right.iter().map(spoil).collect()
    };
    for (start, bytes) in [(0, -4), (0, 4), (64, 0), (0, i64::MAX), (u64::from(u32::MAX), 0)] {
        assert!(copied(&one, &other, &spoilt(start, bytes)), "{start} {bytes}");
    }
    assert!(copied(&one, &other, &[]) && copied(&one, &other[..ALIGNED], &right));
    assert!(copied(&one, b"", &right));
}

/// Deflated numbers: no gate lets them through, and no place would be theirs.
#[test]
fn what_is_deflated_is_copied() {
    let mut parts = with(archive::CODE, &object(&tensor("FloatStorage", "0", "cpu", 4, 0, &[4], &[1])));
    let numbers: Vec<u8> = [1.5_f32; 4].iter().flat_map(|n| n.to_ne_bytes()).collect();
    parts.retain(|part| part.name != "m/data/0");
    parts.insert(0, archive::Part { method: 8, ..part("m/data/0", numbers) });
    let archive = zip(&parts);
    let (mut module, used) = Module::load_in(&archive, mapped(&file(&archive)), &places(&archive)).unwrap();
    assert_eq!((used, floats(&ask(&mut module, &ONES).unwrap())), (0, vec![2.5; 4]));
}

#[test]
fn what_a_model_writes_stays_its_own() {
    let archive = laid(&counts(), 0);
    let (file, places) = (file(&archive), places(&archive));
    let load = || Module::load_in(&archive, mapped(&file), &places).unwrap();
    let ((mut one, used), (mut two, _)) = (load(), load());
    assert_eq!(used, 1);
    for turn in [11.0, 12.0, 13.0] {
        assert_eq!(floats(&ask(&mut one, &ONES).unwrap()), [turn; 4]);
    }
    // Another of the same file, from before and from after, and the file itself.
    assert_eq!(floats(&ask(&mut two, &ONES).unwrap()), [11.0; 4]);
    assert_eq!(floats(&ask(&mut load().0, &ONES).unwrap()), [11.0; 4]);
    assert_eq!(Frozen::map(&file).unwrap().bytes(), archive);
}

/// Two tensors that an archive makes of one record are two, as they ever were: one of them is copied.
#[test]
fn two_tensors_of_one_record_do_not_meet() {
    let code = "class M(Module):
  __parameters__ = []
  __buffers__ = []
  w : Tensor
  v : Tensor
  def forward(self: __torch__.M, x: Tensor) -> Tensor:
    w = torch.add_(self.w, 1)
    return torch.add(torch.mul(x, 0), self.v)
";
    let own = || tensor("FloatStorage", "0", "cpu", 4, 0, &[4], &[1]);
    let parts = with(code, &object(&[own(), text("v"), own()].concat()));
    let at = |parts: &[archive::Part]| {
        let records = Archive::read(&zip(parts))
            .map(|archive| archive.records.iter().find(|record| record.name == "data/0").unwrap().start as usize);
        records.unwrap()
    };
    let mut laid = parts.clone();
    laid.insert(0, part("m/extra/0", []));
    laid[0].bytes = vec![0; (ALIGNED - at(&laid) % ALIGNED) % ALIGNED];
    let archive = zip(&laid);
    let (mut module, used) = Module::load_in(&archive, mapped(&file(&archive)), &places(&archive)).unwrap();
    assert_eq!((used, at(&laid) % ALIGNED), (1, 0));
    for module in [&mut module, &mut Module::load(&archive).unwrap()] {
        assert_eq!(floats(&ask(module, &ONES).unwrap()), [0.0; 4]);
    }
}

/// As before: what came of an archive has one size for good.
#[test]
fn nothing_is_made_larger_in_place() {
    for (forward, goes) in [
        ("torch.resize_(self.w, [100000])", false),
        ("torch.resize_(self.w, [2])", true),
        ("torch.resize_(torch.detach(self.w), [5])", false),
    ] {
        let source = format!("def forward(self, x: Tensor) -> Tensor:\n  w = {forward}\n  return x + w[0]");
        let archive = laid(&Forge::new("M").buffer("w", Tensor::new(&[4], [1.0; 4])).forward(&source), 0);
        let (mut module, used) = Module::load_in(&archive, mapped(&file(&archive)), &places(&archive)).unwrap();
        assert_eq!(used, 1);
        let said = [&mut module, &mut Module::load(&archive).unwrap()].map(|module| match ask(module, &ONES) {
            Ok(bytes) => format!("{:?}", floats(&bytes)),
            Err(fault) => fault.to_string().lines().find(|line| line.contains("not resizable")).unwrap().to_owned(),
        });
        assert_eq!(said[0], said[1]);
        assert_eq!(said[0].contains("[2.0, 2.0"), goes, "{said:?}");
    }
}

/// Of a worker's memory: pages of files that it shares, and pages of its own.
fn memory(cell: &Cell) -> [u64; 2] {
    ["RssShmem", "RssAnon"].map(|field| cell.status(field).split(' ').next().unwrap().parse().unwrap())
}

#[test]
fn a_workers_weights_are_pages_of_the_file() {
    const SIDE: usize = 1024;
    const WEIGHTS: u64 = 4096;
    let weights: Vec<f32> = (0..SIDE * SIDE).map(|at| (at % 13) as f32).collect();
    let forward = "def forward(self, x: Tensor) -> Tensor:
  if bool(x[0, 0] > 1000):
    w = torch.add_(self.w, 1)
  return x * 0 + self.w.sum() / 1048576";
    let forge = Forge::new("M").parameter("w", Tensor::new(&[SIDE, SIDE], weights.clone())).forward(forward);
    let mean = weights.iter().map(|n| f64::from(*n)).sum::<f64>() / (SIDE * SIDE) as f64;
    let near = |answer: f32, mean: f64| (f64::from(answer) - mean).abs() < 1e-3;
    for instances in [1, 3] {
        let mut cell = Birth::torch(laid(&forge, 0)).instances(instances).ready();
        assert!(near(cell.run(&[f32s(&[1, 4], &ONES)])[0].to_f32s()[0], mean));
        let [shared, own] = memory(&cell);
        println!("{instances} instances: {shared} KiB of files, {own} KiB of its own");
        assert!(shared >= WEIGHTS, "{shared}");
        // Written to, they become its own.
        assert!(near(cell.run(&[f32s(&[1, 4], &[2000.0; 4])])[0].to_f32s()[0], mean + 1.0));
        let [less, more] = memory(&cell);
        assert!(less + WEIGHTS / 2 <= shared && more >= own + WEIGHTS / 2, "{shared} {own}: {less} {more}");
        assert_eq!(cell.drain(), Some(0));
    }
    // Control: where they are copied, nothing of the file stays, and the answers are the same.
    let mut cell = Birth::torch(laid(&forge, 4)).ready();
    assert!(near(cell.run(&[f32s(&[1, 4], &ONES)])[0].to_f32s()[0], mean));
    let [shared, _] = memory(&cell);
    assert!(shared < WEIGHTS, "{shared}");
}

/// A worker of so many bytes of data, and of addresses, with a small model.
fn bare() -> [u64; 2] {
    let cell = Birth::torch(laid(&linear(1.0, 2.0), 0)).ready();
    ["VmData", "VmSize"].map(|field| cell.status(field).split(' ').next().unwrap().parse::<u64>().unwrap() << 10)
}

/// A large tensor and a small one behind it.
fn heavy(bytes: usize) -> Forge {
    let forward = "def forward(self, x: Tensor) -> Tensor:\n  return x * 0 + self.a[0] + self.b";
    let large = Tensor::new(&[bytes / 4], vec![1.5; bytes / 4]);
    Forge::new("M").parameter("a", large).parameter("b", Tensor::new(&[4], [1.0; 4])).forward(forward)
}

/// As data: the copies alone, and not what they would be in place of. The limit leaves room for one and a half of them.
#[test]
fn what_is_copied_counts_once() {
    const S: usize = 32 << 20;
    let [data, _] = bare();
    let limit = data + (S + S / 2) as u64;
    let born = |archive: Vec<u8>| Birth::torch(archive).limit(Resource::RLIMIT_DATA, limit);
    // None is aligned, or only the small one, which comes last.
    let mixed = laid_by(&heavy(S), |key| if key == "0" { 4 } else { 0 });
    let aligned: Vec<bool> = places(&mixed).iter().map(|place| place.start % ALIGNED as u64 == 0).collect();
    assert_eq!(aligned, [false, true]);
    for archive in [laid(&heavy(S), 4), mixed, laid(&heavy(S), 0)] {
        let mut cell = born(archive).ready();
        assert_eq!(cell.run(&[f32s(&[1, 4], &ONES)])[0].to_f32s(), [2.5; 4]);
    }
    // Control: twice as much is too much, in place or not.
    for behind in [0, 4] {
        let (_, step, said) = born(laid(&heavy(2 * S), behind)).refused();
        assert!(step == Step::Load && said.contains("memory"), "{step:?}: {said}");
    }
}

/// Addresses for the file once and not twice: it is not the boot that fails, but the load, which says what is lacking.
#[test]
fn a_file_that_can_be_mapped_once_only_is_refused_for_its_memory() {
    const S: usize = 256 << 20;
    let [_, addresses] = bare();
    let archive = laid(&heavy(S), 0);
    let born = |room| Birth {
        // Of no interest here, and slow.
        sha256: Some("07".repeat(32)),
        digest: Some(vec![7; 32]),
        ..Birth::torch(archive.clone()).limit(Resource::RLIMIT_AS, addresses + room as u64)
    };
    let (_, step, said) = born(S + S / 2).refused();
    assert!(step == Step::Load && said.contains("memory"), "{step:?}: {said}");
    // Control: where it fits twice, it is loaded in place; copies of it would not fit beside both.
    let mut cell = born(2 * S + S / 2).ready();
    assert_eq!(cell.run(&[f32s(&[1, 4], &ONES)])[0].to_f32s(), [2.5; 4]);
}

/// Well-behaved models, asked the same: to the last bit.
#[test]
fn answers_are_the_same_to_the_last_bit() {
    let rows: Vec<f32> = (0..32_u16).map(|n| f32::from(n * 7 % 19) / 3.0 - 2.0).collect();
    let layer = |seed: u32| (0..64 * 64).map(|n: u32| ((n * 31 + seed) % 97) as f32 / 97.0 - 0.5).collect::<Vec<_>>();
    let deep = Forge::new("Deep")
        .parameter("a", Tensor::new(&[4, 64], layer(1)[..256].to_vec()))
        .parameter("b", Tensor::new(&[64, 64], layer(2)))
        .parameter("c", Tensor::new(&[64, 4], layer(3)[..256].to_vec()))
        .forward(
            "def forward(self, x: Tensor) -> Tensor:\n  return torch.relu(torch.tanh(x @ self.a) @ self.b) @ self.c",
        );
    for archive in [laid(&deep, 0), laid(&linear(0.3, 0.7), 0), models::linear(4, 4), models::double()] {
        let (mut module, used) = Module::load_in(&archive, mapped(&file(&archive)), &places(&archive)).unwrap();
        println!("{used} tensors in place");
        let copied = ask(&mut Module::load(&archive).unwrap(), &rows).unwrap();
        assert_eq!(ask(&mut module, &rows).unwrap(), copied);
    }
    // As `torch.jit.save` wrote it.
    let digits = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/demo/store/digits/1/model.pt")).unwrap();
    let places = places(&digits);
    let (mut module, used) = Module::load_in(&digits, mapped(&file(&digits)), &places).unwrap();
    assert!(used > 0 && used == places.len(), "{used} of {} tensors in place", places.len());
    let pixels: Vec<f32> = (0..128_u16).map(|n| f32::from(n * 11 % 17)).collect();
    let ask = |module: &mut Module| ask_wide(module, &pixels, 64, &["scores", "digit"]).unwrap();
    assert_eq!(ask(&mut module), ask(&mut Module::load(&digits).unwrap()));
}
