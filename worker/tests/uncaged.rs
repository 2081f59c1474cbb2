//! The control of the zoo: every hostile model in the worker's own engine with nothing around it, in a process that may do
//! what its user may. Each must do its act; one that does nothing here would prove nothing of the cage.
//!
//! And the zoo without its gate: what the archive gate refuses under every policy no server shows in its cage. Here such a
//! model is loaded unjudged by a process under the worker's own seal, and must meet the end that the cage makes of it.
//!
//! libtorch is loaded and warmed up once, and each model gets a fork of that.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use casemate_ipc::launch::{Geometry, RunTimeCode};
use casemate_ipc::shm::arena::{self, Reader, Writer};
use casemate_ipc::shm::seal;
use casemate_ipc::tensor::{DType, ModelSignature, Shape, TensorSpec};
use casemate_ipc::work::Placed;
use casemate_lockdown::{self as lockdown, Requirements};
use casemate_manifest::Format;
use casemate_tests::zoo::{self, Cage, Entry, Free, Gate, Place};
use casemate_worker::engine::contract::{Answer, Batch, Engine};
use casemate_worker::engine::shim;
use casemate_worker::{engine, warm};
use nix::fcntl::OFlag;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, pipe2};

/// How long a model may take to do its act, and how long one that does not come back is watched.
const LIMIT: Duration = Duration::from_secs(60);
const WATCHED: Duration = Duration::from_millis(1500);
/// At once. Memory is what it costs.
const TOGETHER: usize = 3;

#[test]
fn every_model_of_the_zoo_does_its_act_without_a_cage() {
    release_all(Around::Nothing, |_| true);
}

/// The crashes of libtorch's loader are here: nothing else gets that far any more.
#[test]
fn what_the_gate_always_refuses_would_meet_the_cage() {
    release_all(Around::Seal, |entry| matches!(entry.gate, Gate::Always(_)));
}

/// What is around a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Around {
    Nothing,
    /// What a worker's process is in: both filters, Landlock without a grant, no capabilities, and a limit of memory. Its
    /// namespaces and its root are its launcher's work.
    Seal,
}

