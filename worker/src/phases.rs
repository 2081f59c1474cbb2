//! A worker's trip, each step with the proof of the last one in its hand:
//!
//! boot → confine → warm up → lock → thread pools → the model's sizes → seal → verify → gate → load → gate
//! (its graphs) → trial → serve.
//!
//! Until `seal` has succeeded no byte of the model or of its manifest has been read by anything. The sizes of its
//! convolutions are, where the operator had them written down: few numbers within bounds.

use std::iter;
use std::sync::mpsc;
use std::time::Instant;

use casemate_ipc::cores;
use casemate_ipc::launch::{Grant, RunTimeCode, exit_code};
use casemate_ipc::layer::Waiver;
use casemate_ipc::work::{FromWorker, GateCode, Inside, Step, detail};
use casemate_lockdown::{self as lockdown, Report, Requirements, Sealed};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::{Pid, geteuid};

use crate::boot::{self, BootError, Born, Estate};
use crate::crew::{Crew, Duty};
use crate::engine::contract::{Engine, RunError, ToFront};
use crate::engine::{self, shim};
use crate::model::digest::{Promised, Vouched};
use crate::model::gate::{self, GateError};
use crate::model::verify;
use crate::serve::{Cell, ServeError};
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
    go(front, estate, Warmth::Cold)
}

/// The same for a worker that a zygote bore: its first steps are behind it, and its zygote's warmth is its own.
pub fn run_newborn(front: ToFront, estate: Result<Estate, BootError>) -> ! {
    go(front, estate, Warmth::Inherited)
}

/// Whether the trusted warm-up is still to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Warmth {
    Cold,
    Inherited,
}

