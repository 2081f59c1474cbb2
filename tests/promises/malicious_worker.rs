//! SECURITY.md, "What a worker cannot do to the front": workers with no cage around them. The real front runs over a
//! launcher that is this test, and its workers are threads of this test, which can send descriptors, cut files and hold
//! pipes open. Every liar answers honestly first, which is the control.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "test code: what cannot be is a failure"
)]

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use casemate_fuzz::mutate::{Dice, mutate};
use casemate_ipc::frame::MAX_FRAME;
use casemate_ipc::id::BatchId;
use casemate_ipc::shm::map::Outgoing;
use casemate_ipc::shm::seal::{self, Sealing};
use casemate_ipc::tensor::{DType, Shape};
use casemate_ipc::work::{Declared, Failure, FromWorker, MAX_DETAIL, Placed, Step};
use casemate_tests::casemate::is_root;
use casemate_tests::fake_launcher::{FakeLauncher, Part, print};
use casemate_tests::lag::Lag;
use casemate_tests::puppet::{Puppet, Run, declared, inside, packet};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::socket::{ControlMessage, Shutdown, UnixCredentials};
use nix::sys::uio::pwrite;
use nix::unistd::ftruncate;

/// A front, as it was before an attack.
struct Base {
    pid: u32,
    descriptors: usize,
    memory: u64,
}

fn honest() -> (&'static str, Part) {
    (
        "neighbour",
        Arc::new(|mut puppet: Puppet| {
            puppet.begin();
            puppet.serve();
        }),
    )
}

/// The first worker of a model does this, those after it are honest.
fn first(act: impl Fn(&mut Puppet) + Send + Sync + 'static) -> Part {
    Arc::new(move |mut puppet: Puppet| {
        if puppet.incarnation == 0 {
            return act(&mut puppet);
        }
        puppet.begin();
        puppet.serve();
    })
}

/// One honest answer, then this instead of the next.
fn lie(tell: impl Fn(&mut Puppet, &Run) + Send + Sync + 'static) -> Part {
    first(move |puppet| {
        let Some(run) = puppet.honest_once() else { return };
        tell(puppet, &run);
        puppet.linger();
    })
}

