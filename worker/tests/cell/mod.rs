//! A real worker process, born as a launcher would bear it but without a jail around it: no namespaces, no root of its
//! own. The rest of the cage (capabilities, Landlock, both filters) is on.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test may")]

pub(crate) mod jail;
mod manifest;
mod value;

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use casemate_ipc::convolution::Convolution;
use casemate_ipc::frame;
use casemate_ipc::id::{BatchId, ModelId, WorkerId};
use casemate_ipc::launch::{Geometry, Grant, GraphPolicy, RunTimeCode};
use casemate_ipc::layer::Waiver;
use casemate_ipc::seqpacket::{self, Channel, PacketBuffer};
use casemate_ipc::shm::arena::{self, Reader, Writer};
use casemate_ipc::shm::seal;
use casemate_ipc::tensor::Shape;
use casemate_ipc::work::{Declared, Failure, FromWorker, GateCode, Placed, Step, ToWorker};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socketpair};

#[allow(unused_imports, reason = "each test file uses its part")]
pub(crate) use value::{Value, f32s, i64s};

/// What a worker is born with.
pub(crate) struct Birth {
    pub(crate) format: &'static str,
    pub(crate) model: Vec<u8>,
    pub(crate) inputs: Vec<&'static str>,
    pub(crate) outputs: Vec<&'static str>,
    pub(crate) max_batch_size: u32,
    pub(crate) threads: u32,
    pub(crate) instances: u32,
    /// In place of one more than instances.
    pub(crate) slots: Option<u32>,
    pub(crate) slot_bytes: u64,
    pub(crate) run_time_code: RunTimeCode,
    /// Written into the manifest in place of the true one.
    pub(crate) sha256: Option<String>,
    /// In place of the manifest that the fields above make.
    pub(crate) manifest: Option<String>,
    /// Before the program, for watching it; the variable CASEMATE_UNDER, for example `strace -f -o FILE`.
    pub(crate) under: Vec<String>,
    pub(crate) environment: Vec<(&'static str, &'static str)>,
    pub(crate) arguments: Vec<&'static str>,
    /// Which operators the model may use.
    pub(crate) graph: GraphPolicy,
    /// The text of its `model.shapes`.
    pub(crate) shapes: Vec<u8>,
    /// What comes instead of the model's SHA-256.
    pub(crate) digest: Option<Vec<u8>>,
    /// Something open at 10, which should not be.
    pub(crate) leak: bool,
    /// In namespaces and a root of its own, so that the whole cage goes on.
    pub(crate) jailed: bool,
    /// Stopped at its first instruction, for the thread that bears it to watch.
    pub(crate) traced: bool,
    /// Limits of the kernel on it.
    pub(crate) limits: Vec<(Resource, u64)>,
}

/// A worker that runs.
pub(crate) struct Cell {
    child: Child,
    pub(crate) front: Channel<ToWorker, FromWorker>,
    pub(crate) requests: Writer,
    pub(crate) responses: Reader,
    log: File,
    buffer: PacketBuffer,
    born: Instant,
    next: u64,
    status: Option<ExitStatus>,
    /// Convolutions that it met without oneDNN's code.
    pub(crate) met: Vec<Convolution>,
}

impl Birth {
    pub(crate) fn new(format: &'static str, model: Vec<u8>) -> Self {
        Self {
            format,
            model,
            inputs: vec!["x:FP32[-1,4]"],
            outputs: vec!["y:FP32[-1,4]"],
            max_batch_size: 1,
            threads: 1,
            instances: 1,
            slots: None,
            slot_bytes: 1 << 20,
            run_time_code: RunTimeCode::Refused,
            sha256: None,
            manifest: None,
            under: std::env::var("CASEMATE_UNDER").map_or(Vec::new(), |w| w.split(' ').map(str::to_owned).collect()),
            environment: Vec::new(),
            arguments: Vec::new(),
            graph: GraphPolicy::default(),
            shapes: Vec::new(),
            digest: None,
            leak: false,
            jailed: false,
            traced: false,
            limits: Vec::new(),
        }
    }

    pub(crate) fn torch(model: Vec<u8>) -> Self {
        Self::new("torchscript", model)
    }

    pub(crate) fn echo(script: &str) -> Self {
        Self::new("echo", script.as_bytes().to_vec())
    }

    /// Lets the model use these operators, whatever the gate's lists say: the cage is to be met, not the gate.
    pub(crate) fn past_the_gate(mut self, extra_ops: &[&str]) -> Self {
        self.graph = GraphPolicy { open: true, extra_ops: extra_ops.iter().map(|&op| op.to_owned()).collect() };
        self
    }

    pub(crate) fn instances(mut self, instances: u32) -> Self {
        self.instances = instances;
        self
    }

    pub(crate) fn limit(mut self, resource: Resource, most: u64) -> Self {
        self.limits.push((resource, most));
        self
    }

