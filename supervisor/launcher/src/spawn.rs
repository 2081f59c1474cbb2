//! Starts a worker: its descriptors, its jail, its program.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use casemate_config::Config;
use casemate_config::model::ModelConfig;
use casemate_ipc::cores;
use casemate_ipc::frame::{self, FrameError};
use casemate_ipc::id::{ModelId, WorkerId};
use casemate_ipc::launch::{Geometry, Grant, RunTimeCode};
use casemate_ipc::layer::Waiver;
use casemate_ipc::seqpacket;
use casemate_ipc::shm::seal::{self, SealError, Sealing};
use casemate_ipc::work::{FromWorker, ToWorker};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::fstat;
use nix::unistd::{Pid, pipe2};
use thiserror::Error;

use crate::attest::Marks;
use crate::cgroup::{CgroupError, Entry, Leaf};
use crate::fork::{self, BirthError};
use crate::host::Host;
use crate::jail::identity::{Dry, Identity};
use crate::jail::rlimit::Ceilings;
use crate::jail::{Jail, namespaces};
use crate::kept::{KeepError, Keeper};
use crate::library::Library;
use crate::models::{Store, StoreError};
use crate::program::Program;
use crate::trace::Tracer;
use crate::zygote::{BearError, Dowry, Zygote};

/// Everything that workers are made of.
#[derive(Debug)]
pub struct Spawner {
    /// Their program.
    pub program: Program,
    /// The files it needs.
    pub library: Library,
    /// What this host can give.
    pub host: Host,
    /// Their models.
    pub store: Store,
}

/// How a worker comes to be.
#[derive(Debug)]
pub enum Way<'a> {
    /// Its program is started, as that identity.
    Exec(Identity),
    /// A zygote bears it, as the next of the identities that it has.
    Born(&'a mut Zygote),
}

/// A worker that runs.
#[derive(Debug)]
pub struct Spawned {
    /// Its process.
    pub pid: Pid,
    /// The same, to send it signals.
    pub pidfd: OwnedFd,
    /// Who it is.
    pub identity: Identity,
    /// The marks of the zygote that bore it, if one did, at its birth.
    pub zygote: Option<Marks>,
    /// What it may use.
    pub ceilings: Ceilings,
    /// Whether it may make machine code.
    pub run_time_code: RunTimeCode,
    /// Whether its warm-up may, whatever comes afterwards.
    pub warmed: bool,
    /// Whether its model has sizes to warm up, and it is not one that can.
    pub shapes_left_aside: bool,
    /// Its control group, where there is one.
    pub leaf: Option<Leaf>,
    /// The front's end of its channel.
    pub channel: OwnedFd,
    /// The end of its log pipe that is read.
    pub log: OwnedFd,
}

/// The arenas that a front made for a worker, looked at: what they promise holds, whoever made them.
#[derive(Debug)]
pub struct Arenas {
    requests: OwnedFd,
    responses: OwnedFd,
}

