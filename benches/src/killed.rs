//! A worker that is killed under load: what fails, how soon the model answers again, and what its neighbour feels.

use std::error::Error;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::time::Instant;

use casemate_load::{Outcome, Pace, Plan, Request, Sample, run as load};
use casemate_tests::casemate::{Setup, kill};
use nix::sys::signal::Signal;

use crate::feature;
use crate::figure::Figure;
use crate::measure::LIMIT;
use crate::model::Model;
use crate::neighbour::Felt;

/// A small model and, where it has been made, the one of the peers' table; each started both ways.
pub(crate) fn run() -> Result<Vec<Figure>, Box<dyn Error>> {
    let mut figures = Vec::new();
    for (name, victim) in [("digits", Some(Model::digits()?)), ("MiniLM", Model::made("minilm")?)] {
        let Some(victim) = victim else { continue };
        for (spawn, bound) in [("exec", 500.0), ("zygote", 500.0), ("spare", 150.0)] {
            let Some(lines) = feature::spawn(spawn) else { continue };
            let title = format!("SIGKILL to {name}'s worker ({spawn}) under 4 connections");
            figures.extend(one(&victim, &lines, bound, &title)?);
        }
    }
    Ok(figures)
}

fn one(victim: &Model, config: &feature::Lines, bound: f64, title: &str) -> Result<Vec<Figure>, Box<dyn Error>> {
    let digits = Model::digits()?;
    let setup = config.put(Setup::new()).limit("breaker_deaths", 1000);
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
    let title = |what: &str| format!("{title}: {what}");
    let mut figures = vec![
        Figure::new(title("requests that failed, for each kill"), f64::from(failed) / f64::from(kills), "requests")
            .at_most(4.0),
        Figure::new(title("… otherwise than with 502 or 503"), other as f64, "requests").at_most(0.0),
        Figure::millis(title("until the first good answer, median"), median).at_most(bound),
        Figure::millis(title("until the first good answer, longest"), longest),
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
