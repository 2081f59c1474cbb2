//! The scripted engine's script: what a worker does wrong on purpose, and when. For the tests of everything around it.
//!
//! An act happens inside the sealed cell, so it is what a model that has taken over the process could do, and no more. A
//! lie is told instead of an honest answer. The file of a model of format `echo` is such a script in TOML; an empty one is
//! an honest engine.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use casemate_ipc::frame::MAX_FRAME;
use casemate_ipc::seqpacket::ChannelError;
use casemate_ipc::tensor::{DType, Shape};
use casemate_ipc::work::{Failure, FromWorker, MAX_DETAIL, Placed};
use serde::Deserialize;

use super::contract::{RunError, ToFront};
use super::shim::{self, Crash, ZERO};
use crate::probe::{self, Scene};

/// One script.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Script {
    /// When it acts.
    pub at: Moment,
    /// How many requests go well first.
    pub after: u64,
    /// Sleeps this long.
    #[serde(rename = "sleep_ms")]
    pub sleep_ms: u64,
    /// Waits until so many runs are in this at once, on as many threads; fails where they do not come within a second.
    pub meet: usize,
    /// Prints this line…
    pub print: Option<String>,
    /// …this often; once if not said.
    #[serde(rename = "print_lines")]
    pub print_lines: Option<u64>,
    /// Takes this much memory and touches every page.
    pub allocate: u64,
    /// Makes this system call, all arguments zero.
    pub syscall: Option<i64>,
    /// Does one of [`crate::probe`]'s acts.
    pub probe: Option<String>,
    /// Dies of a signal.
    pub crash: Option<Death>,
    /// Exits with this code.
    #[serde(rename = "exit_code")]
    pub exit_code: Option<i32>,
    /// Does nothing any more, for ever.
    pub stop: bool,
    /// Fails with this text.
    pub fail: Option<String>,
    /// Says something else than what is so.
    pub lie: Option<Lie>,
}

/// When a script acts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moment {
    /// While the model is loaded.
    Load,
    /// In the trial run.
    Trial,
    /// In requests, once [`Script::after`] of them went well.
    #[default]
    Run,
}

/// How to die.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the signals' own names")]
pub enum Death {
    Segv,
    Fpe,
    Ill,
    Abort,
    Stack,
}

/// What to say instead of an honest answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lie {
    /// The first output has one row more than it has bytes for.
    Shape,
    /// The first output has one byte more than its shape says.
    Length,
    /// The first output lies behind the slot.
    Outside,
    /// The first output is said to be of another type of the same size.
    Dtype,
    /// One output is missing.
    Count,
    /// The answer is for a batch that was never sent.
    Batch,
    /// The answer comes twice.
    Twice,
    /// The answer is no frame.
    Garbage,
    /// The answer is a packet beyond every limit.
    Long,
    /// Descriptors ride along.
    Fds,
    /// Answers that nobody asked for follow, without end.
    Flood,
    /// Nothing is said at all.
    Silence,
    /// It is verified and ready once more.
    Ready,
    /// It failed, for a reason that is longer than any may be.
    Detail,
}

impl Script {
    /// Reads the file of an `echo` model.
    pub fn parse(model: &[u8]) -> Result<Self, RunError> {
        let text = std::str::from_utf8(model).map_err(|e| RunError::Model(format!("the script is no text: {e}")))?;
        toml::from_str(text).map_err(|e| RunError::Model(format!("the script is not one: {e}")))
    }

    /// Does what the script says, if its moment has come.
    pub fn act(&self, now: Moment, runs_before: u64, scene: &Scene) -> Result<(), RunError> {
        if !self.is_due(now, runs_before) {
            return Ok(());
        }
        self.wait();
        self.await_others()?;
        for _ in 0..self.print_lines.unwrap_or(u64::from(self.print.is_some())) {
            shim::log(1, format!("{}\n", self.print.as_deref().unwrap_or_default()).as_bytes());
        }
        self.take_memory()?;
        if let Some(number) = self.syscall {
            let answer = shim::call(number, [ZERO; 6]);
            shim::log(1, format!("system call {number} answered {answer}\n").as_bytes());
        }
        if let Some(name) = &self.probe {
            let probe = probe::find(name).ok_or_else(|| RunError::Model(format!("no probe is called {name}")))?;
            probe.act(scene);
        }
        if let Some(death) = self.crash {
            shim::crash(death.into());
        }
        if let Some(code) = self.exit_code {
            shim::exit(code);
        }
        if self.stop {
            loop {
                thread::park();
            }
        }
        self.fail.clone().map_or(Ok(()), |text| Err(RunError::Model(text)))
    }

    /// Says an answer, or what the script wants said instead.
    pub fn say(&self, front: &ToFront, message: &FromWorker, runs_before: u64) -> Result<(), ChannelError> {
        match (self.lie.filter(|_| self.is_due(Moment::Run, runs_before)), message) {
            (Some(lie), FromWorker::Done { .. }) => lie.tell(front, message),
            _ => front.send(message),
        }
    }

