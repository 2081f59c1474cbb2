//! Servers under a closed loop, in turns, so that whatever else the machine does happens to all of them.

use std::error::Error;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::time::Duration;

use casemate_load::{Pace, Plan, Request, Tally, run};
use casemate_tests::casemate::Casemate;

use crate::echo::Echo;
use crate::usage;

/// A server, and what it is asked.
#[derive(Debug)]
pub(crate) struct Target {
    address: SocketAddr,
    pids: Vec<u32>,
    request: Request,
}

/// Medians of the turns.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) per_second: f64,
    /// CPU time of all processes of the server, for one request.
    pub(crate) cpu: Duration,
}

/// How long an answer may take before the bench is wrong.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

impl Target {
    pub(crate) fn casemate(casemate: &Casemate, request: Request) -> Self {
        Self { address: casemate.address, pids: usage::tree(casemate.launcher()), request }
    }

    pub(crate) fn echo(echo: &Echo, request: Request) -> Self {
        Self { address: echo.address, pids: vec![echo.pid()], request }
    }

    /// Any server.
    pub(crate) fn other(address: SocketAddr, pids: Vec<u32>, request: Request) -> Self {
        Self { address, pids, request }
    }

    /// One process of a server alone.
    pub(crate) fn only(mut self, pid: u32) -> Self {
        self.pids = vec![pid];
        self
    }

    /// One turn. Anything but a 200 ends the bench, since its time would mean nothing.
    pub(crate) fn turn(&self, connections: usize, lasts: Duration) -> Result<Measured, Box<dyn Error>> {
        // Uncounted: what is slow the first time after a pause is not what a server does all day.
        closed(self.address, &self.request, connections, lasts / 10)?;
        let before = usage::cpu(&self.pids);
        let tally = closed(self.address, &self.request, connections, lasts)?;
        let cpu = usage::cpu(&self.pids).saturating_sub(before);
        if tally.failed() > 0 || tally.good.count() == 0 {
            return Err(format!("the server failed: {:?}, {} unanswered", tally.refused, tally.unanswered).into());
        }
        let cpu = cpu.div_f64(tally.good.count() as f64);
        let (p50, p99) = (tally.good.quantile(0.5), tally.good.quantile(0.99));
        Ok(Measured { p50, p99, per_second: tally.per_second(), cpu })
    }
}

impl Measured {
    /// Of several turns, each number by itself.
    pub(crate) fn median(turns: &[Self]) -> Self {
        let time = |of: fn(&Self) -> Duration| {
            let mut all: Vec<Duration> = turns.iter().map(of).collect();
            all.sort_unstable();
            all.get(all.len() / 2).copied().unwrap_or_default()
        };
        let per_second = median(turns.iter().map(|turn| turn.per_second).collect());
        Self { p50: time(|turn| turn.p50), p99: time(|turn| turn.p99), per_second, cpu: time(|turn| turn.cpu) }
    }
}

/// Each target in each round; the medians, in the order of the targets.
pub(crate) fn in_turns(
    targets: &[&Target],
    connections: usize,
    lasts: Duration,
    rounds: usize,
) -> Result<Vec<Measured>, Box<dyn Error>> {
    let mut turns = vec![Vec::new(); targets.len()];
    for _ in 0..rounds {
        for (target, turns) in targets.iter().zip(&mut turns) {
            turns.push(target.turn(connections, lasts)?);
        }
    }
    Ok(turns.iter().map(|turns| Measured::median(turns)).collect())
}

/// A closed loop.
pub(crate) fn closed(
    to: SocketAddr,
    request: &Request,
    connections: usize,
    lasts: Duration,
) -> Result<Tally, Box<dyn Error>> {
    let mut tally = Tally::default();
    run(&Plan { to, request, pace: Pace::Closed { connections }, lasts, limit: LIMIT }, &mut |sample| {
        tally.add(sample);
        ControlFlow::Continue(())
    })?;
    Ok(tally)
}

/// The middle one; 0 where there is none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
