//! Both loops against a server of this test, which answers as it is told.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use casemate_load::request::Body;
use casemate_load::{LoadError, Outcome, Pace, Plan, Request, Sample, Tally, run};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, socket};

/// What the server does with its request of that number.
type Manner = fn(usize) -> Act;

enum Act {
    Answer(&'static str),
    Late(Duration),
    Close,
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// One thread for each connection; how many requests came.
fn serve(manner: Manner) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, count) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&count);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, count) = (stream.unwrap(), Arc::clone(&counted));
            thread::spawn(move || attend(stream, manner, &count));
        }
    });
    (address, count)
}

fn attend(stream: TcpStream, manner: Manner, count: &AtomicUsize) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        reader.read_exact(&mut vec![0; length]).unwrap();
        match manner(count.fetch_add(1, Ordering::Relaxed)) {
            Act::Answer(text) => stream.write_all(text.as_bytes()).unwrap(),
            Act::Late(pause) => {
                thread::sleep(pause);
                let _ = stream.write_all(OK.as_bytes());
            }
            Act::Close => return,
        }
    }
}

fn load(to: SocketAddr, pace: Pace, lasts: u64, limit: u64, body: usize) -> (Tally, Vec<Sample>) {
    let request = Request::post("test", "/", Body::Plain(&vec![7; body]));
    let (lasts, limit) = (Duration::from_millis(lasts), Duration::from_millis(limit));
    let (mut tally, mut samples) = (Tally::default(), Vec::new());
    run(&Plan { to, request: &request, pace, lasts, limit }, &mut |sample| {
        tally.add(sample);
        samples.push(*sample);
        ControlFlow::Continue(())
    })
    .unwrap();
    (tally, samples)
}

#[test]
fn a_closed_loop_asks_again_and_again_and_waits_for_the_last() {
    // A body larger than a socket's buffers goes out in parts.
    for body in [10, 8 << 20] {
        let (to, count) = serve(|_| Act::Answer(OK));
        let (tally, _) = load(to, Pace::Closed { connections: 4 }, 300, 20_000, body);
        assert_eq!(tally.failed(), 0, "{tally:?}");
        assert_eq!(tally.good.count() as usize, count.load(Ordering::Relaxed));
        assert!(tally.good.count() >= 4);
        let (tally, _) = load(to, Pace::Closed { connections: 4 }, 0, 20_000, body);
        assert_eq!((tally.good.count(), tally.failed()), (4, 0));
    }
}

#[test]
fn an_open_loop_keeps_its_rate_and_counts_from_when_a_request_was_due() {
    let (to, _) = serve(|_| Act::Answer(OK));
    let (tally, samples) = load(to, Pace::Open { per_second: 200.0, connections: 8 }, 1000, 20_000, 10);
    assert_eq!((samples.len(), tally.failed()), (200, 0));
    let gap = samples.last().unwrap().due - samples.first().unwrap().due;
    assert!((gap.as_secs_f64() - 0.995).abs() < 1e-6, "{gap:?}");

    // One connection, and a server that stands still for half a second: whoever was due meanwhile has waited too.
    let (to, _) = serve(|at| if at == 10 { Act::Late(Duration::from_millis(500)) } else { Act::Answer(OK) });
    let (tally, samples) = load(to, Pace::Open { per_second: 100.0, connections: 1 }, 1000, 20_000, 10);
    assert_eq!((samples.len(), tally.failed()), (100, 0));
    let late = samples.iter().filter(|sample| sample.took > Duration::from_millis(90)).count();
    assert!(late >= 30, "{late} of 100 are late");
}

#[test]
fn a_body_that_comes_in_parts_and_a_connection_that_closes_are_fine() {
    let (to, count) = serve(|_| Act::Answer("HTTP/1.1 503 No\r\nconnection: close\r\nContent-Length: 0\r\n\r\n"));
    let (tally, _) = load(to, Pace::Closed { connections: 2 }, 100, 20_000, 10);
    assert!(tally.good.count() == 0 && tally.unanswered == 0, "{tally:?}");
    assert_eq!(tally.refused[&503] as usize, count.load(Ordering::Relaxed));
}

