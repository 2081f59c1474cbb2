//! The front of the jail bench: asks for workers, and says how long each took.

use std::error::Error;
use std::os::fd::OwnedFd;

use casemate_config::Config;
use casemate_ipc::id::{ModelId, WorkerId};
use casemate_ipc::inherited;
use casemate_ipc::launch::{LaunchReply, LaunchRequest, fd};
use casemate_ipc::seqpacket::{Channel, PacketBuffer};
use casemate_ipc::shm::arena;
use casemate_ipc::shm::map::Frozen;
use nix::sys::signal::{SigSet, Signal};

use super::{AT_ONCE, STARTS, at_once};

struct Front {
    launcher: Channel<LaunchRequest, LaunchReply>,
    buffer: PacketBuffer,
    config: Config,
}

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let mut stop = SigSet::empty();
    stop.add(Signal::SIGTERM);
    stop.thread_block()?;
    let launcher = Channel::new(inherited::take(fd::FRONT_LAUNCHER)?);
    let config = Frozen::map(inherited::take(fd::FRONT_CONFIG)?)?;
    let config = Config::parse(std::str::from_utf8(config.bytes())?)?;
    let mut front = Front { launcher, buffer: PacketBuffer::default(), config };
    let models = front.catalogue()?;
    // What is slow the first time is not what a server does all day.
    front.round(&models[..1])?;
    let mut times = Vec::new();
    for turn in 0..STARTS {
        times.extend(front.round(&models[turn % AT_ONCE..][..1])?);
    }
    say("one after the other", &times);
    times.clear();
    for _ in 0..STARTS / AT_ONCE {
        times.extend(front.round(&models)?);
    }
    say(&at_once(), &times);
    stop.wait()?;
    Ok(())
}

impl Front {
    fn catalogue(&mut self) -> Result<Vec<ModelId>, Box<dyn Error>> {
        let mut models = Vec::new();
        loop {
            match self.hear()? {
                LaunchReply::Model { model } => models.push(model),
                LaunchReply::Catalogue { .. } => return Ok(models),
                other => return Err(format!("{other:?}").into()),
            }
        }
    }

    /// Asks for a worker of each at once; kills each as it runs, and waits for their ends.
    fn round(&mut self, models: &[ModelId]) -> Result<Vec<u64>, Box<dyn Error>> {
        for model in models {
            let (_writer, requests) = arena::requests(self.config.requests())?;
            let (_reader, responses) = arena::responses(self.config.responses())?;
            let arenas = [&requests, &responses].map(std::os::fd::AsFd::as_fd);
            self.launcher.send_with(&LaunchRequest::Start { model: model.clone() }, &arenas)?;
        }
        let (mut times, mut ended) = (Vec::new(), 0);
        while ended < models.len() {
            match self.hear()? {
                LaunchReply::Started { worker, spawn_us, .. } => {
                    times.push(spawn_us);
                    self.kill(worker)?;
                }
                LaunchReply::Exited { .. } => ended += 1,
                other => return Err(format!("{other:?}").into()),
            }
        }
        Ok(times)
    }

    fn kill(&self, worker: WorkerId) -> Result<(), Box<dyn Error>> {
        Ok(self.launcher.send(&LaunchRequest::Kill { worker })?)
    }

    fn hear(&mut self) -> Result<LaunchReply, Box<dyn Error>> {
        let heard: Option<(_, Vec<OwnedFd>)> = self.launcher.receive_with::<2>(&mut self.buffer)?;
        Ok(heard.ok_or("the launcher is gone")?.0)
    }
}

#[expect(clippy::print_stderr, reason = "the one way from here to the bench")]
fn say(how: &str, times: &[u64]) {
    let times: Vec<String> = times.iter().map(ToString::to_string).collect();
    eprintln!("bench: {how}: {}", times.join(" "));
}
