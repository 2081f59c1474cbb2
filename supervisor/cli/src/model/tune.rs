//! `casemate model tune`: measures a model of a store in its own cage, and writes down what makes it faster: the sizes of its
//! convolutions, for which oneDNN's code can then be made before the model is read; and how many rows pay in one run.
//!
//! The store is looked at and nothing else until `--write` is said. The model runs in servers of a private store, one for each
//! setting; what is measured is what a client of this machine would wait.

mod advice;
mod trial;

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use casemate_config::model::ModelConfig;
use casemate_ipc::convolution::{self, Convolution, Convolutions};
use casemate_ipc::id::{ModelName, Version};
use casemate_manifest::{Batching, Manifest, ManifestError};
use thiserror::Error;

use self::advice::{Advice, Figure};
use self::trial::{Operator, Trial, TrialError};
use crate::escape::short;
use crate::exit::Exit;
use crate::model::entry::MODEL;
use crate::programs::{self, ProgramsError};
use crate::scratch::{Scratch, ScratchError};
use crate::screen::{Screen, Tone};
use crate::stop::Stop;

/// Its arguments.
#[derive(Debug, clap::Args)]
#[command(before_help = EXAMPLES, after_help = NOTES)]
pub(crate) struct Args {
    /// The store's folder
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// The model's name
    name: ModelName,
    /// Its version; the newest where nothing is said
    #[arg(long)]
    version: Option<Version>,
    /// The config whose limits the model gets, and what it says of this model; the defaults where nothing is said
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Most rows in one run that are tried
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    max_batch_size: u32,
    /// Most threads for one operation that are tried; as many as there are CPUs where nothing is said
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    max_threads: Option<u32>,
    /// What free dimensions but the first are; may be said more than once, for a model that takes several sizes
    #[arg(long = "size", value_name = "N", default_values_t = [64])]
    sizes: Vec<u64>,
    /// How far answers may be apart, relative to the largest number in them
    #[arg(long, value_name = "X", default_value_t = 0.001)]
    tolerance: f64,
    /// Write what was found: `model.shapes`; the batch size, the threads that pay and whether to freeze into the manifest
    #[arg(long)]
    write: bool,
}

