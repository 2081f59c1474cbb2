//! Another server under the same load, where it is asked for: TorchServe 0.12.0 with the tiny model, one worker, one thread,
//! batches up to the same size, raw tensors in and out. `benches/peers/torchserve.py` starts it.

use std::error::Error;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use casemate_load::Request;
use casemate_load::request::Body;
use casemate_tests::casemate::Setup;
use casemate_tests::client;

use crate::figure::Figure;
use crate::measure::{Target, in_turns};
use crate::model::Model;
use crate::usage;

/// Most rows in a run.
const BATCH: u32 = 64;
/// Columns of the tiny model's input.
const COLUMNS: usize = 16;
/// Bytes of the tiny model's output for one row.
const OUT: usize = 16;

const ROUNDS: usize = 5;
const TURN: Duration = Duration::from_secs(2);

/// How long it may take to start.
const PATIENCE: Duration = Duration::from_secs(180);

/// A running TorchServe; ended with all its processes when dropped.
struct TorchServe {
    child: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

pub(crate) fn torchserve() -> Result<Vec<Figure>, Box<dyn Error>> {
    let title = "tiny, 64 connections: requests/s over TorchServe's";
    let Some(tiny) = Model::made("tiny")? else { return Ok(Vec::new()) };
    let given = std::env::var_os("CASEMATE_PEER_PYTHON").map(PathBuf::from);
    let python = given.unwrap_or_else(|| checkout("target/peers/torchserve/bin/python"));
    let java = Command::new("java").arg("-version").stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if !python.is_file() || !java {
        let missing = if java { "its Python is not there" } else { "there is no `java`" };
        let why = format!("{missing}; benches/peers/requirements.txt says what it takes");
        return Ok(vec![Figure::missing(title, "ratio", why).at_least(7.0)]);
    }
    let setup = Setup::new();
    tiny.put(&setup, "tiny", BATCH)?;
    let casemate = setup.serve();
    let peer = TorchServe::start(&python, &tiny)?;
    let ours = Target::casemate(&casemate, tiny.request("tiny", 1)?);
    let theirs = Target::other(peer.address, usage::tree(peer.child.id()), request());
    let mut figures = Vec::new();
    for (connections, s) in [(1, ""), (64, "s")] {
        let found = in_turns(&[&ours, &theirs], connections, TURN, ROUNDS)?;
        let [ours, theirs] = found.as_slice() else { return Err("two targets".into()) };
        let title = |what: &str| format!("tiny, {connections} connection{s}: {what}");
        figures.push(Figure::micros(title("p50, TorchServe"), theirs.p50));
        figures.push(Figure::new(title("requests/s, TorchServe"), theirs.per_second, "/s"));
        figures.push(Figure::micros(title("server CPU per request, TorchServe"), theirs.cpu));
        let ratio = ours.per_second / theirs.per_second;
        let ratio = Figure::new(title("requests/s over TorchServe's"), ratio, "ratio");
        figures.push(if connections == 64 { ratio.at_least(7.0) } else { ratio });
    }
    Ok(figures)
}

impl TorchServe {
    fn start(python: &std::path::Path, tiny: &Model) -> Result<Self, Box<dyn Error>> {
        let folder = tempfile::Builder::new().prefix("casemate-bench-").tempdir()?;
        // It takes the four ports above this one too.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut command = Command::new(python);
        command.arg(checkout("benches/peers/torchserve.py")).arg(tiny.folder.join("model.pt"));
        command.arg(BATCH.to_string()).arg(folder.path());
        command.args([address.port().to_string(), COLUMNS.to_string()]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let mut peer = Self { child, address, _folder: folder };
        let begun = Instant::now();
        while !peer.answers() {
            if begun.elapsed() > PATIENCE || peer.child.try_wait()?.is_some() {
                return Err("TorchServe does not start".into());
            }
            thread::sleep(Duration::from_millis(200));
        }
        Ok(peer)
    }

    fn answers(&self) -> bool {
        let answer = client::send(self.address, "POST", "/predictions/model", &[], &[0; 4 * COLUMNS]);
        answer.is_ok_and(|answer| answer.status == 200 && answer.body.len() == OUT)
    }
}

impl Drop for TorchServe {
    fn drop(&mut self) {
        for pid in usage::tree(self.child.id()).into_iter().rev() {
            let pid = i32::try_from(pid).map(nix::unistd::Pid::from_raw);
            let _ = pid.map(|pid| nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL));
        }
        let _ = self.child.wait();
    }
}

fn request() -> Request {
    Request::post("bench", "/predictions/model", Body::Plain(&1_f32.to_le_bytes().repeat(COLUMNS)))
}

fn checkout(path: &str) -> PathBuf {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../").parse::<PathBuf>().unwrap_or_default().join(path)
}
