//! Lies before the first answer.

use casemate_ipc::id::BatchId;
use casemate_ipc::work::{Declared, FromWorker, MAX_DETAIL, Step};
use casemate_tests::puppet::{declared, inside};

use crate::liar::{base, first, honest, last_cause, serve, unchanged};

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
