//! One worker on trial: started as any other, spoken to as a front would, asked once, watched until it is gone.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use casemate_config::Config;
use casemate_ipc::id::{BatchId, ModelId, WorkerId};
use casemate_ipc::inquiry::{End, Refused, Rehearsal};
use casemate_ipc::launch::{Denied, ExitCause, LaunchReply};
use casemate_ipc::seqpacket::{Channel, ChannelError, PacketBuffer};
use casemate_ipc::shm::arena::{self, ArenaError, Reader, SlotWriter, Writer};
use casemate_ipc::tensor::{Shape, TensorSpec};
use casemate_ipc::work::{Declared, FromWorker, Placed, ToWorker};
use casemate_lockdown::{Stage as Policy, policy};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::InquiryError;
use crate::attest::worker_stages;
use crate::spawn::{Arenas, Spawner};
use crate::trace::Tracer;
use crate::workers::Workers;

/// A worker that runs.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) worker: WorkerId,
    /// Gone once it has been told to go, or broke the protocol.
    channel: Channel<ToWorker, FromWorker>,
    spoken_to: bool,
    log: File,
    printed: Vec<u8>,
    requests: Writer,
    /// A front would read its answers from here.
    _responses: Reader,
    declared: Option<Declared>,
    /// The filter that its model runs under.
    policy: Policy,
    begun: Instant,
    until: Instant,
    late: bool,
    told: Rehearsal,
}

/// How much is heard of it before its deadline is looked at again.
const MESSAGES_A_TURN: usize = 64;
const PIECES_A_TURN: usize = 64;
/// What of its output is kept.
const LOG_MAX: usize = 64 << 10;
/// What a worker that was told to go has left.
const GRACE: Duration = Duration::from_secs(10);
/// Longest that one request may take, whatever the manifest says.
const DEADLINE_MAX: u64 = 60_000;

