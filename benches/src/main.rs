//! `cargo xtask bench`: what the trip costs, as ratios in one run. Absolute figures of a shared machine mean little; what is
//! compared here ran seconds apart, with the same client, the same bytes, and the full default cage.
//!
//! * the hop: HTTP ▸ front ▸ worker ▸ front ▸ HTTP with an engine that only copies, against an axum server that echoes;
//! * the digits model end to end, against the same model in this process;
//! * a worker's start, from the request to its readiness;
//! * the three models of `benches/models`, with run-time code refused and allowed, where they have been made;
//! * the jail: from the launcher's request until the worker's program runs, libtorch's own start left out.
//!
//! Names (`hop`, `digits`, `start`, `models`, `jail`) choose; without one, all. `--json FILE` writes the same as an array of `{figure, value, unit, baseline, ratio}`.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a bench's work is to print")]

mod echo;
mod figure;
mod floor;
mod jail;
mod load;
mod models;

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use casemate_manifest::Manifest;
use casemate_tests::casemate::{Casemate, Setup};

use crate::figure::Figure;
use crate::load::{Load, Request};

/// Requests that are counted for each figure.
const REQUESTS: usize = 5000;

const USAGE: &str = "usage: casemate-bench [--json FILE] [hop|digits|start|models|jail]…";

/// Name, and what it measures.
type Bench = (&'static str, fn() -> Result<Vec<Figure>, Box<dyn Error>>);

const BENCHES: [Bench; 5] =
    [("hop", hop), ("digits", digits), ("start", start), ("models", models::run), ("jail", jail::run)];

fn main() -> Result<(), Box<dyn Error>> {
    // The jail bench starts this program under other names.
    match std::env::args().next().as_deref() {
        Some("casemate-front") => return jail::front(),
        Some("stage") => return jail::stage(),
        _ => {}
    }
    let (mut json, mut chosen) = (None, Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(word) = arguments.next() {
        match (word.as_str(), BENCHES.iter().find(|(name, _)| *name == word)) {
            ("--json", _) => json = Some(PathBuf::from(arguments.next().ok_or(USAGE)?)),
            (_, Some(bench)) => chosen.push(*bench),
            _ => return Err(USAGE.into()),
        }
    }
    if chosen.is_empty() {
        chosen = BENCHES.to_vec();
    }
    let mut figures = Vec::new();
    for (_, bench) in chosen {
        let found = bench()?;
        // As it comes: some take minutes.
        println!("{}", figure::table(&found));
        figures.extend(found);
    }
    if let Some(file) = json {
        std::fs::write(file, serde_json::to_string_pretty(&figures)?)?;
    }
    Ok(())
}

/// The trip without a model, for a small and a middling tensor.
fn hop() -> Result<Vec<Figure>, Box<dyn Error>> {
    let mut figures = Vec::new();
    for columns in [16, 16 * 1024] {
        let (input, output) = (format!("x:FP32[-1,{columns}]"), format!("y:FP32[-1,{columns}]"));
        let casemate = Setup::new().version("echo", "1", "echo", b"", &[&input], &[&output], "").serve();
        let body = vec![0; columns * 4];
        let request = Request::raw("/v2/models/echo/infer", &body);
        let ours = Load::run(casemate.address, &request, REQUESTS)?;
        let echo = echo::serve()?;
        let theirs = Load::run(echo, &request, REQUESTS)?;
        let name = |what: &str| format!("hop, {} bytes, 1 connection: {what}", body.len());
        figures.push(Figure::against(name("p50"), ours.p50, theirs.p50, "an axum echo"));
        figures.push(Figure::against(name("p99"), ours.p99, theirs.p99, "an axum echo"));
    }
    Ok(figures)
}

/// A real model, end to end and in this process.
fn digits() -> Result<Vec<Figure>, Box<dyn Error>> {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/demo/store/digits/1"));
    let model = std::fs::read(folder.join("model.pt"))?;
    let manifest = Manifest::parse(&std::fs::read_to_string(folder.join("model.toml"))?)?;
    let inputs: Vec<String> = manifest.inputs.iter().map(ToString::to_string).collect();
    let outputs: Vec<String> = manifest.outputs.iter().map(|output| output.spec.to_string()).collect();
    let (inputs, outputs) = (texts(&inputs), texts(&outputs));
    let casemate = Setup::new().model("digits", &model, &inputs, &outputs, "").serve();
    let pixels = 8.0_f32.to_le_bytes().repeat(64);
    let ours = Load::run(casemate.address, &Request::raw("/v2/models/digits/infer", &pixels), REQUESTS)?;
    let alone = floor::run(&model, &manifest, &pixels, REQUESTS)?;
    let echo = Load::run(echo::serve()?, &Request::raw("/", &pixels), REQUESTS)?;
    let sum = alone.p50 + echo.p50;
    Ok(vec![
        Figure::against("digits, 1 connection: p50".to_owned(), ours.p50, alone.p50, "the model in process"),
        Figure::against("digits, 1 connection: p50".to_owned(), ours.p50, sum, "echo + model in process"),
    ])
}

/// From the request to start a worker until it is ready, cage and libtorch included.
fn start() -> Result<Vec<Figure>, Box<dyn Error>> {
    let mut times = Vec::new();
    for _ in 0..5 {
        let casemate: Casemate = Setup::new().simple("m", &casemate_tests::models::double()).serve();
        let us = casemate.status("m")["worker"]["ready_us"].as_u64().ok_or("no ready_us in the status")?;
        times.push(Duration::from_micros(us));
    }
    times.sort();
    Ok(vec![Figure::alone("a worker's start until ready: median of 5".to_owned(), times[times.len() / 2])])
}

fn texts(all: &[String]) -> Vec<&str> {
    all.iter().map(String::as_str).collect()
}