fn go(front: ToFront, estate: Result<Estate, BootError>, warmth: Warmth) -> ! {
    // Whatever serves is used by every instance until the process ends.
    let front: &'static ToFront = Box::leak(Box::new(front));
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
fn live(front: &'static ToFront, estate: Estate, warmth: Warmth) -> Result<i32, Stop> {
    let Estate { grant, requests, responses, model, weights, manifest, digest } = estate;
    let (sealed, inside, crew, warmed, vouched) = cage(&grant, digest, warmth)?;
    let verified = verify::verify(&sealed, manifest.bytes(), (model.bytes(), vouched), engine::platform);
    let verified = verified.map_err(|error| Stop::at(Step::Verify, error))?;
    if warmed.is_some_and(|sha256| sha256 != verified.declared.sha256) {
        engine::forget();
    }
    if let Some(pays) = verified.threads.filter(|pays| *pays != grant.threads) {
        // Its threads run already: none starts or ends behind the last filter.
        let has = grant.threads;
        let said =
            format!("engine.threads: {pays} threads for one operation pay; it has {has} (models.NAME.threads)\n");
        shim::log(2, said.as_bytes());
    }
    let declared = &verified.declared;
    tell(front, Step::Verify, &FromWorker::Verified { declared: declared.clone(), inside })?;

    let begun = Instant::now();
    let libtorch = engine::libtorch_version();
    let gated = gate::gate(&verified, &grant.graph, libtorch)?;
    if let Some(lists) = gated.foreign_lists(libtorch) {
        let said = format!("this is libtorch {libtorch}, and the list of what is denied is libtorch {lists}'s\n");
        shim::log(2, said.as_bytes());
    }
    let mut engine = engine::load(&gated, weights, &declared.signature).map_err(|error| Stop::at(Step::Load, error))?;
    let judge = |engine: &dyn Engine| -> Result<(), Stop> {
        Ok(gated.graphs(&engine.graphs().map_err(|error| Stop::at(Step::Load, error))?)?)
    };
    judge(&*engine)?;
    if let Some(tolerance) = verified.freeze {
        // A copy that cannot be had, or that answers otherwise, is not used, and the log says so; but it is judged first.
        let frozen = engine.freeze();
        judge(&*engine)?;
        let said = match frozen.and_then(|()| engine.adopt(&declared.signature, tolerance)) {
            Ok(apart) => format!("frozen: its answers are {apart:.1e} apart\n"),
            Err(error) => format!("not frozen: {error}\n"),
        };
        shim::log(2, said.as_bytes());
    }
    let declared = Box::leak(Box::new(verified.declared));
    // The engine has its own view of what it needs of the file, or a copy.
    drop((model, manifest));
    let others = iter::repeat_with(|| engine.another()).take(crew.len()).collect::<Result<Vec<_>, _>>();
    let others = others.map_err(|error| Stop::at(Step::Load, error))?;
    let (requests, responses) = (Box::leak(Box::new(requests)), Box::leak(Box::new(responses)));
    let cell = |engine: Box<dyn Engine>| Cell {
        front,
        requests,
        responses,
        slot_bytes: grant.responses.slot_bytes,
        signature: &declared.signature,
        batched: declared.max_batch_size > 1,
        engine,
    };
    let mut own = cell(engine);
    // Before the trials: what serving needs, they take again.
    engine::let_go_of_heap();
    if warmth == Warmth::Cold {
        engine::let_go_of_libraries();
    }
    own.trial(0).map_err(|error| Stop::at(Step::Trial, error))?;
    join(&crew, others.into_iter().map(cell)).map_err(|error| Stop::at(Step::Trial, error))?;
    let load_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
    tell(front, Step::Trial, &FromWorker::Ready { load_us })?;

    // From the trials, of all instances: the front hears nothing but `Ready` before `Ready`.
    Ok(code_of(own.say_met().map_err(ServeError::from).and_then(|()| own.serve())))
}

/// Gives each further instance to its thread, which tries it and serves. Returns when all have been tried.
fn join(crew: &Crew, cells: impl Iterator<Item = Cell<'static>>) -> Result<(), RunError> {
    let (tried, hear) = mpsc::channel();
    crew.assign((1..).zip(cells).map(|(slot, mut cell)| {
        let tried = tried.clone();
        Box::new(move || {
            let trial = cell.trial(slot);
            let passed = trial.is_ok();
            let _ = tried.send(trial);
            if passed {
                shim::exit(code_of(cell.serve()));
            }
        }) as Duty
    }));
    hear.iter().take(crew.len()).collect()
}

/// The exit code of an instance whose serving is over, and so of the worker.
fn code_of(served: Result<(), ServeError>) -> i32 {
    let Err(error) = served else { return exit_code::DONE };
    shim::log(2, format!("serve: {error}\n").as_bytes());
    error.exit_code()
}

/// What [`cage`] leaves behind: the proof, what is seen from inside, the further threads, which model code was made for, and the
/// digest of the one that is there.
type Caged = (Sealed, Inside, Crew, Option<[u8; 32]>, Vouched);

/// Puts the whole cage on, in the one order that works.
fn cage(grant: &Grant, digest: Promised, warmth: Warmth) -> Result<Caged, Stop> {
    let code = match grant.run_time_code {
        RunTimeCode::Refused if grant.shapes.is_empty() || warmth == Warmth::Inherited => {
            lockdown::RunTimeCode::Refused
        }
        RunTimeCode::Refused => lockdown::RunTimeCode::Warmed,
        RunTimeCode::Allowed => lockdown::RunTimeCode::Allowed,
    };
    let boot = |error| Stop::at(Step::Boot, error);
    // Each waits with the one call for it that its filter has: as late as it can.
    let digest = match warmth {
        Warmth::Cold => Err(digest),
        Warmth::Inherited => Ok(digest.receive().map_err(boot)?),
    };
    let confined = lockdown::confine_with(code).map_err(|error| Stop::at(Step::Lock, error))?;
    match warmth {
        Warmth::Cold => warm::warm_up(grant.run_time_code).map_err(|error| Stop::at(Step::Warm, error))?,
        // A zygote warms up for models that make no code; the launcher never asks it for another.
        Warmth::Inherited if grant.run_time_code == RunTimeCode::Refused => {}
        Warmth::Inherited => return Err(Stop::at(Step::Warm, "a zygote's worker cannot make code at run time")),
    }
    let vouched = match digest {
        Ok(vouched) => vouched,
        Err(digest) => digest.read().map_err(boot)?,
    };
    let waived = |waiver: Waiver| grant.waived.contains(&waiver);
    let requirements = Requirements {
        empty_root: !waived(Waiver::Namespaces),
        // Without a user namespace an ordinary user's worker has no right to empty its bounding set. Root's has, and must.
        capabilities: !waived(Waiver::Namespaces) || geteuid().is_root(),
        landlock: !waived(Waiver::Landlock),
    };
    let (locked, report) = lockdown::lock(confined, &requirements).map_err(|error| Stop::at(Step::Lock, error))?;
    note(grant, &report);
    let crew = muster(grant)?;
    keep_to(cores::share(&grant.cores, 0, grant.instances)).map_err(|error| Stop::at(Step::Warm, error))?;
    engine::start_threads(grant.threads).map_err(|error| Stop::at(Step::Warm, error))?;
    // After the threads: oneDNN's code depends on how many there are.
    let warmed = (code == lockdown::RunTimeCode::Warmed).then(|| engine::learn(&grant.shapes)).flatten();
    let sealed = lockdown::seal(locked).map_err(|error| Stop::at(Step::Lock, error))?;
    let inside = Inside { no_exec_gain: sealed.no_exec_gain(), ..inside(&report) };
    Ok((sealed, inside, crew, warmed, vouched))
}

/// The threads of the further instances.
fn muster(grant: &Grant) -> Result<Crew, Stop> {
    let Grant { threads, instances, .. } = *grant;
    let all = grant.cores.clone();
    let ready = move |number| {
        keep_to(cores::share(&all, number, instances)).map_err(|error| RunError::Model(error.to_string()))?;
        engine::ready_thread(threads)
    };
    Crew::muster(1..instances, ready).map_err(|error| Stop::at(Step::Warm, error))
}

/// Keeps the calling thread, and what it starts, to these CPUs; to those that the worker has where there is none.
fn keep_to(cores: &[u32]) -> nix::Result<()> {
    if cores.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    cores.iter().try_for_each(|core| set.set(*core as usize))?;
    sched_setaffinity(Pid::from_raw(0), &set)
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
