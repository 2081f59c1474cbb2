//! Wires the front together, runs it, drains it.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use casemate_config::{Config, ModelConfig};
use casemate_lockdown::{FrontLocked, FrontSealed, SealError, seal_front};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::admit::permit::Room;
use crate::batch::queue::Bounds;
use crate::desk::Desk;
use crate::fleet::breaker::Rules;
use crate::fleet::breakers::Breakers;
use crate::fleet::handle::ModelHandle;
use crate::fleet::launcher::{Catalogue, LaunchChannel, Launcher};
use crate::fleet::seat::Seat;
use crate::fleet::supervise::{Terms, supervise};
use crate::fleet::turn::Turns;
use crate::metrics::Metrics;
use crate::pipeline::{House, Pipeline};
use crate::protocol::intake::Intake;
use crate::protocol::slate::Slate;
use crate::server::accept;
use crate::server::routes::Routes;

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

/// How many CPUs there are for this process; asks files, so before the lock.
pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// More threads at the desk do not make the front faster.
const MOST_DESKS: usize = 3;

/// Runs the front until it is told to stop and has drained.
pub fn run(locked: FrontLocked, birth: Birth) -> Result<(), AppError> {
    // One thread for everything that waits: a request goes from its connection to its worker and back without another
    // thread being woken, and who arrives together leaves together. What would keep it long is done at the desk.
    let desk = Desk::open(birth.cpus.saturating_sub(1).clamp(1, MOST_DESKS)).map_err(start("desk"))?;
    let runtime = Builder::new_current_thread().enable_all().build().map_err(start("runtime"))?;
    runtime.block_on(async {
        let doors = Doors::open(birth.launcher, birth.listener)?;
        let sealed = seal_front(locked)?;
        tracing::info!("sealed");
        serve(&sealed, doors, birth.catalogue, birth.config, birth.cpus, desk).await
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
    cpus: usize,
    desk: Desk,
) -> Result<(), AppError> {
    let Doors { launcher, listener, mut terminate, mut interrupt } = doors;
    let limits = config.limits.clone();
    let (stop, stopped) = watch::channel(false);
    let metrics = Metrics::new();
    let mut handles: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    let bounds = Bounds { jobs: usize::try_from(limits.queue).unwrap_or(usize::MAX), bytes: limits.queue_bytes };
    let breakers = Breakers::new(Rules {
        deaths: u32::try_from(limits.breaker_deaths).unwrap_or(u32::MAX),
        window: Duration::from_millis(limits.breaker_window_ms),
        rest: Duration::from_millis(limits.breaker_rest_ms),
        longest: Duration::from_millis(limits.breaker_longest_ms),
    });
    for model in &catalogue.models {
        let (waived, settings) = (catalogue.waived.clone(), config.model(&model.name));
        let (breakers, metrics) = (breakers.clone(), metrics.clone());
        let handle = ModelHandle::new(model.clone(), &settings, waived, bounds, breakers, metrics);
        handle.belongs_to(&config.tenant(&model.name), settings.spawn);
        handles.entry(model.name.clone()).or_default().insert(model.version.clone(), handle);
    }
    let terms = Terms {
        requests: config.requests(),
        responses: config.responses(),
        instances: 1,
        workers: 1,
        // One counts as two: a worker that starts must not wait for another's disk.
        turns: Turns::new(cpus.max(2)),
        load: Duration::from_millis(limits.load_ms),
        ping: Duration::from_millis(limits.ping_ms),
        // Who looks out on the only CPU keeps the worker from it.
        vigil: Duration::from_micros(if cpus > 1 { limits.vigil_us } else { 0 }),
        arena_rest: Duration::from_millis(limits.arena_rest_ms),
        attempts: u32::try_from(limits.start_attempts).unwrap_or(u32::MAX),
        desk: desk.clone(),
        log_bytes_per_second: limits.log_bytes_per_second,
    };
    let mut supervisors = JoinSet::new();
    for handle in handles.values().flat_map(BTreeMap::values) {
        let settings = config.model(&handle.model.name);
        let (requests, responses) = (config.requests_of(&settings), config.responses_of(&settings));
        let ModelConfig { instances, workers, .. } = settings;
        let terms = Terms { requests, responses, instances, workers, ..terms.clone() };
        for place in 0..workers as usize {
            let (seat, launcher) = (Seat::new(Arc::clone(handle), place), launcher.clone());
            supervisors.spawn(supervise(seat, launcher, terms.clone(), metrics.clone(), stopped.clone()));
        }
    }
    let pipeline = Pipeline::new(House {
        models: handles,
        room: Room::new(limits.in_flight_bytes),
        request_bytes: limits.request_bytes,
        slot_bytes: config.requests().slot_bytes,
        desk,
        stop: stopped.clone(),
    });
    let body_time = Duration::from_millis(limits.body_ms);
    let routes = Routes::new(Intake { pipeline, metrics, trace: config.trace, body_time, slate: Slate::default() });
    let accepting = {
        let (limits, stopped) = (limits.clone(), stopped.clone());
        tokio::spawn(async move { accept::serve(listener, routes, &limits, stopped).await })
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
