//! The `casemate` command: starts the server, tends the model store, shows what the cage holds.
//!
//! It contains none of the other programs: [`serve`] becomes the launcher, [`demo`] starts it as a child.

#![forbid(unsafe_code)]

mod archive;
mod ask;
mod bench;
mod code;
mod demo;
mod doctor;
mod escape;
mod exit;
mod gate;
mod man;
mod model;
mod programs;
mod sandbox;
mod scratch;
mod screen;
mod serve;
mod stop;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::exit::{Exit, Failure};
use crate::screen::Screen;

/// Serve models that you do not trust
///
/// Casemate answers the Open Inference Protocol over HTTP and runs every model in a locked-down process of its own.
#[derive(Debug, Parser)]
#[command(name = "casemate", version, before_help = EXAMPLES, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a small real model on loopback, ask it something, show the cage around it
    Demo(demo::Args),
    /// Serve the models of a store
    Serve(serve::Args),
    /// Add models to a store, list them, look into a model file
    Model {
        #[command(subcommand)]
        command: model::Command,
    },
    /// Put a load on a model of a running server, and say how long its answers took
    Bench(bench::Args),
    /// Say what this host can give, whether a server would start, and what would raise it
    Doctor(doctor::Args),
    /// Say what a worker may do, and prove that it can do no more
    Sandbox {
        #[command(subcommand)]
        command: sandbox::Command,
    },
    /// Write the manual pages into a folder
    #[command(hide = true)]
    Man(man::Args),
}

const EXAMPLES: &str = "\
Examples:
  casemate demo                                    see a model answer from inside the cage
  casemate model inspect model.pt                  what is in the file, without loading it
  casemate model add --store /srv/models --name iris \\
      --input 'x:f32[-1,4]' --output 'y:f32[-1,3]' model.pt
  casemate doctor --config /etc/casemate/casemate.toml
  casemate serve --config /etc/casemate/casemate.toml
  casemate bench iris --rate 500                   how long its answers take
  casemate sandbox explain                         what a worker may do, and why
  casemate sandbox prove                           that it can do no more";

fn main() -> ExitCode {
    let mut screen = Screen::stdout();
    // clap answers --help, --version and wrong usage itself, with 0, 0 and 2.
    match run(Cli::parse().command, &mut screen) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            Screen::stderr().failure(&failure);
            failure.exit().into()
        }
    }
}

fn run(command: Command, screen: &mut Screen) -> Result<Exit, Failure> {
    match command {
        Command::Demo(args) => return Ok(demo::run(&args, screen)?),
        Command::Serve(args) => match serve::run(&args)? {},
        Command::Model { command: model::Command::Add(args) } => model::add::run(&args, screen)?,
        Command::Model { command: model::Command::List(args) } => model::list::run(&args, screen)?,
        Command::Model { command: model::Command::Inspect(args) } => model::inspect::run(&args, screen)?,
        Command::Model { command: model::Command::Tune(args) } => model::tune::run(&args, screen).map_err(Box::new)?,
        Command::Bench(args) => return Ok(bench::run(&args, screen)?),
        Command::Doctor(args) => return Ok(doctor::run(&args, screen)?),
        Command::Sandbox { command: sandbox::Command::Explain(args) } => sandbox::explain::run(&args, screen)?,
        Command::Sandbox { command: sandbox::Command::Prove(args) } => return Ok(sandbox::prove::run(&args, screen)?),
        Command::Man(args) => man::run(&args)?,
    }
    Ok(Exit::Success)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