/// Why a model was not tuned.
#[derive(Debug, Error)]
pub(crate) enum TuneError {
    #[error("cannot watch for Ctrl-C")]
    Signals(#[source] io::Error),
    #[error(transparent)]
    Programs(#[from] ProgramsError),
    #[error("there is no version of {0} in the store")]
    NoVersion(ModelName),
    #[error("cannot read {path:?}")]
    Read {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("cannot write {path:?}")]
    Write {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("the manifest {path:?} is refused")]
    Manifest {
        path: PathBuf,
        #[source]
        cause: ManifestError,
    },
    #[error(transparent)]
    Scratch(#[from] ScratchError),
    #[error(transparent)]
    Trial(#[from] TrialError),
    #[error("with oneDNN the answers are {apart:.1e} apart, and --tolerance is {tolerance:.1e}; nothing was written")]
    Apart { apart: f64, tolerance: f64 },
}

const EXAMPLES: &str = "\
Examples:
  casemate model tune --store /srv/models resnet
  sudo casemate model tune --store /srv/models --config /etc/casemate/casemate.toml --write resnet
  casemate model tune --store /srv/models --size 224 --size 320 detector";

const NOTES: &str = "\
Without --write nothing of the store is changed. `model.shapes` lists numbers alone, and is bound to the model by its digest; \
remove it to be without. The number of threads is the operator's to give: into the manifest goes what pays, and the line for the config is printed.";

/// One model in a store, as it lies there.
#[derive(Debug)]
struct Subject {
    folder: PathBuf,
    manifest: Manifest,
}

pub(crate) fn run(args: &Args, screen: &mut Screen) -> Result<(), TuneError> {
    let launcher = programs::launcher()?;
    let stop = Stop::watch().map_err(TuneError::Signals)?;
    let subject = Subject::find(&args.store, &args.name, args.version.as_ref())?;
    let batched = subject.manifest.signature().is_ok_and(|signature| signature.is_batched());
    let scratch = Scratch::new()?;
    let operator = Operator { name: args.name.clone(), path: args.config.clone() };
    let ModelConfig { caps, cores, instances, .. } = operator.settings(&scratch)?;
    let most = if batched { args.max_batch_size.min(caps.batch_size) } else { 1 };
    let mut copy = subject.copy(&scratch, most)?;
    let trial = |threads, screen: &mut Screen| {
        screen.passing(format_args!("starting a server, {threads} threads for one operation"));
        Trial::start(&launcher, &scratch, &operator, &subject.manifest, threads, &stop)
    };

    // As it is, and frozen: what its answers are to stay near to, and whether freezing pays.
    let mut plain = trial(1, screen)?;
    let answers = args.sizes.iter().map(|size| plain.ask(1, *size)).collect::<Result<Vec<_>, _>>()?;
    copy.freeze(Some(args.tolerance))?;
    let mut frozen = trial(1, screen)?;
    let freezing = plain.against(&mut frozen, args.sizes[0])?;
    plain.stop();
    frozen.stop();
    if !freezing.freezing_pays() {
        copy.freeze(None)?;
    }

    // The first run: no code is made, and what it would have been made for is noted.
    let mut first = trial(1, screen)?;
    for size in &args.sizes {
        first.ask(most, *size)?;
    }
    let convolutions = first.convolutions()?;
    let figures = |trial: &mut Trial, threads, known, screen: &mut Screen| -> Result<Vec<Figure>, TuneError> {
        let mut figures = Vec::new();
        for rows in std::iter::successors(Some(1), |rows| Some(rows * 2)).take_while(|rows| *rows <= most) {
            screen.passing(format_args!("{threads} threads, {rows} rows"));
            figures.push(Figure { threads, known, rows, seconds: trial.measure(rows, args.sizes[0])? });
        }
        Ok(figures)
    };
    let mut all = figures(&mut first, 1, false, screen)?;
    // The one with the threads that pay so far.
    let mut best = (1, first);

    let mut apart: f64 = 0.0;
    let mut list = convolutions;
    let most_threads = args.max_threads.unwrap_or_else(|| threads_at_once(&cores, instances));
    for threads in std::iter::successors(Some(1), |n| Some(n * 2)).take_while(|n| *n <= most_threads) {
        // With more threads oneDNN pays for more of them, so each setting may add to the list; its own run is strict then.
        // What more threads bring is kept only if they pay.
        let (mut list_then, mut apart_then) = (list.clone(), apart);
        if threads > 1 {
            copy.shapes(&list)?;
            let mut strict = trial(threads, screen)?;
            for size in &args.sizes {
                strict.ask(most, *size)?;
            }
            merge(&mut list_then, strict.convolutions()?);
            strict.stop();
        }
        if list_then.is_empty() && threads == 1 {
            continue;
        }
        copy.shapes(&list_then)?;
        let mut known = trial(threads, screen)?;
        for (size, before) in args.sizes.iter().zip(&answers) {
            apart_then = apart_then.max(trial::apart(before, &known.ask(1, *size)?));
        }
        all.extend(figures(&mut known, threads, !list_then.is_empty(), screen)?);
        screen.passing(format_args!("{} threads and {threads} in turns", best.0));
        if threads > 1 && !best.1.against(&mut known, args.sizes[0])?.threads_pay() {
            known.stop();
            break;
        }
        (list, apart) = (list_then, apart_then);
        std::mem::replace(&mut best, (threads, known)).1.stop();
    }
    screen.passing("");
    best.1.stop();
    let advice = Advice::of(&all, best.0);
    show(screen, &subject, &list, &all, &advice, apart);
    screen.line(format_args!(
        "engine.freeze = {}    in the manifest: {:.2} ms for a row, and {:.2} as it is",
        freezing.freezing_pays(),
        freezing.seconds().1 * 1e3,
        freezing.seconds().0 * 1e3,
    ));
    if apart > args.tolerance {
        return Err(TuneError::Apart { apart, tolerance: args.tolerance });
    }
    let freeze = freezing.freezing_pays().then_some(args.tolerance);
    if args.write { write(screen, &subject, &list, &advice, freeze) } else { Ok(()) }
}

/// Threads of one instance that can run at once where the operator lets its worker run.
fn threads_at_once(cores: &[u32], instances: u32) -> u32 {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let cpus = if cores.is_empty() { cpus } else { (cores.len() / instances.max(1) as usize).clamp(1, cpus) };
    u32::try_from(cpus).unwrap_or(1)
}

fn merge(list: &mut Vec<Convolution>, more: Vec<Convolution>) {
    for one in more {
        if let Some(known) = list.iter_mut().find(|known| known.is_like(&one)) {
            known.rows = known.rows.max(one.rows);
        } else if list.len() < convolution::MAX_CONVOLUTIONS {
            list.push(one);
        }
    }
}

fn show(screen: &mut Screen, subject: &Subject, list: &[Convolution], all: &[Figure], advice: &Advice, apart: f64) {
    screen.line(format_args!("{:>7}  {:>5}  {:>8}  {:>9}  {:>9}", "threads", "rows", "oneDNN", "ms", "rows/s"));
    for Figure { threads, known, rows, seconds } in all {
        let (how, ms, speed) = (if *known { "warmed" } else { "off" }, seconds * 1e3, f64::from(*rows) / seconds);
        screen.line(format_args!("{threads:>7}  {rows:>5}  {how:>8}  {ms:>9.2}  {speed:>9.1}"));
    }
    screen.line("");
    let file = short(&subject.folder.join(convolution::FILE).to_string_lossy(), 4096);
    match list.len() {
        0 => screen.line("No convolution of it is one for oneDNN: there is no code to be made, and no model.shapes."),
        count => {
            screen.line(format_args!("{count} convolutions for {file}; the answers are at most {apart:.1e} apart."))
        }
    }
    let batch = subject.manifest.batching.max_batch_size;
    screen.line(format_args!("batching.max_batch_size = {}    in the manifest, now {batch}", advice.rows));
    screen.line(format_args!("engine.threads = {}    in the manifest, as what pays", advice.threads));
    screen.line(format_args!(
        "threads = {}    for the config, under [models.NAME], which alone gives them",
        advice.threads
    ));
}

fn write(
    screen: &mut Screen,
    subject: &Subject,
    list: &[Convolution],
    advice: &Advice,
    freeze: Option<f64>,
) -> Result<(), TuneError> {
    let mut wrote = Vec::new();
    if !list.is_empty() {
        subject.shapes(list)?;
        wrote.push(convolution::FILE);
    }
    let batching = Batching { max_batch_size: advice.rows, ..subject.manifest.batching };
    let manifest = Manifest { batching, freeze, threads: Some(advice.threads), ..subject.manifest.clone() };
    if manifest != subject.manifest {
        let path = subject.folder.join(casemate_manifest::FILE);
        let text = manifest.to_toml().map_err(|cause| TuneError::Manifest { path: path.clone(), cause })?;
        replace(&path, text.as_bytes())?;
        wrote.push(casemate_manifest::FILE);
    }
    let what = if wrote.is_empty() { "nothing: all is as it should be".to_owned() } else { wrote.join(" and ") };
    screen.line(format_args!("{} {what}", screen.tone(Tone::Good, "wrote")));
    Ok(())
}

impl Subject {
    fn find(store: &Path, name: &ModelName, version: Option<&Version>) -> Result<Self, TuneError> {
        let model = store.join(name.as_str());
        let version = match version {
            Some(version) => version.clone(),
            None => {
                let entries = fs::read_dir(&model).map_err(|cause| TuneError::Read { path: model.clone(), cause })?;
                let versions = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<Version>().ok());
                versions.max().ok_or_else(|| TuneError::NoVersion(name.clone()))?
            }
        };
        let folder = model.join(version.as_str());
        let path = folder.join(casemate_manifest::FILE);
        let mut text = String::new();
        let opened = fs::File::open(&path);
        let read = opened.and_then(|file| file.take(casemate_manifest::MAX_BYTES).read_to_string(&mut text));
        read.map_err(|cause| TuneError::Read { path: path.clone(), cause })?;
        let manifest = Manifest::parse(&text).map_err(|cause| TuneError::Manifest { path, cause })?;
        Ok(Self { folder, manifest })
    }

    /// The same in a private store: nobody's requests wait, and none of them rides with another.
    fn copy(&self, scratch: &Scratch, rows: u32) -> Result<Self, TuneError> {
        let folder = scratch.folder(trial::NAME)?;
        let batching = Batching { max_batch_size: rows, max_batch_delay_us: 0 };
        let manifest = Manifest { batching, freeze: None, ..self.manifest.clone() };
        let mut copy = Self { folder, manifest };
        copy.freeze(None)?;
        let folder = &copy.folder;
        let (from, to) = (self.folder.join(MODEL), folder.join(MODEL));
        let copied = fs::File::open(&from).and_then(|mut from| io::copy(&mut from, &mut fs::File::create(&to)?));
        let readable = copied.and_then(|_| fs::set_permissions(&to, fs::Permissions::from_mode(0o644)));
        readable.map_err(|cause| TuneError::Write { path: to, cause })?;
        Ok(copy)
    }

    /// Writes its manifest anew.
    fn freeze(&mut self, freeze: Option<f64>) -> Result<(), TuneError> {
        self.manifest.freeze = freeze;
        let path = self.folder.join(casemate_manifest::FILE);
        let text = self.manifest.to_toml().map_err(|cause| TuneError::Manifest { path: path.clone(), cause })?;
        replace(&path, text.as_bytes())
    }

    /// Writes the sizes down.
    fn shapes(&self, list: &[Convolution]) -> Result<(), TuneError> {
        let all = Convolutions { sha256: self.manifest.sha256, list: list.to_vec() };
        replace(&self.folder.join(convolution::FILE), all.to_string().as_bytes())
    }
}

/// Whole or not at all.
fn replace(path: &Path, text: &[u8]) -> Result<(), TuneError> {
    put(path, text).map_err(|cause| TuneError::Write { path: path.to_owned(), cause })
}

/// Under a name that nobody can have put a link at, for whom the folder belongs to: the launcher of a store that is another
/// user's must be able to read it, and root must not write where that user's link leads.
fn put(path: &Path, text: &[u8]) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::NotFound)?;
    let owner = fs::metadata(folder)?;
    let mut new = tempfile::Builder::new().prefix(".model-").tempfile_in(folder)?;
    new.write_all(text)?;
    new.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    fchown(new.as_file(), Some(owner.uid()), Some(owner.gid()))?;
    new.as_file().sync_all()?;
    new.persist(path).map(drop).map_err(|error| error.error)
}

impl TuneError {
    /// The number for the shell.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Read { cause, .. } | Self::Write { cause, .. } => cause.into(),
            Self::NoVersion(_) => Exit::NoInput,
            Self::Programs(_) | Self::Trial(_) => Exit::Unavailable,
            _ => Exit::Failure,
        }
    }
}