fn serve(parts: Vec<(&'static str, Part)>, limits: &str) -> FakeLauncher {
    let names: Vec<&str> = parts.iter().map(|(name, _)| *name).collect();
    let launcher = FakeLauncher::start(parts, limits);
    launcher.wait_until("every model's worker", Duration::from_secs(60), || {
        names.iter().all(|name| launcher.status(name)["state"] == "ready")
    });
    launcher
}

fn base(launcher: &FakeLauncher) -> Base {
    neighbour_answers(launcher);
    let descriptors = launcher.descriptors();
    assert!(!is_root() || descriptors > 5, "the front's descriptors cannot be counted");
    Base { pid: launcher.front(), descriptors, memory: launcher.memory() }
}

fn neighbour_answers(launcher: &FakeLauncher) {
    let answer = Lag::within(Duration::from_secs(1), "the neighbour", || launcher.row("neighbour", [1.0; 4]));
    assert_eq!(answer.status, 200);
}

/// The same process, as many descriptors, and not much more memory.
fn unchanged(launcher: &mut FakeLauncher, base: &Base) {
    neighbour_answers(launcher);
    assert!(launcher.is_alive() && launcher.front() == base.pid, "the front is gone\n{}", launcher.log());
    launcher.wait_until("as many descriptors as before", Duration::from_secs(10), || {
        launcher.descriptors() <= base.descriptors
    });
    let grown = launcher.memory().saturating_sub(base.memory);
    assert!(grown < 24 * 1024, "the front grew by {grown} KiB");
    assert!(!launcher.log().contains("panicked"), "{}", launcher.log());
}

/// Whether an attack goes on: for so long, and until it has shown something, but not for ever.
fn goes_on(begun: Instant, least: Duration, shown: impl FnOnce() -> bool) -> bool {
    const MOST: Duration = Duration::from_secs(60);
    begun.elapsed() < least || (begun.elapsed() < MOST && !shown())
}

fn last_cause(launcher: &FakeLauncher, model: &str) -> String {
    launcher.status(model)["last_exit"]["cause"].as_str().unwrap_or_default().to_owned()
}

/// Each liar is found out: killed, named, replaced, and nothing else is changed.
fn found_out(parts: Vec<(&'static str, Part)>) {
    let names: Vec<&str> = parts.iter().map(|(name, _)| *name).collect();
    let parts = parts.into_iter().chain([honest()]).collect();
    let mut launcher = serve(parts, "");
    let base = base(&launcher);
    for name in names {
        let control = launcher.row(name, [1.0, 2.0, 3.0, 4.0]);
        assert_eq!((control.status, &control.json()["outputs"][0]["data"][3]), (200, &4.0.into()), "{name}");
        let answer = launcher.row(name, [1.0; 4]);
        launcher.wait_until(&format!("the end of {name}"), Duration::from_secs(10), || {
            last_cause(&launcher, name) == "protocol"
        });
        assert!([200, 502].contains(&answer.status), "{name}: {}", answer.text());
        assert_eq!(launcher.kills.lock().unwrap().get(name), Some(&1), "{name}");
        neighbour_answers(&launcher);
        launcher.wait_until(&format!("the successor of {name}"), Duration::from_secs(10), || {
            launcher.status(name)["state"] == "ready"
        });
        assert_eq!(launcher.row(name, [1.0; 4]).status, 200, "{name}");
    }
    unchanged(&mut launcher, &base);
}

// === lies in answers ===

fn placed(run: &Run) -> Placed {
    run.inputs[0].clone()
}

fn done(run: &Run, outputs: Vec<Placed>) -> FromWorker {
    FromWorker::Done { batch: run.batch, outputs, run_us: u64::MAX }
}

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

// === lies before the first answer ===

#[test]
fn declarations_that_no_manifest_can_make() {
    let declares = |spoil: fn(&mut Declared)| {
        first(move |puppet| {
            let mut declared = declared();
            spoil(&mut declared);
            puppet.say(&FromWorker::Verified { declared, inside: inside() });
            puppet.say(&FromWorker::Ready { load_us: 1 });
            puppet.linger();
        })
    };
    let says = |messages: fn() -> Vec<FromWorker>| {
        first(move |puppet| {
            messages().iter().for_each(|message| _ = puppet.say(message));
            puppet.linger();
        })
    };
    let parts = vec![
        ("dims-2e63", declares(|d| d.signature.outputs[0].dims = vec![None, Some(1 << 63)])),
        ("dims-product", declares(|d| d.signature.inputs[0].dims = vec![Some(1 << 40), Some(1 << 40)])),
        ("dims-3000", declares(|d| d.signature.inputs[0].dims = vec![None; 3000])),
        ("name-long", declares(|d| d.signature.outputs[0].name = "y".repeat(60_000))),
        ("name-control", declares(|d| d.signature.outputs[0].name = "\u{1b}[2J\n".into())),
        ("name-none", declares(|d| d.signature.outputs[0].name.clear())),
        ("name-twice", declares(|d| d.signature.outputs = vec![d.signature.outputs[0].clone(); 2])),
        ("outputs-none", declares(|d| d.signature.outputs.clear())),
        (
            "outputs-100",
            declares(|d| {
                let spec = |i| format!("y{i}:f32[-1]").parse().unwrap();
                (d.signature.outputs, d.non_finite) = ((0..100).map(spec).collect(), vec![true; 100]);
            }),
        ),
        ("flags", declares(|d| d.non_finite = vec![true; 5])),
        ("rows-none", declares(|d| d.max_batch_size = 0)),
        ("rows-all", declares(|d| d.max_batch_size = u32::MAX)),
        ("delay", declares(|d| d.max_batch_delay_us = u64::MAX)),
        ("deadline-none", declares(|d| d.deadline_ms = 0)),
        ("deadline-all", declares(|d| d.deadline_ms = u64::MAX)),
        ("platform", declares(|d| d.platform = "p".repeat(5000))),
        ("ready-first", says(|| vec![FromWorker::Ready { load_us: 1 }])),
        ("pong-first", says(|| vec![FromWorker::Pong { token: 1 }])),
        ("done-first", says(|| vec![FromWorker::Done { batch: BatchId(1), outputs: vec![], run_us: 1 }])),
        (
            "verified-twice",
            says(|| {
                vec![
                    FromWorker::Verified { declared: declared(), inside: inside() },
                    FromWorker::Verified { declared: declared(), inside: inside() },
                ]
            }),
        ),
        (
            "refusal-late",
            says(|| {
                vec![
                    FromWorker::Verified { declared: declared(), inside: inside() },
                    FromWorker::Refused { step: Step::Boot, detail: "words of a model".into() },
                ]
            }),
        ),
        ("refusal-long", says(|| vec![FromWorker::Refused { step: Step::Load, detail: "x".repeat(MAX_DETAIL + 1) }])),
        ("garbage", first(|puppet| _ = puppet.raw(&[0xff; 4000]) && puppet.linger())),
    ];
    let names: Vec<&str> = parts.iter().map(|(name, _)| *name).collect();
    let mut launcher = serve(parts.into_iter().chain([honest()]).collect(), "");
    let base = base(&launcher);
    for name in names {
        assert_eq!(last_cause(&launcher, name), "protocol", "{name}: {}", launcher.status(name));
        assert_eq!(launcher.kills.lock().unwrap().get(name), Some(&1), "{name}");
        // Its successor is honest.
        assert_eq!(launcher.row(name, [1.0; 4]).status, 200, "{name}");
        assert_eq!(launcher.status(name)["declared"]["outputs"][0], "y:FP32[-1,4]", "{name}");
    }
    unchanged(&mut launcher, &base);
}

// === descriptors ===

/// The right answer with descriptors riding along: none of them ever reaches the front.
#[test]
fn descriptors_that_nobody_asked_for() {
    let sent = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&sent);
    let sender: Part = Arc::new(move |mut puppet: Puppet| {
        let Some(run) = puppet.honest_once() else { return };
        let answer = packet(&puppet.answer(&run));
        let riders = [puppet.requests.as_raw_fd(); 253];
        let riders = if puppet.incarnation.is_multiple_of(8) { &riders[..1] } else { &riders[..] };
        // Until its socket is full, or the front has had enough.
        while puppet.with_rights(&answer, riders) && !puppet.killed.load(Ordering::Acquire) {
            count.fetch_add(riders.len() as u64, Ordering::Relaxed);
        }
        puppet.linger();
    });
    let mut launcher = serve(vec![honest(), ("sender", sender)], "");
    let base = base(&launcher);
    let begun = Instant::now();
    let rounds = || launcher.kills.lock().unwrap().get("sender").copied().unwrap_or(0);
    while goes_on(begun, Duration::from_secs(5), || rounds() >= 3 && sent.load(Ordering::Relaxed) > 250) {
        assert_eq!(launcher.row("sender", [1.0; 4]).status, 200, "the control");
        assert_eq!(launcher.row("sender", [1.0; 4]).status, 502);
        // A request and a start have a few of their own for a moment; an attack brings hundreds.
        assert!(launcher.descriptors() <= base.descriptors + 30);
        neighbour_answers(&launcher);
    }
    assert_eq!(last_cause(&launcher, "sender"), "protocol");
    println!("{} workers sent {} descriptors", rounds(), sent.load(Ordering::Relaxed));
    assert!(rounds() >= 3 && sent.load(Ordering::Relaxed) > 250);
    launcher.wait_until("a last successor", Duration::from_secs(10), || launcher.status("sender")["state"] == "ready");
    unchanged(&mut launcher, &base);
}

/// Credentials may ride along with any message; the front has not asked for them and takes no notice.
#[test]
fn credentials_are_passed_over() {
    let part: Part = Arc::new(|mut puppet: Puppet| {
        puppet.begin();
        while let Some(run) = puppet.next_run() {
            let me = UnixCredentials::new();
            puppet.post(&packet(&puppet.answer(&run)), &[ControlMessage::ScmCredentials(&me)]);
        }
    });
    let mut launcher = serve(vec![honest(), ("teller", part)], "");
    let base = base(&launcher);
    assert!((0..20).all(|_| launcher.row("teller", [1.0; 4]).status == 200));
    unchanged(&mut launcher, &base);
}

// === shared memory ===

/// What a worker may not do to the memory that it shares, and what it may.
#[test]
fn shared_memory_keeps_its_length() {
    let seen = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&seen);
    let part: Part = Arc::new(move |mut puppet: Puppet| {
        puppet.begin();
        while let Some(run) = puppet.next_run() {
            let answer = puppet.answer(&run);
            let (requests, responses) = (&puppet.requests, &puppet.responses);
            let bytes = puppet.geometry.bytes().unwrap();
            // The one is sealed; the other is, and its descriptor can only read.
            for (file, errno) in [(requests, Errno::EINVAL), (responses, Errno::EPERM)] {
                assert_eq!(ftruncate(file, 0), Err(errno));
                assert_eq!(ftruncate(file, i64::try_from(bytes * 2).unwrap()), Err(errno));
                assert!(seal::apply(file, Sealing::Frozen).is_err());
            }
            assert_eq!(pwrite(requests, &[0; 8], 0), Err(Errno::EBADF));
            assert!(Outgoing::map(requests, bytes as u64).is_err());
            let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            assert_eq!(fallocate(requests, punch, 0, 4096), Err(Errno::EBADF));
            // The response arena is the worker's to fill: a hole in it reads as zeros.
            fallocate(responses, punch, 0, i64::try_from(bytes).unwrap()).unwrap();
            count.fetch_add(1, Ordering::Relaxed);
            puppet.say(&answer);
        }
    });
    let mut launcher = serve(vec![honest(), ("puncher", part)], "");
    let base = base(&launcher);
    for _ in 0..20 {
        let answer = launcher.row("puncher", [1.0; 4]);
        assert_eq!((answer.status, &answer.json()["outputs"][0]["data"][0]), (200, &0.0.into()), "{}", answer.text());
    }
    assert_eq!(seen.load(Ordering::Relaxed), 20, "every act was reached");
    unchanged(&mut launcher, &base);
}

