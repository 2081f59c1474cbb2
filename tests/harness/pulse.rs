//! A steady stream of requests to one model, and how long each took: what a neighbour feels.
//!
//! The loop is open. Requests have their times, whatever became of the ones before, and a latency counts from the time at
//! which its request was due: a server that stands still for a second spoils all the requests of that second.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::client;

/// The stream, until it is stopped.
#[derive(Debug)]
pub struct Pulse {
    stop: Arc<AtomicBool>,
    samples: Arc<Mutex<Vec<Sample>>>,
    connections: Vec<JoinHandle<()>>,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Sample {
    /// When it was due.
    pub due: Instant,
    /// From then until its answer.
    pub took: Duration,
    /// What was wrong with the answer.
    pub fault: Option<String>,
}

/// Connections that take turns.
const CONNECTIONS: u32 = 8;

impl Pulse {
    /// Asks `model` for one row so many times in a second, and expects this answer.
    pub fn start(to: SocketAddr, model: &str, row: [f32; 4], expected: [f32; 4], per_second: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let samples = Arc::new(Mutex::new(Vec::new()));
        let body = serde_json::json!({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": row}]});
        let body = body.to_string();
        let request = format!(
            "POST /v2/models/{model}/infer HTTP/1.1\r\nhost: {to}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let every = Duration::from_secs(1) / per_second;
        let begun = Instant::now();
        let connections = (0..CONNECTIONS).map(|turn| {
            let line = Line {
                to,
                request: request.clone(),
                expected,
                first: begun + every * turn,
                every: every * CONNECTIONS,
                stop: Arc::clone(&stop),
                samples: Arc::clone(&samples),
            };
            thread::spawn(move || line.run())
        });
        let connections = connections.collect();
        Self { stop, samples, connections }
    }

    /// Everything so far.
    pub fn samples(&self) -> Vec<Sample> {
        self.samples.lock().expect("nobody panics while holding the samples").clone()
    }

    /// Ends it; everything that was asked.
    pub fn stop(self) -> Vec<Sample> {
        self.stop.store(true, Ordering::Relaxed);
        for connection in self.connections {
            connection.join().expect("a connection's thread does not panic");
        }
        std::mem::take(&mut *self.samples.lock().expect("nobody panics while holding the samples"))
    }
}

/// The latency that this share of the samples does not exceed; zero where there are none.
pub fn quantile(samples: &[&Sample], share: f64) -> Duration {
    let mut took: Vec<Duration> = samples.iter().map(|sample| sample.took).collect();
    took.sort_unstable();
    let rank = (took.len() as f64 * share).ceil() as usize;
    took.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

struct Line {
    to: SocketAddr,
    request: String,
    expected: [f32; 4],
    first: Instant,
    every: Duration,
    stop: Arc<AtomicBool>,
    samples: Arc<Mutex<Vec<Sample>>>,
}

impl Line {
    fn run(self) {
        let mut due = self.first;
        let mut stream = None;
        while !self.stop.load(Ordering::Relaxed) {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let answer = self.ask(&mut stream);
            let took = due.elapsed();
            let fault = match answer {
                Ok(answer) => self.fault(&answer),
                Err(error) => {
                    stream = None;
                    Some(error.to_string())
                }
            };
            self.samples.lock().expect("nobody panics while holding the samples").push(Sample { due, took, fault });
            due += self.every;
        }
    }

    fn ask(&self, stream: &mut Option<TcpStream>) -> io::Result<client::Answer> {
        if stream.is_none() {
            let fresh = TcpStream::connect(self.to)?;
            fresh.set_nodelay(true)?;
            fresh.set_read_timeout(Some(Duration::from_secs(30)))?;
            *stream = Some(fresh);
        }
        let Some(stream) = stream else { return Err(io::ErrorKind::NotConnected.into()) };
        stream.write_all(self.request.as_bytes())?;
        let mut bytes = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            let read = stream.read(&mut chunk)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            bytes.extend_from_slice(&chunk[..read]);
            if let Some(answer) = client::parse(&bytes) {
                let length = answer.headers.get("content-length").and_then(|length| length.parse().ok());
                if length.is_some_and(|length: usize| answer.body.len() >= length) {
                    return Ok(answer);
                }
            }
        }
    }

    fn fault(&self, answer: &client::Answer) -> Option<String> {
        let right = answer.status == 200 && answer.json()["outputs"][0]["data"] == serde_json::json!(self.expected);
        (!right).then(|| format!("{}: {}", answer.status, answer.text()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_a_sample() {
        let sample = |ms| Sample { due: Instant::now(), took: Duration::from_millis(ms), fault: None };
        let samples: Vec<Sample> = (1..=100).map(sample).collect();
        let all: Vec<&Sample> = samples.iter().collect();
        assert_eq!(quantile(&all, 0.5), Duration::from_millis(50));
        assert_eq!(quantile(&all, 0.99), Duration::from_millis(99));
        assert_eq!(quantile(&all, 1.0), Duration::from_millis(100));
        assert_eq!(quantile(&[], 0.99), Duration::ZERO);
    }
}
