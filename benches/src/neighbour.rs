//! What a neighbour feels: a model that answers at once, asked at a steady pace, with nothing beside it and with something
//! hostile beside it, in turns. One such pair says little on a machine whose clock ticks every few milliseconds, so the figure
//! is the median of several, and the lowest and highest stand beside it.

use std::error::Error;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::thread;
use std::time::{Duration, Instant};

use casemate_load::request::Body;
use casemate_load::{Histogram, Outcome, Pace, Plan, Request, run as load};
use casemate_tests::casemate::{Casemate, Setup};
use casemate_tests::zoo::{self, Entry, Gate, Place};

use crate::figure::Figure;
use crate::measure::{LIMIT, median};
use crate::model::Model;

/// A rate that leaves the machine time.
const PACE: Pace = Pace::Open { per_second: 200.0, connections: 32 };

/// How long each half of a round is: 1,200 requests, of which the p99 leaves twelve out.
const SPAN: Duration = Duration::from_secs(6);

const ROUNDS: usize = 5;

/// As much longer its p99 may be.
const LONGER: f64 = 1.2;

/// What is set beside it: burning a processor, memory, output and forks.
const HOSTILE: [&str; 6] =
    ["exhaust-kernel", "exhaust-list", "exhaust-leak", "exhaust-print", "exhaust-warn", "exhaust-forks"];

/// What the neighbour felt: its p99 of each round.
#[derive(Debug, Default)]
pub(crate) struct Felt {
    quiet: Vec<f64>,
    loud: Vec<f64>,
}

impl Felt {
    /// Rounds of the one and then the other, each of which is told until when.
    pub(crate) fn rounds(
        to: SocketAddr,
        neighbour: &Request,
        mut quiet: impl FnMut(Instant) -> Result<(), Box<dyn Error>>,
        mut loud: impl FnMut(Instant) -> Result<(), Box<dyn Error>>,
    ) -> Result<Self, Box<dyn Error>> {
        let mut felt = Self::default();
        for _ in 0..ROUNDS {
            felt.quiet.push(p99(&beside(to, neighbour, || quiet(Instant::now() + SPAN))?));
            felt.loud.push(p99(&beside(to, neighbour, || loud(Instant::now() + SPAN))?));
        }
        Ok(felt)
    }

    /// As figures, each under this title.
    pub(crate) fn figures(self, title: &dyn Fn(&str) -> String) -> Vec<Figure> {
        let mut ratios: Vec<f64> = self.loud.iter().zip(&self.quiet).map(|(loud, quiet)| loud / quiet).collect();
        ratios.sort_by(f64::total_cmp);
        let ends = [ratios.first(), ratios.last()].map(|end| end.copied().unwrap_or_default());
        vec![
            Figure::new(title("neighbour's p99 before"), median(self.quiet), "ms"),
            Figure::new(title("neighbour's p99 meanwhile"), median(self.loud), "ms"),
            Figure::new(title("neighbour's p99 over before, median round"), median(ratios), "ratio").at_most(LONGER),
            Figure::new(title("neighbour's p99 over before, lowest round"), ends[0], "ratio"),
            Figure::new(title("neighbour's p99 over before, highest round"), ends[1], "ratio"),
        ]
    }
}

/// Each of the hostile ones by itself beside the neighbour; before them nothing at all, which is what this machine can tell
/// apart.
pub(crate) fn run() -> Result<Vec<Figure>, Box<dyn Error>> {
    let mut figures = none()?;
    for name in HOSTILE {
        let entry = zoo::all().into_iter().find(|entry| entry.name == name).ok_or(name)?;
        figures.extend(one(&entry)?);
    }
    Ok(figures)
}

fn none() -> Result<Vec<Figure>, Box<dyn Error>> {
    let (digits, setup) = (Model::digits()?, Setup::new());
    digits.put(&setup, "neighbour", 32)?;
    let casemate = setup.serve();
    let felt = Felt::rounds(casemate.address, &digits.request("neighbour", 1)?, nothing, nothing)?;
    Ok(felt.figures(&|what| format!("beside nothing: {what}")))
}

