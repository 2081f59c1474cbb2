//! Starts a worker for each model of the store, a few at a time, and says how each one's life went. There is no front and
//! no client: the launcher itself asks each worker one thing.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use casemate_ipc::id::ModelId;
use casemate_ipc::seqpacket::PacketBuffer;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::stage::Stage;
use super::{InquiryError, say};
use crate::startup::Ready;
use crate::trace::Tracer;
use crate::workers::Workers;

/// Workers that run at once: a start is mostly libtorch's own, on one thread.
const AT_ONCE: usize = 2;

struct Theatre {
    ready: Ready,
    signals: SignalFd,
    workers: Workers,
    tracer: Tracer,
    waiting: VecDeque<ModelId>,
    stages: Vec<Stage>,
}

/// One answer for each model, in the order in which their workers end.
pub fn rehearse(ready: Ready) -> Result<(), InquiryError> {
    let call = |step| move |errno| InquiryError::Call { step, errno };
    let mut heard = SigSet::empty();
    heard.add(Signal::SIGCHLD);
    heard.thread_block().map_err(call("blocking signals"))?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&heard, flags).map_err(call("signalfd"))?;
    let mut theatre = Theatre {
        signals,
        workers: Workers::new(&ready.config, ready.owner.is_root()),
        tracer: Tracer::default(),
        waiting: ready.spawner.store.models().iter().cloned().collect(),
        stages: Vec::new(),
        ready,
    };
    let mut buffer = PacketBuffer::default();
    while !theatre.stages.is_empty() || !theatre.waiting.is_empty() {
        theatre.turn(&mut buffer)?;
    }
    Ok(())
}

impl Theatre {
    fn turn(&mut self, buffer: &mut PacketBuffer) -> Result<(), InquiryError> {
        self.begin()?;
        self.wait()?;
        while let Ok(Some(_)) = self.signals.read_signal() {}
        for stage in &mut self.stages {
            stage.turn(&mut self.workers, buffer);
        }
        self.tracer.pump();
        while let Some(ended) = self.tracer.next_ended() {
            let Some((worker, cause)) = self.workers.ended(&ended) else { continue };
            if let Some(at) = self.stages.iter().position(|stage| stage.worker == worker) {
                let stage = self.stages.swap_remove(at);
                say(&stage.finish(cause, &mut self.workers, buffer))?;
            }
        }
        self.workers.sweep();
        Ok(())
    }

    fn begin(&mut self) -> Result<(), InquiryError> {
        let spawner = &self.ready.spawner;
        while self.stages.len() < AT_ONCE {
            let Some(model) = self.waiting.pop_front() else { break };
            match Stage::start(&model, (spawner, &self.ready.config), &mut self.workers, &mut self.tracer)? {
                Ok(stage) => self.stages.push(stage),
                Err(unborn) => say(&unborn)?,
            }
        }
        Ok(())
    }

    fn wait(&self) -> Result<(), InquiryError> {
        let now = Instant::now();
        let left = self.stages.iter().map(|stage| stage.until().saturating_duration_since(now)).min();
        let Some(left) = left else { return Ok(()) };
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        let sources = self.stages.iter().flat_map(Stage::sources).chain([self.signals.as_fd()]);
        let mut watched: Vec<PollFd<'_>> = sources.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match poll(&mut watched, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(InquiryError::Call { step: "poll", errno }),
        }
    }
}
