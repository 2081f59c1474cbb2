//! The model in process: `casemate-bench-floor`, asked to run for a while.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use casemate_tests::casemate::program;

use crate::model::Model;
use crate::usage;

/// A model in a process without a cage.
#[derive(Debug)]
pub(crate) struct Floor {
    child: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// What it took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ran {
    pub(crate) p50: Duration,
    pub(crate) per_second: f64,
    /// CPU time of one run.
    pub(crate) cpu: Duration,
}

impl Floor {
    /// One thread, and libtorch as it comes: with machine code made at run time.
    pub(crate) fn start(model: &Model, rows: u64) -> Result<Self, Box<dyn Error>> {
        let mut command = Command::new(program("casemate-bench-floor"));
        command.arg(&model.folder).args([&rows.to_string(), "1", "allowed"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let asks = child.stdin.take().ok_or("no stdin")?;
        let answers = BufReader::new(child.stdout.take().ok_or("no stdout")?);
        let mut floor = Self { child, asks, answers };
        if floor.hear()? != "ready" {
            return Err("the floor did not start".into());
        }
        Ok(floor)
    }

    /// One turn.
    pub(crate) fn turn(&mut self, lasts: Duration) -> Result<Ran, Box<dyn Error>> {
        self.ask(lasts / 10)?;
        self.ask(lasts)
    }

    fn ask(&mut self, lasts: Duration) -> Result<Ran, Box<dyn Error>> {
        let before = usage::cpu(&[self.child.id()]);
        writeln!(self.asks, "{}", lasts.as_millis())?;
        let line = self.hear()?;
        let cpu = usage::cpu(&[self.child.id()]).saturating_sub(before);
        let numbers: Vec<u64> = line.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        let [runs, whole, median] = numbers.as_slice() else { return Err(line.into()) };
        let per_second = *runs as f64 / Duration::from_nanos(*whole).as_secs_f64();
        Ok(Ran { p50: Duration::from_nanos(*median), per_second, cpu: cpu.div_f64(*runs as f64) })
    }

    fn hear(&mut self) -> Result<String, Box<dyn Error>> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
