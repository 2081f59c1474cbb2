//! A launcher that is this test: it starts the real `casemate-front` with the descriptors that it is born with, and gives
//! it workers that are threads of the test ([`Puppet`]), with no cage around them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use casemate_config::Config;
use casemate_ipc::id::{ModelId, WorkerId};
use casemate_ipc::launch::{ExitCause, LaunchReply, LaunchRequest};
use casemate_ipc::layer::{Layer, Reading};
use casemate_ipc::seqpacket::{self, Channel, PacketBuffer};
use casemate_ipc::shm::seal;
use casemate_ipc::work::{FromWorker, ToWorker};
use nix::sys::socket::{Shutdown, shutdown};
use serde_json::{Value, json};

use crate::casemate::{ORDINARY, is_root};
use crate::client::{self, Answer};
use crate::puppet::Puppet;
use crate::{process, stage};

/// What the workers of a model do, one after the other.
pub type Part = Arc<dyn Fn(Puppet) + Send + Sync>;

/// A front with puppets for workers; ended when dropped.
#[derive(Debug)]
pub struct FakeLauncher {
    front: Child,
    /// Where the front listens.
    pub address: SocketAddr,
    /// Kills that the front has asked for, by model.
    pub kills: Arc<Mutex<BTreeMap<String, u32>>>,
    folder: tempfile::TempDir,
}

type Sending = Arc<Channel<LaunchReply, LaunchRequest>>;

impl FakeLauncher {
    /// Starts a front for these models. `limits` are lines of the config's table.
    pub fn start(parts: Vec<(&str, Part)>, limits: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("casemate-fake-").tempdir().expect("a temporary folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("chmod");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let text = format!(
            "store = \"/nowhere\"\n[limits]\nrequest_bytes = 65536\nresponse_bytes = 65536\nstart_attempts = 1000\n{limits}\n"
        );
        let config = Config::parse(&text).expect("a config");
        let (ours, theirs) = seqpacket::pair::<LaunchReply, LaunchRequest>().expect("a channel");
        let frozen = seal::freeze("config", text.as_bytes(), 1 << 20).expect("a config in memory");
        let front = born([theirs.into_socket(), listener.into(), frozen], folder.path().join("log"));
        let parts: BTreeMap<String, Part> = parts.into_iter().map(|(name, part)| (name.to_owned(), part)).collect();
        let ours = Arc::new(ours);
        for name in parts.keys() {
            ours.send(&LaunchReply::Model { model: id(name) }).expect("a catalogue");
        }
        let models = u32::try_from(parts.len()).expect("a few models");
        ours.send(&LaunchReply::Catalogue { models, waived: Vec::new() }).expect("a catalogue");
        let kills = Arc::default();
        let house = House { ours, parts, config, kills: Arc::clone(&kills), workers: BTreeMap::new() };
        std::thread::spawn(move || house.run());
        Self { front, address, kills, folder }
    }

    /// The front's process.
    pub fn front(&self) -> u32 {
        self.front.id()
    }

