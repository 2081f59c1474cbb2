//! The workers that run: who they are, and how each one ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Instant;

use casemate_config::Config;
use casemate_config::tenant::{Spawn, Tenant};
use casemate_ipc::id::{ModelId, WorkerId};
use casemate_ipc::launch::{ExitCause, LaunchReply};
use casemate_ipc::layer::{Reading, Waiver};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::attest::{self, Subject};
use crate::cgroup::Leaf;
use crate::jail::identity::{Pool, anywhere, uids_of_processes};
use crate::kept::Keeper;
use crate::log;
use crate::nursery::Nursery;
use crate::spawn::{Arenas, SpawnError, Spawned, Spawner, Way};
use crate::sys::process::send_signal;
use crate::trace::{Circumstances, Ended, OutOfMemory, Tracer, is_dying};

/// All of them, by number.
#[derive(Debug)]
pub struct Workers {
    running: BTreeMap<WorkerId, Worker>,
    next: u64,
    pool: Pool,
    memory: OutOfMemory,
    nursery: Nursery,
    /// Their models' bytes.
    keeper: Keeper,
    /// Asked for, and not born yet: their tenants' zygotes are warming up, or bearing.
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    model: ModelId,
    tenant: Tenant,
    arenas: Arenas,
    asked: Instant,
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
        let (nursery, keeper, waiting) = (Nursery::default(), Keeper::default(), Vec::new());
        Self { running: BTreeMap::new(), next: 1, pool, memory, nursery, keeper, waiting }
    }

    /// The number that the next one gets. Numbers are never given twice.
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// Whether none runs.
    pub fn none(&self) -> bool {
        self.running.is_empty() && self.nursery.none() && self.keeper.none()
    }

    /// How many of a model run, or will.
    pub fn of(&self, model: &ModelId) -> usize {
        let waiting = self.waiting.iter().filter(|waiting| waiting.model == *model).count();
        self.running.values().filter(|worker| worker.model == *model).count() + waiting
    }

    /// Starts one. No answer yet means that its tenant's zygote is to bear it; the answer comes from [`Self::tend`].
    pub fn start(
        &mut self,
        (spawner, config): (&Spawner, &Config),
        model: &ModelId,
        arenas: Arenas,
        tracer: &mut Tracer,
    ) -> Option<Answer> {
        let asked = Instant::now();
        if config.model(&model.name).spawn == Spawn::Exec {
            return Some(self.exec((spawner, config), (model, &arenas), asked, tracer));
        }
        let tenant = config.tenant(&model.name);
        if !self.nursery.has(&tenant)
            && let Err(error) = self.nursery.raise(&tenant, (spawner, config), &mut self.pool, tracer)
        {
            return Some(refuse(model, &error, error.passes()));
        }
        self.waiting.push(Waiting { model: model.clone(), tenant, arenas, asked });
        self.expect();
        None
    }

    /// The same, with an answer.
    pub fn start_and_wait(
        &mut self,
        (spawner, config): (&Spawner, &Config),
        model: &ModelId,
        arenas: Arenas,
        tracer: &mut Tracer,
    ) -> Answer {
        let mut answer = self.start((spawner, config), model, arenas, tracer);
        loop {
            if let Some(answer) = answer {
                return answer;
            }
            let mut watched: Vec<PollFd<'_>> = self.sources().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            // A failure is a turn that waited for nothing.
            let _ = poll(&mut watched, 20_u8);
            tracer.pump();
            answer = self.tend((spawner, config), tracer).pop();
        }
    }

    /// Lets go of copies of models that are not needed any more.
    pub fn sweep(&mut self) {
        self.keeper.sweep(Instant::now(), lives(&self.running, &self.waiting));
    }

    /// Hears the zygotes, renews those that are due, and starts what has waited for one.
    pub fn tend(&mut self, (spawner, config): (&Spawner, &Config), tracer: &mut Tracer) -> Vec<Answer> {
        let mut failed = self.nursery.hear(tracer);
        self.renew((spawner, config), tracer);
        self.sweep();
        let mut answers = Vec::new();
        for Waiting { model, tenant, arenas, asked } in std::mem::take(&mut self.waiting) {
            if let Some(at) = failed.iter().position(|(whose, _)| *whose == tenant) {
                let (_, error) = failed.swap_remove(at);
                answers.push(refuse(&model, &error, error.passes()));
            } else if self.nursery.ripe(&tenant).is_some() {
                answers.push(self.bear((spawner, config), (&model, &tenant), &arenas, asked, tracer));
            } else if self.nursery.has(&tenant) {
                self.waiting.push(Waiting { model, tenant, arenas, asked });
            } else {
                answers.push(refuse(&model, &self.nursery.complaint(&tenant), true));
            }
            // The last birth may just have been: who waits behind it waits for the next zygote.
            self.renew((spawner, config), tracer);
        }
        self.expect();
        answers
    }

    /// Has zygotes bear for those that wait, one at a time for each tenant; and nobody else.
    fn expect(&mut self) {
        self.nursery.expect(&self.waiting.iter().map(|waiting| waiting.tenant.clone()).collect());
    }

    /// Answers what waits for a zygote, which will not come any more.
    pub fn refuse_waiting(&mut self) -> Vec<Answer> {
        let waiting = std::mem::take(&mut self.waiting);
        waiting.into_iter().map(|one| refuse(&one.model, &"the server is stopping", true)).collect()
    }

    fn renew(&mut self, (spawner, config): (&Spawner, &Config), tracer: &mut Tracer) {
        for tenant in self.nursery.retire(config.renewal, Instant::now()) {
            // Whose workers start now and then wants the next one soon; if it cannot be had now, the next start says so.
            if let Err(error) = self.nursery.raise(&tenant, (spawner, config), &mut self.pool, tracer) {
                log::warn("zygote-not-started", &[("tenant", &tenant), ("error", &error)]);
            }
        }
    }

    /// What is worth waiting for beside the front.
    pub fn sources(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.nursery.sources()
    }

    /// When [`Self::tend`] has something to do, whatever is heard.
    pub fn due(&self, config: &Config) -> Option<Instant> {
        let kept = self.keeper.due(Instant::now(), lives(&self.running, &self.waiting));
        self.nursery.due(config.renewal).into_iter().chain(kept).min()
    }

    /// Ends all children that are no workers: zygotes, and those that count.
    pub fn end_others(&mut self) {
        self.nursery.end_all();
        self.keeper.end_all();
    }

    fn exec(
        &mut self,
        (spawner, config): (&Spawner, &Config),
        (model, arenas): (&ModelId, &Arenas),
        asked: Instant,
        tracer: &mut Tracer,
    ) -> Answer {
        let identity = match self.pool.take(&uids_of_processes(), asked) {
            Ok(identity) => identity,
            Err(dry) => return refuse(model, &dry, true),
        };
        let worker = WorkerId(self.next);
        self.memory.moved();
        let berth = self.berth(model);
        match spawner.spawn(config, (model, worker, berth), Way::Exec(identity), arenas, (&mut self.keeper, tracer)) {
            Ok(spawned) => self.started((model, worker, berth), spawner, spawned, asked),
            Err(error) => {
                self.pool.give_back(identity, Instant::now());
                refuse(model, &error, error.passes())
            }
        }
    }

    fn bear(
        &mut self,
        (spawner, config): (&Spawner, &Config),
        (model, tenant): (&ModelId, &Tenant),
        arenas: &Arenas,
        asked: Instant,
        tracer: &mut Tracer,
    ) -> Answer {
        let gone = || refuse(model, &"its tenant's zygote has no uid left that nobody else has", true);
        let (worker, strangers, berth) = (WorkerId(self.next), uids_of_processes(), self.berth(model));
        self.memory.moved();
        let Some(zygote) = self.nursery.ripe(tenant) else { return gone() };
        // Reserved when the zygote began; somebody may have one of them by now.
        while let Some((_, identity)) =
            zygote.unborn.pop_front_if(|(_, who)| who.own().is_some_and(|uid| strangers.contains(&uid)))
        {
            zygote.births = zygote.births.saturating_sub(1);
            self.pool.release(identity);
        }
        if zygote.births == 0 {
            zygote.forget();
            return gone();
        }
        let identity = zygote.unborn.front().map(|(_, identity)| *identity);
        match spawner.spawn(config, (model, worker, berth), Way::Born(zygote), arenas, (&mut self.keeper, tracer)) {
            Ok(spawned) => self.started((model, worker, berth), spawner, spawned, asked),
            Err(error) => {
                // Some process may have had it, if not for long; what the zygote still has was not used.
                let used = zygote.unborn.front().map(|(_, identity)| *identity) != identity;
                if let Some(identity) = identity.filter(|_| used) {
                    self.pool.give_back(identity, Instant::now());
                }
                if matches!(&error, SpawnError::Bear(error) if error.is_of_zygote()) {
                    self.nursery.dismiss(tenant, Some(error.to_string()));
                }
                refuse(model, &error, error.passes())
            }
        }
    }

    /// A process ended: which worker it was, and why it did. Nothing for a child that never became one.
    pub fn ended(&mut self, ended: &Ended) -> Option<(WorkerId, ExitCause)> {
        if self.keeper.ended(ended) || self.nursery.ended(ended.pid, &ended.cause(UNASKED), &mut self.pool) {
            return None;
        }
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

    /// Kills all, and forgets those that wait: whoever asked for them is gone.
    pub fn kill_all(&mut self) {
        self.waiting.clear();
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
        spawner: &Spawner,
        spawned: Spawned,
        asked: Instant,
    ) -> Answer {
        self.next += 1;
        let Spawned { pid, pidfd, identity, zygote, ceilings, run_time_code, warmed, leaf, channel, log, .. } = spawned;
        let shapes_left_aside = spawned.shapes_left_aside;
        let (namespaces, landlock) = (!spawner.host.lacks(Waiver::Namespaces), spawner.host.landlock);
        let how = if zygote.is_some() { Spawn::Zygote } else { Spawn::Exec }.name();
        let subject = Subject { pid, identity, ceilings, namespaces, landlock, run_time_code, warmed, zygote };
        self.running.insert(worker, Worker { model: model.clone(), pid, pidfd, subject, leaf, berth, asked: false });
        let spawn_us = u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX);
        let uid = identity.own().map_or("shared".to_owned(), |uid| uid.to_string());
        let fields: [(&str, &dyn Display); 6] =
            [("worker", &worker), ("model", model), ("pid", &pid), ("uid", &uid), ("us", &spawn_us), ("by", &how)];
        log::info("worker-started", &fields);
        if shapes_left_aside {
            let so = "a zygote's workers make no code, so its convolutions run without oneDNN; say spawn = \"exec\" for it, or \
                      remove the file";
            log::warn("model-shapes-left-aside", &[("worker", &worker), ("model", model), ("so", &so)]);
        }
        let pid = pid.as_raw().unsigned_abs();
        let (model, uid) = (model.clone(), identity.own());
        let reply = LaunchReply::Started { model, worker, pid, uid, spawn_us, shapes_left_aside };
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

/// Whether a model has a worker, or will have one.
fn lives<'a>(running: &'a BTreeMap<WorkerId, Worker>, waiting: &'a [Waiting]) -> impl Fn(&ModelId) -> bool + 'a {
    let models = running.values().map(|worker| &worker.model).chain(waiting.iter().map(|waiting| &waiting.model));
    let models: BTreeSet<&ModelId> = models.collect();
    move |model| models.contains(model)
}

/// Of a zygote's end, which nobody asks for.
const UNASKED: Circumstances = Circumstances { asked: false, out_of_memory: false };

/// A `Refused`, with a line in the log.
pub fn refuse(model: &ModelId, why: &dyn Display, retry: bool) -> Answer {
    log::warn("start-refused", &[("model", model), ("reason", why), ("retry", &retry)]);
    let reply = LaunchReply::Refused { model: model.clone(), reason: why.to_string(), retry };
    Answer { reply, descriptors: Vec::new() }
}
