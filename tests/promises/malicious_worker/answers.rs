//! Lies in answers: places, shapes, types, batches, frames.

use casemate_ipc::frame::MAX_FRAME;
use casemate_ipc::id::BatchId;
use casemate_ipc::tensor::{DType, Shape};
use casemate_ipc::work::{Failure, FromWorker, MAX_DETAIL, Placed, Step};
use casemate_tests::fake_launcher::Part;
use casemate_tests::puppet::{Puppet, Run, declared, inside, packet};

use crate::liar::{done, first, found_out, lie, placed};

/// The right answer, but for one thing about its only output.
fn misplaced(spoil: impl Fn(&mut Placed) + Send + Sync + 'static) -> Part {
    lie(move |puppet, run| {
        let mut output = placed(run);
        spoil(&mut output);
        puppet.say(&done(run, vec![output]));
    })
}

#[test]
fn lies_about_places_shapes_and_types() {
    let shape = |dims: &[u64]| Shape::new(dims.to_vec()).unwrap();
    found_out(vec![
        ("bytes-more", misplaced(|p| p.bytes += 1)),
        ("bytes-none", misplaced(|p| p.bytes = 0)),
        ("bytes-all", misplaced(|p| p.bytes = u64::MAX)),
        ("offset-end", misplaced(|p| p.offset = 1 << 20)),
        ("offset-over", misplaced(|p| p.offset = u64::MAX - 3)),
        ("dtype", misplaced(|p| p.dtype = DType::Int32)),
        ("rank", misplaced(move |p| p.shape = shape(&[4]))),
        ("columns", misplaced(move |p| (p.shape, p.bytes) = (shape(&[1, 5]), 20))),
        ("rows-2e62", misplaced(move |p| (p.shape, p.bytes) = (shape(&[1 << 62, 4]), 0))),
        ("rows-overflow", misplaced(move |p| (p.shape, p.bytes) = (shape(&[u64::MAX, 4]), 16))),
        ("rows-2e40", misplaced(move |p| (p.shape, p.bytes) = (shape(&[1 << 40, 4]), 1 << 44))),
        ("none", lie(|puppet, run| _ = puppet.say(&done(run, vec![])))),
        ("two", lie(|puppet, run| _ = puppet.say(&done(run, vec![placed(run), placed(run)])))),
        ("thousand", lie(|puppet, run| _ = puppet.say(&done(run, vec![placed(run); 1000])))),
        ("deep", lie(deep)),
    ]);
}

/// A shape of 4000 dimensions, which no honest encoder makes.
fn deep(puppet: &mut Puppet, run: &Run) {
    let mut bytes = packet(&done(run, vec![placed(run)]));
    // Magic, version, kind, length; variant, batch, number of outputs, type: then the number of dimensions.
    let at = 8 + 4 + 8 + 8 + 4;
    assert_eq!(bytes[at..at + 8], 2u64.to_le_bytes());
    bytes[at..at + 8].copy_from_slice(&4000u64.to_le_bytes());
    let tail = bytes.split_off(at + 8);
    bytes.extend(1u64.to_le_bytes().repeat(3998));
    bytes.extend(tail);
    let body = u32::try_from(bytes.len() - 8).unwrap();
    bytes[4..8].copy_from_slice(&body.to_le_bytes());
    puppet.raw(&bytes);
}

#[test]
fn answers_that_nobody_asked_for() {
    let other = |batch: fn(u64) -> u64| {
        lie(move |puppet, run| {
            let batch = BatchId(batch(run.batch.0));
            puppet.say(&FromWorker::Done { batch, outputs: vec![placed(run)], run_us: 1 });
        })
    };
    let say = |message: FromWorker| lie(move |puppet, _| _ = puppet.say(&message));
    found_out(vec![
        ("batch-before", other(|id| id - 1)),
        ("batch-next", other(|id| id + 1)),
        ("batch-zero", other(|_| 0)),
        ("batch-last", other(|_| u64::MAX)),
        (
            "failed-other",
            say(FromWorker::Failed { batch: BatchId(77), failure: Failure::Model, detail: String::new() }),
        ),
        ("ready", say(FromWorker::Ready { load_us: u64::MAX })),
        ("verified", say(FromWorker::Verified { declared: declared(), inside: inside() })),
        ("refused", say(FromWorker::Refused { step: Step::Verify, detail: "no".into() })),
        ("pong", say(FromWorker::Pong { token: 99 })),
        (
            "twice",
            lie(|puppet, run| {
                let answer = puppet.answer(run);
                puppet.say(&answer);
                puppet.say(&answer);
            }),
        ),
        (
            "before",
            first(|puppet| {
                let Some(run) = puppet.honest_once() else { return };
                let answer = puppet.answer(&run);
                puppet.say(&answer);
                puppet.say(&FromWorker::Done { batch: BatchId(run.batch.0 + 1), outputs: vec![], run_us: 1 });
                puppet.linger();
            }),
        ),
    ]);
}

#[test]
fn packets_that_are_no_frames() {
    let spoilt = |spoil: fn(&mut Vec<u8>)| {
        lie(move |puppet, run| {
            let mut bytes = packet(&puppet.answer(run));
            spoil(&mut bytes);
            puppet.raw(&bytes);
        })
    };
    let detail = |length: usize| {
        lie(move |puppet, run| {
            let detail = "x".repeat(length);
            puppet.say(&FromWorker::Failed { batch: run.batch, failure: Failure::Model, detail });
        })
    };
    found_out(vec![
        ("one-byte", spoilt(|bytes| bytes.truncate(1))),
        ("header", spoilt(|bytes| bytes.truncate(8))),
        ("cut", spoilt(|bytes| bytes.truncate(bytes.len() - 1))),
        ("longer", spoilt(|bytes| bytes.push(0))),
        ("magic", spoilt(|bytes| bytes[0] ^= 1)),
        ("version", spoilt(|bytes| bytes[2] = 2)),
        ("kind", spoilt(|bytes| bytes[3] = 3)),
        ("announces-less", spoilt(|bytes| bytes[4] -= 1)),
        ("announces-all", spoilt(|bytes| bytes[4..8].fill(0xff))),
        ("variant", spoilt(|bytes| bytes[8..12].fill(0xff))),
        ("vector", spoilt(|bytes| bytes[20..28].fill(0xff))),
        ("vector-2e62", spoilt(|bytes| bytes[20..28].copy_from_slice(&(1u64 << 62).to_le_bytes()))),
        ("too-long", spoilt(|bytes| bytes.resize(MAX_FRAME + 1, 0))),
        ("far-too-long", spoilt(|bytes| bytes.resize(150_000, 0))),
        ("detail", detail(MAX_DETAIL + 1)),
        ("detail-60000", detail(60_000)),
    ]);
}
