//! The front's end of one worker: its socket, as an async channel, and its arenas.

use std::io;
use std::time::Instant;

use casemate_ipc::seqpacket::{Channel, ChannelError, PacketBuffer};
use casemate_ipc::shm::arena::{Reader, Writer};
use casemate_ipc::work::{FromWorker, MAX_DETAIL, ToWorker};
use thiserror::Error;
use tokio::io::unix::AsyncFd;
use tokio::task::yield_now;

use super::registered;

/// One worker's channel and memory.
#[derive(Debug)]
pub struct Link {
    channel: AsyncFd<Channel<ToWorker, FromWorker>>,
    /// Where batches go.
    pub requests: Writer,
    /// Where answers come.
    pub responses: Reader,
    buffer: PacketBuffer,
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
    pub fn new(channel: Channel<ToWorker, FromWorker>, requests: Writer, responses: Reader) -> io::Result<Self> {
        channel.set_nonblocking()?;
        Ok(Self { channel: registered::register(channel)?, requests, responses, buffer: PacketBuffer::default() })
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
