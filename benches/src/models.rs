//! What is left of a real model's speed: end to end against the same file in process, with as many rows in a run and one
//! thread in both. They take turns, and each turn is compared with the one before it. A second process of the floor takes
//! turns too: what it differs by is what this machine can tell apart.

use std::error::Error;
use std::time::Duration;

use casemate_tests::casemate::Setup;

use crate::figure::Figure;
use crate::floor::Floor;
use crate::measure::{Measured, Target, median};
use crate::model::Model;

/// Name, rows in a run, and how long a turn is.
const MODELS: [(&str, u32, Duration); 2] =
    [("minilm", 16, Duration::from_millis(1500)), ("resnet18", 8, Duration::from_secs(4))];

const ROUNDS: usize = 7;

/// As much of the floor's speed as must be left.
const LEFT: f64 = 0.97;

pub(crate) fn run() -> Result<Vec<Figure>, Box<dyn Error>> {
    let mut figures = Vec::new();
    for (name, batch, turn) in MODELS {
        if let Some(model) = Model::made(name)? {
            figures.extend(both(&model, batch, turn)?);
        }
    }
    Ok(figures)
}

fn both(model: &Model, batch: u32, lasts: Duration) -> Result<Vec<Figure>, Box<dyn Error>> {
    let name = &model.name;
    let setup = Setup::new();
    model.put(&setup, name, batch)?;
    let casemate = setup.serve();
    let ours = Target::casemate(&casemate, model.request(name, 1)?);
    let mut figures = Vec::new();
    for (connections, rows) in [(1, 1), (64, u64::from(batch))] {
        let (mut floor, mut other) = (Floor::start(model, rows)?, Floor::start(model, rows)?);
        let (mut served, mut p50, mut rate, mut cpu) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut left, mut apart) = (Vec::new(), Vec::new());
        // By the median with one connection, where that is a run and its trip; by what gets through with many.
        let speed =
            |p50: Duration, per_second: f64| if connections == 1 { 1.0 / p50.as_secs_f64() } else { per_second };
        for _ in 0..ROUNDS {
            let (alone, again, ours) = (floor.turn(lasts)?, other.turn(lasts)?, ours.turn(connections, lasts)?);
            let fast = speed(alone.p50, alone.per_second * rows as f64);
            apart.push(speed(again.p50, again.per_second * rows as f64) / fast);
            left.push(speed(ours.p50, ours.per_second) / fast);
            p50.push(alone.p50.as_secs_f64() * 1e3);
            rate.push(alone.per_second * rows as f64);
            cpu.push(alone.cpu.as_secs_f64() / rows as f64);
            served.push(ours);
        }
        let (served, p50, rate) = (Measured::median(&served), median(p50), median(rate));
        let s = if connections == 1 { "" } else { "s" };
        let title = |what: &str| format!("{name}, {connections} connection{s}: {what}");
        figures.push(Figure::millis(title("p50"), served.p50));
        figures.push(Figure::millis(title("p99"), served.p99));
        let by = if connections == 1 {
            figures.push(Figure::new(title("p50, model in process"), p50, "ms"));
            "by p50"
        } else {
            figures.push(Figure::new(title("requests/s"), served.per_second, "/s"));
            figures.push(Figure::new(title("rows/s, model in process"), rate, "/s"));
            "by rows/s"
        };
        let title_by = |what: &str| title(&format!("{what}, {by}"));
        figures.push(Figure::new(title_by("of the model in process"), median(left), "ratio").at_least(LEFT));
        figures.push(Figure::new(title_by("another process of the model, of it"), median(apart), "ratio"));
        // What a busy machine does not spoil.
        figures.push(Figure::micros(title("server CPU per request"), served.cpu));
        let more = served.cpu.as_secs_f64() / median(cpu);
        figures.push(Figure::new(title("server CPU over the model in process"), more, "ratio"));
    }
    Ok(figures)
}
