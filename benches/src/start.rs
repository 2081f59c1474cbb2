//! Cold start: from the front's request for a worker of the digits model to its first answer, in the whole cage.
//!
//! The front tells how long a worker took from the request for it until it was ready; the first request follows on a
//! connection of its own.

use std::error::Error;
use std::time::{Duration, Instant};

use casemate_load::Histogram;
use casemate_tests::casemate::Setup;

use crate::feature;
use crate::figure::Figure;
use crate::measure::closed;
use crate::model::Model;

const STARTS: usize = 9;

pub(crate) fn run() -> Result<Vec<Figure>, Box<dyn Error>> {
    let mut figures = Vec::new();
    for (spawn, bound) in [("exec", 300.0), ("zygote", 25.0)] {
        let title = |what: &str| format!("cold start of digits, {spawn}: {what}");
        let Some(lines) = feature::spawn(spawn) else {
            let why = "this build has no `spawn = \"zygote\"`";
            figures.push(Figure::missing(title("request to first answer, p50"), "ms", why).at_most(bound));
            continue;
        };
        let (mut ready, mut all) = (Histogram::default(), Histogram::default());
        for _ in 0..STARTS {
            let (worker, answer) = once(&lines)?;
            ready.add(worker);
            all.add(worker + answer);
        }
        figures.push(Figure::millis(title("request until ready, p50"), ready.quantile(0.5)));
        figures.push(Figure::millis(title("request to first answer, p50"), all.quantile(0.5)).at_most(bound));
        figures.push(Figure::millis(title("request to first answer, longest"), all.longest()));
    }
    Ok(figures)
}

/// Until the worker was ready, and its first answer after that.
fn once(config: &feature::Lines) -> Result<(Duration, Duration), Box<dyn Error>> {
    let digits = Model::digits()?;
    let setup = config.put(Setup::new());
    digits.put(&setup, "digits", 32)?;
    let casemate = setup.serve();
    let begun = Instant::now();
    let tally = closed(casemate.address, &digits.request("digits", 1)?, 1, Duration::ZERO)?;
    let answer = begun.elapsed();
    if tally.good.count() == 0 {
        return Err("the first request failed".into());
    }
    let us = casemate.status("digits")["worker"]["ready_us"].as_u64().ok_or("no ready_us in the status")?;
    Ok((Duration::from_micros(us), answer))
}
