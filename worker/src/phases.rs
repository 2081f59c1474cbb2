//! A worker's trip, each step with the proof of the last one in its hand:
//!
//! boot → confine → warm up → lock → thread pools → seal → verify → gate → load → gate
//! (its graphs) → trial → serve.
//!
//! Until `seal` has succeeded no byte of the model or of its manifest has been read by anything.

use std::time::Instant;

use casemate_ipc::launch::{Grant, RunTimeCode, exit_code};
use casemate_ipc::layer::Waiver;
use casemate_ipc::work::{FromWorker, GateCode, Inside, Step, detail};
use casemate_lockdown::{self as lockdown, Report, Requirements, Sealed};
use nix::unistd::geteuid;

use crate::boot::{self, BootError, Born, Estate};
use crate::engine::contract::ToFront;
use crate::engine::{self, shim};
use crate::model::gate::{self, GateError};
use crate::model::verify;
use crate::serve::Cell;
use crate::warm;

/// Goes all the way. It ends the process itself: closing the channel is a call that the last filter does not allow.
pub fn run() -> ! {
    warm::set_panic_hook();
    let Born { front, estate } = match boot::boot() {
        Ok(born) => born,
        Err(error) => {
            shim::log(2, format!("boot: {error}\n").as_bytes());
            shim::exit(exit_code::BOOT)
        }
    };
    go(&front, estate, Warmth::Cold)
}

/// The same for a worker that a zygote bore: its first steps are behind it, and its zygote's warmth is its own.
pub fn run_newborn(front: &ToFront, estate: Result<Estate, BootError>) -> ! {
    go(front, estate, Warmth::Inherited)
}

/// Whether the trusted warm-up is still to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Warmth {
    Cold,
    Inherited,
}

fn go(front: &ToFront, estate: Result<Estate, BootError>, warmth: Warmth) -> ! {
    let lived = estate.map_err(|error| Stop::at(Step::Boot, error)).and_then(|estate| live(front, estate, warmth));
    shim::exit(lived.unwrap_or_else(|stop| stop.say(front)))
}

/// A step that failed.
struct Stop {
    step: Step,
    /// Of the gate only.
    code: Option<GateCode>,
    why: String,
}

/// The trip from the first lock on; returns when serving is over.
fn live(front: &ToFront, estate: Estate, warmth: Warmth) -> Result<i32, Stop> {
    let Estate { grant, requests, responses, model, manifest } = estate;
    let (sealed, inside) = cage(&grant, warmth)?;
    let verified = verify::verify(&sealed, manifest.bytes(), model.bytes(), engine::platform);
    let verified = verified.map_err(|error| Stop::at(Step::Verify, error))?;
    let declared = &verified.declared;
    tell(front, Step::Verify, &FromWorker::Verified { declared: declared.clone(), inside })?;

    let begun = Instant::now();
    let gated = gate::gate(&verified, &grant.graph)?;
    let engine = engine::load(&gated, &declared.signature).map_err(|error| Stop::at(Step::Load, error))?;
    gated.graphs(&engine.graphs().map_err(|error| Stop::at(Step::Load, error))?)?;
    let declared = verified.declared;
    // The engine has its own copy of what it needs; the file's memory can be as large again.
    drop((model, manifest));
    let mut cell = Cell {
        front,
        requests: &requests,
        responses: &responses,
        slot_bytes: grant.responses.slot_bytes,
        signature: &declared.signature,
        batched: declared.max_batch_size > 1,
        engine,
    };
    cell.trial().map_err(|error| Stop::at(Step::Trial, error))?;
    let load_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
    tell(front, Step::Trial, &FromWorker::Ready { load_us })?;

    match cell.serve() {
        Ok(()) => Ok(exit_code::DONE),
        Err(error) => {
            shim::log(2, format!("serve: {error}\n").as_bytes());
            Ok(error.exit_code())
        }
    }
}

/// Puts the whole cage on, in the one order that works.
fn cage(grant: &Grant, warmth: Warmth) -> Result<(Sealed, Inside), Stop> {
    let code = match grant.run_time_code {
        RunTimeCode::Refused => lockdown::RunTimeCode::Refused,
        RunTimeCode::Allowed => lockdown::RunTimeCode::Allowed,
    };
    let confined = lockdown::confine_with(code).map_err(|error| Stop::at(Step::Lock, error))?;
    match warmth {
        Warmth::Cold => warm::warm_up(grant.run_time_code).map_err(|error| Stop::at(Step::Warm, error))?,
        // A zygote warms up for models that make no code; the launcher never asks it for another.
        Warmth::Inherited if grant.run_time_code == RunTimeCode::Refused => {}
        Warmth::Inherited => return Err(Stop::at(Step::Warm, "a zygote's worker cannot make code at run time")),
    }
    let waived = |waiver: Waiver| grant.waived.contains(&waiver);
    let requirements = Requirements {
        empty_root: !waived(Waiver::Namespaces),
        // Without a user namespace an ordinary user's worker has no right to empty its bounding set. Root's has, and must.
        capabilities: !waived(Waiver::Namespaces) || geteuid().is_root(),
        landlock: !waived(Waiver::Landlock),
    };
    let (locked, report) = lockdown::lock(confined, &requirements).map_err(|error| Stop::at(Step::Lock, error))?;
    note(grant, &report);
    engine::start_threads(grant.threads).map_err(|error| Stop::at(Step::Warm, error))?;
    let sealed = lockdown::seal(locked).map_err(|error| Stop::at(Step::Lock, error))?;
    Ok((sealed, inside(&report)))
}

/// The same for the front, which compares it with what the launcher reads from outside.
fn inside(report: &Report) -> Inside {
    const FILTER: u8 = 2;
    Inside {
        no_new_privs: report.no_new_privs,
        non_dumpable: report.non_dumpable,
        seccomp_mode: if report.seccomp { FILTER } else { 0 },
        empty_root: report.empty_root,
        no_capabilities: report.capabilities,
        landlock_abi: report.landlock_abi,
        landlock_complete: report.landlock_complete,
        no_exec_gain: report.no_exec_gain,
    }
}

/// One line in the log: what the kernel said is in force.
fn note(grant: &Grant, report: &Report) {
    let Grant { model, worker, .. } = grant;
    shim::log(2, format!("worker {} of {model}: {report:?}\n", worker.0).as_bytes());
}

fn tell(front: &ToFront, step: Step, message: &FromWorker) -> Result<(), Stop> {
    front.send(message).map_err(|error| Stop::at(step, error))
}

impl Stop {
    fn at(step: Step, why: impl ToString) -> Self {
        Self { step, code: None, why: why.to_string() }
    }

    /// Tells whoever listens, and says with which code to end.
    fn say(self, front: &ToFront) -> i32 {
        let Self { step, code, why } = self;
        shim::log(2, format!("{}: {why}\n", step.name()).as_bytes());
        // If the front is gone too, the exit code is all that is left.
        let _ = front.send(&match code {
            Some(code) => FromWorker::Gated { code, detail: detail(why) },
            None => FromWorker::Refused { step, detail: detail(why) },
        });
        match step {
            Step::Boot => exit_code::BOOT,
            Step::Lock => exit_code::LOCK,
            Step::Warm => exit_code::WARM,
            Step::Verify => exit_code::VERIFY,
            Step::Gate => exit_code::GATE,
            Step::Load => exit_code::LOAD,
            Step::Trial => exit_code::TRIAL,
        }
    }
}

impl From<GateError> for Stop {
    fn from(error: GateError) -> Self {
        Self { step: Step::Gate, code: Some(error.code()), why: error.to_string() }
    }
}
