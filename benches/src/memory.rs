//! Memory: proportional set size of all processes of a server, with what they share counted once.

use std::error::Error;
use std::time::Duration;

use casemate_tests::casemate::{Casemate, Setup};

use crate::feature;
use crate::figure::Figure;
use crate::measure::closed;
use crate::model::Model;
use crate::usage;

/// Triton's with the same three models, one worker each, on another machine of two cores: MiB.
const TRITON: f64 = 324.0;

/// How many digits models.
const MANY: usize = 100;

/// How long all of them may take to start.
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) fn run() -> Result<Vec<Figure>, Box<dyn Error>> {
    let mut figures = Vec::new();
    figures.extend(three()?);
    figures.extend(instances()?);
    for spawn in ["exec", "zygote"] {
        figures.extend(many(spawn)?);
    }
    Ok(figures)
}

/// Tiny, MiniLM and resnet18, asked once each.
fn three() -> Result<Vec<Figure>, Box<dyn Error>> {
    let setup = Setup::new();
    let mut models = Vec::new();
    for name in ["tiny", "minilm", "resnet18"] {
        let Some(model) = Model::made(name)? else { return Ok(Vec::new()) };
        model.put(&setup, name, 8)?;
        models.push(model);
    }
    let casemate = setup.serve();
    for model in &models {
        ask(&casemate, model, &model.name)?;
    }
    let mut figures = vec![whole("tiny, MiniLM and resnet18, one worker each: PSS", &casemate)?.at_most(1.2 * TRITON)];
    for model in &models {
        figures.push(part(&format!("… worker of {}: PSS", model.name), casemate.worker(&model.name))?);
    }
    figures.push(part("… front: PSS", casemate.front())?);
    figures.push(part("… launcher: PSS", casemate.launcher())?);
    Ok(figures)
}

/// What four instances take beside one.
fn instances() -> Result<Vec<Figure>, Box<dyn Error>> {
    let title = "MiniLM, 4 instances over 1: PSS";
    let Some(model) = Model::made("minilm")? else { return Ok(Vec::new()) };
    let mut sizes = Vec::new();
    for count in [1, 4] {
        let Some(lines) = feature::instances("minilm", count) else {
            let why = "this build has no `instances`";
            return Ok(vec![Figure::missing(title, "MiB", why).at_most(40.0)]);
        };
        let setup = lines.put(Setup::new());
        model.put(&setup, "minilm", 8)?;
        let casemate = setup.serve();
        // So that every instance has run.
        closed(casemate.address, &model.request("minilm", 1)?, 16, Duration::from_secs(3))?;
        sizes.push(mib(usage::memory(&usage::tree(casemate.launcher()))?));
    }
    let [one, four] = sizes.as_slice() else { return Err("two servers".into()) };
    Ok(vec![Figure::new("MiniLM, 1 instance: PSS", *one, "MiB"), Figure::new(title, four - one, "MiB").at_most(40.0)])
}

/// A hundred models, all loaded.
fn many(spawn: &str) -> Result<Vec<Figure>, Box<dyn Error>> {
    let title = format!("{MANY} digits models of one tenant, {spawn}: PSS");
    let Some(lines) = feature::spawn(spawn) else {
        let why = "this build has no `spawn = \"zygote\"`";
        return Ok(vec![Figure::missing(title, "MiB", why).at_most(1024.0)]);
    };
    let digits = Model::digits()?;
    let mut setup = lines.put(Setup::new());
    for at in 0..MANY {
        digits.put(&setup, &format!("digits{at}"), 32)?;
        // Only models of one tenant have a zygote in common.
        setup = setup.config(&format!("[models.digits{at}]\ntenant = \"all\""));
    }
    let casemate = setup.start();
    casemate.wait_until("all models ready", PATIENCE, || casemate.get("/v2/health/ready").status == 200);
    ask(&casemate, &digits, "digits0")?;
    let figure = whole(&title, &casemate)?;
    // By exec a worker has libtorch's own data to itself; the bound is on what a zygote shares.
    Ok(vec![if spawn == "zygote" { figure.at_most(1024.0) } else { figure }])
}

fn ask(casemate: &Casemate, model: &Model, served: &str) -> Result<(), Box<dyn Error>> {
    let tally = closed(casemate.address, &model.request(served, 1)?, 1, Duration::from_millis(500))?;
    if tally.failed() > 0 { Err(format!("{served} failed: {:?}", tally.refused).into()) } else { Ok(()) }
}

fn whole(title: &str, casemate: &Casemate) -> Result<Figure, Box<dyn Error>> {
    Ok(Figure::new(title, mib(usage::memory(&usage::tree(casemate.launcher()))?), "MiB"))
}

fn part(title: &str, pid: u32) -> Result<Figure, Box<dyn Error>> {
    Ok(Figure::new(title, mib(usage::memory(&[pid])?), "MiB"))
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
