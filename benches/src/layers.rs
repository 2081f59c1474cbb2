//! The price of the cage, layer by layer: the same programs and the same load, with and without.
//!
//! What is left out is left out from outside, and nothing in a shipped program knows of it. Around the whole server stands
//! one filter more, which makes this host one that lacks a call (the layers that have a waiver: the config then names it),
//! or answers the installation of filters as if it had been done. The server beside it wears such a filter too, around a
//! call that nobody makes. So what every call pays for being under any filter at all is in both, and not in these figures.

use std::error::Error;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use casemate_tests::casemate::{Casemate, Setup, is_root, program};
use casemate_tests::lack::Lack;
use nix::errno::Errno;
use nix::libc;

use crate::figure::Figure;
use crate::measure::{Measured, Target, median};
use crate::model::Model;

/// Something to leave out.
struct Layer {
    name: &'static str,
    lack: Lack,
    waiver: Option<&'static str>,
}

/// What runs, or could run, while a request is served. The others are marks on a process that the kernel looks at only when
/// something forbidden is tried: own uid, capability sets, `no_new_privs`, not dumpable, limits, descriptors, no nested
/// namespaces.
const LAYERS: [Layer; 8] = [
    // Both servers are the same: what is not 1 here is the machine's.
    Layer { name: "nothing", lack: IDLE, waiver: None },
    Layer { name: "filters", lack: Lack::of_filters(), waiver: None },
    Layer {
        name: "landlock",
        lack: Lack::of(libc::SYS_landlock_create_ruleset, Errno::ENOSYS),
        waiver: Some("landlock"),
    },
    Layer { name: "namespaces", lack: Lack::of(libc::SYS_mount, Errno::EPERM), waiver: Some("namespaces") },
    Layer {
        name: "speculation",
        lack: Lack::of_prctl(libc::PR_SET_SPECULATION_CTRL, Errno::ENODEV),
        waiver: Some("speculation"),
    },
    // The lock by which a launcher holds its groups; nobody else takes one.
    Layer { name: "cgroup", lack: Lack::of(libc::SYS_flock, Errno::ENOLCK), waiver: Some("cgroup") },
    Layer { name: "no gain of exec", lack: Lack::of_prctl(libc::PR_SET_MDWE, Errno::EINVAL), waiver: None },
    Layer { name: "tracing", lack: Lack::of(libc::SYS_ptrace, Errno::EPERM), waiver: None },
];

/// A call that nobody makes.
const IDLE: Lack = Lack::of(libc::SYS_swapoff, Errno::EPERM);

const ROUNDS: usize = 15;
const TURN: Duration = Duration::from_millis(500);

/// Most rows in a run.
const BATCH: u32 = 64;

pub(crate) fn run() -> Result<Vec<Figure>, Box<dyn Error>> {
    let Some(tiny) = Model::made("tiny")? else { return Ok(Vec::new()) };
    if !is_root() {
        let why = "an ordinary user's cage lacks some layers from the start; run it as root";
        return Ok(vec![Figure::missing("price of the whole cage: CPU per request, 64 connections", "ratio", why)]);
    }
    let folder = unfiltered()?;
    let mut figures = Vec::new();
    for layer in &LAYERS {
        let bound = (layer.name != "nothing").then_some(1.03);
        figures.extend(price(&tiny, layer.name, &[layer], folder.path(), bound)?);
    }
    let all: Vec<&Layer> = LAYERS.iter().collect();
    figures.extend(price(&tiny, "the whole cage", &all, folder.path(), Some(1.05))?);
    Ok(figures)
}

/// A folder with the programs of this build, and the worker that has its filters pretended away.
fn unfiltered() -> Result<tempfile::TempDir, Box<dyn Error>> {
    let folder = tempfile::Builder::new().prefix("casemate-bench-").tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let names = ["casemate-launcher", "casemate-front"].map(|name| (name, name));
    for (name, called) in names.into_iter().chain([("casemate-bench-unfiltered", "casemate-worker")]) {
        // By another process: nobody in this one ever has a program open for writing.
        if !Command::new("cp").arg(program(name)).arg(folder.path().join(called)).status()?.success() {
            return Err(format!("cannot copy {name}").into());
        }
    }
    Ok(folder)
}

/// With everything, and without these: CPU time and p50, at 1 connection and at 64.
fn price(
    tiny: &Model,
    name: &str,
    without: &[&Layer],
    unfiltered: &Path,
    bound: Option<f64>,
) -> Result<Vec<Figure>, Box<dyn Error>> {
    let whole = serve(tiny, without.iter().fold(Setup::new(), |setup, _| setup.lacking(IDLE)))?;
    let waived: Vec<&str> = without.iter().filter_map(|layer| layer.waiver).collect();
    let mut setup = without.iter().fold(Setup::new(), |setup, layer| setup.lacking(layer.lack)).waive(&waived);
    if without.iter().any(|layer| layer.name == "filters") {
        setup = setup.programs(unfiltered);
    }
    let less = serve(tiny, setup)?;
    let request = || tiny.request("tiny", 1);
    let (with_all, with_less) = (Target::casemate(&whole, request()?), Target::casemate(&less, request()?));
    let mut figures = Vec::new();
    for connections in [1, 64] {
        let (mut cpu, mut p50, mut rate) = (Vec::new(), Vec::new(), Vec::new());
        // Ratios of neighbours in time, and of these the median. Who goes first changes from round to round.
        for round in 0..ROUNDS {
            let (with, bare) = if round % 2 == 0 {
                let with = with_all.turn(connections, TURN)?;
                (with, with_less.turn(connections, TURN)?)
            } else {
                let bare = with_less.turn(connections, TURN)?;
                (with_all.turn(connections, TURN)?, bare)
            };
            let ratio = |of: fn(&Measured) -> Duration| of(&with).as_secs_f64() / of(&bare).as_secs_f64();
            cpu.push(ratio(|turn| turn.cpu));
            p50.push(ratio(|turn| turn.p50));
            rate.push(bare.per_second / with.per_second);
        }
        let s = if connections == 1 { "" } else { "s" };
        let title = |what: &str| format!("price of {name}: {what}, {connections} connection{s}");
        let price = Figure::new(title("CPU per request"), median(cpu), "ratio");
        figures.push(match bound {
            Some(bound) => price.at_most(bound),
            None => price,
        });
        figures.push(Figure::new(title("p50"), median(p50), "ratio"));
        figures.push(Figure::new(title("time per answer"), median(rate), "ratio"));
    }
    Ok(figures)
}

fn serve(tiny: &Model, setup: Setup) -> Result<Casemate, Box<dyn Error>> {
    tiny.put(&setup, "tiny", BATCH)?;
    Ok(setup.serve())
}
