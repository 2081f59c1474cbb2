//! `casemate demo`: a small real model on loopback, asked something, with the cage around it shown.
//!
//! The order: a private folder, the model put into a store there as `model add` would, a config, the launcher as a child,
//! wait until ready, ask, show. Whatever way it ends, the launcher is ended first and the folder removed after it.

mod client;
mod draw;
mod report;
mod sample;
pub(crate) mod server;

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use casemate_config::Config;
use casemate_ipc::layer::Waiver;
use casemate_manifest::{Manifest, ManifestError};
use nix::unistd::geteuid;
use thiserror::Error;

use crate::demo::client::{Client, ClientError};
use crate::demo::sample::{Sample, SampleError};
use crate::demo::server::{Server, ServerError};
use crate::exit::Exit;
use crate::model::entry::{Declaration, Entry, EntryError};
use crate::programs::{self, ProgramsError};
use crate::scratch::private_folder;
use crate::screen::{Screen, Tone};
use crate::stop::Stop;

/// The model, as `packaging/demo/train.py` wrote it.
const MODEL: &[u8] = include_bytes!("../../../packaging/demo/store/digits/1/model.pt");
/// Its manifest.
const MANIFEST: &str = include_str!("../../../packaging/demo/store/digits/1/model.toml");
/// Its name in the store.
const NAME: &str = "digits";
/// How long a worker may take to get ready: libtorch alone takes a second or two, cold disks more.
const READY: Duration = Duration::from_secs(60);
/// Pause between two looks at something.
const PAUSE: Duration = Duration::from_millis(50);

/// Its arguments.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:\n  casemate demo\n  casemate demo --once && echo the cage holds", after_help = NOTES)]
pub(crate) struct Args {
    /// End after one answer; the exit code is 0 if it was right and every layer of the cage in force
    #[arg(long)]
    once: bool,
    /// Port on 127.0.0.1; a free one where nothing is said
    #[arg(long, value_name = "N", default_value_t = 0)]
    port: u16,
}