    pub(crate) fn inputs(mut self, inputs: &[&'static str]) -> Self {
        self.inputs = inputs.to_vec();
        self
    }

    pub(crate) fn outputs(mut self, outputs: &[&'static str]) -> Self {
        self.outputs = outputs.to_vec();
        self
    }

    pub(crate) fn spawn(self) -> Cell {
        let geometry = Geometry { slots: self.slots.unwrap_or(self.instances + 1), slot_bytes: self.slot_bytes };
        let (requests, requests_file) = arena::requests(geometry).unwrap();
        let (responses, responses_file) = arena::responses(geometry).unwrap();
        let grant = Grant {
            model: ModelId { name: "test".parse().unwrap(), version: "1".parse().unwrap() },
            worker: WorkerId(7),
            threads: self.threads,
            instances: self.instances,
            cores: Vec::new(),
            requests: geometry,
            responses: geometry,
            waived: if self.jailed { vec![Waiver::OwnIdentity] } else { vec![Waiver::Namespaces, Waiver::OwnIdentity] },
            run_time_code: self.run_time_code,
            graph: self.graph.clone(),
            shapes: self.shapes.clone(),
        };
        let freeze = |name, bytes: &[u8]| seal::freeze(name, bytes, 1 << 30).unwrap();
        let (front, worker) = seqpacket::pair::<ToWorker, FromWorker>().unwrap();
        let mut fds: Vec<OwnedFd> = vec![
            worker.into_socket(),
            seal::read_only(requests_file).unwrap(),
            responses_file,
            freeze("model", &self.model),
            freeze("manifest", self.manifest_text().as_bytes()),
            freeze("grant", &frame::encode(&grant).unwrap()),
            self.promised(),
        ];
        if self.leak {
            fds.push(fs::File::open("/dev/null").unwrap().into());
        }
        let (log, log_end) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
        let fds: Vec<OwnedFd> = fds.into_iter().map(lifted).collect();
        let numbers: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let worker = env!("CARGO_BIN_EXE_casemate-worker").to_owned();
        let mut words = self.under.into_iter().chain([worker]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).args(self.arguments).env_clear().envs(self.environment).stdin(Stdio::null());
        command.stdout(log_end.try_clone().unwrap()).stderr(log_end);
        let (jailed, traced, limits) = (self.jailed, self.traced, self.limits);
        let place = move || {
            if jailed {
                jail::enter()?;
            }
            for (target, fd) in (3..).zip(&numbers) {
                // SAFETY: dup2 is async-signal-safe and touches the child's descriptor table only; every source is above
                // every target, so none is overwritten before it is used.
                if unsafe { libc::dup2(*fd, target) } < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            // Whatever else this process was given by the one that runs the tests.
            let first = 3 + numbers.len() as u32;
            // SAFETY: sets a flag in the child's descriptor table.
            unsafe { libc::close_range(first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as i32) };
            for (resource, most) in &limits {
                setrlimit(*resource, *most, *most)?;
            }
            if traced {
                nix::sys::ptrace::traceme()?;
            }
            Ok(())
        };
        // SAFETY: `place` takes no lock that a thread of this process could hold; glibc keeps its allocator usable in a child.
        unsafe { command.pre_exec(place) };
        let born = Instant::now();
        let child = command.spawn().unwrap();
        Cell {
            child,
            front,
            requests,
            responses,
            log: log.into(),
            buffer: PacketBuffer::default(),
            born,
            next: 1,
            status: None,
            met: Vec::new(),
        }
    }

    /// The end of a launcher's socket that has said its word.
    fn promised(&self) -> OwnedFd {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        let digest =
            self.digest.clone().unwrap_or_else(|| <sha2::Sha256 as sha2::Digest>::digest(&self.model).to_vec());
        if !digest.is_empty() {
            send(ours.as_raw_fd(), &digest, MsgFlags::MSG_NOSIGNAL).unwrap();
        }
        theirs
    }

    /// Spawned, verified, ready.
    pub(crate) fn ready(self) -> Cell {
        let mut cell = self.spawn();
        cell.verified();
        match cell.hear() {
            FromWorker::Ready { .. } => cell,
            other => panic!("{other:?}\n{}", cell.log()),
        }
    }

    /// Spawned, and what the gate said.
    pub(crate) fn gated(self) -> (Cell, GateCode, String) {
        let mut cell = self.spawn();
        loop {
            match cell.hear() {
                FromWorker::Verified { .. } => {}
                FromWorker::Gated { code, detail } => return (cell, code, detail),
                other => panic!("{other:?}\n{}", cell.log()),
            }
        }
    }

    /// Spawned, and what it refused with.
    pub(crate) fn refused(self) -> (Cell, Step, String) {
        let mut cell = self.spawn();
        loop {
            match cell.hear() {
                FromWorker::Verified { .. } => {}
                FromWorker::Refused { step, detail } => return (cell, step, detail),
                other => panic!("{other:?}\n{}", cell.log()),
            }
        }
    }
}

impl Cell {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn age(&self) -> Duration {
        self.born.elapsed()
    }

    /// The next message; none when the worker has gone. What convolutions it met is kept aside.
    pub(crate) fn try_hear(&mut self) -> Option<FromWorker> {
        loop {
            match self.try_hear_any()? {
                FromWorker::Met { convolutions } => self.met.extend(convolutions),
                other => return Some(other),
            }
        }
    }

    /// The next message of any kind.
    pub(crate) fn try_hear_any(&mut self) -> Option<FromWorker> {
        let mut fds = [PollFd::new(self.front.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut fds, PollTimeout::from(60_000u16)).unwrap();
        assert!(ready == 1, "the worker says nothing\n{}", self.log());
        self.front.receive(&mut self.buffer).unwrap()
    }

    pub(crate) fn hear(&mut self) -> FromWorker {
        let heard = self.try_hear();
        heard.unwrap_or_else(|| {
            let status = self.wait();
            panic!("the worker is gone: {status}\n{}", self.log())
        })
    }

    pub(crate) fn verified(&mut self) -> Declared {
        match self.hear() {
            FromWorker::Verified { declared, .. } => declared,
            other => panic!("{other:?}\n{}", self.log()),
        }
    }

    /// Sends a batch in slot 0.
    pub(crate) fn send(&mut self, inputs: &[Value]) -> BatchId {
        self.send_in(0, inputs)
    }

    /// Sends a batch in a slot that no other one is in.
    pub(crate) fn send_in(&mut self, slot: u32, inputs: &[Value]) -> BatchId {
        let mut writer = self.requests.slot(slot).unwrap();
        let place = |value: &Value| {
            writer.place(value.dtype, Shape::new(value.dims.clone()).unwrap(), &[&value.bytes]).unwrap()
        };
        let inputs: Vec<Placed> = inputs.iter().map(place).collect();
        let batch = BatchId(self.next);
        self.next += 1;
        self.front.send(&ToWorker::Run { batch, slot, inputs }).unwrap();
        batch
    }

    pub(crate) fn run(&mut self, inputs: &[Value]) -> Vec<Value> {
        let sent = self.send(inputs);
        match self.hear() {
            FromWorker::Done { batch, outputs, .. } if batch == sent => outputs.iter().map(|p| self.take(p)).collect(),
            other => panic!("{other:?}\n{}", self.log()),
        }
    }

    pub(crate) fn fails(&mut self, inputs: &[Value]) -> (Failure, String) {
        let sent = self.send(inputs);
        match self.hear() {
            FromWorker::Failed { batch, failure, detail } if batch == sent => (failure, detail),
            other => panic!("{other:?}\n{}", self.log()),
        }
    }

    pub(crate) fn take(&self, placed: &Placed) -> Value {
        self.take_from(0, placed)
    }

    pub(crate) fn take_from(&self, slot: u32, placed: &Placed) -> Value {
        let bytes = self.responses.take(slot, placed).unwrap();
        Value { dtype: placed.dtype, dims: placed.shape.dims().to_vec(), bytes }
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        if self.status.is_none() {
            self.status = Some(self.child.wait().unwrap());
        }
        self.status.unwrap()
    }

    pub(crate) fn dies_of(&mut self, signal: i32) {
        while let Some(message) = self.try_hear() {
            let last_words = matches!(message, FromWorker::Verified { .. } | FromWorker::Ready { .. });
            assert!(last_words, "{message:?}\n{}", self.log());
        }
        let status = self.wait();
        assert_eq!(status.signal(), Some(signal), "{status}\n{}", self.log());
    }

    /// Says that nothing more will come; the exit code.
    pub(crate) fn drain(mut self) -> Option<i32> {
        self.front.send(&ToWorker::Drain).unwrap();
        self.wait().code()
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.wait();
    }

    /// What is in its log by now.
    pub(crate) fn log(&mut self) -> String {
        let mut bytes = vec![0; 1 << 20];
        let length = self.log.read(&mut bytes).unwrap_or(0);
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    /// A field of `/proc/PID/status`.
    pub(crate) fn status(&self, field: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.split(':').next() == Some(field));
        line.unwrap_or_else(|| panic!("no {field} in {status}")).split(':').nth(1).unwrap().trim().to_owned()
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        if self.status.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Above every descriptor that a worker is born with.
const LOW: RawFd = 16;

/// The same file at a number where it is not in the way.
fn lifted(file: OwnedFd) -> OwnedFd {
    let number = nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(LOW)).unwrap();
    // SAFETY: the kernel has just made this number for us.
    unsafe { OwnedFd::from_raw_fd(number) }
}
