//! Instructions of the stages that are ours: the same number on a busy machine as on a quiet one. callgrind counts them, in
//! two runs of `casemate-bench-stages` that differ by how often the stage is done.

use std::error::Error;
use std::process::{Command, Stdio};

use casemate_tests::casemate::program;

use crate::figure::Figure;

/// Name, and what is shown. Rows are 16 numbers wide.
const STAGES: [(&str, &str); 9] = [
    ("parse-json-1", "parse a request, JSON, 1 row"),
    ("parse-json-64", "parse a request, JSON, 64 rows"),
    ("parse-binary-1", "parse a request, binary, 1 row"),
    ("parse-binary-64", "parse a request, binary, 64 rows"),
    ("plan-64", "plan a batch of 64"),
    ("place-64", "place a batch of 64"),
    ("encode", "encode a frame"),
    ("decode", "decode a frame"),
    ("sanitise-64", "sanitise an answer of 64 rows"),
];

/// How often, in the longer of two runs.
const COUNT: u64 = 200;

pub(crate) fn run() -> Result<Vec<Figure>, Box<dyn Error>> {
    let there = Command::new("valgrind").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !there.is_ok_and(|status| status.success()) {
        let why = "there is no valgrind (Debian: apt-get install valgrind)";
        return Ok(vec![Figure::missing("instructions of the stages", "instructions", why)]);
    }
    let mut figures = Vec::new();
    for (stage, what) in STAGES {
        let each = count(stage, COUNT)?.saturating_sub(count(stage, 0)?) / COUNT;
        figures.push(Figure::new(format!("instructions: {what}"), each as f64, "instructions"));
    }
    Ok(figures)
}

/// What callgrind collects over a whole run.
fn count(stage: &str, times: u64) -> Result<u64, Box<dyn Error>> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program("casemate-bench-stages"));
    let output = valgrind.args([stage, &times.to_string()]).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = said.lines().find_map(|line| line.split_once("Collected : "));
    let number = line.filter(|_| output.status.success()).and_then(|(_, number)| number.trim().parse().ok());
    number.ok_or_else(|| format!("callgrind counted nothing: {said}").into())
}