    fn is_due(&self, now: Moment, runs_before: u64) -> bool {
        self.at == now && (now != Moment::Run || runs_before >= self.after)
    }

    /// Parks, since sleeping is a call that the filter does not allow.
    fn wait(&self) {
        let end = Instant::now() + Duration::from_millis(self.sleep_ms);
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            thread::park_timeout(left);
        }
    }

    /// Only runs that are in here at the same time can get past this.
    fn await_others(&self) -> Result<(), RunError> {
        static ARRIVED: AtomicUsize = AtomicUsize::new(0);
        const PATIENCE: Duration = Duration::from_secs(1);
        if self.meet < 2 {
            return Ok(());
        }
        let ticket = ARRIVED.fetch_add(1, Ordering::SeqCst);
        let complete = (ticket / self.meet + 1) * self.meet;
        let end = Instant::now() + PATIENCE;
        while ARRIVED.load(Ordering::SeqCst) < complete {
            if Instant::now() > end {
                ARRIVED.fetch_sub(1, Ordering::SeqCst);
                return Err(RunError::Model("nobody else came".into()));
            }
            thread::park_timeout(Duration::from_millis(1));
        }
        Ok(())
    }

    fn take_memory(&self) -> Result<(), RunError> {
        let bytes = usize::try_from(self.allocate).unwrap_or(usize::MAX);
        let mut memory: Vec<u8> = Vec::new();
        memory.try_reserve_exact(bytes).map_err(|e| RunError::Memory(e.to_string()))?;
        memory.resize(bytes, 1);
        std::hint::black_box(&memory);
        Ok(())
    }
}

impl Lie {
    fn tell(self, front: &ToFront, honest: &FromWorker) -> Result<(), ChannelError> {
        let mut told = honest.clone();
        let FromWorker::Done { batch, outputs, .. } = &mut told else { return front.send(honest) };
        let id = *batch;
        match self {
            Self::Shape => change(outputs, |first| first.shape = more_rows(&first.shape)),
            Self::Length => change(outputs, |first| first.bytes += 1),
            Self::Outside => change(outputs, |first| first.offset = u64::MAX - 7),
            Self::Dtype => change(outputs, |first| first.dtype = other(first.dtype)),
            Self::Count => drop(outputs.pop()),
            Self::Batch => batch.0 += 1000,
            Self::Twice => front.send(honest)?,
            Self::Garbage => return raw(front, &[0xA5; 96]),
            Self::Long => return raw(front, &vec![0; MAX_FRAME + 1]),
            Self::Fds => return front.send_with(honest, &[front.as_fd()]),
            Self::Flood => loop {
                front.send(&FromWorker::Pong { token: 0 })?;
            },
            Self::Silence => return Ok(()),
            Self::Ready => told = FromWorker::Ready { load_us: 0 },
            Self::Detail => {
                let detail = "x".repeat(MAX_DETAIL + 1);
                told = FromWorker::Failed { batch: id, failure: Failure::Model, detail };
            }
        }
        front.send(&told)
    }
}

impl Moment {
    /// As a script says it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Trial => "trial",
            Self::Run => "run",
        }
    }
}

impl From<Death> for Crash {
    fn from(death: Death) -> Self {
        match death {
            Death::Segv => Self::Segv,
            Death::Fpe => Self::Fpe,
            Death::Ill => Self::Ill,
            Death::Abort => Self::Abort,
            Death::Stack => Self::Stack,
        }
    }
}

fn change(outputs: &mut [Placed], how: impl FnOnce(&mut Placed)) {
    if let Some(first) = outputs.first_mut() {
        how(first);
    }
}

fn more_rows(shape: &Shape) -> Shape {
    shape.with_rows(shape.dims().first().map_or(1, |rows| rows + 1))
}

fn other(dtype: DType) -> DType {
    let same_size = |other: &DType| *other != dtype && other.size() == dtype.size();
    DType::ALL.into_iter().find(same_size).unwrap_or(dtype)
}

fn raw(front: &ToFront, bytes: &[u8]) -> Result<(), ChannelError> {
    shim::send_raw(front.as_fd(), bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_what_is_written() {
        assert_eq!(Script::parse(b"").unwrap(), Script::default());
        let script = Script::parse(b"after = 2\nsleep_ms = 5\nlie = \"twice\"\ncrash = \"segv\"").unwrap();
        let expected =
            Script { after: 2, sleep_ms: 5, lie: Some(Lie::Twice), crash: Some(Death::Segv), ..Script::default() };
        assert_eq!(script, expected);
        for spoilt in [&b"lie = \"truth\""[..], b"sleep = 5", b"\xff"] {
            assert!(Script::parse(spoilt).is_err());
        }
    }

    #[test]
    fn it_acts_at_its_moment_only() {
        let script = Script { after: 1, fail: Some("now".into()), ..Script::default() };
        let act = |now, runs_before| script.act(now, runs_before, &Scene::default());
        assert!(act(Moment::Trial, 0).is_ok());
        assert!(act(Moment::Run, 0).is_ok());
        assert!(matches!(act(Moment::Run, 1), Err(RunError::Model(text)) if text == "now"));
    }
}
