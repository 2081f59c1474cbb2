//! The scripted front: one worker for each model, one after the other; each thing that it hears is a line.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use casemate_config::Config;
use casemate_ipc::id::{ModelId, WorkerId};
use casemate_ipc::launch::{Geometry, LaunchReply, LaunchRequest, fd};
use casemate_ipc::seqpacket::{Channel, PacketBuffer};
use casemate_ipc::shm::arena;
use casemate_ipc::shm::map::Frozen;
use casemate_ipc::work::{FromWorker, ToWorker};
use casemate_launcher::sys::process::exit_now;
use casemate_lockdown::{Requirements, lock_front, seal_front};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;

use crate::born::Born;

struct Front {
    launcher: Channel<LaunchRequest, LaunchReply>,
    buffer: PacketBuffer,
    config: Config,
}

pub(crate) fn main() -> ! {
    let mut born = Born::look();
    let mut stop = SigSet::empty();
    stop.add(Signal::SIGTERM);
    stop.thread_block().unwrap();
    let stop = SignalFd::new(&stop).unwrap();
    let open = &born.numbers;
    say(&format!("uid={} fds={open:?} env={}", nix::unistd::getuid(), std::env::vars_os().count()));
    say(&format!("groups=[{}] caps={:?}", groups(), held()));
    let launcher = Channel::new(born.take(fd::FRONT_LAUNCHER));
    let text = Frozen::map(born.take(fd::FRONT_CONFIG)).unwrap();
    let text = String::from_utf8(text.bytes().to_vec()).unwrap();
    let mut front = Front { launcher, buffer: PacketBuffer::default(), config: Config::parse(&text).unwrap() };
    let models = front.catalogue();
    for order in text.lines().filter_map(|line| line.strip_prefix("# break ")) {
        front.misbehave(order, &models[0]);
    }
    for model in &models {
        front.play(model);
    }
    say("done");
    stop.read_signal().unwrap();
    exit_now(0)
}

