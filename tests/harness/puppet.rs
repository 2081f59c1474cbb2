//! A worker outside the cage: a thread of the test that has a worker's end of the channel, its arenas and its log pipe, and
//! may do with them whatever it likes.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use casemate_ipc::frame;
use casemate_ipc::id::BatchId;
use casemate_ipc::launch::Geometry;
use casemate_ipc::seqpacket::{Channel, PacketBuffer};
use casemate_ipc::shm::arena::{Reader, Writer};
use casemate_ipc::tensor::{ModelSignature, TensorSpec};
use casemate_ipc::work::{Declared, FromWorker, Inside, Placed, ToWorker};
use nix::sys::socket::{ControlMessage, MsgFlags, Shutdown, sendmsg, shutdown};

/// What a worker has, and who it is.
#[derive(Debug)]
pub struct Puppet {
    /// How many of this model came before it.
    pub incarnation: u32,
    /// Its end of the channel.
    pub channel: Channel<FromWorker, ToWorker>,
    /// The request arena.
    pub requests: OwnedFd,
    /// The response arena.
    pub responses: OwnedFd,
    /// The write end of its log pipe.
    pub log: OwnedFd,
    /// The cut of both arenas.
    pub geometry: Geometry,
    /// Set once the front has asked for its death.
    pub killed: Arc<AtomicBool>,
    buffer: PacketBuffer,
}

/// A batch that came.
#[derive(Debug, Clone)]
pub struct Run {
    /// Its id.
    pub batch: BatchId,
    /// Its slot.
    pub slot: u32,
    /// Its inputs.
    pub inputs: Vec<Placed>,
}

impl Puppet {
    /// A worker that has just been started.
    pub fn new(
        incarnation: u32,
        channel: Channel<FromWorker, ToWorker>,
        [requests, responses, log]: [OwnedFd; 3],
        geometry: Geometry,
        killed: Arc<AtomicBool>,
    ) -> Self {
        Self { incarnation, channel, requests, responses, log, geometry, killed, buffer: PacketBuffer::default() }
    }

    /// Says what it should; false once the front is gone.
    pub fn say(&self, message: &FromWorker) -> bool {
        self.channel.send(message).is_ok()
    }

    /// Sends any bytes.
    pub fn raw(&self, packet: &[u8]) -> bool {
        self.with_rights(packet, &[])
    }

    /// Sends any bytes with descriptors.
    pub fn with_rights(&self, packet: &[u8], rights: &[RawFd]) -> bool {
        let rights = [ControlMessage::ScmRights(rights)];
        let empty = matches!(rights[0], ControlMessage::ScmRights(raw) if raw.is_empty());
        self.post(packet, if empty { &[] } else { &rights })
    }

    /// Sends any bytes with any control messages.
    pub fn post(&self, packet: &[u8], control: &[ControlMessage<'_>]) -> bool {
        let socket = self.channel.as_raw_fd();
        sendmsg::<()>(socket, &[IoSlice::new(packet)], control, MsgFlags::MSG_NOSIGNAL, None).is_ok()
    }

    /// The next message; nothing once the front is gone.
    pub fn hear(&mut self) -> Option<ToWorker> {
        self.channel.receive_plain(&mut self.buffer).ok().flatten()
    }

    /// Answers pings until a batch comes; nothing once the front is gone or wants it to go.
    pub fn next_run(&mut self) -> Option<Run> {
        loop {
            match self.hear()? {
                ToWorker::Run { batch, slot, inputs } => return Some(Run { batch, slot, inputs }),
                ToWorker::Ping { token } => _ = self.say(&FromWorker::Pong { token }),
                ToWorker::Drain => return None,
            }
        }
    }

    /// Says what an honest worker says first.
    pub fn begin(&self) {
        self.say(&FromWorker::Verified { declared: declared(), inside: inside() });
        self.say(&FromWorker::Ready { load_us: 1 });
    }

    /// The honest answer: the output is the input.
    pub fn answer(&self, run: &Run) -> FromWorker {
        let requests = Reader::open(&self.requests, self.geometry).expect("the request arena");
        let responses = Writer::open(&self.responses, self.geometry).expect("the response arena");
        let mut slot = responses.slot(run.slot).expect("a slot");
        let place = |placed: &Placed| {
            let data = requests.take(run.slot, placed).expect("an input");
            slot.place(placed.dtype, placed.shape.clone(), &[&data]).expect("room for an output")
        };
        FromWorker::Done { batch: run.batch, outputs: run.inputs.iter().map(place).collect(), run_us: 1 }
    }

    /// Serves honestly until the front is gone.
    pub fn serve(&mut self) {
        while let Some(run) = self.next_run() {
            let answer = self.answer(&run);
            self.say(&answer);
        }
    }

    /// One honest answer, then the next batch: a lie has its control.
    pub fn honest_once(&mut self) -> Option<Run> {
        self.begin();
        let run = self.next_run()?;
        let answer = self.answer(&run);
        self.say(&answer);
        self.next_run()
    }

    /// Stays until the front has had it killed; whether it was within ten seconds.
    pub fn linger(&self) -> bool {
        let until = Instant::now() + Duration::from_secs(10);
        while !self.killed.load(Ordering::Acquire) {
            if Instant::now() > until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        true
    }

    /// Closes a direction of its channel and stays.
    pub fn close(&self, how: Shutdown) {
        let _ = shutdown(self.channel.as_raw_fd(), how);
    }
}

/// What a worker in a whole cage says of it.
pub fn inside() -> Inside {
    Inside {
        no_new_privs: true,
        non_dumpable: true,
        seccomp_mode: 2,
        empty_root: true,
        no_capabilities: true,
        landlock_abi: Some(7),
        landlock_complete: true,
        no_exec_gain: true,
    }
}

/// What every honest puppet declares: `x:FP32[-1,4]` to `y:FP32[-1,4]`, two seconds to answer. Each has bytes of its own, as
/// all models with the same bytes share one breaker.
pub fn declared() -> Declared {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut sha256 = [7; 32];
    sha256[..8].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    let spec = |text: &str| text.parse::<TensorSpec>().expect("a declaration");
    Declared {
        signature: ModelSignature::new(vec![spec("x:f32[-1,4]")], vec![spec("y:f32[-1,4]")]).expect("a signature"),
        non_finite: vec![false],
        max_batch_size: 1,
        max_batch_delay_us: 0,
        deadline_ms: 2000,
        sha256,
        platform: "puppet".to_owned(),
    }
}

/// An answer as bytes, to be spoilt.
pub fn packet(message: &FromWorker) -> Vec<u8> {
    frame::encode(message).expect("a small frame")
}
