//! The workers that run: who they are, and how each one ends.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::os::fd::OwnedFd;
use std::time::Instant;

use casemate_config::Config;
use casemate_ipc::id::{ModelId, WorkerId};
use casemate_ipc::launch::{ExitCause, LaunchReply};
use casemate_ipc::layer::{Reading, Waiver};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::attest::{self, Subject};
use crate::cgroup::Leaf;
use crate::jail::identity::{Identity, Pool, anywhere, uids_of_processes};
use crate::log;
use crate::spawn::{Arenas, Spawned, Spawner};
use crate::sys::process::send_signal;
use crate::trace::{Circumstances, Ended, OutOfMemory, Tracer, is_dying};

/// All of them, by number.
#[derive(Debug)]
pub struct Workers {
    running: BTreeMap<WorkerId, Worker>,
    next: u64,
    pool: Pool,
    memory: OutOfMemory,
}

/// What a front is answered, and what rides along.
#[derive(Debug)]
pub struct Answer {
    /// `Started` or `Refused`.
    pub reply: LaunchReply,
    /// The channel and the log pipe of a worker that was started.
    pub descriptors: Vec<OwnedFd>,
}

#[derive(Debug)]
struct Worker {
    model: ModelId,
    pid: Pid,
    pidfd: OwnedFd,
    subject: Subject,
    leaf: Option<Leaf>,
    /// Its place among the workers of its model; free again when it is gone.
    berth: u32,
    asked: bool,
}

impl Workers {
    /// None yet.
    pub fn new(config: &Config, as_root: bool) -> Self {
        let mut memory = OutOfMemory::default();
        memory.moved();
        let pool = Pool::new(as_root.then(|| config.identities.clone()), anywhere());
        Self { running: BTreeMap::new(), next: 1, pool, memory }
    }

    /// The number that the next one gets. Numbers are never given twice.
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// Whether none runs.
    pub fn none(&self) -> bool {
        self.running.is_empty()
    }

    /// How many of a model run.
    pub fn of(&self, model: &ModelId) -> usize {
        self.running.values().filter(|worker| worker.model == *model).count()
    }

    /// Starts one.
    pub fn start(
        &mut self,
        spawner: &Spawner,
        config: &Config,
        (model, arenas): (&ModelId, &Arenas),
        tracer: &mut Tracer,
    ) -> Answer {
        let asked = Instant::now();
        let identity = match self.pool.take(&uids_of_processes(), asked) {
            Ok(identity) => identity,
            Err(dry) => return refuse(model, &dry, true),
        };
        let worker = WorkerId(self.next);
        self.memory.moved();
        let berth = self.berth(model);
        match spawner.spawn(config, (model, worker, berth), identity, arenas, tracer) {
            Ok(spawned) => {
                self.next += 1;
                self.started((model, worker, berth), identity, spawner, spawned, asked)
            }
            Err(error) => {
                self.pool.give_back(identity, Instant::now());
                refuse(model, &error, error.passes())
            }
        }
    }

    /// A process ended: which worker it was, and why it did. Nothing for a child that never became one.
    pub fn ended(&mut self, ended: &Ended) -> Option<(WorkerId, ExitCause)> {
        let id = self.running.iter().find(|(_, worker)| worker.pid == ended.pid).map(|(id, _)| *id)?;
        let worker = self.running.remove(&id)?;
        self.pool.give_back(worker.subject.identity, Instant::now());
        // Its own group knows; without one, that the host killed anybody at all has to do.
        let (own, anybody) = (worker.leaf.as_ref().and_then(Leaf::out_of_memory), self.memory.moved());
        let cause = ended.cause(Circumstances { asked: worker.asked, out_of_memory: own.unwrap_or(anybody) });
        log::info("worker-gone", &[("worker", &id), ("model", &worker.model), ("how", &cause)]);
        Some((id, cause))
    }

    /// Reads the cage of one; nothing if it is gone.
    pub fn attest(&self, id: WorkerId) -> Vec<Reading> {
        self.running
            .get(&id)
            .map_or_else(Vec::new, |worker| attest::read(&worker.subject, worker.leaf.as_ref(), &worker.pidfd))
    }

    /// Kills one, if it still runs.
    pub fn kill(&mut self, id: WorkerId) {
        if let Some(worker) = self.running.get_mut(&id) {
            worker.kill();
        }
    }

    /// Kills all.
    pub fn kill_all(&mut self) {
        self.running.values_mut().for_each(Worker::kill);
    }

    /// The first place that no worker of the model has.
    fn berth(&self, model: &ModelId) -> u32 {
        let taken = |berth: &u32| self.running.values().any(|worker| worker.model == *model && worker.berth == *berth);
        (0..).find(|berth| !taken(berth)).unwrap_or(0)
    }

    fn started(
        &mut self,
        (model, worker, berth): (&ModelId, WorkerId, u32),
        identity: Identity,
        spawner: &Spawner,
        spawned: Spawned,
        asked: Instant,
    ) -> Answer {
        let Spawned { pid, pidfd, ceilings, run_time_code, warmed, leaf, channel, log } = spawned;
        let (namespaces, landlock) = (!spawner.host.lacks(Waiver::Namespaces), spawner.host.landlock);
        let subject = Subject { pid, identity, ceilings, namespaces, landlock, run_time_code, warmed };
        self.running.insert(worker, Worker { model: model.clone(), pid, pidfd, subject, leaf, berth, asked: false });
        let spawn_us = u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX);
        let uid = identity.own().map_or("shared".to_owned(), |uid| uid.to_string());
        let fields: [(&str, &dyn Display); 5] =
            [("worker", &worker), ("model", model), ("pid", &pid), ("uid", &uid), ("us", &spawn_us)];
        log::info("worker-started", &fields);
        let pid = pid.as_raw().unsigned_abs();
        let reply = LaunchReply::Started { model: model.clone(), worker, pid, uid: identity.own(), spawn_us };
        Answer { reply, descriptors: vec![channel, log] }
    }
}

impl Worker {
    fn kill(&mut self) {
        // The front asks when a channel closes too, and one that is dying closes it: its cause is its own.
        self.asked = self.asked || !is_dying(self.pid);
        // The whole group, which nothing in it can run away from; and by its handle, for a group that cannot be read, or that
        // somebody took it out of. An error means that it is gone already.
        if let Some(leaf) = &self.leaf {
            let _ = leaf.kill();
        }
        let _ = send_signal(&self.pidfd, Signal::SIGKILL);
    }
}

/// A `Refused`, with a line in the log.
pub fn refuse(model: &ModelId, why: &dyn Display, retry: bool) -> Answer {
    log::warn("start-refused", &[("model", model), ("reason", why), ("retry", &retry)]);
    let reply = LaunchReply::Refused { model: model.clone(), reason: why.to_string(), retry };
    Answer { reply, descriptors: Vec::new() }
}
