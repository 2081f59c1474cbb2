//! Connections: how many, how slow, how long. One task a connection, and one clock in it: what the connection is doing
//! and since when ([`Pace`]) decides when it is cut off, so a client that drips bytes cannot keep its place.

use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use super::routes::{Answers, Reply};
use crate::alarm::Alarm;
use bytes::Bytes;
use casemate_config::Limits;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWrite;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::crowd::Crowd;
use super::pace::{Pace, Paced, Paces, Phase, Silence, stopped};

/// Serves until `stop` holds true or its sender is gone: then takes no further connection, closes the idle ones, and
/// lets running requests end within `limits.drain_ms`.
pub async fn serve(listener: TcpListener, routes: impl Answers, limits: &Limits, mut stop: watch::Receiver<bool>) {
    let paces = Paces::from(limits);
    let mut connections = JoinSet::new();
    let told = stop.clone();
    let crowd = Crowd::default();
    let mut tidy = Box::pin(crowd.tidy());
    loop {
        tokio::select! {
            biased;
            () = stopped(&mut stop) => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            // A full house leaves further ones in the kernel's queue.
            accepted = listener.accept(), if connections.len() < paces.connections => match accepted {
                Ok((tcp, _)) => {
                    connections.spawn(converse(tcp, routes.clone(), paces, told.clone(), crowd.clone()));
                }
                Err(error) => {
                    // A client that was gone already, or no descriptor left: the next try must not be at once.
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(Duration::from_millis(20)).await;
                }
            },
            () = &mut tidy => {}
        }
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if timeout(paces.drain, ended).await.is_err() {
        tracing::warn!(connections = connections.len(), "requests were still running when their time to end was over");
    }
    connections.shutdown().await;
}

// === one connection ===

/// A connection from its first byte to its last. While nobody speaks on it, it is a socket and a clock: the parser and its
/// buffers are there from the first byte of a request on, and for a moment after the answer.
async fn converse(tcp: TcpStream, routes: impl Answers, paces: Paces, mut stop: watch::Receiver<bool>, crowd: Crowd) {
    // Answers are written in one go; waiting for more would only add the client's delayed acknowledgement.
    let _ = tcp.set_nodelay(true);
    let mut socket = Paced::new(tcp);
    while socket.hears(&paces, &mut stop).await {
        // In a box, so that it costs nothing while nobody speaks.
        match Box::pin(speak(socket, routes.clone(), paces, stop.clone(), crowd.clone())).await {
            End::Rest(quiet) => socket = quiet,
            End::Done(tcp) => return Box::pin(linger(tcp)).await,
            End::Cut => return,
        }
    }
}

/// Requests and answers, until the connection ends or nobody has spoken for a while.
async fn speak(
    socket: Paced,
    routes: impl Answers,
    paces: Paces,
    mut stop: watch::Receiver<bool>,
    crowd: Crowd,
) -> End {
    let _speaker = crowd.join();
    let pace = socket.pace.clone();
    let may_rest = !socket.half;
    let service = {
        let pace = pace.clone();
        service_fn(move |request: hyper::Request<Incoming>| {
            pace.enter(Phase::Answering);
            let (routes, pace, asker) = (routes.clone(), pace.clone(), crowd.ask());
            Box::pin(async move {
                let _asker = asker;
                answer(routes, request, pace).await
            })
        })
    };
    let mut connection = http1::Builder::new()
        // Our own clock does this: hyper's would count idle time between requests as time of a head.
        .header_read_timeout(None)
        .max_header_size(paces.header_bytes)
        .max_buf_size(READ_BUFFER.max(paces.header_bytes))
        .serve_connection(TokioIo::new(socket), service);
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
            return Poll::Ready(Silence::Done);
        }
        if stopping && pace.is_idle() {
            return Poll::Ready(Silence::Cut);
        }
        let due = pace.due(&paces, may_rest);
        alarm.poll(due.map(|(due, _)| due.into_std()), cx).map(|()| due.map_or(Silence::Cut, |(_, silence)| silence))
    })
    .await;
    let parts = || connection.into_parts();
    match end {
        Silence::Done => End::Done(parts().io.into_inner().tcp),
        Silence::Rest => {
            let parts = parts();
            let half = !parts.read_buf.is_empty();
            // A copy: what the parser hands over is its whole buffer, however little is in it.
            let ahead = Bytes::copy_from_slice(&parts.read_buf);
            End::Rest(Paced { ahead, half, ..parts.io.into_inner() })
        }
        Silence::Cut => {
            tracing::debug!(pace = ?pace.phase(), "a connection was cut off");
            End::Cut
        }
    }
}

async fn answer(
    routes: impl Answers,
    request: hyper::Request<Incoming>,
    pace: Pace,
) -> Result<hyper::Response<Reply>, std::convert::Infallible> {
    let response = routes.answer(request).await;
    pace.enter(Phase::Writing);
    Ok(response)
}

/// How a conversation ended.
enum End {
    /// The connection is over; it is to be closed in order.
    Done(TcpStream),
    /// Answered, and nobody has spoken since.
    Rest(Paced),
    /// Too slow, or too long idle.
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

#[cfg(test)]
#[path = "accept_tests.rs"]
mod tests;
