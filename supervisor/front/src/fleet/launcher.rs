//! The front's end of the launcher's socket. Requests go by name; answers find whoever asked.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use casemate_ipc::id::{ModelId, WorkerId};
use casemate_ipc::launch::{ExitCause, LaunchReply, LaunchRequest};
use casemate_ipc::layer::{Reading, Waiver};
use casemate_ipc::seqpacket::{Channel, ChannelError, PacketBuffer};
use thiserror::Error;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use super::registered;

/// A channel as the front has it.
pub type LaunchChannel = Channel<LaunchRequest, LaunchReply>;

/// What the launcher says first: which models there are, and what the operator goes without.
#[derive(Debug, Clone)]
pub struct Catalogue {
    /// Models that may be started.
    pub models: Vec<ModelId>,
    /// Layers that the operator goes without.
    pub waived: Vec<Waiver>,
}

/// The launcher, for everybody in the front; cheap to clone.
#[derive(Debug, Clone)]
pub struct Launcher {
    channel: Arc<AsyncFd<LaunchChannel>>,
    waiting: Arc<Mutex<Waiting>>,
}

/// A worker that runs.
#[derive(Debug)]
pub struct Started {
    /// Its id.
    pub worker: WorkerId,
    /// Its process id as the launcher sees it.
    pub pid: u32,
    /// Its uid on the host, where it has one of its own.
    pub uid: Option<u32>,
    /// The front's end of its channel.
    pub channel: OwnedFd,
    /// What it prints.
    pub output: OwnedFd,
    /// How it will have ended.
    pub exit: Exit,
    /// Whether its model has a `model.shapes` that it does without.
    pub shapes_left_aside: bool,
}

/// How a worker ended, once it has; can be waited for again and again.
#[derive(Debug)]
pub struct Exit {
    coming: Option<oneshot::Receiver<ExitCause>>,
    cause: Option<ExitCause>,
}

/// Why there is no worker.
#[derive(Debug, Error)]
pub enum LaunchError {
    /// The launcher says no.
    #[error("{reason}")]
    Refused {
        /// Why.
        reason: String,
        /// Whether a later try could end otherwise.
        retry: bool,
    },
    /// There is no launcher any more.
    #[error("the launcher is gone")]
    Gone,
}

#[derive(Debug, Default)]
struct Waiting {
    starts: BTreeMap<ModelId, oneshot::Sender<Result<Started, LaunchError>>>,
    exits: BTreeMap<WorkerId, oneshot::Sender<ExitCause>>,
    attests: BTreeMap<WorkerId, oneshot::Sender<Vec<Reading>>>,
}

/// Reads the catalogue; blocks, before there is a runtime.
pub fn read_catalogue(channel: &LaunchChannel) -> Result<Catalogue, ChannelError> {
    let mut buffer = PacketBuffer::default();
    let mut models = Vec::new();
    loop {
        let closed = || ChannelError::Socket(io::ErrorKind::UnexpectedEof.into());
        match channel.receive(&mut buffer)?.ok_or_else(closed)? {
            LaunchReply::Model { model } => models.push(model),
            LaunchReply::Catalogue { models: sent, waived } if sent as usize == models.len() => {
                return Ok(Catalogue { models, waived });
            }
            _ => return Err(ChannelError::Socket(io::Error::other("the launcher's first words are not a catalogue"))),
        }
    }
}

impl Exit {
    /// Waits for the end; `None` if the launcher is gone and nobody will ever know. Safe to drop half way.
    pub async fn wait(&mut self) -> Option<ExitCause> {
        if let Some(coming) = &mut self.coming {
            self.cause = coming.await.ok();
            self.coming = None;
        }
        self.cause.clone()
    }
}

impl Launcher {
    /// Takes the channel over; needs a runtime.
    pub fn new(channel: LaunchChannel) -> io::Result<Self> {
        channel.set_nonblocking()?;
        Ok(Self { channel: Arc::new(registered::register(channel)?), waiting: Arc::default() })
    }

