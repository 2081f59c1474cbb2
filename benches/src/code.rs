//! What refusing run-time code costs: one server serves each model with `run_time_code` refused and allowed, and, where the
//! model's folder has the sizes of its convolutions (`casemate model tune --write`), with these, and is asked in turns. Beside the time that a client waits stands the CPU time of the worker, which does not grow with the
//! machine's other work.

use std::error::Error;
use std::fs;
use std::time::Duration;

use casemate_tests::casemate::Setup;

use crate::figure::Figure;
use crate::measure::{Target, in_turns};
use crate::model::Model;

/// Name, how long a turn is, and rows in a request.
const MODELS: [(&str, Duration, &[u64]); 3] = [
    ("tiny", Duration::from_millis(300), &[1]),
    ("minilm", Duration::from_secs(1), &[1]),
    ("resnet18", Duration::from_secs(2), &[1, 8]),
];

/// What `casemate model tune --write` leaves beside the manifest.
const SHAPES: &str = "model.shapes";

/// Most rows in a run.
const BATCH: u32 = 8;

const ROUNDS: usize = 5;

pub(crate) fn run() -> Result<Vec<Figure>, Box<dyn Error>> {
    let mut figures = Vec::new();
    for (name, turn, rows) in MODELS {
        if let Some(model) = Model::made(name)? {
            figures.extend(both(&model, turn, rows)?);
        }
    }
    Ok(figures)
}

fn both(model: &Model, lasts: Duration, rows: &[u64]) -> Result<Vec<Figure>, Box<dyn Error>> {
    let setup = Setup::new().config("[models.allowed]\nrun_time_code = \"allowed\"");
    for served in ["refused", "shapes", "allowed"] {
        model.put(&setup, served, BATCH)?;
    }
    for bare in ["refused", "allowed"] {
        // Not there where nobody has tuned the model.
        let _ = fs::remove_file(setup.store().join(bare).join("1").join(SHAPES));
    }
    let tuned = model.folder.join(SHAPES).is_file();
    let casemate = setup.serve();
    let mut figures = Vec::new();
    for rows in rows {
        let target = |served: &str| -> Result<Target, Box<dyn Error>> {
            Ok(Target::casemate(&casemate, model.request(served, *rows)?).only(casemate.worker(served)))
        };
        let targets = ["refused", "shapes", "allowed"].map(target);
        let [refused, shapes, allowed] = targets;
        let found = in_turns(&[&refused?, &shapes?, &allowed?], 1, lasts, ROUNDS)?;
        let [refused, shapes, allowed] = found.as_slice() else { return Err("three targets".into()) };
        for (how, ours) in [("refused", refused), ("refused, with model.shapes", shapes)] {
            if how != "refused" && !tuned {
                continue;
            }
            let title = |what: &str| format!("{}, {rows} rows, run-time code {how}: {what}", model.name);
            let ratio = |a: Duration, b: Duration| a.as_secs_f64() / b.as_secs_f64();
            let cost = Figure::new(title("worker CPU over allowed"), ratio(ours.cpu, allowed.cpu), "ratio");
            let wait = Figure::new(title("p50 over allowed"), ratio(ours.p50, allowed.p50), "ratio");
            figures.push(Figure::millis(title("p50"), ours.p50));
            figures.push(Figure::micros(title("worker CPU per request"), ours.cpu));
            let bounded = how != "refused" && model.name == "resnet18";
            figures.push(if bounded { cost.at_most(1.03) } else { cost });
            figures.push(if bounded { wait.at_most(1.03) } else { wait });
        }
    }
    Ok(figures)
}
