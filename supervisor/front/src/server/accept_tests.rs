use std::io::{Read, Write};
use std::net::TcpStream as Plain;

use axum::Router;
use axum::routing::{get, post};

use super::*;
use crate::server::pace::REST;

const SLOW: Duration = Duration::from_secs(2);

struct Served {
    address: std::net::SocketAddr,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

async fn serving(change: impl FnOnce(&mut Limits)) -> Served {
    let mut limits = Limits { header_ms: 200, idle_ms: 600, body_ms: 300, drain_ms: 20_000, ..Limits::default() };
    change(&mut limits);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    let slow = || async {
        sleep(SLOW).await;
        "slow"
    };
    let router = Router::new()
        .route("/fast", get(|| async { "fast" }))
        .route("/slow", get(slow))
        .route("/big", get(|| async { vec![b'x'; 64 << 20] }))
        .route("/no", post(|| async { (axum::http::StatusCode::PAYLOAD_TOO_LARGE, "no") }));
    let task = tokio::spawn(async move { serve(listener, router, &limits, stopped).await });
    Served { address, stop, task }
}

impl Served {
    fn connect(&self) -> Plain {
        let client = Plain::connect(self.address).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        client
    }
}

/// Runs a blocking client beside the server.
async fn client<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// Everything until the server closes.
fn rest(client: &mut Plain) -> String {
    let mut all = Vec::new();
    let _ = client.read_to_end(&mut all);
    String::from_utf8_lossy(&all).into_owned()
}

/// One answer, as far as its body, which must be `body`.
fn one(client: &mut Plain, body: &str) {
    let mut all = Vec::new();
    let mut byte = [0];
    while !all.ends_with(format!("\r\n\r\n{body}").as_bytes()) {
        assert_eq!(client.read(&mut byte).unwrap(), 1, "ended after {:?}", String::from_utf8_lossy(&all));
        all.push(byte[0]);
    }
}

const FAST: &[u8] = b"GET /fast HTTP/1.1\r\nHost: x\r\n\r\n";

#[tokio::test]
async fn slow_heads_are_cut_off_but_idle_connections_live_longer() {
    let served = serving(|limits| limits.idle_ms = 20_000).await;
    let mut silent = served.connect();
    let mut drips = served.connect();
    let mut keeps = served.connect();
    client(move || {
        let begun = std::time::Instant::now();
        assert_eq!(rest(&mut silent), "");
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        // One byte every 50 ms never makes a head in 200.
        let begun = std::time::Instant::now();
        while drips.write_all(b"G").is_ok() && begun.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(begun.elapsed() < Duration::from_secs(5));
    })
    .await;
    drop(served);
    let served = serving(|_| ()).await;
    keeps = {
        drop(keeps);
        served.connect()
    };
    client(move || {
        keeps.write_all(FAST).unwrap();
        one(&mut keeps, "fast");
        std::thread::sleep(Duration::from_millis(400));
        keeps.write_all(FAST).unwrap();
        one(&mut keeps, "fast");
        let begun = std::time::Instant::now();
        assert_eq!(rest(&mut keeps), "");
        assert!((400..5000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    })
    .await;
}

#[tokio::test]
async fn heads_are_bounded() {
    let served = serving(|limits| limits.header_bytes = 1024).await;
    let mut long = served.connect();
    let answer = client(move || {
        let _ = write!(long, "GET /fast HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n", "y".repeat(2000));
        rest(&mut long)
    });
    assert!(answer.await.starts_with("HTTP/1.1 431 "));
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_cut_off() {
    let served = serving(|limits| (limits.connections, limits.header_ms) = (1, 20_000)).await;
    let (mut deaf, mut next) = (served.connect(), served.connect());
    let got = client(move || {
        deaf.write_all(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        // There is one place, so this one is answered when the other was cut off, however long that takes.
        next.write_all(FAST).unwrap();
        next.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        one(&mut next, "fast");
        rest(&mut deaf)
    });
    let got = got.await;
    assert!(got.starts_with("HTTP/1.1 200 "), "it was cut off before it was answered");
    assert!(got.len() < 64 << 20);
}

#[tokio::test]
async fn a_refusal_reaches_a_client_that_is_still_sending() {
    let served = serving(|_| ()).await;
    let mut sender = served.connect();
    let answer = client(move || {
        sender.write_all(b"POST /no HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n\r\n").unwrap();
        for _ in 0..400 {
            let _ = sender.write_all(&[0; 10_000]);
        }
        rest(&mut sender)
    });
    assert!(answer.await.starts_with("HTTP/1.1 413 "));
}

#[tokio::test]
async fn a_full_house_leaves_clients_waiting() {
    let served = serving(|limits| limits.connections = 1).await;
    let (mut first, mut second) = (served.connect(), served.connect());
    client(move || {
        first.write_all(FAST).unwrap();
        one(&mut first, "fast");
        second.write_all(FAST).unwrap();
        second.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        assert!(second.read(&mut [0]).is_err());
        drop(first);
        second.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        one(&mut second, "fast");
    })
    .await;
}

#[tokio::test]
async fn a_stop_lets_running_requests_end_and_closes_idle_connections() {
    let served = serving(|limits| (limits.idle_ms, limits.header_ms) = (60_000, 60_000)).await;
    let (mut busy, mut idle, silent) = (served.connect(), served.connect(), served.connect());
    let running = client(move || {
        idle.write_all(FAST).unwrap();
        one(&mut idle, "fast");
        busy.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        (busy, idle)
    });
    let (mut busy, mut idle) = running.await;
    sleep(Duration::from_millis(100)).await;
    served.stop.send(true).unwrap();
    client(move || {
        let begun = std::time::Instant::now();
        assert_eq!(rest(&mut idle), "");
        assert!(begun.elapsed() < SLOW / 2, "{:?}", begun.elapsed());
        assert!(rest(&mut busy).ends_with("\r\n\r\nslow"));
        drop(idle);
    })
    .await;
    timeout(Duration::from_secs(20), served.task).await.unwrap().unwrap();
    assert!(Plain::connect(served.address).is_err());
    drop(silent);
}

#[tokio::test]
async fn a_stop_has_an_end() {
    let served = serving(|limits| limits.drain_ms = 50).await;
    let mut busy = served.connect();
    busy.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    sleep(Duration::from_millis(100)).await;
    served.stop.send(true).unwrap();
    timeout(SLOW / 2, served.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_connection_that_has_rested_goes_on_where_it_was() {
    let served = serving(|limits| (limits.idle_ms, limits.header_ms) = (20_000, 10_000)).await;
    let (mut whole, mut part) = (served.connect(), served.connect());
    client(move || {
        for _ in 0..2 {
            whole.write_all(FAST).unwrap();
            one(&mut whole, "fast");
            std::thread::sleep(REST + Duration::from_millis(300));
        }
        whole.write_all(FAST).unwrap();
        one(&mut whole, "fast");
        // A request and a half; the half was read with the first.
        part.write_all(&[FAST, &FAST[..9]].concat()).unwrap();
        one(&mut part, "fast");
        std::thread::sleep(REST + Duration::from_millis(300));
        part.write_all(&FAST[9..]).unwrap();
        one(&mut part, "fast");
        std::thread::sleep(REST + Duration::from_millis(300));
        part.write_all(FAST).unwrap();
        one(&mut part, "fast");
    })
    .await;
    // One that rests is idle: it holds up no stop.
    let begun = std::time::Instant::now();
    let idle = client({
        let mut idle = served.connect();
        move || {
            idle.write_all(FAST).unwrap();
            one(&mut idle, "fast");
            std::thread::sleep(REST + Duration::from_millis(300));
            idle
        }
    });
    let mut idle = idle.await;
    served.stop.send(true).unwrap();
    served.task.await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(client(move || rest(&mut idle)).await, "");
}

#[test]
fn a_connection_on_which_nobody_speaks_is_small() {
    let (limits, (_sender, stop)) = (Limits::default(), watch::channel(false));
    let resting = |tcp| converse(tcp, Router::new(), Paces::from(&limits), stop.clone(), Crowd::default());
    assert!(size_of_future(resting) < 1024, "{} bytes", size_of_future(resting));
}

fn size_of_future<F>(_make: impl Fn(TcpStream) -> F) -> usize {
    size_of::<F>()
}
