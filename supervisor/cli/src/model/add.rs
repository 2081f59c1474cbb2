//! `casemate model add`: copies a TorchScript file into a store, with a manifest that says what it takes and gives.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use casemate_gate::Refusal;
use casemate_ipc::id::{ModelName, Version};
use casemate_ipc::tensor::TensorSpec;
use casemate_manifest::{Batching, Limits, Output};
use nix::unistd::{getegid, geteuid};
use thiserror::Error;

use crate::archive::{Archive, Kind};
use crate::code::{self, Forward};
use crate::escape::short;
use crate::exit::Exit;
use crate::gate::{GateError, Judged};
use crate::model::entry::{Declaration, Entry, EntryError};
use crate::model::{Bytes, request};
use crate::screen::{Screen, Tone};

/// Its arguments.
#[derive(Debug, clap::Args)]
#[command(before_help = EXAMPLES, after_help = NOTES)]
pub(crate) struct Args {
    /// The store's folder; made where there is none
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// The model's name: letters, digits, '.', '_' and '-'
    #[arg(long)]
    name: ModelName,
    /// Its version; the number after the newest where nothing is said
    #[arg(long)]
    version: Option<Version>,
    /// An argument of `forward`, in order, as NAME:DTYPE[DIM,…]; -1 is a dimension that the request chooses
    #[arg(long = "input", value_name = "TENSOR")]
    inputs: Vec<TensorSpec>,
    /// A tensor that `forward` returns, in order, written the same way
    #[arg(long = "output", value_name = "TENSOR")]
    outputs: Vec<TensorSpec>,
    /// Most rows in one run; above 1 every first dimension must be -1
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    max_batch_size: u32,
    /// Microseconds that a request may wait for others to ride with
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=1_000_000))]
    max_batch_delay_us: u64,
    /// Milliseconds that a request may take, waiting included
    #[arg(long, value_name = "N", default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    deadline_ms: u64,
    /// An output that may hold NaN and infinities
    #[arg(long, value_name = "OUTPUT")]
    non_finite: Vec<String>,
    /// Add it although the gate refuses it; a server refuses it too, unless its config allows more operators
    #[arg(long)]
    force: bool,
    /// The model, as `torch.jit.save` wrote it
    file: PathBuf,
}

/// Why no model was added.
#[derive(Debug, Error)]
pub(crate) enum AddError {
    #[error("cannot open {path:?}")]
    Open {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("{0:?} is not a regular file")]
    NotAFile(PathBuf),
    #[error("{}", undeclared(.path, .missing, .forward.as_deref()))]
    Undeclared { path: PathBuf, missing: &'static str, forward: Option<Box<Forward>> },
    #[error("the gate cannot be asked about {path:?}")]
    Gate {
        path: PathBuf,
        #[source]
        cause: GateError,
    },
    #[error("{path:?} was not added: a server's gate refuses it, {refusal}; --force adds it nevertheless")]
    Refused { path: PathBuf, refusal: Box<Refusal> },
    #[error("--non-finite {0:?} is not an --output")]
    NoSuchOutput(String),
    #[error("{path:?} was not added")]
    Entry {
        path: PathBuf,
        #[source]
        cause: Box<EntryError>,
    },
}

const EXAMPLES: &str = "\
Examples:
  casemate model add --store /srv/models --name iris \\
      --input 'x:f32[-1,4]' --output 'y:f32[-1,3]' model.pt
  casemate model add --store /srv/models --name resnet --version 2.1 --max-batch-size 32 \\
      --input 'image:FP32[-1,3,224,224]' --output 'scores:FP32[-1,1000]' resnet.pt";

const NOTES: &str = "\
Types are those of the Open Inference Protocol (BOOL, UINT8, INT8, INT16, INT32, INT64, FP16, BF16, FP32, FP64) or \
short (f32, i64, u8, bool); a shape of [] is a scalar. `casemate model inspect FILE` shows what `forward` takes.";

pub(crate) fn run(args: &Args, screen: &mut Screen) -> Result<(), AddError> {
    let Args { store, name, version, file: path, .. } = args;
    let mut file = open(path)?;
    let declaration = declaration(args, &file)?;
    let undeclarable = |cause| AddError::Entry { path: path.clone(), cause: Box::new(EntryError::Declaration(cause)) };
    // Before the gate: what is wrong with the command line is told first.
    declaration.manifest([0; 32]).map_err(undeclarable)?;
    let judged = Judged::read(&mut file).map_err(|cause| AddError::Gate { path: path.clone(), cause })?;
    let refusal = match judged.refusal {
        // What is no TorchScript at all is told apart further down, in words that help more.
        Some(refusal) if !args.force && Kind::of(&file) == Some(Kind::Torchscript) => {
            return Err(AddError::Refused { path: path.clone(), refusal: Box::new(refusal) });
        }
        refusal => refusal,
    };
    let entry = Entry::write(store, name, version.as_ref(), &declaration, &mut file)
        .map_err(|cause| AddError::Entry { path: path.clone(), cause: Box::new(cause) })?;

    screen.line(format_args!("added    {}/{}", name, entry.version));
    screen.line(format_args!("in       {}", short(&entry.folder.to_string_lossy(), 4096)));
    screen.line(format_args!("file     {}, sha256 {}", Bytes(entry.bytes), entry.manifest.sha256_hex()));
    if let Some(refusal) = refusal {
        let refusal = short(&refusal.to_string(), 1000);
        screen.line(format_args!("{}     a server's gate refuses it: {refusal}", screen.tone(Tone::Warn, "note")));
    }
    for note in notes(store, &store.join(name.as_str()), entry.bytes) {
        screen.line(format_args!("{}     {note}", screen.tone(Tone::Warn, "note")));
    }
    let url = format!("http://127.0.0.1:8080/v2/models/{name}/versions/{}/infer", entry.version);
    screen.line("");
    screen.line("Once it is served, a request of zeros:");
    screen.line(format_args!("  {}", request::curl_zeros(&url, &entry.manifest.inputs)));
    Ok(())
}

impl AddError {
    /// The number for the shell.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Open { cause, .. } => cause.into(),
            Self::NotAFile(_) => Exit::NoInput,
            Self::Gate { .. } | Self::Refused { .. } => Exit::Failure,
            Self::Undeclared { .. } | Self::NoSuchOutput(_) => Exit::Usage,
            Self::Entry { cause, .. } => match cause.as_ref() {
                EntryError::Declaration(_) => Exit::Usage,
                // What is missing here is no input: the store could not be written.
                EntryError::Write { cause, .. } | EntryError::Source(cause)
                    if cause.kind() == io::ErrorKind::PermissionDenied =>
                {
                    Exit::Permission
                }
                _ => Exit::Failure,
            },
        }
    }
}

