//! Connections: how many, how slow, how long. One task a connection, and one clock in it: what the connection is doing
//! and since when ([`Pace`]) decides when it is cut off, so a client that drips bytes cannot keep its place.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::routes::Answers;
use crate::alarm::Alarm;
use axum::response::Response;
use casemate_config::Limits;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// Serves until `stop` holds true or its sender is gone: then takes no further connection, closes the idle ones, and
/// lets running requests end within `limits.drain_ms`.
pub async fn serve(listener: TcpListener, routes: impl Answers, limits: &Limits, mut stop: watch::Receiver<bool>) {
    let paces = Paces::from(limits);
    let mut connections = JoinSet::new();
    let told = stop.clone();
    loop {
        tokio::select! {
            biased;
            () = stopped(&mut stop) => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            // A full house leaves further ones in the kernel's queue.
            accepted = listener.accept(), if connections.len() < paces.connections => match accepted {
                Ok((tcp, _)) => {
                    connections.spawn(converse(tcp, routes.clone(), paces, told.clone()));
                }
                Err(error) => {
                    // A client that was gone already, or no descriptor left: the next try must not be at once.
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(Duration::from_millis(20)).await;
                }
            },
        }
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if timeout(paces.drain, ended).await.is_err() {
        tracing::warn!(connections = connections.len(), "requests were still running when their time to end was over");
    }
    connections.shutdown().await;
}

/// Once the server is told to stop, or nobody is left to tell it.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// The limits that apply here.
#[derive(Debug, Clone, Copy)]
struct Paces {
    connections: usize,
    header_bytes: usize,
    header: Duration,
    body: Duration,
    idle: Duration,
    drain: Duration,
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

// === one connection ===

async fn converse(tcp: TcpStream, routes: impl Answers, paces: Paces, mut stop: watch::Receiver<bool>) {
    // Answers are written in one go; waiting for more would only add the client's delayed acknowledgement.
    let _ = tcp.set_nodelay(true);
    let pace = Pace::new();
    let service = {
        let pace = pace.clone();
        service_fn(move |request: hyper::Request<Incoming>| {
            pace.enter(Phase::Answering);
            Box::pin(answer(routes.clone(), request, pace.clone()))
        })
    };
    let mut connection = http1::Builder::new()
        // Our own clock does this: hyper's would count idle time between requests as time of a head.
        .header_read_timeout(None)
        .max_header_size(paces.header_bytes)
        .max_buf_size(READ_BUFFER.max(paces.header_bytes))
        .serve_connection(TokioIo::new(Paced { tcp, pace: pace.clone() }), service);
    let mut alarm = Alarm::new();
    let mut stopped = Box::pin(async move { stopped(&mut stop).await });
    let mut stopping = false;
    let end = std::future::poll_fn(|cx| {
        if !stopping && stopped.as_mut().poll(cx).is_ready() {
            stopping = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        // First the connection, then the clock: what has arrived counts as in time.
        if connection.poll_without_shutdown(cx).is_ready() {
            return Poll::Ready(End::Done);
        }
        if stopping && pace.is_idle() {
            return Poll::Ready(End::Cut);
        }
        alarm.poll(pace.due(&paces).map(Instant::into_std), cx).map(|()| End::Cut)
    })
    .await;
    match end {
        End::Done => linger(connection.into_parts().io.into_inner().tcp).await,
        End::Cut => tracing::debug!(pace = ?pace.phase(), "a connection was cut off"),
    }
}

async fn answer(
    routes: impl Answers,
    request: hyper::Request<Incoming>,
    pace: Pace,
) -> Result<Response, std::convert::Infallible> {
    let response = routes.answer(request).await;
    pace.enter(Phase::Writing);
    Ok(response)
}

enum End {
    Done,
    Cut,
}

/// Says that nothing more comes, then reads past what the client still sends for a moment. Closing at once would answer
/// those bytes with a reset, and the reset would overtake a 413 that the client has not read yet.
async fn linger(mut tcp: TcpStream) {
    let past = async {
        std::future::poll_fn(|cx| Pin::new(&mut tcp).poll_shutdown(cx)).await?;
        let mut waste = [0u8; 8192];
        loop {
            tcp.readable().await?;
            match tcp.try_read(&mut waste) {
                Ok(0) => return Ok(()),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
    };
    // Whichever way it ends, the connection is over.
    let _: Result<io::Result<()>, _> = timeout(LINGER, past).await;
}

/// Most bytes that are read at once. More than a head may have, or large bodies would come in small pieces.
const READ_BUFFER: usize = 262_144;
/// How long a closed connection's bytes are read past.
const LINGER: Duration = Duration::from_secs(1);

// === the pace of a connection ===

/// What a connection is doing, and since when. Shared by its socket, its service and its clock, all in one task.
#[derive(Debug, Clone)]
struct Pace(Arc<Mutex<(Phase, Instant)>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
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
    fn new() -> Self {
        Self(Arc::new(Mutex::new((Phase::Opened, Instant::now()))))
    }

    fn enter(&self, phase: Phase) {
        *self.lock() = (phase, Instant::now());
    }

    fn phase(&self) -> Phase {
        self.lock().0
    }

    fn is_idle(&self) -> bool {
        matches!(self.phase(), Phase::Opened | Phase::Idle)
    }

    /// When the connection is cut off if nothing changes.
    fn due(&self, paces: &Paces) -> Option<Instant> {
        let (phase, since) = *self.lock();
        let time = match phase {
            Phase::Opened | Phase::Head => paces.header,
            Phase::Answering => return None,
            Phase::Writing => paces.body,
            Phase::Idle => paces.idle,
        };
        Some(since + time)
    }

    fn read(&self) {
        let mut now = self.lock();
        if matches!(now.0, Phase::Opened | Phase::Idle) {
            // The time for a first head runs from the accept on.
            let since = if now.0 == Phase::Opened { now.1 } else { Instant::now() };
            *now = (Phase::Head, since);
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
struct Paced {
    tcp: TcpStream,
    pace: Pace,
}

impl AsyncRead for Paced {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
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
        let written = ready!(Pin::new(&mut self.tcp).poll_write(cx, buf))?;
        self.pace.written();
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
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

#[cfg(test)]
#[path = "accept_tests.rs"]
mod tests;
