//! `casemate-front`: sockets in hand, lock, run. Started by `casemate-launcher`, never by hand.

use std::process::ExitCode;

use casemate_config::Config;
use casemate_front::app::{self, Birth};
use casemate_front::fleet::launcher::{LaunchChannel, read_catalogue};
use casemate_front::telemetry;
use casemate_ipc::inherited;
use casemate_ipc::launch::fd;
use casemate_ipc::layer::Waiver;
use casemate_ipc::shm::map::Frozen;
use casemate_lockdown::Requirements;

type Fault = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the front ends");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<(), Fault> {
    telemetry::init(telemetry::Form::Plain, tracing::level_filters::LevelFilter::INFO);
    let by_hand = "casemate-front is started by casemate-launcher; run `casemate serve --config FILE`";
    let launcher: LaunchChannel = LaunchChannel::new(inherited::take(fd::FRONT_LAUNCHER).map_err(|_| by_hand)?);
    let listener = inherited::take(fd::FRONT_LISTENER).map_err(|_| by_hand)?;
    let text = Frozen::map(inherited::take(fd::FRONT_CONFIG).map_err(|_| by_hand)?)?;
    let config = Config::parse(std::str::from_utf8(text.bytes())?)?;
    drop(text);
    let catalogue = read_catalogue(&launcher)?;
    let landlock = !catalogue.waived.contains(&Waiver::Landlock);
    let requirements = Requirements { empty_root: false, capabilities: true, landlock };
    // Asks /proc and cgroups, so before the lock.
    let cpus = app::cpus();
    // Before the runtime starts a thread; from here on nothing can be opened.
    let (locked, report) = casemate_lockdown::lock_front(&requirements)?;
    tracing::info!(?report, models = catalogue.models.len(), "locked");
    app::run(locked, Birth { launcher, catalogue, listener: listener.into(), config, cpus })?;
    Ok(())
}