/// Why there is no worker.
#[derive(Debug, Error)]
pub enum SpawnError {
    /// The model's files.
    #[error(transparent)]
    Model(#[from] StoreError),
    /// The copy of its model, or the model's digest.
    #[error(transparent)]
    Keep(#[from] KeepError),
    /// What it was to be born with.
    #[error("{what}: {source}")]
    Descriptor {
        /// Which.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// Its grant.
    #[error("grant: {0}")]
    Grant(#[from] FrameError),
    /// Its grant's memory.
    #[error("grant: {0}")]
    Memory(#[from] SealError),
    /// Its control group.
    #[error("control group: {0}")]
    Cgroup(#[from] CgroupError),
    /// Its process or its jail.
    #[error(transparent)]
    Birth(#[from] BirthError),
    /// Its zygote.
    #[error(transparent)]
    Bear(#[from] BearError),
    /// No uid for a zygote.
    #[error(transparent)]
    Dry(Dry),
    /// One uid, and none for a zygote's first worker.
    #[error("one uid alone is free: a zygote needs one, and another for each of its workers")]
    Uids,
    /// A zygote on a host that has no namespaces to give.
    #[error("spawn = \"zygote\" needs namespaces, which this host lacks; write spawn = \"exec\"")]
    NoNamespaces,
}

impl Arenas {
    /// Proves that two descriptors are the arenas of this model, as the config says it.
    pub fn check(fds: Vec<OwnedFd>, config: &Config, model: &ModelConfig) -> Result<Self, SealError> {
        let exact = |fd: &OwnedFd, sealing, geometry: Geometry| {
            let expected = geometry.bytes().ok_or(SealError::TooLong(u64::MAX))? as u64;
            match seal::check(fd, sealing)? {
                found if found == expected => Ok(()),
                found => Err(SealError::Length { found, expected }),
            }
        };
        let none = SealError::Length { found: 0, expected: 2 };
        let [requests, responses] = <[OwnedFd; 2]>::try_from(fds).map_err(|_| none)?;
        exact(&requests, Sealing::Fixed, config.requests_of(model))?;
        exact(&responses, Sealing::Fixed, config.responses_of(model))?;
        // A worker can only read what it is asked.
        Ok(Self { requests: seal::read_only(requests)?, responses })
    }
}

impl Spawner {
    /// Starts one worker and waits until its program runs. `berth` is its place among the model's workers.
    pub fn spawn(
        &self,
        config: &Config,
        (model, worker, berth): (&ModelId, WorkerId, u32),
        way: Way<'_>,
        arenas: &Arenas,
        (keeper, tracer): (&mut Keeper, &mut Tracer),
    ) -> Result<Spawned, SpawnError> {
        let files = self.store.files(model)?;
        // First of all: the digest is counted beside everything that follows.
        let given = keeper.give(model, files.model, tracer)?;
        let settings = config.model(&model.name);
        let ceilings = self.ceilings(config, &settings, &given.model)?;
        let cores = cores::share(&settings.cores, berth, settings.workers);
        // Its zygote's filter lets nothing make code, not even a warm-up.
        let makes_code = matches!(way, Way::Exec(_));
        let shapes_left_aside = !makes_code && !files.shapes.is_empty();
        let grant = Grant {
            model: model.clone(),
            worker,
            threads: settings.threads,
            instances: settings.instances,
            cores: cores.to_vec(),
            requests: config.requests_of(&settings),
            responses: config.responses_of(&settings),
            // Only what is really missing: what this host has, the worker must put on.
            waived: self.host.missing.clone(),
            run_time_code: settings.run_time_code,
            graph: settings.graph.clone(),
            shapes: if makes_code { files.shapes } else { Vec::new() },
        };
        let warmed = !grant.shapes.is_empty();
        let grant = seal::freeze("casemate-grant", &*frame::encode(&grant)?, frame::MAX_FRAME as u64)?;
        let failed = |what| move |source| SpawnError::Descriptor { what, source };
        let (front, channel) = seqpacket::pair::<ToWorker, FromWorker>().map_err(failed("channel"))?;
        let (log, write) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| failed("log pipe")(errno.into()))?;
        // A worker must not hang because nobody reads what it prints; what does not fit is lost.
        let nonblocking = fcntl(&write, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
        nonblocking.map_err(|errno| failed("log pipe")(errno.into()))?;
        let null = File::open("/dev/null").map_err(failed("/dev/null"))?;
        let channel = channel.into_socket();
        let descriptors = [
            null.as_fd(),
            write.as_fd(),
            write.as_fd(),
            channel.as_fd(),
            arenas.requests.as_fd(),
            arenas.responses.as_fd(),
            given.model.as_fd(),
            files.manifest.as_fd(),
            grant.as_fd(),
            given.digest.as_fd(),
        ];
        let namespaces = !self.host.lacks(Waiver::Namespaces);
        // The number is never given twice, so nothing of an earlier worker is in a group of that name.
        let leaf = self.host.cgroups.as_ref().map(|groups| groups.leaf(&format!("w{}", worker.0), ceilings.budget()));
        let leaf = leaf.transpose()?;
        let alone = !self.host.lacks(Waiver::NoNestedNamespaces);
        let (zygote, identity, (pid, pidfd)) = match way {
            Way::Exec(identity) => {
                let entry = leaf.as_ref().map(Leaf::entry).transpose()?;
                let calm = !self.host.lacks(Waiver::Speculation);
                let (library, entry, descriptors) = (&self.library, entry.as_ref(), &descriptors[..]);
                let bears = false;
                let jail =
                    Jail { library, namespaces, alone, calm, entry, identity, cores, ceilings, descriptors, bears };
                (None, identity, self.birth(&jail, &[], tracer)?)
            }
            Way::Born(zygote) => {
                let identity = zygote.unborn.front().map_or(Identity::Shared, |(_, identity)| *identity);
                // It has its zygote's null already, and one log for both of its outputs.
                let dowry = Dowry { descriptors: &descriptors[2..], leaf: leaf.as_ref(), ceilings, alone };
                (Some(Marks::of(zygote.pid)), identity, zygote.bear(&dowry, tracer)?)
            }
        };
        let run_time_code = settings.run_time_code;
        let channel = front.into_socket();
        Ok(Spawned {
            pid,
            pidfd,
            identity,
            zygote,
            ceilings,
            run_time_code,
            warmed,
            shapes_left_aside,
            leaf,
            channel,
            log,
        })
    }

    /// Starts a zygote, and waits until its program runs.
    pub fn zygote(
        &self,
        config: &Config,
        number: u64,
        identity: Identity,
        unborn: VecDeque<(u32, Identity)>,
        tracer: &mut Tracer,
    ) -> Result<Zygote, SpawnError> {
        if self.host.lacks(Waiver::Namespaces) {
            return Err(SpawnError::NoNamespaces);
        }
        let failed = |what| move |source| SpawnError::Descriptor { what, source };
        let (ours, theirs) = seqpacket::pair().map_err(failed("channel"))?;
        ours.set_nonblocking().map_err(failed("channel"))?;
        let null = File::open("/dev/null").map_err(failed("/dev/null"))?;
        let theirs = theirs.into_socket();
        // It has no log: it says by its channel why it is of no use, and a line into a file would end it, since it may write
        // none (`RLIMIT_FSIZE`).
        let descriptors = [null.as_fd(), null.as_fd(), null.as_fd(), theirs.as_fd()];
        let memory_bytes = config.limits.worker_memory_mib << 20;
        let ceilings =
            Ceilings { threads: 1, instances: 1, memory_bytes, mapped_bytes: self.library.bytes(), cpu_millis: None };
        let leaf = self
            .host
            .cgroups
            .as_ref()
            .map(|groups| groups.leaf(&format!("z{number}"), ceilings.budget()))
            .transpose()?;
        let entry = leaf.as_ref().map(Leaf::entry).transpose()?;
        let jail = Jail {
            library: &self.library,
            namespaces: true,
            alone: !self.host.lacks(Waiver::NoNestedNamespaces),
            calm: !self.host.lacks(Waiver::Speculation),
            entry: entry.as_ref(),
            identity,
            cores: &[],
            ceilings,
            descriptors: &descriptors,
            bears: true,
        };
        let uids: Vec<u32> = unborn.iter().filter_map(|(_, identity)| identity.own()).collect();
        let since = Instant::now();
        let (pid, pidfd) = self.birth(&jail, &uids, tracer)?;
        let births = if identity == Identity::Shared { config.renewal.births } else { length(&unborn) };
        Ok(Zygote { pid, pidfd, channel: ours, leaf, identity, unborn, births, since, warm: false, expected: None })
    }

    /// What a worker of this model may use.
    fn ceilings(&self, config: &Config, settings: &ModelConfig, model: &OwnedFd) -> Result<Ceilings, SpawnError> {
        let failed = |errno: nix::errno::Errno| SpawnError::Descriptor { what: "model", source: errno.into() };
        let model = u64::try_from(fstat(model).map_err(failed)?.st_size).unwrap_or(u64::MAX);
        let arenas = [config.requests_of(settings), config.responses_of(settings)]
            .map(|arena| arena.bytes().unwrap_or(usize::MAX) as u64);
        // Libraries are mapped once, and the pages of them that are written are data.
        let mapped = arenas.into_iter().fold(model, u64::saturating_add).saturating_add(self.library.bytes());
        let ModelConfig { threads, instances, memory_bytes, cpu_millis, .. } = *settings;
        Ok(Ceilings { threads, instances, memory_bytes, mapped_bytes: mapped, cpu_millis })
    }

    fn birth(&self, jail: &Jail<'_>, unborn: &[u32], tracer: &mut Tracer) -> Result<(Pid, OwnedFd), BirthError> {
        let mut child = fork::fork_into(jail.flags(), jail.entry.and_then(Entry::born_in), |gate| {
            match jail.enter(gate).and_then(|()| jail.exec(&self.program)) {
                Err(failure) => failure,
                Ok(never) => match never {},
            }
        })?;
        tracer.watch(child.pid);
        let started = child.ready().and_then(|()| {
            if jail.namespaces {
                namespaces::map(child.pid, jail.identity, unborn).map_err(BirthError::Identity)?;
            }
            // Where the whole host is short of memory, a worker goes before the front and before what is not ours. Its group
            // bounds it anyway, so this may fail.
            let _ = fs::write(format!("/proc/{}/oom_score_adj", child.pid), SACRIFICE);
            tracer.trace(child.pid);
            child.run(|| tracer.pump())
        });
        match started {
            Ok(()) => Ok((child.pid, child.pidfd)),
            Err(error) => {
                child.abandon();
                Err(error)
            }
        }
    }
}

fn length(unborn: &VecDeque<(u32, Identity)>) -> u32 {
    u32::try_from(unborn.len()).unwrap_or(u32::MAX)
}

/// Of 1000, added to what a process uses when the kernel looks for one to kill.
pub(crate) const SACRIFICE: &str = "500";

impl SpawnError {
    /// Whether a later try could end otherwise.
    pub fn passes(&self) -> bool {
        match self {
            Self::Birth(error) => error.passes(),
            Self::Bear(error) => error.passes(),
            Self::Keep(error) => error.passes(),
            Self::Descriptor { .. } | Self::Memory(_) | Self::Cgroup(_) | Self::Dry(_) | Self::Uids => true,
            // Somebody may be copying the model's files right now; but a worker that cannot have them is not better off
            // for asking again and again.
            Self::Model(_) | Self::Grant(_) | Self::NoNamespaces => false,
        }
    }
}
