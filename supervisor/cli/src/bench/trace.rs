//! Where the time of a request goes: a few traced requests beside the load, and what the server says of each stage
//! (`Server-Timing`, in milliseconds).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use casemate_ipc::id::{ModelName, Version};
use casemate_load::Histogram;

use crate::bench::input::Input;
use crate::bench::server::{Server, ServerError};
use crate::escape::short;

/// Traced requests, until they are ended.
#[derive(Debug)]
pub(crate) struct Traced {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<Stage>, ServerError>>,
}

/// One stage, over all traced requests.
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    pub(crate) name: String,
    pub(crate) times: Histogram,
}

/// What is left of a request's time beside what the server counts: two trips over the socket, and this client.
pub(crate) const OUTSIDE: &str = "outside";
/// A part of another stage, not a stage beside it.
const INSIDE: &str = "run";
/// Pause between two of them.
const EVERY: Duration = Duration::from_millis(20);
/// Most stages that are read.
const MOST: usize = 32;

impl Traced {
    pub(crate) fn begin(server: &Server, model: &ModelName, version: Option<&Version>, input: &Input) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (server, model, version, input) = (server.clone(), model.clone(), version.cloned(), input.clone());
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut stages: Vec<Stage> = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let (_, headers, _) = server.infer(&model, version.as_ref(), &input, true)?;
                let whole = begun.elapsed();
                let said = headers.get("server-timing").and_then(|value| value.to_str().ok());
                if let Some(said) = said {
                    note(&mut stages, said, whole);
                }
                thread::sleep(EVERY);
            }
            Ok(stages)
        });
        Self { stop, thread }
    }

    /// What they were told; nothing where the server does not trace.
    pub(crate) fn end(self) -> Result<Vec<Stage>, ServerError> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|_| Ok(Vec::new()))
    }
}

/// Adds one request's stages.
fn note(stages: &mut Vec<Stage>, said: &str, whole: Duration) {
    let mut counted = Duration::ZERO;
    for (name, took) in parse(said).into_iter().take(MOST) {
        if name != INSIDE {
            counted += took;
        }
        add(stages, name, took);
    }
    add(stages, OUTSIDE, whole.saturating_sub(counted));
}

fn add(stages: &mut Vec<Stage>, name: &str, took: Duration) {
    let name = short(name, 40);
    if let Some(stage) = stages.iter_mut().find(|stage| stage.name == name) {
        stage.times.add(took);
    } else if stages.len() < MOST {
        let mut times = Histogram::default();
        times.add(took);
        stages.push(Stage { name, times });
    }
}

/// `read;dur=0.004, parse;dur=0.011`: names and times, in their order.
fn parse(said: &str) -> Vec<(&str, Duration)> {
    said.split(',').filter_map(entry).collect()
}

fn entry(text: &str) -> Option<(&str, Duration)> {
    let mut parts = text.split(';').map(str::trim);
    let name = parts.next().filter(|name| !name.is_empty())?;
    let ms: f64 = parts.find_map(|part| part.strip_prefix("dur="))?.parse().ok()?;
    Some((name, Duration::try_from_secs_f64(ms / 1e3).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_read_and_what_is_left_is_outside() {
        let us = Duration::from_micros;
        let said = "read;dur=0.004, worker;dur=1.5, run;dur=1.2, odd, wake;desc=x;dur=0.1, bad;dur=-1";
        assert_eq!(parse(said), [("read", us(4)), ("worker", us(1500)), ("run", us(1200)), ("wake", us(100))]);
        let mut stages = Vec::new();
        note(&mut stages, said, us(2000));
        note(&mut stages, said, us(2000));
        let names: Vec<&str> = stages.iter().map(|stage| stage.name.as_str()).collect();
        assert_eq!(names, ["read", "worker", "run", "wake", OUTSIDE]);
        assert_eq!(stages[4].times.mean(), us(2000 - 4 - 1500 - 100));
        assert_eq!(stages[4].times.count(), 2);
    }
}