/// A thread changes what lies in the response arena while the front reads it. What goes out was checked: it is one of the
/// values that were there, never the NaN that was there too.
#[test]
fn memory_that_changes_under_the_reader() {
    let flips = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&flips);
    let part: Part = Arc::new(move |mut puppet: Puppet| {
        let (file, slot) = (puppet.responses.try_clone().unwrap(), puppet.geometry.slot_bytes);
        let (killed, count) = (Arc::clone(&puppet.killed), Arc::clone(&count));
        let flipper = std::thread::spawn(move || {
            let values = [1.0f32, 2.0, 3.0, f32::NAN];
            for value in values.iter().cycle() {
                let page = value.to_le_bytes().repeat(2048);
                for start in [0, slot] {
                    pwrite(&file, &page, i64::try_from(start).unwrap()).unwrap();
                }
                count.fetch_add(1, Ordering::Relaxed);
                if killed.load(Ordering::Acquire) {
                    return;
                }
            }
        });
        puppet.begin();
        while let Some(run) = puppet.next_run() {
            puppet.say(&done(&run, vec![placed(&run)]));
        }
        puppet.killed.store(true, Ordering::Release);
        flipper.join().unwrap();
    });
    let mut launcher = serve(vec![honest(), ("flipper", part)], "");
    let base = base(&launcher);
    let (begun, mut good, mut refused) = (Instant::now(), 0, 0);
    let rows = 256;
    let data: Vec<f32> = vec![1.0; 4 * rows];
    let input = serde_json::json!({"name": "x", "shape": [rows, 4], "datatype": "FP32", "data": data});
    let body = serde_json::json!({ "inputs": [input] }).to_string();
    let enough = |good, refused| good > 0 && refused > 0 && flips.load(Ordering::Relaxed) > 1000;
    while goes_on(begun, Duration::from_secs(5), || enough(good, refused)) {
        let path = "/v2/models/flipper/infer";
        let answer = casemate_tests::client::send(launcher.address, "POST", path, &[], body.as_bytes()).unwrap();
        match answer.status {
            200 => {
                let answer = answer.json();
                let numbers = answer["outputs"][0]["data"].as_array().unwrap();
                assert_eq!(numbers.len(), 4 * rows);
                assert!(numbers.iter().all(|n| [0.0, 1.0, 2.0, 3.0].contains(&n.as_f64().unwrap())), "{answer}");
                good += 1;
            }
            502 => refused += 1,
            other => panic!("{other}: {}", answer.text()),
        }
        neighbour_answers(&launcher);
    }
    println!("{} flips, {good} answers, {refused} refused for their NaN", flips.load(Ordering::Relaxed));
    assert!(enough(good, refused));
    assert_eq!(last_cause(&launcher, "flipper"), "", "a model's NaN is no lie of its worker");
    unchanged(&mut launcher, &base);
}

