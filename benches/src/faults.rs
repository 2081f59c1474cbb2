//! What a neighbour feels, and how long it takes: a worker that is killed under load, and a model that never comes back.

use std::error::Error;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::thread;
use std::time::{Duration, Instant};

use casemate_load::{Histogram, Outcome, Pace, Plan, Request, Sample, run as load};
use casemate_tests::casemate::{Setup, kill};
use casemate_tests::models::{self, When};
use nix::sys::signal::Signal;

use crate::figure::Figure;
use crate::measure::LIMIT;
use crate::model::Model;

/// The neighbour: a rate that leaves the machine time.
const NEIGHBOUR: Pace = Pace::Open { per_second: 200.0, connections: 32 };

/// As long the neighbour is measured without a fault, and with it.
const SPAN: Duration = Duration::from_secs(8);

/// As much longer its p99 may be.
const LONGER: f64 = 1.2;

/// Kills.
const KILLS: u32 = 5;

pub(crate) fn killed() -> Result<Vec<Figure>, Box<dyn Error>> {
    let digits = Model::digits()?;
    // The model of the peers' table, where it has been made.
    let (victim, name) = match Model::made("minilm")? {
        Some(model) => (model, "MiniLM"),
        None => (Model::digits()?, "digits"),
    };
    let setup = Setup::new().limit("breaker_deaths", 1000);
    digits.put(&setup, "neighbour", 32)?;
    victim.put(&setup, "victim", 8)?;
    let casemate = setup.serve();
    let (to, request) = (casemate.address, victim.request("victim", 1)?);
    let asked = digits.request("neighbour", 1)?;
    let title = |what: &str| format!("SIGKILL to {name}'s worker under 4 connections: {what}");

    // Both times under the same load, so that only the kills differ.
    let quiet = beside(to, &asked, || under(to, &request, SPAN, &mut |_| {}))?;
    let (mut failed, mut statuses, mut recovery) = (0, Vec::new(), Vec::new());
    let pause = SPAN / KILLS;
    let loud = beside(to, &asked, || {
        for _ in 0..KILLS {
            casemate.wait_until("a worker", LIMIT, || casemate.status("victim")["state"] == "ready");
            let (worker, begun) = (casemate.worker("victim"), Instant::now());
            let (mut dead, mut hit, mut back) = (None::<Instant>, false, None);
            under(to, &request, pause, &mut |sample| {
                if dead.is_none() && begun.elapsed() > pause / 4 {
                    kill(worker, Signal::SIGKILL);
                    dead = Some(Instant::now());
                }
                match sample.outcome {
                    // One that was sent before the kill may have been answered before it too.
                    Outcome::Answered(200) => {
                        if let Some(dead) = dead.filter(|dead| sample.due > *dead || hit) {
                            back.get_or_insert((sample.due + sample.took).saturating_duration_since(dead));
                        }
                    }
                    other => {
                        (failed, hit) = (failed + 1, true);
                        statuses.push(other);
                    }
                }
            })?;
            recovery.push(back.ok_or("no good answer after the kill")?);
        }
        Ok(())
    })?;
    let other = statuses.iter().filter(|outcome| !matches!(outcome, Outcome::Answered(502 | 503))).count();
    recovery.sort_unstable();
    let per_kill = f64::from(failed) / f64::from(KILLS);
    let (median, longest) = (recovery[recovery.len() / 2], recovery[recovery.len() - 1]);
    Ok(vec![
        Figure::new(title("requests that failed, for each kill"), per_kill, "requests").at_most(4.0),
        Figure::new(title("… otherwise than with 502 or 503"), other as f64, "requests").at_most(0.0),
        Figure::millis(title("until the first good answer, median"), median).at_most(500.0),
        Figure::millis(title("until the first good answer, longest"), longest),
        Figure::millis(title("neighbour's p99 before"), quiet.quantile(0.99)),
        Figure::millis(title("neighbour's p99 meanwhile"), loud.quantile(0.99)),
        Figure::new(title("neighbour's p99 over before"), over(&loud, &quiet), "ratio").at_most(LONGER),
    ])
}

/// The looping model's deadline.
const DEADLINE: Duration = Duration::from_millis(1000);

pub(crate) fn looping() -> Result<Vec<Figure>, Box<dyn Error>> {
    let digits = Model::digits()?;
    let deadline = format!("[limits]\ndeadline_ms = {}", DEADLINE.as_millis());
    let spec = (["x:FP32[-1,4]"], ["y:FP32[-1,4]"]);
    let endless = models::loop_forever(When::Asked);
    let setup = Setup::new().limit("breaker_deaths", 1000).model("endless", &endless, &spec.0, &spec.1, &deadline);
    digits.put(&setup, "neighbour", 32)?;
    let casemate = setup.serve();
    let to = casemate.address;
    let asked = digits.request("neighbour", 1)?;
    let row = [models::ASK * 2.0, 0.0, 0.0, 0.0].map(f32::to_le_bytes).concat();
    let body = casemate_load::request::Body::Binary { json: "", tensors: &row };
    let request = Request::post("bench", "/v2/models/endless/infer", body);

    let quiet = beside(to, &asked, || {
        thread::sleep(SPAN);
        Ok(())
    })?;
    let (mut ends, mut times) = (Vec::new(), Histogram::default());
    let loud = beside(to, &asked, || {
        let until = Instant::now() + SPAN;
        while Instant::now() < until {
            // One after the other; the next waits until there is a worker again.
            let once = Duration::ZERO;
            let plan = Plan { to, request: &request, pace: Pace::Closed { connections: 1 }, lasts: once, limit: LIMIT };
            load(&plan, &mut |sample| {
                ends.push(sample.outcome);
                times.add(sample.took);
                ControlFlow::Continue(())
            })?;
            casemate.wait_until("a worker again", LIMIT, || casemate.status("endless")["state"] == "ready");
        }
        Ok(())
    })?;
    if ends.is_empty() {
        return Err("no request met the loop".into());
    }
    let other = ends.iter().filter(|end| **end != Outcome::Answered(504)).count();
    let title = |what: &str| format!("a model that loops for ever: {what}");
    let late = times.quantile(0.5).as_secs_f64() / DEADLINE.as_secs_f64();
    Ok(vec![
        Figure::new(title("requests that ended otherwise than with 504"), other as f64, "requests").at_most(0.0),
        Figure::new(title("time until 504 over the deadline, median"), late, "ratio").at_most(1.1),
        Figure::millis(title("neighbour's p99 before"), quiet.quantile(0.99)),
        Figure::millis(title("neighbour's p99 meanwhile"), loud.quantile(0.99)),
        Figure::new(title("neighbour's p99 over before"), over(&loud, &quiet), "ratio").at_most(LONGER),
    ])
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
            let plan = Plan { to, request, pace: NEIGHBOUR, lasts: LIMIT, limit: LIMIT };
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

/// Four connections, which ask again after a failure as after an answer.
fn under(
    to: SocketAddr,
    request: &Request,
    lasts: Duration,
    each: &mut dyn FnMut(&Sample),
) -> Result<(), Box<dyn Error>> {
    load(&Plan { to, request, pace: Pace::Closed { connections: 4 }, lasts, limit: LIMIT }, &mut |sample| {
        each(sample);
        ControlFlow::Continue(())
    })?;
    Ok(())
}

fn over(loud: &Histogram, quiet: &Histogram) -> f64 {
    loud.quantile(0.99).as_secs_f64() / quiet.quantile(0.99).as_secs_f64()
}
