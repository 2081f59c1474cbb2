//! The front's end of one worker: its socket, as an async channel, and its arenas.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use casemate_ipc::seqpacket::{Channel, ChannelError, PacketBuffer};
use casemate_ipc::shm::arena::{ArenaError, Reader, Writer};
use casemate_ipc::tensor::{DType, Shape};
use casemate_ipc::work::{Declared, FromWorker, MAX_DETAIL, Placed, ToWorker};
use thiserror::Error;
use tokio::io::unix::AsyncFd;
use tokio::task::yield_now;

use super::registered;
use super::sanitise::{Unbelieved, sanitise};
use crate::batch::job::Tensors;
use crate::desk::{Desk, Undone};

/// One worker's channel and memory.
#[derive(Debug)]
pub struct Link {
    channel: AsyncFd<Channel<ToWorker, FromWorker>>,
    /// Where batches go.
    requests: Arc<Writer>,
    /// Where answers come.
    responses: Arc<Reader>,
    /// Where large ones are copied.
    desk: Desk,
    buffer: PacketBuffer,
}

/// One input of a run.
#[derive(Debug)]
pub struct Load {
    /// Its type.
    pub dtype: DType,
    /// Its shape, over all parts.
    pub shape: Shape,
    /// Its bytes, in order.
    pub parts: Vec<Bytes>,
}

/// Why nothing more can come over a link.
#[derive(Debug, Error)]
pub enum LinkError {
    /// The worker is gone; the launcher knows why.
    #[error("the channel is closed")]
    Closed,
    /// The worker broke the protocol and has to go.
    #[error("{0}")]
    Protocol(String),
}

impl Link {
    /// Takes a worker's channel over.
    pub fn new(
        channel: Channel<ToWorker, FromWorker>,
        requests: Writer,
        responses: Reader,
        desk: Desk,
    ) -> io::Result<Self> {
        channel.set_nonblocking()?;
        let (requests, responses) = (Arc::new(requests), Arc::new(responses));
        let channel = registered::register(channel)?;
        Ok(Self { channel, requests, responses, desk, buffer: PacketBuffer::default() })
    }

    /// Lays the inputs of a run, of which nothing is large, into a slot that the worker does not have: each of this type and
    /// shape, and in so many parts. Their places are added to `placed`.
    pub fn place_small<'p, P: Iterator<Item = &'p [u8]> + Clone>(
        &self,
        slot: u32,
        loads: impl Iterator<Item = (DType, Shape, P)>,
        placed: &mut Vec<Placed>,
    ) -> Result<(), ArenaError> {
        let mut slot = self.requests.slot(slot)?;
        for (dtype, shape, parts) in loads {
            placed.push(slot.place_parts(dtype, shape, parts)?);
        }
        Ok(())
    }

    /// The same at a desk, for large ones.
    ///
    /// Nothing is done, and nothing is given, where no desk is free for them before `until`: nobody waits any more then.
    pub async fn place(
        &self,
        slot: u32,
        loads: Vec<Load>,
        until: Option<Instant>,
    ) -> Result<Option<Vec<Placed>>, ArenaError> {
        let requests = Arc::clone(&self.requests);
        match self.desk.finish_if(true, until, move || fill(&requests, slot, loads)).await {
            Ok(placed) => placed.map(Some),
            Err(Undone::Late) => Ok(None),
            Err(Undone::Panicked) => Err(ArenaError::Slot(slot)),
        }
    }

    /// The outputs of a run, copied out of the slot and checked; nothing where no desk is free for large ones before `until`.
    pub async fn take(
        &self,
        slot: u32,
        placed: Vec<Placed>,
        declared: &Arc<Declared>,
        rows: Option<u64>,
        until: Option<Instant>,
    ) -> Result<Option<Tensors>, Unbelieved> {
        // The worker's own figures; whatever they are, they only say where the work is done.
        let bytes = placed.iter().fold(0, |sum: u64, tensor| sum.saturating_add(tensor.bytes));
        let (responses, declared) = (Arc::clone(&self.responses), Arc::clone(declared));
        let work = move || sanitise(&responses, slot, &placed, &declared, rows);
        match self.desk.finish_if(bytes > LARGE, until, work).await {
            Ok(taken) => taken.map(Some),
            Err(Undone::Late) => Ok(None),
            Err(Undone::Panicked) => Err(Unbelieved::Lie("its answer could not be read".to_owned())),
        }
    }

    /// The next message. Safe to drop half way: a packet is taken whole or not at all.
    pub async fn receive(&mut self) -> Result<FromWorker, LinkError> {
        loop {
            let mut ready = self.channel.readable().await.map_err(|_| LinkError::Closed)?;
            match ready.get_inner().receive(&mut self.buffer) {
                Ok(Some(message)) => return bounded(message),
                Ok(None) => return Err(LinkError::Closed),
                Err(ChannelError::Socket(e)) if e.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(ChannelError::Socket(_)) => return Err(LinkError::Closed),
                Err(broken) => return Err(LinkError::Protocol(broken.to_string())),
            }
        }
    }

    /// The next message, looked out for until then, and slept over afterwards. Whatever else there is to do is done between
    /// two looks.
    pub async fn receive_soon(&mut self, until: Option<Instant>) -> Result<FromWorker, LinkError> {
        while until.is_some_and(|until| Instant::now() < until) {
            tokio::select! {
                biased;
                message = self.receive() => return message,
                () = yield_now() => {}
            }
        }
        self.receive().await
    }

    /// Sends a message at once. A worker whose socket is full has stopped reading: never more than a few messages are
    /// on their way to an honest one.
    pub fn send(&self, message: &ToWorker) -> Result<(), LinkError> {
        match self.channel.get_ref().send(message) {
            Ok(()) => Ok(()),
            Err(ChannelError::Socket(e)) if e.kind() == io::ErrorKind::WouldBlock => {
                Err(LinkError::Protocol("it does not read its messages".to_owned()))
            }
            Err(ChannelError::Socket(_)) => Err(LinkError::Closed),
            Err(other) => Err(LinkError::Protocol(other.to_string())),
        }
    }
}

fn fill(requests: &Writer, slot: u32, loads: Vec<Load>) -> Result<Vec<Placed>, ArenaError> {
    let mut slot = requests.slot(slot)?;
    let place = |Load { dtype, shape, parts }| slot.place_parts(dtype, shape, parts.iter().map(Bytes::as_ref));
    loads.into_iter().map(place).collect()
}

/// More is not copied by the reactor's thread.
pub const LARGE: u64 = 1 << 20;

fn bounded(message: FromWorker) -> Result<FromWorker, LinkError> {
    match &message {
        FromWorker::Gated { detail, .. } | FromWorker::Refused { detail, .. } | FromWorker::Failed { detail, .. }
            if detail.len() > MAX_DETAIL =>
        {
            Err(LinkError::Protocol(format!("a detail of {} bytes", detail.len())))
        }
        _ => Ok(message),
    }
}
