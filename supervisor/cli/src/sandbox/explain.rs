//! `casemate sandbox explain`: what a worker may do, and what not, in sentences.

use std::path::PathBuf;

use casemate_ipc::id::ModelName;
use casemate_ipc::inquiry::explanation::{Arena, Explanation, LayerSaid, Never, Stage, Zygote};
use casemate_ipc::layer::Layer;
use serde_json::json;
use thiserror::Error;

use crate::ask::{self, AskError};
use crate::escape::{ascii_json, short};
use crate::exit::Exit;
use crate::scratch::{Scratch, ScratchError, waived_by_default};
use crate::screen::{Screen, Tone};

/// Its arguments.
#[derive(Debug, clap::Args)]
#[command(before_help = EXAMPLES)]
pub(crate) struct Args {
    /// The model; any one where nothing is said
    #[arg(value_name = "MODEL", requires = "config")]
    model: Option<ModelName>,
    /// The config; the defaults for this user where nothing is said
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// All of it as JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  casemate sandbox explain
  casemate sandbox explain iris --config /etc/casemate/casemate.toml
  casemate sandbox explain --json | jq -r '.stages[] | select(.serves) | .rules[].call'";

/// Why there is no explanation.
#[derive(Debug, Error)]
pub(crate) enum ExplainError {
    #[error(transparent)]
    Scratch(#[from] ScratchError),
    #[error(transparent)]
    Ask(#[from] AskError),
}

pub(crate) fn run(args: &Args, screen: &mut Screen) -> Result<(), ExplainError> {
    let scratch = Scratch::new()?;
    let config = match &args.config {
        Some(path) => path.clone(),
        None => scratch.defaults(&waived_by_default())?,
    };
    let model = args.model.as_ref().map(ModelName::as_str);
    let task: Vec<&str> = ["--explain"].into_iter().chain(model).collect();
    let told: Explanation = ask::once(&config, &task)?;
    if args.json {
        screen.line(ascii_json(&json!(told)));
    } else {
        tell(screen, &told);
    }
    Ok(())
}

fn tell(screen: &mut Screen, told: &Explanation) {
    let whose = told.model.as_deref().map_or("any model".to_owned(), |model| short(model, 63));
    head(screen, &format!("A worker of {whose}"));
    screen.line(format_args!(
        "It may use {} of memory for its data, and {} thread{} for one operation. It has:",
        mebibytes(told.memory_bytes),
        told.threads,
        if told.threads == 1 { "" } else { "s" }
    ));
    for Arena { name, slots, slot_bytes, writable } in &told.arenas {
        let may = if *writable { "which it may write" } else { "which it can only read" };
        screen.line(format_args!("  shared memory for {name}: {slots} slots of {slot_bytes} bytes, {may}"));
    }
    for descriptor in told.descriptors.iter().filter(|one| one.stays) {
        screen.line(format_args!("  descriptor {}: {}", descriptor.number, descriptor.what));
    }
    for descriptor in told.descriptors.iter().filter(|one| !one.stays) {
        screen.line(format_args!("  at birth, descriptor {}: {}", descriptor.number, descriptor.what));
    }
    for limit in &told.limits {
        screen.line(format_args!("  {}: {} at most", limit.name.trim_start_matches("Max "), limit.most));
    }
    let paths = match told.files.readable.as_slice() {
        [] => "no path may be opened".to_owned(),
        paths => format!("these may be read: {}", paths.join(", ")),
    };
    screen.line(format_args!("  Landlock {}: {paths}", told.files.landlock));

    for stage in told.stages.iter().filter(|stage| stage.serves) {
        head(screen, &format!("While it runs the model ({})", stage.stage));
        rules(screen, stage);
    }
    head(screen, "So, while it runs the model, it cannot");
    told.never.iter().for_each(|one| never(screen, one));
    for stage in told.stages.iter().filter(|stage| !stage.serves) {
        head(screen, &format!("Before that, on work that we trust and with no byte of a model read ({})", stage.stage));
        rules(screen, stage);
    }
    head(screen, "The layers of its cage, in the order in which they are put on");
    for layer in &told.layers {
        layer_line(screen, layer);
    }
    if let Some(zygote) = &told.zygote {
        tell_of_zygote(screen, zygote);
    }
}

fn tell_of_zygote(screen: &mut Screen, told: &Zygote) {
    let whose = told.tenant.as_deref().map_or("its tenant".to_owned(), |tenant| short(tenant, 63));
    let who = if told.shared { "the models of that tenant" } else { "that model alone" };
    head(screen, &format!("The zygote of {whose}, which bears its workers"));
    screen.line(format_args!(
        "It bears workers of {who}, {} at most, and is renewed after {} s. It reads no model and no request. It has:",
        told.births, told.age_s
    ));
    for descriptor in &told.descriptors {
        screen.line(format_args!("  descriptor {}: {}", descriptor.number, descriptor.what));
    }
    for capability in &told.capabilities {
        screen.line(format_args!("  {capability}, in its own user namespace and nowhere else"));
    }
    for limit in &told.limits {
        screen.line(format_args!("  {}: {} at most", limit.name.trim_start_matches("Max "), limit.most));
    }
    for layer in &told.layers {
        let (tone, mark) = if layer.has { (Tone::Good, "yes") } else { (Tone::Quiet, "not so") };
        screen.line(format_args!(
            "  {} {:18} {}",
            screen.tone(tone, format_args!("{mark:8}")),
            layer.layer,
            layer.says
        ));
    }
    head(screen, &format!("From its first act to its end ({})", told.stage.stage));
    rules(screen, &told.stage);
    head(screen, "So a zygote cannot");
    told.never.iter().for_each(|one| never(screen, one));
}

fn never(screen: &mut Screen, Never { act, calls, only }: &Never) {
    screen.line(format_args!("  {act}"));
    let why = match only.as_slice() {
        [] => format!("in no rule: {}", calls.join(", ")),
        rules => format!("only {}", rules.join("; ")),
    };
    screen.line(format_args!("      {}", screen.tone(Tone::Quiet, why)));
}

fn head(screen: &mut Screen, text: &str) {
    screen.line("");
    screen.line(screen.tone(Tone::Strong, text));
}

fn rules(screen: &mut Screen, stage: &Stage) {
    let mut calls: Vec<u32> = stage.rules.iter().map(|rule| rule.number).collect();
    calls.sort_unstable();
    calls.dedup();
    screen.line(format_args!("It may make {} system calls. Any other: {}.", calls.len(), stage.default));
    for rule in &stage.rules {
        screen.line(format_args!("  {:18} {}", rule.call, rule.when));
        screen.line(format_args!("      {}", screen.tone(Tone::Quiet, &rule.why)));
    }
    for refusal in &stage.refusals {
        screen.line(format_args!("  {:18} never: it is answered {}", refusal.call, refusal.errno));
        screen.line(format_args!("      {}", screen.tone(Tone::Quiet, &refusal.why)));
    }
}

fn layer_line(screen: &mut Screen, layer: &LayerSaid) {
    let (tone, mark) = match (layer.here, layer.waived) {
        (true, _) => (Tone::Good, "yes"),
        // Asked for nowhere: nobody had to accept that it is missing.
        (false, true) if Layer::ALL.iter().any(|known| known.optional() && known.name() == layer.layer) => {
            (Tone::Quiet, "no")
        }
        (false, true) => (Tone::Warn, "waived"),
        (false, false) => (Tone::Bad, "MISSING"),
    };
    let mark = screen.tone(tone, format_args!("{mark:8}"));
    screen.line(format_args!("  {mark} {:18} {}", layer.layer, layer.says));
    if let Some(lack) = &layer.lack {
        screen.line(format_args!("      {}", screen.tone(Tone::Quiet, short(lack, 400))));
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

impl ExplainError {
    /// The number for the shell.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Scratch(_) => Exit::Failure,
            Self::Ask(error) => error.exit(),
        }
    }
}