    /// Whether it still is the process that was started.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.front.try_wait(), Ok(None))
    }

    /// Descriptors that the front holds; nothing where this user may not look.
    pub fn descriptors(&self) -> usize {
        process::descriptors(self.front()).len()
    }

    /// The front's own memory, in KiB: not what it shares with its workers.
    pub fn memory(&self) -> u64 {
        let status = process::status(self.front());
        status.get("RssAnon").and_then(|text| text.split(' ').next()?.parse().ok()).expect("RssAnon")
    }

    /// One row of the usual shape.
    pub fn row(&self, model: &str, row: [f32; 4]) -> Answer {
        let body = json!({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": row}]}).to_string();
        let path = format!("/v2/models/{model}/infer");
        client::send(self.address, "POST", &path, &[("content-type", "application/json")], body.as_bytes())
            .unwrap_or_else(|error| panic!("{model}: {error}\n{}", self.log()))
    }

    /// A model's status.
    pub fn status(&self, model: &str) -> Value {
        let path = format!("/casemate/v1/models/{model}/versions/1");
        client::send(self.address, "GET", &path, &[], b"").map_or(Value::Null, |answer| answer.json())
    }

    /// What the front has logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.path().join("log")).unwrap_or_default()).into_owned()
    }

    /// Waits, or fails with the front's log.
    pub fn wait_until(&self, what: &str, time: Duration, mut holds: impl FnMut() -> bool) {
        let until = Instant::now() + time;
        while !holds() {
            let log = self.log();
            let tail = &log[log.floor_char_boundary(log.len().saturating_sub(4000))..];
            assert!(Instant::now() < until, "{what} did not come to be\n{tail}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for FakeLauncher {
    fn drop(&mut self) {
        let _ = self.front.kill();
        let _ = self.front.wait();
    }
}

/// A shell puts the three descriptors where a front expects them: they come as its standard streams.
fn born([channel, listener, config]: [OwnedFd; 3], log: PathBuf) -> Child {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "exec \"$0\" 3<&0 4<&1 5<&2 0</dev/null 1>/dev/null 2>\"$1\""]);
    command.arg(stage::reachable("casemate-front")).arg(log).env_clear();
    command.stdin(channel).stdout(listener).stderr(config);
    if is_root() {
        command.uid(ORDINARY).gid(ORDINARY);
    }
    command.spawn().expect("casemate-front starts")
}

fn id(name: &str) -> ModelId {
    ModelId { name: name.parse().expect("a name"), version: "1".parse().expect("a version") }
}

/// The launcher's side of the channel, and its workers.
struct House {
    ours: Sending,
    parts: BTreeMap<String, Part>,
    config: Config,
    kills: Arc<Mutex<BTreeMap<String, u32>>>,
    workers: BTreeMap<WorkerId, Worker>,
}

struct Worker {
    model: String,
    killed: Arc<AtomicBool>,
    gone: Arc<AtomicBool>,
    /// The worker's end, kept to cut it off.
    socket: OwnedFd,
}

impl House {
    fn run(mut self) {
        let mut buffer = PacketBuffer::default();
        let (next, mut born) = (AtomicU64::new(1), BTreeMap::<String, AtomicU32>::new());
        while let Ok(Some((request, fds))) = self.ours.receive_with::<2>(&mut buffer) {
            match request {
                LaunchRequest::Start { model } => {
                    let worker = WorkerId(next.fetch_add(1, Ordering::Relaxed));
                    let before = born.entry(model.name.to_string()).or_default().fetch_add(1, Ordering::Relaxed);
                    self.start(model, worker, before, fds);
                }
                LaunchRequest::Kill { worker } => self.kill(worker),
                LaunchRequest::Attest { worker } => {
                    let reading = |layer| Reading { layer, in_force: true, evidence: "claimed by a test".to_owned() };
                    let readings = Layer::ALL.map(reading).to_vec();
                    let _ = self.ours.send(&LaunchReply::Attested { worker, readings });
                }
            }
        }
    }

    fn start(&mut self, model: ModelId, worker: WorkerId, before: u32, fds: Vec<OwnedFd>) {
        let Ok([requests, responses]) = <[OwnedFd; 2]>::try_from(fds) else { return };
        let requests = seal::read_only(requests).expect("a request arena");
        let (front, channel) = seqpacket::pair::<ToWorker, FromWorker>().expect("a channel");
        let (log, print) = nix::unistd::pipe().expect("a pipe");
        let (killed, gone) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let duplicate = || channel.as_fd().try_clone_to_owned().expect("a duplicate");
        let (socket, end) = (duplicate(), duplicate());
        let geometry = self.config.requests_of(&self.config.model(&model.name));
        let puppet = Puppet::new(before, channel, [requests, responses, print], geometry, Arc::clone(&killed));
        let name = model.name.to_string();
        let part = Arc::clone(&self.parts[&name]);
        let started = LaunchReply::Started {
            model,
            worker,
            pid: std::process::id(),
            uid: None,
            spawn_us: 1,
            shapes_left_aside: false,
        };
        let _ = self.ours.send_with(&started, &[front.as_fd(), log.as_fd()]);
        self.workers.insert(worker, Worker { model: name, killed, gone: Arc::clone(&gone), socket });
        self.workers.retain(|_, worker| !worker.gone.load(Ordering::Acquire));
        let ours = Arc::clone(&self.ours);
        std::thread::spawn(move || {
            part(puppet);
            // As its death would: the duplicates that are left keep nothing open, and who is dying cannot be killed.
            let last = !gone.swap(true, Ordering::AcqRel);
            let _ = shutdown(end.as_raw_fd(), Shutdown::Both);
            if last {
                let _ = ours.send(&LaunchReply::Exited { worker, cause: ExitCause::Exited(0) });
            }
        });
    }

    fn kill(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.remove(&id) else { return };
        *self.kills.lock().expect("kills").entry(worker.model).or_default() += 1;
        worker.killed.store(true, Ordering::Release);
        let _ = shutdown(worker.socket.as_raw_fd(), Shutdown::Both);
        if !worker.gone.swap(true, Ordering::AcqRel) {
            let _ = self.ours.send(&LaunchReply::Exited { worker: id, cause: ExitCause::Killed });
        }
    }
}

/// Writes to a puppet's log pipe.
pub fn print(puppet: &Puppet, text: &[u8]) {
    let copy = puppet.log.try_clone().expect("a duplicate");
    let _ = File::from(copy).write_all(text);
}