fn release_all(around: Around, choose: fn(&Entry) -> bool) {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    // As much stack as a worker's first thread has.
    let fresh = std::thread::Builder::new().stack_size(8 << 20);
    let faults = fresh.spawn(move || run_all(around, choose)).unwrap().join().unwrap();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn run_all(around: Around, choose: fn(&Entry) -> bool) -> Vec<String> {
    static WARM: Once = Once::new();
    WARM.call_once(|| warm::warm_up(RunTimeCode::Refused).unwrap());
    let only = std::env::var("CASEMATE_ZOO").unwrap_or_default();
    let chosen = |entry: &Entry| choose(entry) && entry.name.starts_with(&only);
    let mut waiting: Vec<Entry> = zoo::all().into_iter().filter(chosen).rev().collect();
    let mut running: Vec<Beast> = Vec::new();
    let mut faults = Vec::new();
    while !waiting.is_empty() || !running.is_empty() {
        while running.len() < TOGETHER
            && let Some(entry) = waiting.pop()
        {
            running.push(Beast::release(entry, around));
        }
        std::thread::sleep(Duration::from_millis(5));
        let mut still = Vec::new();
        for mut beast in running {
            match beast.look() {
                None => still.push(beast),
                Some(Ok(seen)) => println!("{:26} {:5} ms  {seen}", beast.entry.name, beast.born.elapsed().as_millis()),
                Some(Err(fault)) => faults.push(format!("{}: {fault}", beast.entry.name)),
            }
        }
        running = still;
    }
    faults
}

/// A model at large.
struct Beast {
    entry: Entry,
    around: Around,
    place: Place,
    pid: Pid,
    /// What our own code in it has to say: one line, at the end.
    says: File,
    prints: File,
    printed: Vec<u8>,
    born: Instant,
    grown: u64,
    over: bool,
}

impl Beast {
    fn release(entry: Entry, around: Around) -> Self {
        let place = Place::new();
        let archive = entry.archive(&place);
        let (says, say) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
        let (prints, print) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
        // SAFETY: this process has other threads, which only wait; libc sees to its own locks, and the child uses nothing
        // of the test harness.
        let pid = match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => child,
            ForkResult::Child => be(&entry, &archive, around, say, print),
        };
        Self {
            entry,
            around,
            place,
            pid,
            says: says.into(),
            prints: prints.into(),
            printed: Vec::new(),
            born: Instant::now(),
            grown: 0,
            over: false,
        }
    }

    /// Whether it is settled: what was seen, or what was not.
    fn look(&mut self) -> Option<Result<String, String>> {
        let status = waitpid(self.pid, Some(WaitPidFlag::WNOHANG)).unwrap();
        self.over = status != WaitStatus::StillAlive;
        self.grown = self.grown.max(self.resident());
        self.hear();
        let mut said = Vec::new();
        if self.over {
            let _ = self.says.read_to_end(&mut said);
        }
        let said = String::from_utf8_lossy(&said).into_owned();
        if self.around == Around::Seal {
            return self.seen_under_seal(status, &said);
        }
        let early = self.seen_alive();
        if early.is_some() {
            return early;
        }
        match status {
            WaitStatus::StillAlive if self.born.elapsed() > LIMIT => {
                Some(Err(format!("it neither acts nor ends: {} MiB", self.grown)))
            }
            WaitStatus::StillAlive => None,
            WaitStatus::Signaled(_, signal, _) => Some(match self.entry.free {
                Free::Dies(expected) if signal as i32 == expected => Ok(format!("dies of {signal}")),
                _ => Err(format!("it died of {signal}, {} MiB", self.grown)),
            }),
            _ => Some(self.seen_at_the_end(&said)),
        }
    }

    /// What is seen while it runs.
    fn seen_alive(&self) -> Option<Result<String, String>> {
        let age = self.born.elapsed();
        match self.entry.free {
            Free::Grows(mib) if self.grown >= mib => Some(Ok(format!("holds {} MiB", self.grown))),
            Free::Prints(text) if self.printed.windows(text.len()).any(|w| w == text) => {
                Some(Ok("prints it".to_owned()))
            }
            Free::Burns if !self.over && age >= WATCHED && self.cpu() > WATCHED / 5 => {
                Some(Ok(format!("has burnt {:?} and runs on", self.cpu())))
            }
            Free::Hangs if !self.over && age >= WATCHED && self.cpu() < WATCHED / 3 => Some(Ok("waits on".to_owned())),
            _ => None,
        }
    }

    fn seen_at_the_end(&self, said: &str) -> Result<String, String> {
        let answer = answer_in(said);
        let proven = match self.entry.free {
            Free::Makes => self.place.made().exists(),
            Free::Spoils => self.place.disturbed().is_some_and(|how| how.contains("bait")),
            Free::Answers(such) => answer.as_ref().is_some_and(|y| such(y)),
            Free::Serves => answer.is_some(),
            Free::Says(text) => {
                let early = ["error load", "error trial", "error calm"].iter().any(|step| said.starts_with(step));
                !text.is_empty() && said.contains(text) && early == self.entry.is_at_load()
            }
            _ => false,
        };
        let made = if self.place.made().exists() { ", and made a file" } else { "" };
        let from = said.len().saturating_sub(300);
        let said: String = said.char_indices().filter(|(at, _)| *at >= from).map(|(_, c)| c).collect();
        let told = format!("{} MiB, says {said:?}{made}", self.grown);
        if proven { Ok(told) } else { Err(told) }
    }

    /// The end that the cage makes of it: a server would name the same.
    fn seen_under_seal(&self, status: WaitStatus, said: &str) -> Option<Result<String, String>> {
        let expected = &self.entry.cage;
        match status {
            WaitStatus::StillAlive if self.born.elapsed() > LIMIT => Some(Err("it neither acts nor ends".to_owned())),
            WaitStatus::StillAlive if matches!(expected, Cage::Never("deadline", _)) && self.cpu() > WATCHED / 5 => {
                Some(Ok(format!("has burnt {:?} and runs on", self.cpu())))
            }
            WaitStatus::StillAlive => None,
            _ if self.place.disturbed().is_some() => Some(Err(format!("{:?}", self.place.disturbed()))),
            _ if is_end(expected, status, said) => Some(Ok(format!("{status:?} {said:.100}"))),
            _ => Some(Err(format!("{expected:?} was expected: {status:?} {said:.300}"))),
        }
    }

    fn hear(&mut self) {
        let mut chunk = [0; 1 << 16];
        while let Ok(read @ 1..) = self.prints.read(&mut chunk) {
            self.printed.extend_from_slice(&chunk[..read]);
            let old = self.printed.len().saturating_sub(1 << 20);
            self.printed.drain(..old);
        }
    }

    fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
    }

    /// Of its own time and the kernel's for it.
    fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        let after = stat.rsplit(')').next().unwrap_or_default();
        let ticks: u64 = after.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Beast {
    fn drop(&mut self) {
        if !self.over {
            let _ = nix::sys::signal::kill(self.pid, nix::sys::signal::Signal::SIGKILL);
            let _ = waitpid(self.pid, None);
        }
    }
}