fn one(entry: &Entry) -> Result<Vec<Figure>, Box<dyn Error>> {
    let (digits, place) = (Model::digits()?, Place::new());
    let limits = format!("[limits]\ndeadline_ms = {}", entry.deadline_ms);
    let mut setup = Setup::new()
        .limit("breaker_deaths", 1000)
        .limit("worker_memory_mib", 320)
        .model(entry.name, &entry.archive(&place), &["x:FP32[-1,4]"], entry.outputs, &limits)
        .config(&format!("[models.{}]\nthreads = {}", entry.name, entry.threads));
    if entry.gate != Gate::Passes {
        setup = setup.past_the_gate(entry.name, &zoo::OPEN);
    }
    digits.put(&setup, "neighbour", 32)?;
    let casemate = setup.serve();
    let row = zoo::ASKED.map(f32::to_le_bytes).concat();
    let path = format!("/v2/models/{}/infer", entry.name);
    let request = Request::post("bench", &path, Body::Binary { json: "", tensors: &row });
    let (mut asked, neighbour) = (0_u32, digits.request("neighbour", 1)?);
    let felt = Felt::rounds(casemate.address, &neighbour, nothing, |until| {
        while Instant::now() < until {
            once(&casemate, entry.name, &request, &mut |_| asked += 1)?;
        }
        Ok(())
    })?;
    let title = |what: &str| format!("beside {}: {what}", entry.name);
    let mut figures = vec![Figure::new(title("times that it acted"), f64::from(asked), "requests").at_least(1.0)];
    figures.extend(felt.figures(&title));
    Ok(figures)
}

/// Nothing beside it.
pub(crate) fn nothing(until: Instant) -> Result<(), Box<dyn Error>> {
    thread::sleep(until.saturating_duration_since(Instant::now()));
    Ok(())
}

/// One request to the model that misbehaves; the next has to wait until there is a worker again.
pub(crate) fn once(
    casemate: &Casemate,
    model: &str,
    request: &Request,
    each: &mut dyn FnMut(&casemate_load::Sample),
) -> Result<(), Box<dyn Error>> {
    let plan = Plan {
        to: casemate.address,
        request,
        pace: Pace::Closed { connections: 1 },
        lasts: Duration::ZERO,
        limit: LIMIT,
    };
    load(&plan, &mut |sample| {
        each(sample);
        ControlFlow::Continue(())
    })?;
    casemate.wait_until("a worker again", LIMIT, || casemate.status(model)["state"] == "ready");
    Ok(())
}

/// Runs something beside the neighbour's requests; their latencies. None of them may fail.
fn beside(
    to: SocketAddr,
    request: &Request,
    other: impl FnOnce() -> Result<(), Box<dyn Error>>,
) -> Result<Histogram, Box<dyn Error>> {
    thread::scope(|scope| {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let neighbour = scope.spawn(move || {
            let (mut seen, mut failed) = (Histogram::default(), 0_u64);
            let plan = Plan { to, request, pace: PACE, lasts: LIMIT, limit: LIMIT };
            let ended = load(&plan, &mut |sample| {
                match sample.outcome {
                    Outcome::Answered(200) => seen.add(sample.took),
                    _ => failed += 1,
                }
                match stopped.try_recv() {
                    Err(std::sync::mpsc::TryRecvError::Empty) => ControlFlow::Continue(()),
                    _ => ControlFlow::Break(()),
                }
            });
            (seen, failed, ended.map_err(|error| error.to_string()))
        });
        let done = other();
        drop(stop);
        let (seen, failed, ended) = neighbour.join().map_err(|_| "the neighbour's thread panicked")?;
        done?;
        ended?;
        if failed > 0 { Err(format!("{failed} of the neighbour's requests failed").into()) } else { Ok(seen) }
    })
}

/// In milliseconds.
fn p99(seen: &Histogram) -> f64 {
    seen.quantile(0.99).as_secs_f64() * 1e3
}
