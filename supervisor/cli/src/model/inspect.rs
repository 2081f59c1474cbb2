//! `casemate model inspect`: what is in a model file, without loading it.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::path::PathBuf;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::archive::{Archive, ArchiveError, Kind};
use crate::code::{self, Finding, Forward};
use crate::escape::{ascii_json, printable, short};
use crate::exit::Exit;
use crate::gate::{GateError, Judged};
use crate::model::{Bytes, hex};
use crate::screen::{Screen, Tone};

/// Most records, and most findings, that are shown to a person; `--json` has all.
const SHOWN: usize = 40;

/// Its arguments.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:\n  casemate model inspect model.pt\n  casemate model inspect --json model.pt", after_help = NOTES)]
pub(crate) struct Args {
    /// Write JSON, for programs
    #[arg(long)]
    json: bool,
    /// The model file
    file: PathBuf,
}

/// Why a file cannot be looked into.
#[derive(Debug, Error)]
pub(crate) enum InspectError {
    #[error("cannot read {path:?}")]
    Read {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("{0:?} is not a regular file")]
    NotAFile(PathBuf),
    #[error("the gate cannot be asked about {path:?}")]
    Gate {
        path: PathBuf,
        #[source]
        cause: GateError,
    },
    #[error("cannot look into {path:?}")]
    Archive {
        path: PathBuf,
        #[source]
        cause: ArchiveError,
    },
}

const NOTES: &str = "\
The gate is what every worker asks before libtorch reads the file; a server's config may allow more operators. What \
follows the records is found by searching the text of the code. That it is missing proves nothing, and that it is there \
is no verdict: a worker's cage holds either way.";

/// All that is found.
#[derive(Debug)]
struct Report {
    bytes: u64,
    sha256: String,
    judged: Judged,
    archive: Archive,
    forward: Option<Forward>,
    findings: Vec<Finding>,
}

pub(crate) fn run(args: &Args, screen: &mut Screen) -> Result<(), InspectError> {
    let path = &args.file;
    let failed = |cause| InspectError::Read { path: path.clone(), cause };
    if !path.metadata().map_err(failed)?.is_file() {
        return Err(InspectError::NotAFile(path.clone()));
    }
    let mut file = File::open(path).map_err(failed)?;
    let mut hash = Sha256::new();
    let bytes = io::copy(&mut file, &mut hash).map_err(failed)?;
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    let judged = Judged::read(&mut file).map_err(|cause| InspectError::Gate { path: path.clone(), cause })?;
    let archive = Archive::read(file).map_err(|cause| InspectError::Archive { path: path.clone(), cause })?;
    let report = Report {
        bytes,
        sha256: hex(&hash.finalize()),
        judged,
        forward: code::forward(&archive),
        findings: code::findings(&archive),
        archive,
    };
    if args.json {
        screen.line(ascii_json(&report.json()));
    } else {
        report.show(screen);
    }
    Ok(())
}

impl InspectError {
    /// The number for the shell.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Read { cause, .. } => cause.into(),
            Self::NotAFile(_) => Exit::NoInput,
            Self::Archive { .. } | Self::Gate { .. } => Exit::Failure,
        }
    }
}

// === impl Report ===

impl Report {
    fn show(&self, screen: &mut Screen) {
        let Self { bytes, sha256, judged, archive, forward, findings } = self;
        let (tensors, tensor_bytes) = archive.tensors();
        screen.line(format_args!("kind      {}", archive.kind().describe()));
        screen.line(format_args!("size      {}", Bytes(*bytes)));
        screen.line(format_args!("sha256    {sha256}"));
        for (key, value) in &archive.made {
            screen.line(format_args!("{:9} {}", printable(key), short(value, 60)));
        }
        screen.line(format_args!("tensors   {tensors}, {} together", Bytes(tensor_bytes)));
        if let Some(Forward { record, signature, .. }) = forward {
            screen.line(format_args!("forward   {}", screen.tone(Tone::Strong, short(signature, 1000))));
            screen.line(format_args!("          in {}", printable(record)));
        } else if archive.kind() == Kind::Torchscript {
            screen.line("forward   not found");
        }
        let Judged { report, refusal } = judged;
        match refusal {
            None => screen.line("gate      passes, under the policy \"strict\""),
            Some(refusal) => {
                let said = screen.tone(Tone::Warn, short(&refusal.to_string(), 1000));
                screen.line(format_args!("gate      refuses it: {said}"));
            }
        }
        if !report.operators.is_empty() {
            let names: Vec<&str> = report.operators.iter().map(String::as_str).collect();
            screen.line(format_args!("operators {}: {}", names.len(), short(&names.join(" "), 2000)));
        }

        screen.line("");
        let head = format!("{:>10}  {:>10}  {:8}  RECORD", "SIZE", "PACKED", "METHOD");
        screen.line(screen.tone(Tone::Strong, head));
        for record in archive.records.iter().take(SHOWN) {
            let [size, packed] = [record.size, record.packed].map(Bytes);
            let [method, name] = [&record.method, &record.name].map(|text| printable(text));
            screen.line(format_args!("{size:>10}  {packed:>10}  {method:8}  {name}"));
        }
        more(screen, archive.records.len());

        screen.line("");
        if findings.is_empty() {
            screen.line("The code mentions no operator that reaches outside, as far as a search of its text can tell.");
            return;
        }
        screen.line(screen.tone(Tone::Strong, "The code mentions:"));
        for Finding { record, line, operator, why, text } in findings.iter().take(SHOWN) {
            let operator = screen.tone(Tone::Warn, format_args!("{operator:13}"));
            screen.line(format_args!("  {operator} {why}"));
            screen.line(format_args!("    {}:{line}: {}", printable(record), short(text, 120)));
        }
        more(screen, findings.len());
    }

    fn json(&self) -> Value {
        let Self { bytes, sha256, judged, archive, forward, findings } = self;
        let (count, tensor_bytes) = archive.tensors();
        let made: serde_json::Map<String, Value> =
            archive.made.iter().map(|(key, value)| (key.clone(), value.clone().into())).collect();
        let code: Vec<Value> = archive
            .code
            .iter()
            .map(|code| json!({ "record": code.record, "bytes": code.text.len(), "lines": code.text.lines().count() }))
            .collect();
        json!({
            "kind": archive.kind(),
            "size": bytes,
            "sha256": sha256,
            "made": made,
            "forward": forward,
            "tensors": { "count": count, "bytes": tensor_bytes },
            "records": archive.records,
            "code": code,
            "operators": findings,
            "gate": judged.json(),
        })
    }
}

fn more(screen: &mut Screen, all: usize) {
    if all > SHOWN {
        screen.line(format_args!("  ... and {} more; --json has all", all - SHOWN));
    }
}
