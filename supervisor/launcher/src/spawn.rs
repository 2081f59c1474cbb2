//! Starts a worker: its descriptors, its jail, its program.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};

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

use crate::cgroup::{CgroupError, Entry, Leaf};
use crate::fork::{self, BirthError};
use crate::host::Host;
use crate::jail::identity::Identity;
use crate::jail::rlimit::Ceilings;
use crate::jail::{Jail, namespaces};
use crate::library::Library;
use crate::models::{Store, StoreError};
use crate::program::Program;
use crate::trace::Tracer;

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

/// A worker that runs.
#[derive(Debug)]
pub struct Spawned {
    /// Its process.
    pub pid: Pid,
    /// The same, to send it signals.
    pub pidfd: OwnedFd,
    /// What it may use.
    pub ceilings: Ceilings,
    /// Whether it may make machine code.
    pub run_time_code: RunTimeCode,
    /// Whether its warm-up may, whatever comes afterwards.
    pub warmed: bool,
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
        identity: Identity,
        arenas: &Arenas,
        tracer: &mut Tracer,
    ) -> Result<Spawned, SpawnError> {
        let files = self.store.files(model)?;
        let settings = config.model(&model.name);
        let ceilings = self.ceilings(config, &settings, &files.model)?;
        let cores = cores::share(&settings.cores, berth, settings.workers);
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
            shapes: files.shapes,
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
            files.model.as_fd(),
            files.manifest.as_fd(),
            grant.as_fd(),
        ];
        let namespaces = !self.host.lacks(Waiver::Namespaces);
        // The number is never given twice, so nothing of an earlier worker is in a group of that name.
        let leaf = self.host.cgroups.as_ref().map(|groups| groups.leaf(&format!("w{}", worker.0), ceilings.budget()));
        let leaf = leaf.transpose()?;
        let entry = leaf.as_ref().map(Leaf::entry).transpose()?;
        let jail = Jail {
            library: &self.library,
            namespaces,
            alone: !self.host.lacks(Waiver::NoNestedNamespaces),
            calm: !self.host.lacks(Waiver::Speculation),
            entry: entry.as_ref(),
            identity,
            cores,
            ceilings,
            descriptors: &descriptors,
        };
        let (pid, pidfd) = self.birth(&jail, tracer)?;
        let run_time_code = settings.run_time_code;
        Ok(Spawned { pid, pidfd, ceilings, run_time_code, warmed, leaf, channel: front.into_socket(), log })
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

    fn birth(&self, jail: &Jail<'_>, tracer: &mut Tracer) -> Result<(Pid, OwnedFd), BirthError> {
        let mut child = fork::fork_into(jail.flags(), jail.entry.and_then(Entry::born_in), |gate| {
            match jail.enter(gate).and_then(|()| jail.exec(&self.program)) {
                Err(failure) => failure,
                Ok(never) => match never {},
            }
        })?;
        tracer.watch(child.pid);
        let started = child.ready().and_then(|()| {
            if jail.namespaces {
                namespaces::map(child.pid, jail.identity).map_err(BirthError::Identity)?;
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

/// Of 1000, added to what a process uses when the kernel looks for one to kill.
const SACRIFICE: &str = "500";

impl SpawnError {
    /// Whether a later try could end otherwise.
    pub fn passes(&self) -> bool {
        match self {
            Self::Birth(error) => error.passes(),
            Self::Descriptor { .. } | Self::Memory(_) | Self::Cgroup(_) => true,
            // Somebody may be copying the model's files right now; but a worker that cannot have them is not better off
            // for asking again and again.
            Self::Model(_) | Self::Grant(_) => false,
        }
    }
}
