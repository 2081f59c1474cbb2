//! What a neighbour feels, and how long it takes: a worker that is killed under load, and a model that never comes back.

use std::error::Error;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use casemate_load::request::Body;
use casemate_load::{Histogram, Outcome, Pace, Plan, Request, Sample, run as load};
use casemate_tests::casemate::{Setup, kill};
use casemate_tests::models::{self, When};
use nix::sys::signal::Signal;

use crate::figure::Figure;
use crate::measure::LIMIT;
use crate::model::Model;
use crate::neighbour::{self, Felt};

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
    let (mut failed, mut kills, mut statuses, mut recovery) = (0, 0, Vec::new(), Vec::new());
    // Both halves under the same load, so that only the kill differs.
    let calm = |until| under(to, &request, until, &mut |_| {});
    let felt = Felt::rounds(to, &digits.request("neighbour", 1)?, calm, |until| {
        casemate.wait_until("a worker", LIMIT, || casemate.status("victim")["state"] == "ready");
        let (worker, begun) = (casemate.worker("victim"), Instant::now());
        let early = until.saturating_duration_since(begun) / 4;
        let (mut dead, mut hit, mut back) = (None::<Instant>, false, None);
        under(to, &request, until, &mut |sample| {
            if dead.is_none() && begun.elapsed() > early {
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
        kills += 1;
        recovery.push(back.ok_or("no good answer after the kill")?);
        Ok(())
    })?;
    let other = statuses.iter().filter(|outcome| !matches!(outcome, Outcome::Answered(502 | 503))).count();
    recovery.sort_unstable();
    let (median, longest) = (recovery[recovery.len() / 2], recovery[recovery.len() - 1]);
    let title = |what: &str| format!("SIGKILL to {name}'s worker under 4 connections: {what}");
    let mut figures = vec![
        Figure::new(title("requests that failed, for each kill"), f64::from(failed) / f64::from(kills), "requests")
            .at_most(4.0),
        Figure::new(title("… otherwise than with 502 or 503"), other as f64, "requests").at_most(0.0),
        Figure::millis(title("until the first good answer, median"), median).at_most(500.0),
        Figure::millis(title("until the first good answer, longest"), longest),
    ];
    figures.extend(felt.figures(&title));
    Ok(figures)
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
    let row = [models::ASK * 2.0, 0.0, 0.0, 0.0].map(f32::to_le_bytes).concat();
    let request = Request::post("bench", "/v2/models/endless/infer", Body::Binary { json: "", tensors: &row });
    let (mut ends, mut times) = (Vec::new(), Histogram::default());
    let asked = digits.request("neighbour", 1)?;
    let felt = Felt::rounds(casemate.address, &asked, neighbour::nothing, |until| {
        while Instant::now() < until {
            neighbour::once(&casemate, "endless", &request, &mut |sample| {
                ends.push(sample.outcome);
                times.add(sample.took);
            })?;
        }
        Ok(())
    })?;
    if ends.is_empty() {
        return Err("no request met the loop".into());
    }
    let other = ends.iter().filter(|end| **end != Outcome::Answered(504)).count();
    let title = |what: &str| format!("a model that loops for ever: {what}");
    let late = times.quantile(0.5).as_secs_f64() / DEADLINE.as_secs_f64();
    let mut figures = vec![
        Figure::new(title("requests that ended otherwise than with 504"), other as f64, "requests").at_most(0.0),
        Figure::new(title("time until 504 over the deadline, median"), late, "ratio").at_most(1.1),
    ];
    figures.extend(felt.figures(&title));
    Ok(figures)
}

/// Four connections, which ask again after a failure as after an answer.
fn under(
    to: SocketAddr,
    request: &Request,
    until: Instant,
    each: &mut dyn FnMut(&Sample),
) -> Result<(), Box<dyn Error>> {
    let lasts = until.saturating_duration_since(Instant::now());
    load(&Plan { to, request, pace: Pace::Closed { connections: 4 }, lasts, limit: LIMIT }, &mut |sample| {
        each(sample);
        ControlFlow::Continue(())
    })?;
    Ok(())
}
