//! `cargo xtask TASK`: what a checkout can do with itself, from a bare machine with Rust to a running demo.
//!
//! Every task that needs the system's tools or libtorch brings them first, so each one is a single command.
#![forbid(unsafe_code)]

mod checkout;
mod demo;
mod fuzz;
mod layers;
mod libtorch;
mod program;
mod setup;
mod stubs;
mod suite;
mod wheel;

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::process::ExitCode;

use checkout::{Checkout, CheckoutError};
use libtorch::{LibtorchError, Wanted};
use program::ProgramError;
use setup::SetupError;

const USAGE: &str = "\
usage: cargo xtask TASK
  libtorch [--version V] [--wheel FILE]   bring the pinned libtorch into this checkout
  demo [ARGS…]                            build for release and run `casemate demo ARGS`
  test [ARGS…]                            build every program, then `cargo test --workspace ARGS`
  bench [--json FILE] [--peer P] [NAME…]  build for release and run the benches, all or those named
  fuzz [TARGET] [--seconds N]             run the fuzz targets for N seconds each, 60 where nothing is said
  policy                                  print the compiled policies into docs/policies.md
  layers                                  check what may import what, and where unsafe code may stand";

/// Why a task did not succeed.
#[derive(Debug, thiserror::Error)]
enum TaskError {
    #[error("{USAGE}")]
    Usage,
    #[error(transparent)]
    Checkout(#[from] CheckoutError),
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error(transparent)]
    Libtorch(#[from] LibtorchError),
    #[error(transparent)]
    Fuzz(#[from] fuzz::FuzzError),
    #[error(transparent)]
    Layers(#[from] layers::LayersError),
    #[error(transparent)]
    Program(#[from] ProgramError),
}

fn main() -> ExitCode {
    let mut args = env::args_os().skip(1);
    let task = args.next();
    match run(task.as_ref().and_then(|task| task.to_str()).unwrap_or(""), args.collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

fn run(task: &str, args: Vec<OsString>) -> Result<(), TaskError> {
    let checkout = Checkout::find()?;
    match task {
        "libtorch" => libtorch::provide(&checkout, &libtorch_wanted(args)?)?,
        "demo" => {
            bring(&checkout)?;
            demo::run(&checkout, &args)?;
        }
        "test" => {
            bring(&checkout)?;
            suite::test(&checkout, &args)?;
        }
        "bench" => {
            bring(&checkout)?;
            suite::bench(&checkout, &args)?;
        }
        "fuzz" => {
            let wanted = fuzz::Wanted::read(&args).ok_or(TaskError::Usage)?;
            setup::ensure(setup::TO_BUILD)?;
            fuzz::run(&checkout, &wanted)?;
        }
        "policy" if args.is_empty() => suite::write_documents(&checkout)?,
        "layers" if args.is_empty() => layers::check(&checkout)?,
        _ => return Err(TaskError::Usage),
    }
    Ok(())
}

/// What building the workspace needs. Libtorch stands first: on a bare machine it asks for all the tools at once.
fn bring(checkout: &Checkout) -> Result<(), TaskError> {
    libtorch::provide(checkout, &Wanted::default())?;
    Ok(setup::ensure(setup::TO_BUILD)?)
}

fn libtorch_wanted(args: Vec<OsString>) -> Result<Wanted, TaskError> {
    let mut wanted = Wanted::default();
    let mut args = args.into_iter();
    while let Some(option) = args.next() {
        let value = args.next().ok_or(TaskError::Usage)?;
        match option.to_str() {
            Some("--version") => wanted.version = Some(value.into_string().map_err(|_| TaskError::Usage)?),
            Some("--wheel") => wanted.wheel = Some(value.into()),
            _ => return Err(TaskError::Usage),
        }
    }
    Ok(wanted)
}

/// Prints the error with its causes. A program that failed has already said why: its exit code is handed on.
fn report(error: &TaskError) -> ExitCode {
    eprintln!("xtask: {error}");
    let mut cause = error.source();
    while let Some(deeper) = cause {
        eprintln!("  because: {deeper}");
        cause = deeper.source();
    }
    match error {
        TaskError::Program(ProgramError::Failed { code, .. }) => ExitCode::from(*code),
        TaskError::Usage => ExitCode::from(2),
        _ => ExitCode::FAILURE,
    }
}
