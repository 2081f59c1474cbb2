//! `casemate bench`: a load on a model of a running server, and how long its answers took.

mod input;
mod report;
mod server;
mod trace;

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use casemate_ipc::id::{ModelName, Version};
use casemate_load::{LoadError, Pace, Plan, Tally, run as load};
use thiserror::Error;

use crate::bench::input::{Filling, Input, InputError};
use crate::bench::server::{Server, ServerError, Url};
use crate::bench::trace::Traced;
use crate::exit::Exit;
use crate::screen::Screen;
use crate::stop::Stop;

/// Its arguments.
#[derive(Debug, clap::Args)]
#[command(before_help = EXAMPLES, after_help = NOTES)]
pub(crate) struct Args {
    /// The model, as the server calls it
    model: ModelName,
    /// Which version of it; the newest where nothing is said
    #[arg(long, value_name = "V")]
    version: Option<Version>,
    /// The server
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: Url,
    /// Requests in a second, whatever became of the ones before
    #[arg(long, value_name = "N", default_value_t = 100.0, conflicts_with = "connections", value_parser = rate)]
    rate: f64,
    /// Instead of a rate: so many connections, each of which sends its next request when its last one is answered
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    connections: Option<u16>,
    /// How long requests are sent
    #[arg(long, value_name = "N", default_value_t = 10.0, value_parser = seconds)]
    seconds: f64,
    /// Rows in a request, where the model's first dimension is the request's choice
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    rows: u64,
    /// How large every other dimension is that is the request's choice
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    free: u64,
    /// Random numbers from this seed in place of zeros: between 1 and 2, and 0 or 1 where a tensor holds whole numbers
    #[arg(long, value_name = "SEED")]
    random: Option<u64>,
    /// Show where the time of a request goes, stage by stage; the server's config must allow it (`listen.trace`)
    #[arg(long)]
    trace: bool,
    /// All of it as JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  casemate bench digits                            100 requests a second for 10 seconds
  casemate bench digits --rate 2000 --seconds 30
  casemate bench digits --connections 64           as much as 64 connections can get out of it
  casemate bench resnet18 --rate 5 --random 1 --json > resnet18.json";

const NOTES: &str = "\
The server must be running; the input is made from what the model declares. With --rate a latency counts from the time at \
which its request was due, also where the server, or a lack of free connections (1,000), kept it from being sent: a pause \
of the server is not hidden. The exit code is 0 only where every request was answered with 200. Run it beside the server \
only to compare: the two then share the CPUs.";

/// Why there are no figures.
#[derive(Debug, Error)]
pub(crate) enum BenchError {
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error("cannot make a request from what the model declares")]
    Input(#[from] InputError),
    #[error("cannot watch for Ctrl-C")]
    Signals(#[source] std::io::Error),
    #[error("the load ended early")]
    Load(#[from] LoadError),
}

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(60);
/// Connections that an open loop opens at most.
const CONNECTIONS: usize = 1000;
/// How often the progress is shown.
const GLANCE: Duration = Duration::from_millis(200);

pub(crate) fn run(args: &Args, screen: &mut Screen) -> Result<Exit, BenchError> {
    let server = Server::find(&args.url)?;
    let declared = server.declared(&args.model, args.version.as_ref())?;
    let filling = args.random.map_or(Filling::Zeros, Filling::Random);
    let input = Input::make(&declared.inputs, args.rows, args.free, filling)?;
    // One by itself, so that a request that cannot work is told in the server's own words.
    server.try_once(&args.model, args.version.as_ref(), &input)?;
    let stop = Stop::watch().map_err(BenchError::Signals)?;
    let pace = match args.connections {
        Some(connections) => Pace::Closed { connections: usize::from(connections) },
        None => Pace::Open { per_second: args.rate, connections: CONNECTIONS },
    };
    let request = server.request(&args.model, args.version.as_ref(), &input);
    let lasts = Duration::from_secs_f64(args.seconds);
    let plan = Plan { to: server.address, request: &request, pace, lasts, limit: LIMIT };
    let (mut tally, begun, mut glance) = (Tally::default(), Instant::now(), Instant::now());
    let traced = args.trace.then(|| Traced::begin(&server, &args.model, args.version.as_ref(), &input));
    load(&plan, &mut |sample| {
        tally.add(sample);
        let now = Instant::now();
        if !args.json && now >= glance {
            glance = now + GLANCE;
            let (so_far, good) = ((now - begun).as_secs_f64(), tally.good.count());
            screen.passing(format_args!("{so_far:.0} of {} s: {good} answers", args.seconds));
        }
        if stop.asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    let stages = traced.map(Traced::end).transpose()?;
    if !args.json {
        screen.passing("");
    }
    let found = report::Found { args, tally: &tally, stages: stages.as_deref(), body: input.bytes() };
    if args.json {
        found.json(screen)
    } else {
        found.table(screen)
    }
    Ok(if tally.failed() == 0 && tally.good.count() > 0 { Exit::Success } else { Exit::Failure })
}

fn rate(text: &str) -> Result<f64, String> {
    bounded(text, 1e6)
}

fn seconds(text: &str) -> Result<f64, String> {
    bounded(text, 86_400.0)
}

fn bounded(text: &str, most: f64) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "is not a number".to_owned())?;
    if number > 0.0 && number <= most { Ok(number) } else { Err(format!("must be above 0 and at most {most}")) }
}

impl BenchError {
    /// The number for the shell.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Server(error) => error.exit(),
            Self::Input(_) => Exit::Usage,
            Self::Load(LoadError::Connect(..)) => Exit::Unavailable,
            _ => Exit::Failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_above_zero() {
        assert_eq!(rate("0.5"), Ok(0.5));
        for bad in ["0", "-1", "x", "inf", "NaN", "1e9"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }
}
