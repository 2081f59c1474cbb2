//! Workers that lie once, and the front that must not mind.

use std::sync::Arc;
use std::time::{Duration, Instant};

use casemate_ipc::work::{FromWorker, Placed};
use casemate_tests::casemate::is_root;
use casemate_tests::fake_launcher::{FakeLauncher, Part};
use casemate_tests::lag::Lag;
use casemate_tests::puppet::{Puppet, Run};

/// A front, as it was before an attack.
pub(crate) struct Base {
    pub(crate) pid: u32,
    pub(crate) descriptors: usize,
    pub(crate) memory: u64,
}

pub(crate) fn honest() -> (&'static str, Part) {
    (
        "neighbour",
        Arc::new(|mut puppet: Puppet| {
            puppet.begin();
            puppet.serve();
        }),
    )
}

/// The first worker of a model does this, those after it are honest.
pub(crate) fn first(act: impl Fn(&mut Puppet) + Send + Sync + 'static) -> Part {
    Arc::new(move |mut puppet: Puppet| {
        if puppet.incarnation == 0 {
            return act(&mut puppet);
        }
        puppet.begin();
        puppet.serve();
    })
}

/// One honest answer, then this instead of the next.
pub(crate) fn lie(tell: impl Fn(&mut Puppet, &Run) + Send + Sync + 'static) -> Part {
    first(move |puppet| {
        let Some(run) = puppet.honest_once() else { return };
        tell(puppet, &run);
        puppet.linger();
    })
}

pub(crate) fn serve(parts: Vec<(&'static str, Part)>, limits: &str) -> FakeLauncher {
    let names: Vec<&str> = parts.iter().map(|(name, _)| *name).collect();
    let launcher = FakeLauncher::start(parts, limits);
    launcher.wait_until("every model's worker", Duration::from_secs(60), || {
        names.iter().all(|name| launcher.status(name)["state"] == "ready")
    });
    launcher
}

pub(crate) fn base(launcher: &FakeLauncher) -> Base {
    neighbour_answers(launcher);
    let descriptors = launcher.descriptors();
    assert!(!is_root() || descriptors > 5, "the front's descriptors cannot be counted");
    Base { pid: launcher.front(), descriptors, memory: launcher.memory() }
}

pub(crate) fn neighbour_answers(launcher: &FakeLauncher) {
    let answer = Lag::within(Duration::from_secs(1), "the neighbour", || launcher.row("neighbour", [1.0; 4]));
    assert_eq!(answer.status, 200);
}

/// The same process, as many descriptors, and not much more memory.
pub(crate) fn unchanged(launcher: &mut FakeLauncher, base: &Base) {
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
pub(crate) fn goes_on(begun: Instant, least: Duration, shown: impl FnOnce() -> bool) -> bool {
    const MOST: Duration = Duration::from_secs(60);
    begun.elapsed() < least || (begun.elapsed() < MOST && !shown())
}

pub(crate) fn last_cause(launcher: &FakeLauncher, model: &str) -> String {
    launcher.status(model)["last_exit"]["cause"].as_str().unwrap_or_default().to_owned()
}

/// Each liar is found out: killed, named, replaced, and nothing else is changed.
pub(crate) fn found_out(parts: Vec<(&'static str, Part)>) {
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

pub(crate) fn placed(run: &Run) -> Placed {
    run.inputs[0].clone()
}

pub(crate) fn done(run: &Run, outputs: Vec<Placed>) -> FromWorker {
    FromWorker::Done { batch: run.batch, outputs, run_us: u64::MAX }
}
