//! No rule stands in a worker's policy for nothing: well-behaved models are watched from their worker's first act to its end,
//! and each rule is asked for at least once, or says in its file (`spare`) why it stands all the same.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod cell;
mod operations;
mod tracer;

use std::path::{Path, PathBuf};

use casemate_ipc::launch::RunTimeCode;
use casemate_ipc::work::{FromWorker, ToWorker};
use casemate_lockdown::policy::{self, filters};
use casemate_lockdown::{self as lockdown, Stage};
use casemate_tests::models::{self, When};
use cell::{Birth, Value, f32s, i64s};
use tracer::{Fired, Traced, key, plain};

fn stages(code: RunTimeCode, warmed: bool) -> [Stage; 2] {
    Stage::of_worker(match code {
        RunTimeCode::Refused if warmed => lockdown::RunTimeCode::Warmed,
        RunTimeCode::Refused => lockdown::RunTimeCode::Refused,
        RunTimeCode::Allowed => lockdown::RunTimeCode::Allowed,
    })
}

/// A whole life: start, requests, a ping, the end.
fn life(birth: Birth, requests: &[Vec<Value>]) -> Fired {
    let stages = stages(birth.run_time_code, !birth.shapes.is_empty());
    let mut worker = Traced::spawn(birth, stages);
    loop {
        match worker.hear() {
            Some(FromWorker::Verified { .. }) => {}
            Some(FromWorker::Ready { .. }) => break,
            other => panic!("{other:?}\n{}", worker.cell.log()),
        }
    }
    for request in requests {
        let sent = worker.cell.send(request);
        match worker.hear() {
            Some(FromWorker::Done { batch, .. } | FromWorker::Failed { batch, .. }) if batch == sent => {}
            other => panic!("{other:?}\n{}", worker.cell.log()),
        }
    }
    worker.cell.front.send(&ToWorker::Ping { token: 1 }).unwrap();
    assert_eq!(worker.hear(), Some(FromWorker::Pong { token: 1 }));
    worker.cell.front.send(&ToWorker::Drain).unwrap();
    worker.end()
}

fn demo() -> Birth {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/demo/store/digits/1"));
    let manifest = std::fs::read_to_string(folder.join("model.toml")).unwrap();
    Birth { manifest: Some(manifest), ..Birth::torch(std::fs::read(folder.join("model.pt")).unwrap()) }
}

/// A convolution that code is made for; of another model, but it is made before that is known.
fn sizes() -> Vec<u8> {
    format!("sha256 {}\nconv 2 3 8 1 1 0 24,5,1,2,1 24,5,1,2,1\n", "00".repeat(32)).into_bytes()
}

/// Whether a user namespace can be made here.
fn namespaces() -> bool {
    let can = std::process::Command::new("unshare").args(["--user", "--mount", "true"]).status();
    can.is_ok_and(|status| status.success())
}

#[test]
fn no_rule_stands_for_nothing() {
    let jailed = namespaces();
    let pixels = vec![f32s(&[1, 64], &[1.0; 64])];
    let (calm, asked) = (vec![f32s(&[1, 4], &[1.0; 4])], vec![f32s(&[1, 4], &[5000.0; 4])]);
    let every: Vec<Vec<Value>> = (0..operations::OPERATIONS.len()).map(|at| operations::inputs(at).to_vec()).collect();
    let lives = [
        life(Birth { jailed, ..demo() }, &[pixels]),
        life(Birth { jailed, ..operations::birth(2, RunTimeCode::Refused) }, &every),
        life(Birth { jailed, ..operations::birth(1, RunTimeCode::Allowed) }, &every),
        life(Birth { jailed, shapes: sizes(), ..operations::birth(2, RunTimeCode::Refused) }, &every),
        life(Birth::torch(models::print_flood(When::Asked, 10)), &[calm.clone(), asked.clone()]),
        life(Birth::torch(models::memory_bomb(When::Asked, 1 << 50)), &[asked.clone(), calm.clone()]),
        life(Birth::torch(models::raises(When::Asked, "no")), &[asked, calm]),
    ];
    let fired: Fired = lives.into_iter().flatten().collect();
    let (mut idle, mut seen) = (Vec::new(), 0);
    for filter in filters().iter().filter(|filter| filter.stage.starts_with("worker-")) {
        // What a stage takes over from another is judged there.
        let base = policy::filter(plain(filter)).filter(|base| base.stage != filter.stage);
        let own = |rule: &policy::Rule| {
            base.is_none_or(|base| !base.rules.iter().any(|other| key(base, other) == key(filter, rule)))
        };
        for rule in filter.rules {
            let asked = fired.contains_key(&key(filter, rule));
            seen += usize::from(asked);
            match (asked, rule.spare) {
                (true, Some(why)) => println!("{}: {} is asked for after all ({why})", filter.stage, rule.call),
                (false, None) if own(rule) => {
                    idle.push(format!("{}: {} ({})", filter.stage, rule.call, rule.condition()))
                }
                _ => {}
            }
        }
        for refusal in filter.refusals {
            let key = (plain(filter), refusal.call, "never".to_owned());
            if !fired.contains_key(&key) {
                idle.push(format!("{}: {} (refused)", filter.stage, refusal.call));
            }
        }
    }
    assert!(seen > 60, "{seen} rules were seen: the tracer is blind");
    if !jailed {
        println!("SKIPPED in part: without namespaces the calls that empty the root are not made");
        idle.retain(|rule| !["chdir", "pivot_root", "umount2"].iter().any(|call| rule.contains(call)));
    }
    assert!(idle.is_empty(), "no well-behaved model asks for\n{}", idle.join("\n"));
}

/// Where `benches/models/make.py` wrote its three. By hand: `cargo test -p casemate-worker --test fired -- --ignored --nocapture`.
#[test]
#[ignore = "the models are not in the repository; benches/models/make.py makes them"]
fn bench_models_live_in_sixteen_calls() {
    let given = std::env::var_os("CASEMATE_BENCH_MODELS").map(PathBuf::from);
    let store = given.unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../target/models").into());
    for code in [RunTimeCode::Refused, RunTimeCode::Allowed] {
        for name in ["tiny", "minilm", "resnet18"] {
            let folder = store.join(name).join("1");
            let manifest = std::fs::read_to_string(folder.join("model.toml")).unwrap();
            let model = std::fs::read(folder.join("model.pt")).unwrap();
            let request = |rows: usize| match name {
                "tiny" => vec![f32s(&[rows as u64, 16], &vec![1.0; rows * 16])],
                "minilm" => vec![i64s(&[rows as u64, 32], &vec![1; rows * 32]); 2],
                _ => vec![f32s(&[rows as u64, 3, 224, 224], &vec![1.0; rows * 3 * 224 * 224])],
            };
            let jailed = namespaces();
            let birth = Birth { manifest: Some(manifest), run_time_code: code, jailed, ..Birth::torch(model) };
            let fired = life(Birth { slot_bytes: 8 << 20, ..birth }, &[request(1), request(8)]);
            let calls: std::collections::BTreeSet<_> =
                fired.keys().filter(|key| key.0 == "worker-serve").map(|key| key.1).collect();
            println!("{name}, run-time code {}: {} calls while serving: {calls:?}", code.name(), calls.len());
            assert!(calls.len() <= 16);
        }
    }
}