impl Front {
    fn catalogue(&mut self) -> Vec<ModelId> {
        let mut models = Vec::new();
        loop {
            match self.hear().0 {
                LaunchReply::Model { model } => models.push(model),
                LaunchReply::Catalogue { models: count, waived } => {
                    assert_eq!(count as usize, models.len());
                    say(&format!("waived={waived:?}"));
                    return models;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn play(&mut self, model: &ModelId) {
        let name = model.name.as_str();
        let times = match name {
            "many" => 20,
            // Until it is stopped.
            "kept" => 1000,
            _ => 1,
        };
        for _ in 0..times {
            if name == "kept" {
                std::thread::sleep(std::time::Duration::from_millis(200));
            }
            self.start(model);
            let (worker, pid, channel, log) = match self.hear() {
                (LaunchReply::Started { worker, pid, .. }, fds) => {
                    let [channel, log] = <[OwnedFd; 2]>::try_from(fds).unwrap();
                    (worker, pid, Channel::<ToWorker, FromWorker>::new(channel), log)
                }
                (other, _) => return say(&format!("{name}: {other:?}")),
            };
            match name {
                "report" => {
                    let said = channel.receive(&mut self.buffer).unwrap();
                    assert!(matches!(said, Some(FromWorker::Pong { token: 1 })), "{said:?}");
                    say(&format!("{name}: interfaces={:?}", interfaces(pid)));
                    self.attest(name, worker);
                }
                "hang" => self.send(&LaunchRequest::Kill { worker }),
                _ => {}
            }
            drop(channel);
            self.end(name, worker, log);
        }
    }

    fn attest(&mut self, name: &str, worker: WorkerId) {
        self.send(&LaunchRequest::Attest { worker });
        match self.hear().0 {
            LaunchReply::Attested { readings, .. } => {
                for reading in readings {
                    say(&format!("{name}: {}={} | {}", reading.layer, reading.in_force, reading.evidence));
                }
            }
            other => panic!("{other:?}"),
        }
    }

    fn end(&mut self, name: &str, worker: WorkerId, log: OwnedFd) {
        let mut printed = String::new();
        let read = |printed: &mut String| File::from(log).read_to_string(printed).unwrap();
        // What one worker prints is not read before it is gone: that must not hold it.
        if name != "print" {
            read(&mut printed);
            let cause = self.gone(worker);
            printed.lines().for_each(|line| say(&format!("{name}: log {line}")));
            return say(&format!("{name}: {cause}"));
        }
        let cause = self.gone(worker);
        say(&format!("{name}: {cause}, {} bytes", read(&mut printed)));
    }

    fn gone(&mut self, worker: WorkerId) -> String {
        match self.hear().0 {
            LaunchReply::Exited { worker: gone, cause } if gone == worker => format!("{cause:?}"),
            other => panic!("{other:?}"),
        }
    }

    fn misbehave(&mut self, order: &str, model: &ModelId) {
        let (_writer, requests) = arena::requests(self.config.requests()).unwrap();
        let (_reader, responses) = arena::responses(self.config.responses()).unwrap();
        let start = LaunchRequest::Start { model: model.clone() };
        // The test counts the launcher's descriptors meanwhile.
        std::thread::sleep(std::time::Duration::from_millis(300));
        let raw = |packet: &[u8], rights: &[i32]| {
            use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
            let (iov, rights) = ([std::io::IoSlice::new(packet)], [ControlMessage::ScmRights(rights)]);
            let socket = std::os::fd::AsRawFd::as_raw_fd(&self.launcher);
            sendmsg::<()>(socket, &iov, &rights, MsgFlags::MSG_NOSIGNAL, None).is_ok()
        };
        let other = ModelId { name: "nobody".parse().unwrap(), ..model.clone() };
        let sent = match order {
            // Nobody could ever write it.
            "arenas" => {
                let bytes = self.config.responses().bytes().unwrap() as u64;
                let frozen = casemate_ipc::shm::seal::create("frozen", bytes).unwrap();
                casemate_ipc::shm::seal::apply(&frozen, casemate_ipc::shm::seal::Sealing::Frozen).unwrap();
                self.launcher.send_with(&start, &[requests.as_fd(), frozen.as_fd()])
            }
            "descriptors" => self.launcher.send_with(&start, &[requests.as_fd()]),
            "model" => {
                self.launcher.send_with(&LaunchRequest::Start { model: other }, &[requests.as_fd(), responses.as_fd()])
            }
            "worker" => self.launcher.send(&LaunchRequest::Kill { worker: WorkerId(7) }),
            "leave" => {
                self.start(model);
                let _worker = self.hear();
                exit_now(1)
            }
            // The real steps of a real front, and then a call that its filter has not.
            "refused" => {
                let (locked, _) = lock_front(&Requirements::ALL).unwrap();
                let _sealed = seal_front(locked).unwrap();
                say("sealed");
                say(&format!("came back with {}", nix::unistd::getppid()));
                exit_now(1)
            }
            "stubborn" => {
                say("done");
                std::thread::sleep(std::time::Duration::from_secs(60));
                exit_now(1)
            }
            "unsealed" => {
                let bytes = self.config.requests().bytes().unwrap() as u64;
                let unsealed = casemate_ipc::shm::seal::create("unsealed", bytes).unwrap();
                self.launcher.send_with(&start, &[unsealed.as_fd(), responses.as_fd()])
            }
            "short" => {
                let short = Geometry { slots: 1, slot_bytes: 4096 };
                let (_writer, short) = arena::requests(short).unwrap();
                self.launcher.send_with(&start, &[short.as_fd(), responses.as_fd()])
            }
            "folder" => {
                let folder = File::open("/proc").unwrap();
                self.launcher.send_with(&start, &[folder.as_fd(), self.launcher.as_fd()])
            }
            "many-descriptors" => {
                let packet = casemate_ipc::frame::encode(&start).unwrap();
                let rights = [std::os::fd::AsRawFd::as_raw_fd(&requests); 253];
                while raw(&packet, &rights) {}
                Ok(())
            }
            "long" => {
                raw(&vec![0; casemate_ipc::frame::MAX_FRAME + 1], &[]);
                Ok(())
            }
            "mutants" => {
                let good = casemate_ipc::frame::encode(&start).unwrap();
                // Each bit of it in turn, many times over, until nobody hears it any more.
                let first = usize::try_from(std::process::id()).unwrap() * 7;
                for bit in (first..first + 20_000).map(|bit| bit % (good.len() * 8)) {
                    let mut bad = good.clone();
                    bad[bit / 8] ^= 1 << (bit % 8);
                    if !raw(&bad, &[]) {
                        break;
                    }
                }
                Ok(())
            }
            "unread" => {
                // Starts without end, and no answer is ever read.
                let rights = [&requests, &responses].map(std::os::fd::AsRawFd::as_raw_fd);
                let packet = casemate_ipc::frame::encode(&start).unwrap();
                while raw(&packet, &rights) {}
                Ok(())
            }
            "garbage" => {
                let socket = std::os::fd::AsRawFd::as_raw_fd(&self.launcher);
                nix::sys::socket::send(socket, b"garbage", nix::sys::socket::MsgFlags::empty()).unwrap();
                Ok(())
            }
            _ => panic!("{order}"),
        };
        sent.unwrap();
        // The launcher's answer is the end.
        std::thread::sleep(std::time::Duration::from_secs(30));
        exit_now(1)
    }

    fn start(&mut self, model: &ModelId) {
        let (_writer, requests) = arena::requests(self.config.requests()).unwrap();
        let (_reader, responses) = arena::responses(self.config.responses()).unwrap();
        let start = LaunchRequest::Start { model: model.clone() };
        self.launcher.send_with(&start, &[requests.as_fd(), responses.as_fd()]).unwrap();
    }

    fn send(&self, request: &LaunchRequest) {
        self.launcher.send(request).unwrap();
    }

    fn hear(&mut self) -> (LaunchReply, Vec<OwnedFd>) {
        self.launcher.receive_with::<2>(&mut self.buffer).unwrap().unwrap()
    }
}

/// What a process's network namespace holds.
fn interfaces(pid: u32) -> Vec<String> {
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap();
    table.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
}

/// Its groups as the kernel lists them: the launcher's filter leaves no call to ask for them.
fn groups() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap().trim().to_owned()
}

fn held() -> usize {
    [caps::CapSet::Effective, caps::CapSet::Permitted, caps::CapSet::Bounding, caps::CapSet::Inheritable]
        .iter()
        .map(|set| caps::read(None, *set).unwrap().len())
        .sum()
}

fn say(line: &str) {
    // One write: the launcher says its own lines to the same pipe.
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("front: {line}\n").as_bytes());
}