/// Whether a sealed process may end so. Refusals by name are libtorch's, in words of its own.
fn is_end(expected: &Cage, status: WaitStatus, said: &str) -> bool {
    let signaled = |name: &str| matches!(status, WaitStatus::Signaled(_, signal, _) if signal.as_str() == name);
    match expected {
        Cage::Answers(such) => answer_in(said).is_some_and(|y| such(&y)),
        Cage::Syscall(_) => signaled("SIGSYS"),
        Cage::Signal(signal) | Cage::Never("signal", signal) => signaled(signal),
        Cage::Never("refused", step) => said.strip_prefix("error ").is_some_and(|why| why.starts_with(step)),
        Cage::Either(cages) => cages.iter().any(|cage| is_end(cage, status, said)),
        Cage::Deadline | Cage::Refuses(..) | Cage::Never(..) => false,
    }
}

fn answer_in(said: &str) -> Option<Vec<f32>> {
    let words = said.strip_prefix("answer")?.split_whitespace();
    Some(words.map(|word| word.parse().unwrap()).collect())
}

/// The child: what a worker does from the load on.
fn be(entry: &Entry, archive: &[u8], around: Around, say: OwnedFd, print: OwnedFd) -> ! {
    // Under seal there are two descriptors to write to.
    let said = if around == Around::Seal { &say } else { &print };
    for (from, target) in [(said, 1), (&print, 2)] {
        // SAFETY: both are numbers of open descriptors; the harness's own are not used in this process any more.
        unsafe { libc::dup2(from.as_raw_fd(), target) };
    }
    // Rust makes SIGABRT of a stack that overflows, which a worker does not.
    // SAFETY: the default action needs no handler.
    unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0).unwrap();
    let text = match live(entry, archive, around) {
        Ok(answer) => {
            let words: Vec<String> = answer.iter().map(f32::to_string).collect();
            format!("answer {}", words.join(" "))
        }
        Err(why) => format!("error {why}"),
    };
    match around {
        Around::Nothing => drop(File::from(say).write_all(text.as_bytes())),
        Around::Seal => shim::log(1, text.as_bytes()),
    }
    // SAFETY: ends the process without the destructors of libtorch or of the harness.
    unsafe { libc::_exit(0) }
}