    /// Hands answers out until the launcher is gone.
    pub async fn listen(&self) -> ChannelError {
        let mut buffer = PacketBuffer::default();
        let error = loop {
            let mut ready = match self.channel.readable().await {
                Ok(ready) => ready,
                Err(error) => break error.into(),
            };
            match ready.get_inner().receive_with::<2>(&mut buffer) {
                Ok(Some((reply, fds))) => self.deliver(reply, fds),
                Ok(None) => break ChannelError::Socket(io::ErrorKind::UnexpectedEof.into()),
                Err(ChannelError::Socket(e)) if e.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) => break error,
            }
        };
        // Whoever waits is told by the drop of its sender.
        *self.waiting() = Waiting::default();
        error
    }

    /// Asks for a worker. One start for a model at a time: its supervisor is the only one who asks.
    pub async fn start(&self, model: &ModelId, arenas: &[OwnedFd; 2]) -> Result<Started, LaunchError> {
        let (sender, receiver) = oneshot::channel();
        self.waiting().starts.insert(model.clone(), sender);
        let request = LaunchRequest::Start { model: model.clone() };
        let [requests, responses] = arenas;
        loop {
            let mut ready = self.channel.writable().await.map_err(|_| LaunchError::Gone)?;
            match ready.get_inner().send_with(&request, &[requests.as_fd(), responses.as_fd()]) {
                Ok(()) => break,
                Err(ChannelError::Socket(e)) if e.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(_) => return Err(LaunchError::Gone),
            }
        }
        receiver.await.unwrap_or(Err(LaunchError::Gone))
    }

    /// Has a worker killed; its exit comes as usual.
    pub async fn kill(&self, worker: WorkerId) {
        self.send(&LaunchRequest::Kill { worker }).await;
    }

    /// Reads a worker's cage from the kernel; empty if it is gone.
    pub async fn attest(&self, worker: WorkerId) -> Vec<Reading> {
        let (sender, receiver) = oneshot::channel();
        self.waiting().attests.insert(worker, sender);
        self.send(&LaunchRequest::Attest { worker }).await;
        receiver.await.unwrap_or_default()
    }

    async fn send(&self, request: &LaunchRequest) {
        // An error means that the launcher is gone, which `listen` reports; there is nothing to do here.
        while let Ok(mut ready) = self.channel.writable().await {
            match ready.get_inner().send(request) {
                Err(ChannelError::Socket(e)) if e.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                _ => return,
            }
        }
    }

    fn deliver(&self, reply: LaunchReply, fds: Vec<OwnedFd>) {
        let mut waiting = self.waiting();
        match reply {
            LaunchReply::Started { model, worker, pid, uid, spawn_us: _, shapes_left_aside } => {
                let asked = waiting.starts.remove(&model);
                let Ok([channel, output]) = <[OwnedFd; 2]>::try_from(fds) else {
                    tracing::error!(%model, %worker, "the launcher sent a worker without its two descriptors");
                    return;
                };
                let (sender, coming) = oneshot::channel();
                let exit = Exit { coming: Some(coming), cause: None };
                waiting.exits.insert(worker, sender);
                // Nobody there any more: the worker sees its channel close and ends.
                if let Some(asked) = asked {
                    let _ = asked.send(Ok(Started { worker, pid, uid, channel, output, exit, shapes_left_aside }));
                }
            }
            LaunchReply::Refused { model, reason, retry } => {
                if let Some(asked) = waiting.starts.remove(&model) {
                    let _ = asked.send(Err(LaunchError::Refused { reason, retry }));
                }
            }
            LaunchReply::Exited { worker, cause } => {
                waiting.attests.remove(&worker);
                if let Some(waits) = waiting.exits.remove(&worker) {
                    let _ = waits.send(cause);
                }
            }
            LaunchReply::Attested { worker, readings } => {
                if let Some(asked) = waiting.attests.remove(&worker) {
                    let _ = asked.send(readings);
                }
            }
            LaunchReply::Model { .. } | LaunchReply::Catalogue { .. } => {
                tracing::warn!("the launcher sent its catalogue twice");
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