#[test]
fn requests_without_an_answer_are_counted() {
    let (to, _) = serve(|at| if at.is_multiple_of(2) { Act::Close } else { Act::Answer(OK) });
    let (tally, _) = load(to, Pace::Closed { connections: 1 }, 200, 20_000, 10);
    assert!(tally.good.count() > 0 && tally.unanswered > 0, "{tally:?}");

    let (to, _) = serve(|_| Act::Late(Duration::from_secs(5)));
    let (tally, samples) = load(to, Pace::Open { per_second: 20.0, connections: 1 }, 200, 300, 10);
    assert_eq!((samples.len(), tally.good.count()), (4, 0), "{tally:?}");
    let timed_out = |sample: &Sample| sample.outcome == Outcome::Unanswered(std::io::ErrorKind::TimedOut);
    assert!(samples.iter().all(timed_out), "{samples:?}");
}

/// A server that takes one connection, and leaves all others at the door, where there is room for two.
fn one_guest() -> SocketAddr {
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(fd.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
    listen(&fd, Backlog::new(1).unwrap()).unwrap();
    let listener = TcpListener::from(fd);
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (guest, _) = listener.accept().unwrap();
        // So long that others come meanwhile.
        let manner = |at| if at == 0 { Act::Late(Duration::from_millis(300)) } else { Act::Answer(OK) };
        attend(guest, manner, &AtomicUsize::new(0));
    });
    address
}

#[test]
fn a_connection_that_does_not_open_keeps_nobody_waiting() {
    let pace = Pace::Open { per_second: 20.0, connections: 8 };
    let (tally, samples) = load(one_guest(), pace, 1500, 2500, 10);
    assert_eq!(samples.len(), 30);
    // At most seven wait at the door until they are given up; one of them could not even connect.
    assert!((3..=7).contains(&tally.unanswered), "{}", tally.unanswered);
    assert_eq!(tally.good.count() + tally.unanswered, 30);
    let mut good: Vec<_> = samples.iter().filter(|s| s.outcome == Outcome::Answered(200)).map(|s| s.took).collect();
    good.sort();
    assert!(good[good.len() / 2] < Duration::from_millis(500), "{good:?}");
    let all = samples.iter().filter(|s| matches!(s.outcome, Outcome::Unanswered(_)));
    all.for_each(|s| assert!(s.took >= Duration::from_millis(2500), "{s:?}"));
}

#[test]
fn each_request_of_a_closed_loop_counts_from_when_it_was_sent() {
    let (to, _) = serve(|_| Act::Answer(OK));
    let (_, mut samples) = load(to, Pace::Closed { connections: 8 }, 0, 20_000, 10);
    samples.sort_by_key(|sample| sample.due);
    // Each behind the opening of those before it, and not all at the beginning.
    assert!(samples.len() == 8 && samples.windows(2).all(|pair| pair[0].due < pair[1].due), "{samples:?}");
}

#[test]
fn a_load_that_cannot_be_is_refused() {
    let request = Request::post("test", "/", Body::Plain(b""));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    drop(listener);
    let second = Duration::from_secs(1);
    let mut none = |_: &Sample| ControlFlow::Continue(());
    for pace in [Pace::Closed { connections: 0 }, Pace::Open { per_second: 0.0, connections: 1 }] {
        let refused = run(&Plan { to, request: &request, pace, lasts: second, limit: second }, &mut none);
        assert!(matches!(refused, Err(LoadError::Pace)), "{refused:?}");
    }
    let pace = Pace::Closed { connections: 1 };
    let refused = run(&Plan { to, request: &request, pace, lasts: second, limit: second }, &mut none);
    assert!(matches!(refused, Err(LoadError::Connect(..))), "{refused:?}");
}