fn open(path: &Path) -> Result<File, AddError> {
    let failed = |cause| AddError::Open { path: path.to_owned(), cause };
    // Asked before opening: to open a pipe or a device can wait, or do something.
    if !path.metadata().map_err(failed)?.is_file() {
        return Err(AddError::NotAFile(path.to_owned()));
    }
    File::open(path).map_err(failed)
}

fn declaration(args: &Args, file: &File) -> Result<Declaration, AddError> {
    let missing = match (args.inputs.is_empty(), args.outputs.is_empty()) {
        (true, true) => "--input and --output",
        (true, false) => "--input",
        (false, true) => "--output",
        (false, false) => "",
    };
    if !missing.is_empty() {
        let forward =
            file.try_clone().ok().and_then(|f| Archive::read(f).ok()).and_then(|a| code::forward(&a)).map(Box::new);
        return Err(AddError::Undeclared { path: args.file.clone(), missing, forward });
    }
    if let Some(name) = args.non_finite.iter().find(|name| args.outputs.iter().all(|o| o.name != **name)) {
        return Err(AddError::NoSuchOutput(name.clone()));
    }
    let output = |spec: &TensorSpec| Output { spec: spec.clone(), non_finite: args.non_finite.contains(&spec.name) };
    let batching = Batching { max_batch_size: args.max_batch_size, max_batch_delay_us: args.max_batch_delay_us };
    Ok(Declaration {
        inputs: args.inputs.clone(),
        outputs: args.outputs.iter().map(output).collect(),
        batching,
        limits: Limits { deadline_ms: args.deadline_ms },
    })
}

/// What the operator should know before the server says it.
fn notes(store: &Path, model: &Path, bytes: u64) -> Vec<String> {
    // As the launcher judges it: an ordinary user's own group may write, since many systems give each user one.
    let own = (!geteuid().is_root()).then(|| getegid().as_raw());
    let shared = |path: &&Path| {
        let open =
            |found: Metadata| found.mode() & 0o002 != 0 || (found.mode() & 0o020 != 0 && own != Some(found.gid()));
        path.metadata().is_ok_and(open)
    };
    let mut notes: Vec<String> = [store, model]
        .into_iter()
        .filter(shared)
        .map(|path| {
            let path = short(&path.to_string_lossy(), 4096);
            format!("others than its owner can write to {path}, which the launcher refuses: chmod go-w {path}")
        })
        .collect();
    let limit = casemate_config::Limits::default().model_bytes;
    if bytes > limit {
        notes.push(format!("the file is larger than the server takes; set limits.model_bytes = {bytes} in its config"));
    }
    notes
}

fn undeclared(path: &Path, missing: &str, forward: Option<&Forward>) -> String {
    let path = short(&path.to_string_lossy(), 4096);
    let (says, inputs) = match forward {
        Some(forward) => (
            format!("its code says {}", short(&forward.signature, 400)),
            forward.arguments.iter().map(|name| format!("--input '{}:f32[-1,16]'", short(name, 64))).collect(),
        ),
        None => (format!("`casemate model inspect {path}` shows what is in it"), vec!["--input 'x:f32[-1,16]'".into()]),
    };
    format!(
        "{missing} missing: a TorchScript file does not say the types and shapes of its tensors.\n  \
         About {path}: {says}\n  \
         Write, with your own types and shapes (-1 is the request's choice): {} --output 'y:f32[-1,4]'",
        inputs.join(" ")
    )
}
