//! What the trip costs: the tiny model end to end against an echo of the same bytes.

use std::error::Error;
use std::time::Duration;

use casemate_tests::casemate::{Casemate, Setup};

use crate::crossing::Crossing;
use crate::echo::Echo;
use crate::figure::Figure;
use crate::floor::Floor;
use crate::measure::{Measured, Target, in_turns, median};
use crate::model::Model;

/// Most rows in a run.
const BATCH: u32 = 64;

const ROUNDS: usize = 5;
const TURN: Duration = Duration::from_secs(1);

pub(crate) fn run() -> Result<Vec<Figure>, Box<dyn Error>> {
    let Some(tiny) = Model::made("tiny")? else { return Ok(Vec::new()) };
    let setup = Setup::new();
    tiny.put(&setup, "tiny", BATCH)?;
    let casemate = setup.serve();
    let (echo, request) = beside(&tiny, &casemate)?;
    let ours = Target::casemate(&casemate, request);
    let mut figures = Vec::new();
    for connections in [1, 4, 16, 64] {
        let found = in_turns(&[&ours, &echo.1], connections, TURN, ROUNDS)?;
        let [ours, echo] = found.as_slice() else { return Err("two targets".into()) };
        figures.extend(compare(connections, *ours, *echo));
        if connections == 1 {
            figures.extend(above_the_floor(&tiny, ours.p50, echo.p50)?);
        }
    }
    Ok(figures)
}

/// What a trip can be at best: the echo's, and the model's own run. That run is measured back to back in one process, which is
/// the floor of a server that isolates nothing, and in another process that is asked by a packet, which is the floor of one
/// that does. Neither has a cage.
fn above_the_floor(tiny: &Model, ours: Duration, echo: Duration) -> Result<Vec<Figure>, Box<dyn Error>> {
    let (mut inside, apart) = (Floor::start(tiny, 1)?, Crossing::start(tiny)?);
    let (mut runs, mut crossings) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        runs.push(inside.turn(TURN)?.p50.as_secs_f64());
        crossings.push(apart.turn(TURN)?.as_secs_f64());
    }
    let [run, crossing] = [median(runs), median(crossings)].map(Duration::from_secs_f64);
    let ratio = |floor: Duration| ours.as_secs_f64() / floor.as_secs_f64();
    Ok(vec![
        Figure::micros("tiny: p50 of a run, model in process", run),
        Figure::micros("tiny: p50 of a packet to the model in another process and back", crossing),
        Figure::new(
            "tiny, floor of one process: echo and run over the echo's",
            (echo + run).div_duration_f64(echo),
            "ratio",
        ),
        Figure::new("tiny, 1 connection: p50 over the floor of one process", ratio(echo + run), "ratio"),
        Figure::new("tiny, 1 connection: p50 over the floor of two processes", ratio(echo + crossing), "ratio"),
    ])
}

/// An echo that answers as many bytes as the server does, and what the server is asked.
fn beside(model: &Model, casemate: &Casemate) -> Result<((Echo, Target), casemate_load::Request), Box<dyn Error>> {
    let echo = Echo::start(model.answer_bytes(casemate, &model.name)?)?;
    let target = Target::echo(&echo, model.request_to_echo(1)?);
    Ok(((echo, target), model.request(&model.name, 1)?))
}

fn compare(connections: usize, ours: Measured, echo: Measured) -> Vec<Figure> {
    let s = if connections == 1 { "" } else { "s" };
    let title = |what: &str| format!("tiny, {connections} connection{s}: {what}");
    let ratio = |a: Duration, b: Duration| a.as_secs_f64() / b.as_secs_f64();
    let p50 = Figure::new(title("p50 over the echo's"), ratio(ours.p50, echo.p50), "ratio");
    let rate = Figure::new(title("requests/s over the echo's"), ours.per_second / echo.per_second, "ratio");
    let cpu = Figure::new(title("server CPU over the echo's"), ratio(ours.cpu, echo.cpu), "ratio");
    let own = Figure::micros(title("server CPU per request"), ours.cpu);
    let (p50, rate, cpu, own) = match connections {
        1 => (p50.at_most(1.6), rate, cpu, own.at_most(60.0)),
        64 => (p50, rate.at_least(0.5), cpu.at_most(2.5), own),
        _ => (p50, rate, cpu, own),
    };
    vec![
        Figure::micros(title("p50"), ours.p50),
        Figure::micros(title("p99"), ours.p99),
        Figure::micros(title("p50, echo"), echo.p50),
        Figure::micros(title("p99, echo"), echo.p99),
        p50,
        Figure::new(title("requests/s"), ours.per_second, "/s"),
        Figure::new(title("requests/s, echo"), echo.per_second, "/s"),
        rate,
        own,
        Figure::micros(title("server CPU per request, echo"), echo.cpu),
        cpu,
    ]
}