// === too much, too little ===

#[test]
fn floods_end_their_worker_and_nobody_else() {
    let flood = |message: FromWorker| {
        lie(move |puppet, _| {
            let bytes = packet(&message);
            while puppet.raw(&bytes) {}
        })
    };
    let failed = FromWorker::Failed { batch: BatchId(9), failure: Failure::Model, detail: "x".repeat(MAX_DETAIL) };
    found_out(vec![
        ("flood-pong", flood(FromWorker::Pong { token: 5 })),
        ("flood-failed", flood(failed)),
        ("flood-bytes", lie(|puppet, _| while puppet.raw(&[0xa5; MAX_FRAME]) {})),
        ("half-open", lie(|puppet, _| puppet.close(Shutdown::Write))),
        ("closed", lie(|puppet, _| puppet.close(Shutdown::Both))),
        ("empty", lie(|puppet, _| _ = puppet.raw(b""))),
    ]);
}

#[test]
fn silence_is_ended_by_the_clock() {
    let parts = vec![
        honest(),
        ("silent", lie(|_, _| {})),
        ("deaf", first(|puppet| _ = (puppet.begin(), puppet.linger()))),
        (
            "never-ready",
            first(|puppet| {
                _ = puppet.say(&FromWorker::Verified { declared: declared(), inside: inside() }) && puppet.linger()
            }),
        ),
        ("mute", first(|puppet| _ = puppet.linger())),
    ];
    let mut launcher = serve(parts, "load_ms = 3000\nping_ms = 1000");
    let base = base(&launcher);
    assert_eq!(launcher.row("silent", [1.0; 4]).status, 200, "the control");
    let (address, launcher_ref) = (launcher.address, &launcher);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || launcher_ref.row("silent", [1.0; 4]).status);
        while !waiting.is_finished() {
            neighbour_answers(launcher_ref);
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(waiting.join().unwrap(), 504, "{address}");
    });
    for name in ["silent", "deaf", "never-ready", "mute"] {
        launcher.wait_until(&format!("the end of {name}"), Duration::from_secs(20), || {
            last_cause(&launcher, name) == "deadline"
        });
    }
    launcher.wait_until("their successors", Duration::from_secs(10), || {
        ["silent", "deaf", "never-ready", "mute"].iter().all(|name| launcher.status(name)["state"] == "ready")
    });
    unchanged(&mut launcher, &base);
}

