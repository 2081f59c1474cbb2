//! Wires the front together, runs it, drains it.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use casemate_config::Config;
use casemate_lockdown::{FrontLocked, FrontSealed, SealError, seal_front};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::admit::permit::Room;
use crate::fleet::breaker::Rules;
use crate::fleet::breakers::Breakers;
use crate::fleet::handle::ModelHandle;
use crate::fleet::launcher::{Catalogue, LaunchChannel, Launcher};
use crate::fleet::supervise::{Terms, supervise};
use crate::fleet::turn::Turns;
use crate::metrics::Metrics;
use crate::pipeline::{House, Pipeline};
use crate::protocol::intake::Intake;
use crate::server::{accept, routes};

/// What a front is born with.
#[derive(Debug)]
pub struct Birth {
    /// The channel to the launcher.
    pub launcher: LaunchChannel,
    /// What the launcher said first.
    pub catalogue: Catalogue,
    /// The listening socket.
    pub listener: std::net::TcpListener,
    /// The operator's config.
    pub config: Config,
    /// CPUs to run on, as [`cpus`] counted them.
    pub cpus: usize,
}

/// Why a front ended badly.
#[derive(Debug, Error)]
pub enum AppError {
    /// A socket or the runtime.
    #[error("{step}: {source}")]
    Start {
        /// Which step.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The front's filter is not in force.
    #[error("{0}")]
    Seal(#[from] SealError),
    /// Nothing can be started without it.
    #[error("the launcher is gone: {0}")]
    Launcher(casemate_ipc::seqpacket::ChannelError),
}

/// How many CPUs there are for this process; asks files, so before the lock. One counts as two: a large JSON body is parsed on
/// one thread of the runtime, and the others must not wait for it; nor must one worker that starts wait for another's disk.
pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).max(2)
}

/// More do not make the front faster.
const MOST_THREADS: usize = 4;

/// Runs the front until it is told to stop and has drained.
pub fn run(locked: FrontLocked, birth: Birth) -> Result<(), AppError> {
    let threads = birth.cpus.min(MOST_THREADS);
    let at_rest = Arc::new(Barrier::new(threads + 1));
    let started = Arc::clone(&at_rest);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    // Called when a thread has registered itself with libc and with the Rust runtime: what the filter forbids is over.
    let runtime = runtime.worker_threads(threads).thread_name("front").on_thread_start(move || {
        started.wait();
    });
    let runtime = runtime.enable_all().build().map_err(start("runtime"))?;
    at_rest.wait();
    runtime.block_on(async {
        let doors = Doors::open(birth.launcher, birth.listener)?;
        let sealed = seal_front(locked)?;
        tracing::info!("sealed");
        serve(&sealed, doors, birth.catalogue, birth.config, Turns::new(birth.cpus)).await
    })
}

/// Everything that the front names to the kernel by itself, in the runtime's reactor.
#[derive(Debug)]
struct Doors {
    launcher: Launcher,
    listener: TcpListener,
    terminate: Signal,
    interrupt: Signal,
}

impl Doors {
    fn open(launcher: LaunchChannel, listener: std::net::TcpListener) -> Result<Self, AppError> {
        let launcher = Launcher::new(launcher).map_err(start("launcher channel"))?;
        listener.set_nonblocking(true).map_err(start("listener"))?;
        let listener = TcpListener::from_std(listener).map_err(start("listener"))?;
        let terminate = signal(SignalKind::terminate()).map_err(start("SIGTERM"))?;
        let interrupt = signal(SignalKind::interrupt()).map_err(start("SIGINT"))?;
        Ok(Self { launcher, listener, terminate, interrupt })
    }
}

async fn serve(
    _sealed: &FrontSealed,
    doors: Doors,
    catalogue: Catalogue,
    config: Config,
    turns: Turns,
) -> Result<(), AppError> {
    let Doors { launcher, listener, mut terminate, mut interrupt } = doors;
    let limits = config.limits.clone();
    let (stop, stopped) = watch::channel(false);
    let metrics = Metrics::new();
    let mut handles: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    let queue = usize::try_from(limits.queue).unwrap_or(usize::MAX);
    let breakers = Breakers::new(Rules {
        deaths: u32::try_from(limits.breaker_deaths).unwrap_or(u32::MAX),
        window: Duration::from_millis(limits.breaker_window_ms),
        rest: Duration::from_millis(limits.breaker_rest_ms),
        longest: Duration::from_millis(limits.breaker_longest_ms),
    });
    for model in &catalogue.models {
        let (waived, code) = (catalogue.waived.clone(), config.model(&model.name).run_time_code);
        let handle = ModelHandle::new(model.clone(), waived, code, queue, breakers.clone(), metrics.clone());
        handle.belongs_to(&config.tenant(&model.name), config.model(&model.name).spawn);
        handles.entry(model.name.clone()).or_default().insert(model.version.clone(), handle);
    }
    let terms = Terms {
        requests: config.requests(),
        responses: config.responses(),
        turns,
        load: Duration::from_millis(limits.load_ms),
        ping: Duration::from_millis(limits.ping_ms),
        attempts: u32::try_from(limits.start_attempts).unwrap_or(u32::MAX),
        log_bytes_per_second: limits.log_bytes_per_second,
    };
    let mut supervisors = JoinSet::new();
    for handle in handles.values().flat_map(BTreeMap::values) {
        let (handle, launcher) = (Arc::clone(handle), launcher.clone());
        supervisors.spawn(supervise(handle, launcher, terms.clone(), metrics.clone(), stopped.clone()));
    }
    let pipeline = Pipeline::new(House {
        models: handles,
        room: Room::new(limits.in_flight_bytes),
        request_bytes: limits.request_bytes,
        slot_bytes: config.requests().slot_bytes,
        stop: stopped.clone(),
        metrics: metrics.clone(),
    });
    let body_time = Duration::from_millis(limits.body_ms);
    let router = routes::router(Intake { pipeline, metrics, body_time });
    let accepting = {
        let (limits, stopped) = (limits.clone(), stopped.clone());
        tokio::spawn(async move { accept::serve(listener, router, &limits, stopped).await })
    };
    tokio::select! {
        error = launcher.listen() => return Err(AppError::Launcher(error)),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!(drain_ms = limits.drain_ms, "stopping: running requests are finished, no new ones are taken");
    // Everybody may be gone already; then there is nobody to tell.
    let _ = stop.send(true);
    let drained = async {
        let _ = accepting.await;
        while supervisors.join_next().await.is_some() {}
    };
    tokio::select! {
        error = launcher.listen() => return Err(AppError::Launcher(error)),
        done = tokio::time::timeout(Duration::from_millis(limits.drain_ms), drained) => {
            if done.is_err() {
                tracing::warn!("drained too slowly; what still runs is cut off");
            }
        }
    }
    Ok(())
}

fn start(step: &'static str) -> impl FnOnce(io::Error) -> AppError {
    move |source| AppError::Start { step, source }
}
