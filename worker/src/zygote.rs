//! A zygote: warm, in its cage, and waiting for its launcher's word to bear one more worker.
//!
//! It belongs to one tenant. It has no descriptor but its log and its launcher's channel, and over that one nothing comes but
//! the word and a newborn's wire. So nothing of a model, a request or a client is ever in its memory, and nothing of that
//! kind is in what its workers have in common.

use std::io;
use std::os::fd::OwnedFd;

use casemate_ipc::launch::{RunTimeCode, exit_code};
use casemate_ipc::seqpacket::{ChannelError, PacketBuffer};
use casemate_ipc::zygote::{FromZygote, ToZygote};
use casemate_lockdown::{self as lockdown, ZygoteSettled};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use thiserror::Error;

use crate::boot::{self, BootError, ToLauncher};
use crate::engine;
use crate::engine::contract::RunError;
use crate::engine::shim::{self, birth};
use crate::{newborn, warm};

/// Why a zygote ends, other than by its launcher's end of the channel.
#[derive(Debug, Error)]
enum ZygoteError {
    #[error("confining itself: {0}")]
    Confine(#[from] lockdown::ConfineError),
    #[error("warming up: {0}")]
    Warm(#[from] RunError),
    #[error("settling: {0}")]
    Settle(#[from] lockdown::LockError),
    #[error("where libc keeps its thread's number: {0}; the kernel needs CONFIG_CHECKPOINT_RESTORE")]
    Place(#[source] io::Error),
    #[error("its launcher: {0}")]
    Channel(#[from] ChannelError),
    #[error("its launcher sent {0} descriptors with its word, not one")]
    Descriptors(usize),
}

/// Whether this process was started as one: with a channel and nothing behind it.
pub fn is_one() -> bool {
    use casemate_ipc::launch::fd;
    shim::is_open(fd::WORKER_CHANNEL) && (fd::WORKER_REQUESTS..=fd::WORKER_DIGEST).all(|fd| !shim::is_open(fd))
}

/// Bears workers until its launcher lets go of it.
pub fn run() -> ! {
    warm::set_panic_hook();
    let launcher = match boot::boot_zygote() {
        Ok(launcher) => launcher,
        Err(error) => unborn(&error),
    };
    // How `ps` tells it from its workers.
    let _ = prctl::set_name(c"casemate-zygote");
    match settle(&launcher) {
        Ok(ready) => serve(launcher, &ready),
        Err(error) => {
            let _ = launcher.send(&FromZygote::Unfit { why: error.to_string().chars().take(500).collect() });
            end(&error)
        }
    }
}

fn unborn(error: &BootError) -> ! {
    shim::log(2, format!("zygote: boot: {error}\n").as_bytes());
    shim::exit(exit_code::BOOT)
}

fn end(error: &ZygoteError) -> ! {
    shim::log(2, format!("zygote: {error}\n").as_bytes());
    shim::exit(match error {
        ZygoteError::Warm(_) => exit_code::WARM,
        ZygoteError::Confine(_) | ZygoteError::Settle(_) | ZygoteError::Place(_) => exit_code::LOCK,
        ZygoteError::Channel(_) | ZygoteError::Descriptors(_) => exit_code::PROTOCOL,
    })
}

/// What bearing needs: the proof of the cage, and where the number goes.
struct Settled(ZygoteSettled, birth::Place);

fn settle(launcher: &ToLauncher) -> Result<Settled, ZygoteError> {
    let confined = lockdown::confine_zygote()?;
    warm::warm_up(RunTimeCode::Refused)?;
    // Here once for all that it bears; of the heap each gives back for itself, when its model is there.
    engine::let_go_of_libraries();
    let settled = lockdown::settle_zygote(confined)?;
    let place = birth::place().map_err(ZygoteError::Place)?;
    launcher.send(&FromZygote::Warm)?;
    Ok(Settled(settled, place))
}

fn serve(launcher: ToLauncher, ready: &Settled) -> ! {
    let mut buffer = PacketBuffer::default();
    loop {
        let wire = match hear(&launcher, &mut buffer) {
            Ok(Some(wire)) => wire,
            Ok(None) => shim::exit(exit_code::DONE),
            Err(error) => end(&error),
        };
        let Settled(_, place) = ready;
        let answer = match wire.1.then(another_clock).unwrap_or(Ok(())).and_then(|()| birth::bear(*place)) {
            Ok(None) => newborn::run(launcher, wire.0),
            Ok(Some(pid)) => FromZygote::Born { pid },
            Err(error) => FromZygote::Barren { errno: error.raw_os_error().unwrap_or(libc::EIO) },
        };
        // The newborn has its own copy; ours would keep the launcher from seeing its end.
        drop(wire);
        if let Err(error) = launcher.send(&answer) {
            end(&error.into());
        }
    }
}

/// The next newborn's wire, and whether clocks have namespaces here; nothing when the launcher let go.
fn hear(launcher: &ToLauncher, buffer: &mut PacketBuffer) -> Result<Option<(OwnedFd, bool)>, ZygoteError> {
    let Some((ToZygote::Bear { clock }, fds)) = launcher.receive_with::<1>(buffer)? else { return Ok(None) };
    let count = fds.len();
    let [wire] = <[OwnedFd; 1]>::try_from(fds).map_err(|_| ZygoteError::Descriptors(count))?;
    Ok(Some((wire, clock)))
}

/// A namespace for the clocks of the next child; this process stays in its own.
fn another_clock() -> io::Result<()> {
    const CLONE_NEWTIME: i32 = 0x80;
    Ok(unshare(CloneFlags::from_bits_retain(CLONE_NEWTIME))?)
}
