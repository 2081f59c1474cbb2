//! What is left of a real model's speed: end to end against the same file in process, with as many rows in a run and one
//! thread in both.

use std::error::Error;
use std::time::Duration;

use casemate_tests::casemate::Setup;

use crate::figure::Figure;
use crate::floor::Floor;
use crate::measure::{Measured, Target, median};
use crate::model::Model;

/// Name, rows in a run, and how long a turn is.
const MODELS: [(&str, u32, Duration); 2] =
    [("minilm", 16, Duration::from_secs(2)), ("resnet18", 8, Duration::from_secs(4))];

const ROUNDS: usize = 5;

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
        let mut floor = Floor::start(model, rows)?;
        let (mut served, mut p50, mut rate, mut cpu) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let alone = floor.turn(lasts)?;
            p50.push(alone.p50.as_secs_f64() * 1e3);
            rate.push(alone.per_second * rows as f64);
            cpu.push(alone.cpu.as_secs_f64() / rows as f64);
            served.push(ours.turn(connections, lasts)?);
        }
        let (served, p50, rate) = (Measured::median(&served), median(p50), median(rate));
        let s = if connections == 1 { "" } else { "s" };
        let title = |what: &str| format!("{name}, {connections} connection{s}: {what}");
        figures.push(Figure::millis(title("p50"), served.p50));
        figures.push(Figure::millis(title("p99"), served.p99));
        if connections == 1 {
            figures.push(Figure::new(title("p50, model in process"), p50, "ms"));
            let left = p50 / (served.p50.as_secs_f64() * 1e3);
            figures.push(Figure::new(title("of the model in process, by p50"), left, "ratio").at_least(LEFT));
        } else {
            figures.push(Figure::new(title("requests/s"), served.per_second, "/s"));
            figures.push(Figure::new(title("rows/s, model in process"), rate, "/s"));
            let left = served.per_second / rate;
            figures.push(Figure::new(title("of the model in process, by rows/s"), left, "ratio").at_least(LEFT));
        }
        // What a busy machine does not spoil.
        figures.push(Figure::micros(title("server CPU per request"), served.cpu));
        let more = served.cpu.as_secs_f64() / median(cpu);
        figures.push(Figure::new(title("server CPU over the model in process"), more, "ratio"));
    }
    Ok(figures)
}