/// Printed without end, with everything that could move a terminal, over a pipe that outlives its worker.
#[test]
fn a_log_pipe_is_read_in_moderation_and_let_go() {
    let held = Arc::new(std::sync::Mutex::new(Vec::new()));
    let keep = Arc::clone(&held);
    let part = first(move |puppet| {
        keep.lock().unwrap().push(puppet.log.try_clone().unwrap());
        let Some(_run) = puppet.honest_once() else { return };
        let copy = puppet.log.try_clone().unwrap();
        std::thread::spawn(move || {
            let until = Instant::now() + Duration::from_secs(4);
            let line = b"\x1b[2J\x1b]0;title\x07\r2026 ERROR forged \xff\xfe\xe2\x80\xae\n".repeat(64);
            while Instant::now() < until && nix::unistd::write(&copy, &line).is_ok() {}
        });
        // A slow drip beside it.
        (0..20).for_each(|_| print(puppet, b"."));
        std::thread::sleep(Duration::from_secs(1));
        puppet.raw(b"now I am found out");
        puppet.linger();
    });
    let mut launcher = serve(vec![honest(), ("printer", part)], "");
    let base = base(&launcher);
    assert_eq!(launcher.row("printer", [1.0; 4]).status, 200, "the control");
    assert_eq!(launcher.row("printer", [1.0; 4]).status, 502);
    launcher.wait_until("a successor", Duration::from_secs(10), || launcher.status("printer")["state"] == "ready");
    // The pipe's other end is still open, in this test; the front does not wait for it.
    assert_eq!(held.lock().unwrap().len(), 1);
    unchanged(&mut launcher, &base);
    let log = launcher.log();
    assert!(log.contains("forged") && !log.contains('\u{1b}') && !log.contains('\u{202e}'), "{log}");
    assert!(!log.lines().any(|line| line.starts_with("2026 ERROR forged")), "a line was forged");
    assert!(log.len() < 1 << 20, "{} bytes of log", log.len());
}