/// Why there is no demo.
#[derive(Debug, Error)]
pub(crate) enum DemoError {
    #[error(transparent)]
    Programs(#[from] ProgramsError),
    #[error("cannot watch for Ctrl-C")]
    Signals(#[source] io::Error),
    #[error("cannot make a folder for the demo")]
    Folder(#[source] io::Error),
    #[error("the model that comes with this program is not the one that its manifest names")]
    Digest,
    #[error("the manifest that comes with this program")]
    Manifest(#[source] ManifestError),
    #[error("the digits that come with this program")]
    Samples(#[from] SampleError),
    #[error("the demo's store")]
    Entry(#[from] EntryError),
    #[error("the demo's config")]
    Config(#[source] io::Error),
    #[error("{error}{lines}")]
    Server { error: ServerError, lines: String },
    #[error("the server's answer")]
    Client(#[from] ClientError),
    #[error("interrupted")]
    Interrupted,
}

const NOTES: &str = "\
Everything is in a folder of its own that is removed at the end, and only this machine can reach the server. As root \
every worker has a uid and a control group of its own; as an ordinary user these are missing, and the demo says so.";

pub(crate) fn run(args: &Args, screen: &mut Screen) -> Result<Exit, DemoError> {
    let launcher = programs::launcher()?;
    let stop = Stop::watch().map_err(DemoError::Signals)?;
    let folder = private_folder().map_err(DemoError::Folder)?;
    let manifest = fill(&folder.path().join("store"))?;
    // What an ordinary user lacks everywhere, and almost everywhere. What it has is put on, waived or not.
    let waived: &[Waiver] = if geteuid().is_root() { &[] } else { &[Waiver::OwnIdentity, Waiver::Cgroup] };
    let config = folder.path().join("casemate.toml");
    write_config(&config, args.port, waived).map_err(DemoError::Config)?;

    screen.line("Casemate demo: a classifier of handwritten digits, in a locked-down process of its own.");
    if !waived.is_empty() {
        let text = "This is not root, so the worker shares your uid and, unless one was delegated to you, has no control\n\
                    group: the demo's config accepts that (sandbox.accept_missing = [\"own-identity\", \"cgroup\"]).\n\
                    Run it as root to see every layer.";
        screen.line(screen.tone(Tone::Warn, text));
    }

    let mut server = Server::start(&launcher, &config, &folder.path().join("launcher.log"))
        .map_err(|error| DemoError::Server { error, lines: String::new() })?;
    let shown = show(screen, &mut server, &manifest, waived, &stop);
    let result = match shown {
        Ok(good) if args.once => Ok(if good { Exit::Success } else { Exit::Failure }),
        Ok(_) => serve_on(screen, &mut server, &stop),
        // What the launcher said is of use only where it is at fault.
        Err(DemoError::Server { error, .. }) => Err(DemoError::Server { error, lines: server.last_lines() }),
        Err(e) => Err(e),
    };
    server.stop();
    drop(folder);
    result
}

/// Asks, and shows the answer and the cage; true where the answer is right and the cage whole.
fn show(
    screen: &mut Screen,
    server: &mut Server,
    manifest: &Manifest,
    waived: &[Waiver],
    stop: &Stop,
) -> Result<bool, DemoError> {
    let began = Instant::now();
    let address = wait(server, stop, Server::address, "the launcher to say where it listens")?;
    let client = Client::new(address);
    let ready = |_: &mut Server| {
        // A model that has been given up will never be ready; a server that does not answer yet will be asked again.
        let failed = || client.status(NAME, "1").ok()?.failed;
        client.is_ready(NAME).then_some(Ok(())).or_else(|| failed().map(Err))
    };
    wait(server, stop, ready, "the model to get ready")?
        .map_err(|reason| DemoError::Server { error: ServerError::GivenUp(reason), lines: String::new() })?;
    let line = format!("Ready at http://{address} after {:.1} s.", began.elapsed().as_secs_f64());
    screen.line(screen.tone(Tone::Quiet, line));
    screen.line("");

    let samples = sample::all()?;
    let input = manifest.inputs.first().ok_or(DemoError::Digest)?;
    let first = ask(&client, input, &samples[0])?;
    let rest: Vec<Asked> = samples.iter().map(|sample| ask(&client, input, sample)).collect::<Result<_, _>>()?;
    report::answer(screen, &samples[0], &first);
    report::times(screen, &first, &rest);

    let status =
        wait(server, stop, |_| client.status(NAME, "1").ok().filter(|s| !s.cage.is_empty()), "the cage's status")?;
    let whole = report::cage(screen, &status, waived);
    screen.line("");
    screen.line("Try it:");
    let url = format!("http://{address}/v2/models/{NAME}/infer");
    screen.line(format_args!("  {}", sample::request(input, &samples[0]).curl(&url)));
    Ok(whole && first.digit == i64::from(samples[0].label))
}

fn serve_on(screen: &mut Screen, server: &mut Server, stop: &Stop) -> Result<Exit, DemoError> {
    screen.line("");
    screen.line("Serving until Ctrl-C.");
    while !stop.asked() {
        if let Some(error) = server.ended() {
            return Err(DemoError::Server { error, lines: server.last_lines() });
        }
        std::thread::sleep(PAUSE);
    }
    screen.line("Stopping.");
    Ok(Exit::Success)
}

/// One question and its answer.
#[derive(Debug)]
struct Asked {
    digit: i64,
    scores: Vec<f64>,
    right: bool,
    took: Duration,
}

fn ask(client: &Client, input: &casemate_ipc::tensor::TensorSpec, sample: &Sample) -> Result<Asked, ClientError> {
    let body = sample::request(input, sample).to_json();
    let began = Instant::now();
    let answer = client.infer(NAME, body.as_bytes())?;
    let took = began.elapsed();
    Ok(Asked { digit: answer.digit, scores: answer.scores, right: answer.digit == i64::from(sample.label), took })
}

fn wait<T>(
    server: &mut Server,
    stop: &Stop,
    mut look: impl FnMut(&mut Server) -> Option<T>,
    what: &'static str,
) -> Result<T, DemoError> {
    let fault = |error| DemoError::Server { error, lines: String::new() };
    let until = Instant::now() + READY;
    loop {
        if let Some(found) = look(server) {
            return Ok(found);
        }
        if stop.asked() {
            return Err(DemoError::Interrupted);
        }
        if let Some(error) = server.ended() {
            return Err(fault(error));
        }
        if Instant::now() > until {
            return Err(fault(ServerError::Late { what, seconds: READY.as_secs() }));
        }
        std::thread::sleep(PAUSE);
    }
}

fn fill(store: &Path) -> Result<Manifest, DemoError> {
    let Manifest { format: _, sha256, inputs, outputs, batching, limits, freeze: _, threads: _ } =
        Manifest::parse(MANIFEST).map_err(DemoError::Manifest)?;
    let declaration = Declaration { inputs, outputs, batching, limits };
    let name = NAME.parse().map_err(|_| DemoError::Digest)?;
    let entry = Entry::write(store, &name, None, &declaration, &mut { MODEL })?;
    if entry.manifest.sha256 == sha256 { Ok(entry.manifest) } else { Err(DemoError::Digest) }
}

fn write_config(path: &Path, port: u16, waived: &[Waiver]) -> io::Result<()> {
    let store = path.with_file_name("store");
    let store = store.to_str().ok_or_else(|| io::Error::other("the folder's name is not UTF-8"))?;
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port)).to_string();
    let waived: Vec<toml::Value> = waived.iter().map(|w| w.name().into()).collect();
    let table = |key: &str, value: toml::Value| toml::Value::from(toml::Table::from_iter([(key.to_owned(), value)]));
    let config = toml::Table::from_iter([
        ("store".to_owned(), store.into()),
        ("listen".to_owned(), table("inference", listen.into())),
        ("sandbox".to_owned(), table("accept_missing", waived.into())),
        // Nobody's long request is at stake here.
        ("limits".to_owned(), table("drain_ms", 2000.into())),
    ]);
    let text = toml::to_string(&config).map_err(io::Error::other)?;
    Config::parse(&text).map_err(io::Error::other)?;
    fs::write(path, text)
}

// === impl DemoError ===

impl DemoError {
    /// The number for the shell.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Programs(_) | Self::Server { .. } | Self::Client(_) => Exit::Unavailable,
            Self::Folder(cause) => cause.into(),
            _ => Exit::Failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_and_the_config_that_come_along_are_good() {
        let folder = private_folder().unwrap();
        let manifest = fill(&folder.path().join("store")).unwrap();
        assert_eq!(manifest.inputs[0].dims, [None, Some(64)]);
        let path = folder.path().join("casemate.toml");
        write_config(&path, 0, &[Waiver::OwnIdentity]).unwrap();
        let config = Config::parse(&fs::read_to_string(path).unwrap()).unwrap();
        assert!(config.waives(Waiver::OwnIdentity));
        assert_eq!(config.inference.to_string(), "127.0.0.1:0");
        assert_eq!(config.store(), folder.path().join("store"));
    }
}
