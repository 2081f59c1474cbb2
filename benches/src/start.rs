//! Cold start: from the front's request for a worker of the digits model to its first answer, in the whole cage.
//!
//! The front tells how long a worker took from the request for it until it was ready; the first request follows on a
//! connection of its own. Each start but the server's own is measured, which a worker's death brings about: by then a zygote,
//! where there is one, is there.

use std::error::Error;
use std::thread;
use std::time::{Duration, Instant};

use casemate_load::Histogram;
use casemate_tests::casemate::{Setup, kill};
use nix::sys::signal::Signal;

use crate::feature;
use crate::figure::Figure;
use crate::measure::{LIMIT, closed};
use crate::model::Model;

const STARTS: usize = 9;

/// Between one start and the next: a spare that was used is followed by another, which has to get warm.
const REST: Duration = Duration::from_secs(2);

pub(crate) fn run() -> Result<Vec<Figure>, Box<dyn Error>> {
    let mut figures = Vec::new();
    for (spawn, bound) in [("exec", 300.0), ("zygote", 25.0), ("spare", 25.0)] {
        let title = |what: &str| format!("cold start of digits, {spawn}: {what}");
        let Some(lines) = feature::spawn(spawn) else {
            let why = "this build has no zygotes";
            figures.push(Figure::missing(title("request to first answer, p50"), "ms", why).at_most(bound));
            continue;
        };
        let (ready, all) = starts(&lines)?;
        figures.push(Figure::millis(title("request until ready, p50"), ready.quantile(0.5)));
        figures.push(Figure::millis(title("request to first answer, p50"), all.quantile(0.5)).at_most(bound));
        figures.push(Figure::millis(title("request to first answer, longest"), all.longest()));
    }
    Ok(figures)
}

/// Until each worker was ready, and until its first answer.
fn starts(config: &feature::Lines) -> Result<(Histogram, Histogram), Box<dyn Error>> {
    let digits = Model::digits()?;
    let setup = config.put(Setup::new()).limit("breaker_deaths", 1000);
    digits.put(&setup, "digits", 32)?;
    let casemate = setup.serve();
    let request = digits.request("digits", 1)?;
    let (mut ready, mut all) = (Histogram::default(), Histogram::default());
    for _ in 0..STARTS {
        thread::sleep(REST);
        let last = casemate.worker("digits");
        kill(last, Signal::SIGKILL);
        let again = || {
            let status = casemate.status("digits");
            status["state"] == "ready" && status["worker"]["pid"].as_u64().is_some_and(|pid| pid != u64::from(last))
        };
        casemate.wait_until("a worker again", LIMIT, again);
        let us = casemate.status("digits")["worker"]["ready_us"].as_u64().ok_or("no ready_us in the status")?;
        let begun = Instant::now();
        let tally = closed(casemate.address, &request, 1, Duration::ZERO)?;
        let answer = begun.elapsed();
        if tally.good.count() == 0 {
            return Err("the first request failed".into());
        }
        ready.add(Duration::from_micros(us));
        all.add(Duration::from_micros(us) + answer);
    }
    Ok((ready, all))
}
