//! A worker that a zygote bore, on its way to where an exec'd one begins: what its jail does for that one, it does for
//! itself, from its launcher's word. Then both go the same way.
//!
//! It is process 1 of its own namespaces already. What only its launcher can do (the maps of its user namespace, its limit on
//! namespaces inside it) is done before the cradle comes.

use std::os::fd::{AsFd, OwnedFd};

use casemate_ipc::launch::{exit_code, fd};
use casemate_ipc::seqpacket::{Channel, PacketBuffer};
use casemate_ipc::zygote::{Cradle, FromNewborn, fds};
use casemate_lockdown as lockdown;
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, dup2, dup2_stderr, dup2_stdout, setresgid, setresuid, setsid, write};

use crate::boot::{self, Belongings, ToLauncher};
use crate::engine::contract::ToFront;
use crate::engine::{self, shim};
use crate::phases;

/// Goes all the way, and ends the process.
pub fn run(zygote: ToLauncher, wire: OwnedFd) -> ! {
    let wire = Channel::new(wire);
    match enter(zygote, &wire) {
        Ok((front, belongings)) => {
            // Its end is the word that every step was taken.
            drop(wire);
            let estate = belongings.open().and_then(|estate| {
                boot::only_up_to_and(fd::WORKER_CHANNEL, Some(estate.digest.as_fd())).map(|()| estate)
            });
            phases::run_newborn(front, estate)
        }
        Err(Failed { step, errno }) => {
            shim::log(2, format!("newborn: {step}: {errno}\n").as_bytes());
            let _ = wire.send(&FromNewborn::Failed { step: step.to_owned(), errno });
            shim::exit(exit_code::BOOT)
        }
    }
}

type Wire = Channel<FromNewborn, Cradle>;

struct Failed {
    step: &'static str,
    errno: i32,
}

/// Names as `launcher/src/jail/step.rs` has them, where the step is the same.
fn take<T>(step: &'static str, act: impl FnOnce() -> nix::Result<T>) -> Result<T, Failed> {
    act().map_err(|errno| Failed { step, errno: errno as i32 })
}

/// The one uid and gid that a worker's user namespace knows.
const INNER: u32 = 1000;

fn enter(zygote: ToLauncher, wire: &Wire) -> Result<(ToFront, Belongings), Failed> {
    let (cradle, mut belongings) = wait(wire)?;
    let odd = || Failed { step: "descriptors", errno: Errno::EBADMSG as i32 };
    if belongings.len() != fds::COUNT + usize::from(cradle.doors) {
        return Err(odd());
    }
    // Before it takes any memory of its own. 0 is whoever writes it.
    for door in belongings.split_off(fds::COUNT) {
        take("cgroup", || write(&door, b"0"))?;
    }
    take("session", setsid)?;
    take("identity", || {
        setresgid(Gid::from_raw(INNER), Gid::from_raw(INNER), Gid::from_raw(INNER))?;
        setresuid(Uid::from_raw(INNER), Uid::from_raw(INNER), Uid::from_raw(INNER))
    })?;
    take("root", lockdown::lay_empty_folder)?;
    let [log, channel, requests, responses, model, manifest, grant, digest] =
        <[OwnedFd; fds::COUNT]>::try_from(belongings).map_err(|_| odd())?;
    // The zygote's channel is closed by the one that takes its number: no word of its launcher is heard in here again.
    let mut front = zygote.into_socket();
    take("descriptors", || {
        dup2_stdout(&log)?;
        dup2_stderr(&log)?;
        dup2(&channel, &mut front)
    })?;
    drop((log, channel));
    for (number, most) in cradle.ceilings {
        let resource = LIMITS.into_iter().find(|resource| *resource as u32 == number);
        take("limits", || {
            let resource = resource.ok_or(Errno::EINVAL)?;
            // As a jail does: where the host allows less than this, less is what it gets.
            let (_, host) = getrlimit(resource)?;
            setrlimit(resource, most.min(host), most.min(host))
        })?;
    }
    take("core-scheduling", keep_to_a_core)?;
    // After the identity, since a change of identity clears it.
    take("parent-death", || prctl::set_pdeathsig(Signal::SIGKILL))?;
    let _ = prctl::set_name(c"casemate-worker");
    engine::reseed(cradle.seed).map_err(|_| Failed { step: "seed", errno: 0 })?;
    Ok((ToFront::new(front), Belongings { requests, responses, model, manifest, grant, digest }))
}

/// Until the launcher has done its part. Meanwhile it may write this process's maps and trace it; a process that is not
/// dumpable belongs to root, and to nobody else.
fn wait(wire: &Wire) -> Result<(Cradle, Vec<OwnedFd>), Failed> {
    take("begin", || prctl::set_dumpable(true))?;
    let gone = Failed { step: "begin", errno: Errno::EPIPE as i32 };
    let heard = match wire.send(&FromNewborn::Waits) {
        Ok(()) => wire.receive_with::<{ fds::MOST }>(&mut PacketBuffer::default()),
        Err(error) => Err(error),
    };
    take("begin", || prctl::set_dumpable(false))?;
    match heard {
        Ok(Some(whole)) => Ok(whole),
        Ok(None) | Err(_) => Err(gone),
    }
}

/// Every limit that a jail sets.
const LIMITS: [Resource; 14] = [
    Resource::RLIMIT_CORE,
    Resource::RLIMIT_FSIZE,
    Resource::RLIMIT_NOFILE,
    Resource::RLIMIT_MEMLOCK,
    Resource::RLIMIT_MSGQUEUE,
    Resource::RLIMIT_SIGPENDING,
    Resource::RLIMIT_STACK,
    Resource::RLIMIT_RTPRIO,
    Resource::RLIMIT_RTTIME,
    Resource::RLIMIT_NICE,
    Resource::RLIMIT_LOCKS,
    Resource::RLIMIT_DATA,
    Resource::RLIMIT_AS,
    Resource::RLIMIT_NPROC,
];

/// A core of its own while it runs, where the kernel can do that; its zygote's mark would be its siblings' too.
fn keep_to_a_core() -> nix::Result<()> {
    match shim::birth::own_core() {
        // A kernel without it, or a CPU whose cores run one thread each.
        Err(Errno::EINVAL | Errno::ENODEV) => Ok(()),
        other => other,
    }
}
