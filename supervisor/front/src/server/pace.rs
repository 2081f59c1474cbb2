//! The pace of a connection: what it is doing and since when, in one clock for its socket and its service.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use casemate_config::Limits;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// The limits that apply here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paces {
    pub(super) connections: usize,
    pub(super) header_bytes: usize,
    pub(super) header: Duration,
    pub(super) body: Duration,
    pub(super) idle: Duration,
    pub(super) drain: Duration,
}

impl From<&Limits> for Paces {
    fn from(limits: &Limits) -> Self {
        // Without `..`: whoever adds a limit is asked here whether it is one on connections.
        let Limits {
            connections,
            header_bytes,
            header_ms,
            body_ms,
            idle_ms,
            drain_ms,
            request_bytes: _,
            response_bytes: _,
            in_flight_bytes: _,
            queue: _,
            queue_bytes: _,
            arena_rest_ms: _,
            load_ms: _,
            ping_ms: _,
            vigil_us: _,
            start_attempts: _,
            starts_per_minute: _,
            model_bytes: _,
            worker_memory_mib: _,
            threads: _,
            breaker_deaths: _,
            breaker_window_ms: _,
            breaker_rest_ms: _,
            breaker_longest_ms: _,
            log_bytes_per_second: _,
        } = *limits;
        let count = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        Self {
            connections: count(connections),
            header_bytes: count(header_bytes),
            header: Duration::from_millis(header_ms),
            body: Duration::from_millis(body_ms),
            idle: Duration::from_millis(idle_ms),
            drain: Duration::from_millis(drain_ms),
        }
    }
}

/// What becomes of a connection on which nothing happens any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Silence {
    Done,
    Rest,
    Cut,
}

/// How long the parser and its buffers are kept for the next request.
pub(super) const REST: Duration = Duration::from_secs(1);

/// What a connection is doing, and since when. Shared by its socket, its service and its clock, all in one task.
#[derive(Debug, Clone)]
pub(super) struct Pace(Arc<Mutex<(Phase, Instant)>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Accepted, nothing heard yet: a head is due.
    Opened,
    /// A part of a head has come.
    Head,
    /// The routes have it; body and inference have times of their own.
    Answering,
    /// The answer is on its way; each part that the client takes starts the time again.
    Writing,
    /// Answered; another request may come.
    Idle,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new((Phase::Opened, Instant::now()))))
    }

    pub(super) fn enter(&self, phase: Phase) {
        *self.lock() = (phase, Instant::now());
    }

    pub(super) fn phase(&self) -> Phase {
        self.lock().0
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self.phase(), Phase::Opened | Phase::Idle)
    }

    /// When the connection is cut off, or may rest, if nothing changes.
    pub(super) fn due(&self, paces: &Paces, may_rest: bool) -> Option<(Instant, Silence)> {
        let (phase, since) = *self.lock();
        let (time, silence) = match phase {
            Phase::Opened | Phase::Head => (paces.header, Silence::Cut),
            Phase::Answering => return None,
            Phase::Writing => (paces.body, Silence::Cut),
            Phase::Idle if may_rest && REST < paces.idle => (REST, Silence::Rest),
            Phase::Idle => (paces.idle, Silence::Cut),
        };
        Some((since + time, silence))
    }

    fn read(&self) {
        let mut now = self.lock();
        if matches!(now.0, Phase::Opened | Phase::Idle) {
            // The time for a first head runs from the accept on.
            let since = if now.0 == Phase::Opened { now.1 } else { Instant::now() };
            *now = (Phase::Head, since);
        }
    }

    /// What is to be written is not written yet, whatever was flushed before.
    fn writing(&self) {
        let mut now = self.lock();
        if now.0 == Phase::Idle {
            *now = (Phase::Writing, Instant::now());
        }
    }

    fn written(&self) {
        let mut now = self.lock();
        if matches!(now.0, Phase::Writing | Phase::Idle) {
            *now = (Phase::Writing, Instant::now());
        }
    }

    fn flushed(&self) {
        let mut now = self.lock();
        if now.0 == Phase::Writing {
            *now = (Phase::Idle, Instant::now());
        }
    }

    fn lock(&self) -> MutexGuard<'_, (Phase, Instant)> {
        // Nothing panics while it is held; and a pair of plain values cannot be left half-written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A socket that tells its pace.
#[derive(Debug)]
pub(super) struct Paced {
    pub(super) tcp: TcpStream,
    /// What was read of the next request and not parsed yet.
    pub(super) ahead: Bytes,
    /// It has rested with a part of a request. It need not again: that part would be parsed anew each time.
    pub(super) half: bool,
    pub(super) pace: Pace,
}

impl Paced {
    /// A connection that has just been taken.
    pub(super) fn new(tcp: TcpStream) -> Self {
        Self { tcp, ahead: Bytes::new(), half: false, pace: Pace::new() }
    }

    /// Waits until somebody speaks; false where nobody does in time or ever again, or the server stops.
    pub(super) async fn hears(&mut self, paces: &Paces, stop: &mut watch::Receiver<bool>) -> bool {
        if self.half {
            return true;
        }
        let Some((due, _)) = self.pace.due(paces, false) else { return true };
        tokio::select! {
            biased;
            heard = self.first() => heard,
            () = stopped(stop) => false,
            () = sleep_until(due) => {
                tracing::debug!(pace = ?self.pace.phase(), "a connection was cut off");
                false
            }
        }
    }

    /// Reads the first bytes of a request. That a socket is said to be readable is not enough: of a new one it is assumed.
    async fn first(&mut self) -> bool {
        while self.tcp.readable().await.is_ok() {
            match self.take_first() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(1..) => {
                    self.pace.read();
                    return true;
                }
                Ok(_) | Err(_) => return false,
            }
        }
        false
    }

    /// Not in the future that waits: the buffer would be there for every connection on which nobody speaks.
    fn take_first(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 4096];
        let read = self.tcp.try_read(&mut buffer)?;
        self.ahead = Bytes::copy_from_slice(buffer.get(..read).unwrap_or_default());
        Ok(read)
    }
}

impl AsyncRead for Paced {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let first = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead.split_to(first));
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let result = ready!(Pin::new(&mut self.tcp).poll_read(cx, buf));
        if buf.filled().len() > before {
            self.pace.read();
        }
        Poll::Ready(result)
    }
}

impl AsyncWrite for Paced {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.pace.writing();
        let written = ready!(Pin::new(&mut self.tcp).poll_write(cx, buf))?;
        self.pace.written();
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.pace.writing();
        let written = ready!(Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs))?;
        self.pace.written();
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.tcp).poll_flush(cx))?;
        self.pace.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

/// Once the server is told to stop, or nobody is left to tell it.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}
