//! `casemate sandbox prove`: every forbidden act, tried by native code in a real worker after its lockdown, and tried
//! outside as its own control.
//!
//! Each act gets a worker of its own, started by the launcher as any other; it is its model that says which act. The
//! launcher tells how the worker ended, `casemate-probe` does the same acts without a cage.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use casemate_ipc::id::ModelName;
use casemate_ipc::inquiry::{Checkup, Explanation, Rehearsal, Tier};
use serde_json::{Value, json};
use thiserror::Error;

use super::act::{Act, Outcome, Proof, Said};
use crate::ask::{self, AskError};
use crate::escape::{ascii_json, short};
use crate::exit::Exit;
use crate::programs::{self, ProgramsError};
use crate::scratch::{Scratch, ScratchError};
use crate::screen::{Screen, Tone};
use crate::stop::Stop;

/// Its arguments.
#[derive(Debug, clap::Args)]
#[command(before_help = EXAMPLES, after_help = NOTES)]
pub(crate) struct Args {
    /// The model whose limits and settings the workers get; the config's own where nothing is said
    #[arg(value_name = "MODEL", requires = "config")]
    model: Option<ModelName>,
    /// The config; the defaults where nothing is said, and without the layers that this host lacks
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Only this act; may be said more than once
    #[arg(long = "act", value_name = "NAME")]
    acts: Vec<String>,
    /// All of it as JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  casemate sandbox prove
  sudo casemate sandbox prove iris --config /etc/casemate/casemate.toml
  casemate sandbox prove --act openat --act mmap-exec
  casemate sandbox prove --act allowed-sched-yield    an act that the cage allows: how a proof looks that does not hold
  casemate sandbox prove --act stopped-elsewhere      one that is stopped at another call than its own";

const NOTES: &str = "\
An act is `held` where the cage refused it by what is named, a call by its number, `NOT HELD` where it came back, and \
`unproven` where it was never begun, where something else ended it, another call or one that nobody could read, or where \
its control outside proves nothing. The exit code is 0 only where \
every act is held. No act does harm should it succeed. It takes about a minute on two CPUs.";

/// Why nothing is proven.
#[derive(Debug, Error)]
pub(crate) enum ProveError {
    #[error("cannot watch for Ctrl-C")]
    Signals(#[source] io::Error),
    #[error(transparent)]
    Programs(#[from] ProgramsError),
    #[error("cannot run {program:?}")]
    Probe {
        program: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("no act is called {0:?}; `casemate-probe --list` shows all of them")]
    NoAct(String),
    #[error("no worker can be caged here: {0}")]
    NoCage(String),
    #[error(transparent)]
    Scratch(#[from] ScratchError),
    #[error(transparent)]
    Ask(#[from] AskError),
}

pub(crate) fn run(args: &Args, screen: &mut Screen) -> Result<Exit, ProveError> {
    let stop = Stop::watch().map_err(ProveError::Signals)?;
    let probe = programs::probe()?;
    let acts = list(&probe, &args.acts)?;
    let names: Vec<&str> = acts.iter().map(|act| act.name.as_str()).collect();
    let scratch = Scratch::new()?;
    let (config, waived) = config(args, &scratch, &names)?;
    for act in &acts {
        scratch.script(&act.name, &act.script())?;
    }
    if !waived.is_empty() && !args.json {
        let text = format!("This host lacks these layers, and the workers go without them: {}.", waived.join(", "));
        screen.line(screen.tone(Tone::Warn, text));
    }
    // Meanwhile, outside.
    let run = |cause| ProveError::Probe { program: probe.clone(), cause };
    let mut free = Command::new(&probe);
    let free = free.args(&names).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let free = free.spawn().map_err(run)?;
    let mut workers = BTreeMap::new();
    let asked = ask::each(&config, &["--rehearse"], &stop, |worker: Rehearsal| {
        screen.passing(format_args!("{} of {}: {}", workers.len() + 1, names.len(), short(&worker.model, 63)));
        workers.insert(worker.model.clone(), worker);
    });
    let free = free.wait_with_output().map_err(run)?;
    screen.passing("");
    asked?;
    let free = String::from_utf8_lossy(&free.stdout).into_owned();
    let unborn = |act: &Act| Rehearsal {
        model: act.name.clone(),
        version: "1".to_owned(),
        ready: false,
        answer: None,
        log: String::new(),
        layers: Vec::new(),
        end: casemate_ipc::inquiry::End::Spawn { why: "the launcher said nothing about it".to_owned() },
        ms: 0,
    };
    let proofs: Vec<Proof> = acts
        .iter()
        .map(|act| {
            let worker = workers.remove(&act.name).unwrap_or_else(|| unborn(act));
            act.judge(Said::of(&act.name, &free), &worker)
        })
        .collect();
    let held = proofs.iter().all(|proof| proof.outcome == Outcome::Held);
    if args.json {
        screen.line(ascii_json(&as_json(args, &proofs, &waived)));
    } else {
        table(screen, &proofs);
    }
    Ok(if held { Exit::Success } else { Exit::Failure })
}

/// The acts, all or those that are named.
fn list(probe: &Path, names: &[String]) -> Result<Vec<Act>, ProveError> {
    let output = Command::new(probe).arg("--list").args(names).output();
    let output = output.map_err(|cause| ProveError::Probe { program: probe.to_owned(), cause })?;
    let mut acts: Vec<Act> = String::from_utf8_lossy(&output.stdout).lines().filter_map(Act::parse).collect();
    if let Some(name) = names.iter().find(|name| acts.iter().all(|act| act.name != **name)) {
        return Err(ProveError::NoAct(name.clone()));
    }
    acts.dedup();
    Ok(acts)
}

/// The config that the workers are started by, and the layers that it goes without.
fn config(args: &Args, scratch: &Scratch, names: &[&str]) -> Result<(PathBuf, Vec<String>), ProveError> {
    let Some(path) = &args.config else {
        let strict = scratch.defaults(&[])?;
        let Checkup { tier, lacks, findings, .. } = ask::once(&strict, &["--doctor"])?;
        if tier == Tier::Refused {
            let why = findings.into_iter().find(|found| found.group == "jail").map(|found| found.value);
            return Err(ProveError::NoCage(why.unwrap_or_default()));
        }
        let waived: Vec<String> = lacks.into_iter().map(|lack| lack.layer).collect();
        let names: Vec<&str> = waived.iter().map(String::as_str).collect();
        return Ok((scratch.defaults(&names)?, waived));
    };
    let model = args.model.as_ref().map(ModelName::as_str);
    // Also says whether there is such a model.
    let task: Vec<&str> = ["--explain"].into_iter().chain(model).collect();
    let told: Explanation = ask::once(path, &task)?;
    let mut waived: Vec<String> = Vec::new();
    for layer in told.layers.into_iter().filter(|layer| layer.waived) {
        waived.push(layer.layer);
    }
    Ok((scratch.like(path, model, names)?, waived))
}

fn count(proofs: &[Proof], outcome: &Outcome) -> usize {
    proofs.iter().filter(|proof| proof.outcome == *outcome).count()
}

fn as_json(args: &Args, proofs: &[Proof], waived: &[String]) -> Value {
    json!({
        "model": args.model,
        "waived": waived,
        "held": count(proofs, &Outcome::Held),
        "not_held": count(proofs, &Outcome::NotHeld),
        "unproven": count(proofs, &Outcome::Unproven),
        "acts": proofs,
    })
}

fn table(screen: &mut Screen, proofs: &[Proof]) {
    let width = |column: fn(&Proof) -> &str| proofs.iter().map(|proof| column(proof).len()).max().unwrap_or(0).min(60);
    let (act, control) = (width(|proof| &proof.act).max(3), width(|proof| &proof.control).max(16));
    let caged = width(|proof| &proof.caged).max(11);
    let head = format!(
        "{:8}  {:act$}  {:control$}  {:caged$}  refused by",
        "outcome", "act", "without the cage", "in the cage"
    );
    screen.line(screen.tone(Tone::Strong, head));
    for proof in proofs {
        let (tone, outcome) = match proof.outcome {
            Outcome::Held => (Tone::Good, "held"),
            Outcome::NotHeld => (Tone::Bad, "NOT HELD"),
            Outcome::Unproven => (Tone::Warn, "unproven"),
        };
        let outcome = screen.tone(tone, format_args!("{outcome:8}"));
        let (name, free) = (short(&proof.act, 63), short(&proof.control, 60));
        let (inside, by) = (short(&proof.caged, 300), short(&proof.mechanism, 200));
        let by = if proof.outcome == Outcome::Held { by } else { format!("- (should be {by})") };
        screen.line(format_args!("{outcome}  {name:act$}  {free:control$}  {inside:caged$}  {by}"));
    }
    let [held, not_held, unproven] =
        [Outcome::Held, Outcome::NotHeld, Outcome::Unproven].map(|one| count(proofs, &one));
    let free = proofs.iter().filter(|proof| proof.control == "succeeded").count();
    screen.line("");
    screen.line(format_args!("{} acts, {free} of which succeed without the cage.", proofs.len()));
    let text = format!("{held} held, {not_held} not held, {unproven} unproven.");
    screen.line(screen.tone(if held == proofs.len() { Tone::Good } else { Tone::Bad }, text));
}

impl ProveError {
    /// The number for the shell.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::NoAct(_) => Exit::Usage,
            Self::Programs(_) | Self::Probe { .. } => Exit::Unavailable,
            Self::Ask(error) => error.exit(),
            Self::Signals(_) | Self::NoCage(_) | Self::Scratch(_) => Exit::Failure,
        }
    }
}