// === everything else ===

/// Mutated frames to a running front: each worker answers honestly, then sends a frame that is the right one but for some
/// bytes. Four models at once, for ten seconds.
#[test]
fn mutated_frames() {
    const TEN: Duration = Duration::from_secs(10);
    const FOUND_OUT: u32 = 20;
    let sent = Arc::new(AtomicU64::new(0));
    let mutant = |seed: u64| -> Part {
        let count = Arc::clone(&sent);
        Arc::new(move |mut puppet: Puppet| {
            let mut dice = Dice::new(seed.wrapping_mul(1_000_003) + u64::from(puppet.incarnation));
            let others: Vec<Vec<u8>> = casemate_fuzz::seeds::from_worker().iter().map(packet).collect();
            puppet.begin();
            while let Some(run) = puppet.next_run() {
                let right = puppet.answer(&run);
                puppet.say(&right);
                let Some(run) = puppet.next_run() else { return };
                let right = packet(&puppet.answer(&run));
                // One that happens to be good is an answer, and ends the round; others follow until one is found out.
                for _ in 0..64 {
                    let mut bytes = right.clone();
                    mutate(&mut bytes, &others[dice.below(others.len())], &mut dice, 4096);
                    if dice.below(2) == 0 && bytes.len() > 8 {
                        let body = u32::try_from(bytes.len() - 8).unwrap();
                        bytes[4..8].copy_from_slice(&body.to_le_bytes());
                    }
                    if !puppet.raw(&bytes) {
                        break;
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        })
    };
    let names = ["mutant-0", "mutant-1", "mutant-2", "mutant-3"];
    let parts = names.iter().zip(1..).map(|(name, seed)| (*name, mutant(seed))).chain([honest()]).collect();
    let mut launcher = serve(parts, "");
    let base = base(&launcher);
    let begun = Instant::now();
    let kills = || launcher.kills.lock().unwrap().values().sum::<u32>();
    let answers: Vec<u64> = std::thread::scope(|scope| {
        let (launcher, kills) = (&launcher, &kills);
        let client = |name| {
            let hammer = move || {
                let mut answers = 0;
                while goes_on(begun, TEN, || kills() >= FOUND_OUT && answers > 0) {
                    let status = launcher.row(name, [1.0; 4]).status;
                    assert!([200, 502, 503, 504].contains(&status), "{name}: {status}");
                    answers += u64::from(status == 200);
                }
                answers
            };
            scope.spawn(hammer)
        };
        let clients: Vec<_> = names.map(client).into_iter().collect();
        while goes_on(begun, TEN, || clients.iter().all(|client| client.is_finished())) {
            neighbour_answers(launcher);
            std::thread::sleep(Duration::from_millis(20));
        }
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    println!("{} mutated frames, {} workers killed, {answers:?} answers", sent.load(Ordering::Relaxed), kills());
    assert!(kills() >= FOUND_OUT, "only {} were found out", kills());
    assert!(answers.iter().all(|count| *count > 0));
    launcher.wait_until("successors", Duration::from_secs(20), || {
        names.iter().all(|name| launcher.status(name)["state"] == "ready")
    });
    unchanged(&mut launcher, &base);
}
