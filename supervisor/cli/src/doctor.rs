//! `casemate doctor`: what this host and this user can give, whether the server would start, and what would raise it.
//!
//! The launcher looks, since it is the one who would start; then one real worker is put into its cage and looked at from
//! outside. So "would start" and "the cage holds" are not guessed from a list of features.

use std::path::{Path, PathBuf};
use std::process::Command;

use casemate_ipc::inquiry::{Checkup, Lack, Rehearsal, State, Tier};
use casemate_ipc::layer::{Layer, Waiver};
use serde_json::{Value, json};
use thiserror::Error;

use crate::ask::{self, AskError};
use crate::escape::{ascii_json, short};
use crate::exit::Exit;
use crate::programs;
use crate::scratch::{Scratch, ScratchError, waived_by_default};
use crate::screen::{Screen, Tone};

/// Its arguments.
#[derive(Debug, clap::Args)]
#[command(before_help = EXAMPLES, after_help = NOTES)]
pub(crate) struct Args {
    /// The config that must be met; the defaults for this user where nothing is said
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// All of it as JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  casemate doctor
  sudo casemate doctor --config /etc/casemate/casemate.toml && echo it would start
  casemate doctor --json | jq -r '.lacks[] | .layer + \": \" + .raise'";

const NOTES: &str = "\
The tiers: `full` is every layer of the cage; `user` is all but what only root can give; `reduced` lacks more, and each \
layer that is missing must be accepted by name in sandbox.accept_missing; `refused` is no cage at all, whatever is \
accepted. The exit code is 0 where a server with this config would start and its workers be caged as it says, otherwise 1. \
That something listens on its port, perhaps that very server, is told and is no reason for a 1.";

/// Why nothing can be said.
#[derive(Debug, Error)]
pub(crate) enum DoctorError {
    #[error("cannot read the config {path:?}")]
    Config {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error(transparent)]
    Scratch(#[from] ScratchError),
    #[error(transparent)]
    Ask(#[from] AskError),
}

/// One worker in its cage.
#[derive(Debug)]
struct Trial {
    worker: Option<Rehearsal>,
    /// What is wrong with it.
    fault: Option<String>,
}

/// The name of its model.
const TRIAL: &str = "trial";

pub(crate) fn run(args: &Args, screen: &mut Screen) -> Result<Exit, DoctorError> {
    let scratch = Scratch::new()?;
    scratch.script(TRIAL, "")?;
    let config = match &args.config {
        Some(path) => {
            std::fs::File::open(path).map_err(|cause| DoctorError::Config { path: path.clone(), cause })?;
            path.clone()
        }
        None => scratch.defaults(&waived_by_default())?,
    };
    let mut checkup: Checkup = ask::once(&config, &["--doctor"])?;
    if args.config.is_none() {
        // The path of a config that is about to go is of use to nobody.
        let own = config.display().to_string();
        checkup.lacks.iter_mut().for_each(|lack| lack.raise = lack.raise.replace(&own, "FILE"));
    }
    // Also where the config would not let it start: the tier is the host's, not the config's.
    let trial = (checkup.tier != Tier::Refused).then(|| Trial::make(&scratch, args.config.as_deref(), &checkup));
    let caged = trial.as_ref().is_some_and(|trial| trial.fault.is_none());
    if !caged {
        checkup.tier = Tier::Refused;
    }
    let met = checkup.starts && caged;
    let engine = engine();
    if args.json {
        screen.line(ascii_json(&as_json(&checkup, trial.as_ref(), &engine, met)));
    } else {
        let name = args.config.as_deref().map_or("the defaults".to_owned(), |path| path.display().to_string());
        report(screen, &checkup, trial.as_ref(), &engine, &name);
    }
    Ok(if met { Exit::Success } else { Exit::Failure })
}

impl Trial {
    /// A worker that goes without all that is missing here, whatever the config accepts. Where that starts, they are the
    /// same: nobody goes without a layer that is there.
    fn make(scratch: &Scratch, given: Option<&Path>, checkup: &Checkup) -> Self {
        let missing: Vec<&str> = checkup.lacks.iter().map(|lack| lack.layer.as_str()).collect();
        let config = scratch.without(given, &missing).map_err(|error| error.to_string());
        let asked = config
            .and_then(|config| ask::once::<Rehearsal>(&config, &["--rehearse"]).map_err(|error| error.to_string()));
        match asked {
            Ok(worker) => Self { fault: fault(&worker, &checkup.lacks), worker: Some(worker) },
            Err(why) => Self { worker: None, fault: Some(why) },
        }
    }

    fn in_force(&self) -> usize {
        self.worker.as_ref().map_or(0, |worker| worker.layers.iter().filter(|reading| reading.in_force).count())
    }
}

/// What is wrong with a worker: that it did not get ready, or a layer that is not in force and is not known to be missing.
fn fault(worker: &Rehearsal, lacks: &[Lack]) -> Option<String> {
    let Rehearsal { ready, answer, end, layers, .. } = worker;
    if !ready || answer.as_deref() != Some("done") {
        let said = answer.as_deref().unwrap_or("it never answered");
        return Some(format!("{said}; its end: {}", json!(end)));
    }
    let known: Vec<Waiver> =
        lacks.iter().filter_map(|lack| serde_json::from_value(lack.layer.as_str().into()).ok()).collect();
    let missing = Layer::ALL.into_iter().filter(|layer| {
        let in_force = layers.iter().any(|reading| reading.layer == *layer && reading.in_force);
        !in_force && !layer.excused_by(&known)
    });
    let missing: Vec<&str> = missing.map(Layer::name).collect();
    (!missing.is_empty()).then(|| format!("not in force: {}", missing.join(", ")))
}

/// What the worker links: names and values. Nothing where the program that knows is not there.
fn engine() -> Vec<(String, String)> {
    let told = programs::probe().ok().and_then(|probe| Command::new(probe).arg("--engine").output().ok());
    let told = told.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let pair = |line: &str| line.split_once('\t').map(|(name, value)| (name.to_owned(), value.to_owned()));
    told.lines().filter_map(pair).collect()
}

fn as_json(checkup: &Checkup, trial: Option<&Trial>, engine: &[(String, String)], met: bool) -> Value {
    let engine: serde_json::Map<String, Value> =
        engine.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
    let trial = trial.map(|trial| json!({ "worker": trial.worker, "fault": trial.fault }));
    let mut all = json!(checkup);
    if let Some(all) = all.as_object_mut() {
        all.extend([
            ("met".to_owned(), met.into()),
            ("engine".to_owned(), engine.into()),
            ("trial".to_owned(), json!(trial)),
        ]);
    }
    all
}

fn report(screen: &mut Screen, checkup: &Checkup, trial: Option<&Trial>, engine: &[(String, String)], config: &str) {
    let mut group = "";
    for found in &checkup.findings {
        if found.group != group {
            group = &found.group;
            screen.line(screen.tone(Tone::Strong, short(group, 40)));
        }
        let (tone, mark) = match found.state {
            State::Good => (Tone::Good, "good"),
            State::Note => (Tone::Quiet, ""),
            State::Weak => (Tone::Warn, "weak"),
            State::Bad => (Tone::Bad, "BAD"),
        };
        let mark = screen.tone(tone, format_args!("{mark:4}"));
        screen.line(format_args!("  {mark} {:16} {}", short(&found.name, 60), short(&found.value, 400)));
        if let Some(raise) = &found.raise {
            screen.line(format_args!("  {:21} to mend it: {}", "", short(raise, 400)));
        }
    }
    for (at, (name, value)) in engine.iter().enumerate() {
        if at == 0 {
            screen.line(screen.tone(Tone::Strong, "engine"));
        }
        screen.line(format_args!("       {:16} {}", short(name, 60), short(value, 200)));
    }
    screen.line("");
    let tier = screen.tone(Tone::Strong, checkup.tier);
    screen.line(format_args!("This host, for this user, reaches the tier `{tier}`: {}.", means(checkup.tier)));
    for Lack { layer, accepted, why, raise } in &checkup.lacks {
        let accepted = if *accepted { ", which the config accepts" } else { "" };
        screen.line(format_args!("  missing: {}{accepted}", short(layer, 60)));
        screen.line(format_args!("    found:      {}", short(why, 600)));
        screen.line(format_args!("    to have it: {}", short(raise, 600)));
    }
    if let Some(trial) = trial {
        let count = trial.worker.as_ref().map_or(0, |worker| worker.layers.len());
        screen
            .line(format_args!("A worker was put into its cage: {} of {count} layers are in force.", trial.in_force()));
    }
    match (&checkup.refusal, trial.and_then(|trial| trial.fault.as_deref())) {
        (Some(refusal), _) => {
            let no = screen.tone(Tone::Bad, "would not start");
            screen.line(format_args!("With {config}, `casemate serve` {no}: {}", short(refusal, 2000)));
        }
        (None, Some(fault)) => {
            let no = screen.tone(Tone::Bad, "its workers would not serve");
            screen.line(format_args!("With {config}, `casemate serve` would start, but {no}: {}", short(fault, 2000)));
        }
        (None, None) => {
            let yes = screen.tone(Tone::Good, "would start");
            let once = checkup.taken.as_ref().map(|address| {
                format!(", once {} is free: something listens there, perhaps this very server", short(address, 60))
            });
            screen.line(format_args!("With {config}, `casemate serve` {yes}{}.", once.unwrap_or_default()));
        }
    }
}

const fn means(tier: Tier) -> &'static str {
    match tier {
        Tier::Full => "every layer of the cage",
        Tier::User => "every layer but what only root can give",
        Tier::Reduced => "layers are missing that this host could have",
        Tier::Refused => "no worker can be caged here",
    }
}

impl DoctorError {
    /// The number for the shell.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Config { cause, .. } => cause.into(),
            Self::Scratch(_) => Exit::Failure,
            Self::Ask(error) => error.exit(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use casemate_ipc::inquiry::End;
    use casemate_ipc::layer::Reading;

    fn worker(lost: &[Layer]) -> Rehearsal {
        let reading = |layer| Reading { layer, in_force: !lost.contains(&layer), evidence: String::new() };
        Rehearsal {
            model: TRIAL.to_owned(),
            version: "1".to_owned(),
            ready: true,
            answer: Some("done".to_owned()),
            log: String::new(),
            layers: Layer::ALL.map(reading).into(),
            end: End::Exit { code: 0 },
            ms: 1,
        }
    }

    fn lack(waiver: Waiver) -> Lack {
        Lack { layer: waiver.name().to_owned(), accepted: false, why: String::new(), raise: String::new() }
    }

    #[test]
    fn a_trial_is_good_only_with_every_layer_that_is_not_known_to_be_missing() {
        assert_eq!(fault(&worker(&[]), &[]), None);
        assert!(fault(&worker(&[Layer::Seccomp]), &[]).unwrap().contains("seccomp"));
        let alone = worker(&[Layer::OwnIdentity]);
        assert!(fault(&alone, &[lack(Waiver::Landlock)]).is_some());
        assert_eq!(fault(&alone, &[lack(Waiver::OwnIdentity)]), None);
        let mut silent = worker(&[]);
        silent.layers.pop();
        assert!(fault(&silent, &[]).is_some(), "a layer that nobody speaks of is not in force");
        assert!(fault(&Rehearsal { ready: false, ..worker(&[]) }, &[]).is_some());
        assert!(fault(&Rehearsal { answer: None, ..worker(&[]) }, &[]).is_some());
    }
}
