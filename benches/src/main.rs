//! `cargo xtask bench [--json FILE] [--peer NAME] [NAME…]`: what the server is measured by, in one run, each figure with its
//! bound and with the last committed result. Absolute figures of a shared machine mean little; what is compared here ran
//! seconds apart, with the same client, the same bytes, and the full default cage.
//!
//! [`BENCHES`] names the benches; without a name, all of them run. `--peer torchserve` runs that column, alone or beside those
//! that are named. What cannot be measured here is told as that.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a bench's work is to print")]

mod code;
mod crossing;
mod doorbells;
mod echo;
mod feature;
mod figure;
mod floor;
mod jail;
mod killed;
mod layers;
mod looping;
mod measure;
mod memory;
mod model;
mod models;
mod neighbour;
mod peer;
mod stages;
mod start;
mod trip;
mod usage;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use crate::figure::Figure;

/// One bench.
struct Bench {
    name: &'static str,
    what: &'static str,
    run: fn() -> Result<Vec<Figure>, Box<dyn Error>>,
}

const BENCHES: &[Bench] = &[
    Bench { name: "trip", what: "the tiny model against an echo, 1 to 64 connections", run: trip::run },
    Bench { name: "doorbells", what: "ways to wake somebody and be woken", run: doorbells::run },
    Bench { name: "models", what: "MiniLM and resnet18 against the model in process", run: models::run },
    Bench { name: "code", what: "run-time code refused, against allowed", run: code::run },
    Bench { name: "start", what: "cold start of the digits model", run: start::run },
    Bench { name: "memory", what: "three models, a hundred, four instances", run: memory::run },
    Bench { name: "killed", what: "a worker killed under load, and its neighbour", run: killed::run },
    Bench { name: "looping", what: "a model that loops for ever, and its neighbour", run: looping::run },
    Bench { name: "neighbour", what: "hostile models, and their neighbour", run: neighbour::run },
    Bench { name: "layers", what: "the price of each layer of the cage", run: layers::run },
    Bench { name: "stages", what: "instructions of the stages that are ours", run: stages::run },
    Bench { name: "jail", what: "a jail until its program runs", run: jail::run },
];

/// Other servers, which run only where they are asked for.
const PEERS: &[Bench] =
    &[Bench { name: "torchserve", what: "TorchServe 0.12.0, the tiny model", run: peer::torchserve }];

fn main() -> ExitCode {
    // Some benches start this program under other names.
    let done = match std::env::args().next().as_deref() {
        Some("casemate-front") => jail::front(),
        Some("stage") => jail::stage(),
        Some("echo") => echo::main(),
        _ => return bench(),
    };
    done.map_or_else(|error| fail(&*error), |()| ExitCode::SUCCESS)
}

fn bench() -> ExitCode {
    let Some(wanted) = Wanted::read() else {
        eprintln!("{}", usage());
        return ExitCode::from(2);
    };
    wanted.run().unwrap_or_else(|error| fail(&*error))
}

#[expect(clippy::print_stderr, reason = "there is nobody to hand it on to")]
fn fail(error: &dyn Error) -> ExitCode {
    eprintln!("casemate-bench: {error}");
    ExitCode::FAILURE
}

fn usage() -> String {
    let list: Vec<String> = BENCHES.iter().map(|bench| format!("  {:9} {}", bench.name, bench.what)).collect();
    format!("usage: casemate-bench [--json FILE] [--peer torchserve] [NAME…]\n{}", list.join("\n"))
}

/// What is to be done.
#[derive(Default)]
struct Wanted {
    json: Option<PathBuf>,
    chosen: Vec<&'static Bench>,
}

impl Wanted {
    fn read() -> Option<Self> {
        let (mut wanted, mut peers) = (Self::default(), Vec::new());
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--json" => wanted.json = Some(words.next()?.into()),
                "--peer" => {
                    let name = words.next()?;
                    peers.push(PEERS.iter().find(|peer| peer.name == name)?);
                }
                name => wanted.chosen.push(BENCHES.iter().find(|bench| bench.name == name)?),
            }
        }
        if wanted.chosen.is_empty() && peers.is_empty() {
            wanted.chosen = BENCHES.iter().collect();
        }
        wanted.chosen.extend(peers);
        Some(wanted)
    }

    /// Every bench, whatever became of the ones before; the exit code says whether all bounds hold.
    fn run(&self) -> Result<ExitCode, Box<dyn Error>> {
        let (mut figures, mut failed) = (Vec::new(), false);
        for Bench { name, run, .. } in &self.chosen {
            let begun = Instant::now();
            match run() {
                Ok(mut found) => {
                    figure::compare(&mut found);
                    // As it comes: some take minutes.
                    println!("## {name} ({:.0} s)\n\n{}", begun.elapsed().as_secs_f64(), figure::table(&found));
                    figures.extend(found);
                }
                Err(error) => {
                    failed = true;
                    fail(&*Box::<dyn Error>::from(format!("{name}: {error}")));
                }
            }
        }
        if let Some(file) = &self.json {
            std::fs::write(file, serde_json::to_string_pretty(&figures)? + "\n")?;
        }
        let broken = figures.iter().filter(|figure| figure.breaks()).count();
        println!("{} figures, {broken} outside their bounds", figures.len());
        Ok(if failed || broken > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}