fn live(entry: &Entry, archive: &[u8], around: Around) -> Result<Vec<f32>, String> {
    let outputs = entry.outputs.iter().map(|spec| spec.parse::<TensorSpec>().unwrap()).collect();
    let signature = ModelSignature { inputs: vec!["x:FP32[-1,4]".parse().unwrap()], outputs };
    let arenas = Arenas::new();
    match around {
        Around::Nothing => engine::start_threads(entry.threads).map_err(|e| e.to_string())?,
        Around::Seal => seal(entry.threads)?,
    }
    let engine = engine::load_unjudged(Format::Torchscript, archive, &signature).map_err(|e| format!("load: {e}"))?;
    let mut cage = Bare { engine, signature, arenas };
    let mut answer = cage.ask([0.0; 4]).map_err(|e| format!("trial: {e}"))?;
    if !entry.is_at_load() {
        answer = cage.ask([zoo::MARK; 4]).map_err(|e| format!("calm: {e}"))?;
    }
    for _ in 0..entry.requests {
        answer = cage.ask(zoo::ASKED)?;
    }
    Ok(answer)
}

/// The worker's way into its cage. That it is warm already is its parent's work.
fn seal(threads: u32) -> Result<(), String> {
    use nix::sys::resource::{Resource, setrlimit};
    setrlimit(Resource::RLIMIT_DATA, MEMORY, MEMORY).map_err(|e| format!("limit: {e}"))?;
    let confined = lockdown::confine().map_err(|e| format!("confine: {e}"))?;
    let requirements =
        Requirements { empty_root: false, capabilities: nix::unistd::geteuid().is_root(), landlock: true };
    let (locked, _) = lockdown::lock(confined, &requirements).map_err(|e| format!("lock: {e}"))?;
    engine::start_threads(threads).map_err(|e| format!("threads: {e}"))?;
    lockdown::seal(locked).map(drop).map_err(|e| format!("seal: {e}"))
}

/// Bytes of data that a sealed one may take, this test's own among them.
const MEMORY: u64 = 384 << 20;

struct Bare {
    engine: Box<dyn Engine>,
    signature: ModelSignature,
    arenas: Arenas,
}

impl Bare {
    fn ask(&mut self, row: [f32; 4]) -> Result<Vec<f32>, String> {
        let Arenas { asks, asked, answers, answered } = &self.arenas;
        let bytes: Vec<u8> = row.iter().flat_map(|v| v.to_le_bytes()).collect();
        let shape = Shape::new(vec![1, 4]).unwrap();
        let inputs = [asks.slot(0).unwrap().place(DType::Fp32, shape, &[&bytes]).unwrap()];
        let batch = Batch::new(&self.signature, asked, 0, &inputs).map_err(|e| e.to_string())?;
        let mut answer = Answer::new(&self.signature, false, &batch, answers, 0, SLOT).map_err(|e| e.to_string())?;
        self.engine.run(&batch, &mut answer).map_err(|e| e.to_string())?;
        let outputs: Vec<Placed> = answer.finish().map_err(|e| e.to_string())?;
        let bytes = answered.take(0, &outputs[0]).unwrap();
        // Of another type, it is shown byte by byte.
        Ok(match outputs[0].dtype {
            DType::Fp32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).take(16).collect(),
            _ => bytes.iter().map(|b| f32::from(*b)).take(16).collect(),
        })
    }
}

const SLOT: u64 = 1 << 20;

struct Arenas {
    asks: Writer,
    asked: Reader,
    answers: Writer,
    answered: Reader,
}

impl Arenas {
    fn new() -> Self {
        let geometry = Geometry { slots: 1, slot_bytes: SLOT };
        let (asks, file) = arena::requests(geometry).unwrap();
        let asked = Reader::open(seal::read_only(file).unwrap(), geometry).unwrap();
        let (answered, file) = arena::responses(geometry).unwrap();
        let answers = Writer::open(file, geometry).unwrap();
        Self { asks, asked, answers, answered }
    }
}