impl Stage {
    /// Starts one; or tells why there is none.
    pub(super) fn start(
        model: &ModelId,
        (spawner, config): (&Spawner, &Config),
        workers: &mut Workers,
        tracer: &mut Tracer,
    ) -> Result<Result<Self, Rehearsal>, InquiryError> {
        let begun = Instant::now();
        let settings = config.model(&model.name);
        let (requests, inward) = arena::requests(config.requests_of(&settings))?;
        let (responses, outward) = arena::responses(config.responses_of(&settings))?;
        let arenas = Arenas::check(vec![inward, outward], config, &settings)?;
        let answer = workers.start_and_wait((spawner, config), model, arenas, tracer);
        let told = Rehearsal {
            model: model.name.as_str().to_owned(),
            version: model.version.as_str().to_owned(),
            ready: false,
            answer: None,
            log: String::new(),
            layers: Vec::new(),
            end: End::Deadline,
            ms: 0,
        };
        let worker = match answer.reply {
            LaunchReply::Started { worker, .. } => worker,
            LaunchReply::Refused { reason, .. } => return Ok(Err(unborn(told, reason))),
            _ => return Ok(Err(unborn(told, "another answer than to a start".to_owned()))),
        };
        let Ok([channel, log]) = <[OwnedFd; 2]>::try_from(answer.descriptors) else {
            workers.kill(worker);
            return Ok(Err(unborn(told, "it came without its channel".to_owned())));
        };
        let call = |step| move |errno| InquiryError::Call { step, errno };
        fcntl(&log, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(call("log pipe"))?;
        fcntl(&channel, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(call("channel"))?;
        let until = begun + Duration::from_millis(config.limits.load_ms);
        let (channel, log, printed, spoken_to) = (Channel::new(channel), File::from(log), Vec::new(), true);
        let (declared, late, _responses) = (None, false, responses);
        let [_, policy] = worker_stages(config.model(&model.name).run_time_code, false);
        Ok(Ok(Self {
            worker,
            channel,
            spoken_to,
            log,
            printed,
            requests,
            _responses,
            declared,
            policy,
            begun,
            until,
            late,
            told,
        }))
    }

    /// When something must have happened.
    pub(super) const fn until(&self) -> Instant {
        self.until
    }

    /// What is worth waiting for.
    pub(super) fn sources(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.spoken_to.then(|| self.channel.as_fd()).into_iter().chain([self.log.as_fd()])
    }

    /// Hears all that it has said by now, answers it, and kills it where it is late.
    pub(super) fn turn(&mut self, workers: &mut Workers, buffer: &mut PacketBuffer) {
        self.read_log();
        // One that never stops speaking has its deadline too.
        for _ in 0..MESSAGES_A_TURN {
            if !self.spoken_to {
                break;
            }
            match self.channel.receive(buffer) {
                Ok(Some(message)) => self.hear(message, workers),
                Ok(None) => self.spoken_to = false,
                Err(ChannelError::Socket(error)) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => {
                    self.told.answer = Some(format!("no message: {error}"));
                    self.spoken_to = false;
                    workers.kill(self.worker);
                }
            }
        }
        if Instant::now() >= self.until {
            self.late = true;
            self.until = Instant::now() + GRACE;
            workers.kill(self.worker);
        }
    }

    /// It is gone: all that is known of it.
    pub(super) fn finish(mut self, cause: ExitCause, workers: &mut Workers, buffer: &mut PacketBuffer) -> Rehearsal {
        let late = self.late;
        // Its last words.
        self.turn(workers, buffer);
        self.told.log = String::from_utf8_lossy(&self.printed).into_owned();
        self.told.ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.told.end = match cause {
            ExitCause::Killed if late => End::Deadline,
            ExitCause::Exited(code) => End::Exit { code },
            ExitCause::Syscall(denied) => End::Syscall(refused(denied, self.policy)),
            ExitCause::Signal(number) => End::Signal { number },
            ExitCause::Killed => End::Signal { number: libc::SIGKILL },
            ExitCause::OutOfMemory => End::Oom,
        };
        self.told
    }

    fn hear(&mut self, message: FromWorker, workers: &mut Workers) {
        match message {
            FromWorker::Verified { declared, inside: _ } => self.declared = Some(declared),
            FromWorker::Ready { .. } => {
                self.told.ready = true;
                self.told.layers = workers.attest(self.worker);
                self.ask();
            }
            FromWorker::Refused { step, detail } => {
                self.told.answer = Some(format!("refused at the step {}: {detail}", step.name()));
            }
            FromWorker::Gated { code, detail } => {
                self.told.answer = Some(format!("refused by the gate ({}): {detail}", code.name()));
            }
            FromWorker::Done { .. } => self.answered("done".to_owned()),
            FromWorker::Failed { detail, .. } => self.answered(format!("failed: {detail}")),
            FromWorker::Pong { .. } | FromWorker::Met { .. } => {}
        }
    }

    /// Its one request: zeros, as few as its model's declaration allows.
    fn ask(&mut self) {
        let Some(declared) = &self.declared else { return };
        self.until = Instant::now() + Duration::from_millis(declared.deadline_ms.min(DEADLINE_MAX));
        let inputs = self.requests.slot(0).and_then(|mut slot| {
            declared.signature.inputs.iter().map(|spec| place(&mut slot, spec)).collect::<Result<Vec<_>, _>>()
        });
        match inputs {
            Ok(inputs) => self.say(&ToWorker::Run { batch: BatchId(1), slot: 0, inputs }),
            Err(error) => self.answered(format!("it cannot be asked: {error}")),
        }
    }

    fn answered(&mut self, answer: String) {
        self.told.answer.get_or_insert(answer);
        self.until = Instant::now() + GRACE;
        self.say(&ToWorker::Drain);
    }

    fn say(&mut self, message: &ToWorker) {
        if let Err(error) = self.channel.send(message) {
            self.told.answer.get_or_insert(format!("it does not listen: {error}"));
        }
    }

    fn read_log(&mut self) {
        let mut piece = [0; 4096];
        for _ in 0..PIECES_A_TURN {
            let Ok(length @ 1..) = self.log.read(&mut piece) else { break };
            let room = LOG_MAX.saturating_sub(self.printed.len());
            self.printed.extend_from_slice(piece.get(..length.min(room)).unwrap_or_default());
        }
    }
}

fn unborn(told: Rehearsal, why: String) -> Rehearsal {
    Rehearsal { end: End::Spawn { why }, ..told }
}

fn place(slot: &mut SlotWriter<'_>, spec: &TensorSpec) -> Result<Placed, ArenaError> {
    let shape = Shape::new(spec.dims.iter().map(|dim| dim.unwrap_or(1)).collect())?;
    let zeros = vec![0; shape.bytes(spec.dtype)?];
    slot.place(spec.dtype, shape, &[&zeros])
}

/// The call by name, and when that filter would have allowed it.
fn refused(denied: Denied, policy: Policy) -> Refused {
    let Denied { number, args: arguments, .. } = denied;
    let known = u32::try_from(number).ok();
    let rules = policy::filter(policy.name()).map_or(&[][..], |filter| filter.rules);
    let only: Vec<String> =
        rules.iter().filter(|rule| Some(rule.number) == known).map(policy::Rule::condition).collect();
    let name = known.and_then(policy::call_name).map(str::to_owned);
    Refused { number, name, arguments, only: (!only.is_empty()).then(|| only.join(", or ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_call_is_told_with_the_rules_of_its_own_filter() {
        let only = |policy, number| {
            let denied = Denied { number, args: [0; 6], instruction: 0, caller: None };
            refused(denied, policy).only
        };
        let mprotect = |policy| only(policy, libc::SYS_mprotect).unwrap();
        let [strict, code] = [Policy::WorkerServe, Policy::WorkerServeCode];
        assert!(!mprotect(strict).contains(", or "), "{}", mprotect(strict));
        assert!(mprotect(code).contains(&mprotect(strict)) && mprotect(code).contains(", or "), "{}", mprotect(code));
        for policy in [strict, code] {
            assert_eq!(only(policy, libc::SYS_openat), None);
            assert_eq!(only(policy, -1), None);
        }
    }
}
