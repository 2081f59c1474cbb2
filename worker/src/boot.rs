//! What a worker is born with, checked before anything else: no argument, no variable, ten descriptors and not one more.
//!
//! Nothing of the model is read here. Its bytes and its manifest are mapped, and their seals checked, no more.

use std::env;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use casemate_ipc::frame::{self, FrameError};
use casemate_ipc::inherited;
use casemate_ipc::launch::{Grant, fd};
use casemate_ipc::seqpacket::Channel;
use casemate_ipc::shm::arena::{Reader, Writer};
use casemate_ipc::shm::map::{Frozen, Private};
use casemate_ipc::shm::seal::SealError;
use casemate_ipc::zygote::{FromZygote, ToZygote};
use nix::sys::socket::{SockType, getsockopt, sockopt};
use thiserror::Error;

use crate::engine::contract::ToFront;
use crate::engine::shim;
use crate::model::digest::Promised;

/// Everything that a worker will ever have. Descriptors 4 to 8 are closed; only their mappings are left. 9 is closed before the
/// lock.
#[derive(Debug)]
pub struct Born {
    /// The channel to the front, descriptor 3.
    pub front: ToFront,
    /// Its other belongings, or why they are not what was promised; then the front can still be told.
    pub estate: Result<Estate, BootError>,
}

/// What came beside the channel.
#[derive(Debug)]
pub struct Estate {
    /// Who this worker is, and what it may use.
    pub grant: Grant,
    /// Inputs.
    pub requests: Reader,
    /// Outputs.
    pub responses: Writer,
    /// The model's bytes.
    pub model: Frozen,
    /// The same, for its tensors to lie in; nothing where the limit on addresses leaves no room for it twice.
    pub weights: Option<Private>,
    /// The manifest's text.
    pub manifest: Frozen,
    /// Where the SHA-256 of the model's bytes comes from.
    pub digest: Promised,
}

/// Why a worker does not begin.
#[derive(Debug, Error)]
pub enum BootError {
    /// An argument, which a worker never gets.
    #[error("it was started with arguments")]
    Arguments,
    /// A variable: libraries listen to some.
    #[error("its environment is not empty")]
    Environment,
    /// A descriptor is missing.
    #[error("descriptors 0 to 9 (of a zygote, 0 to 3) are not all there: {0}")]
    Missing(io::Error),
    /// A descriptor too many; somebody's file or socket has leaked into the worker.
    #[error("descriptor {0} is open")]
    Leaked(i32),
    /// The channel is no packet socket.
    #[error("descriptor 3 is not a packet socket: {0}")]
    Channel(io::Error),
    /// The grant is not frozen memory.
    #[error("grant: {0}")]
    GrantMemory(#[source] SealError),
    /// The grant is no grant.
    #[error("grant: {0}")]
    Grant(#[from] FrameError),
    /// A thread count that makes no sense.
    #[error("the grant is for {0} threads")]
    Threads(u32),
    /// An instance count that makes no sense.
    #[error("the grant is for {0} instances in {1} slots")]
    Instances(u32, u32),
    /// The request arena is not what was promised.
    #[error("request arena: {0}")]
    Requests(#[source] SealError),
    /// The response arena is not what was promised.
    #[error("response arena: {0}")]
    Responses(#[source] SealError),
    /// The model is not frozen memory.
    #[error("model: {0}")]
    Model(#[source] SealError),
    /// The manifest is not frozen memory.
    #[error("manifest: {0}")]
    Manifest(#[source] SealError),
}

/// Takes possession. An error means that there is nobody to tell.
pub fn boot() -> Result<Born, BootError> {
    bare(fd::WORKER_DIGEST)?;
    let channel = packets(own(fd::WORKER_CHANNEL)?)?;
    Ok(Born { front: ToFront::new(channel), estate: take() })
}

/// Takes possession as a zygote: of a channel to the launcher, and of nothing else.
pub fn boot_zygote() -> Result<ToLauncher, BootError> {
    bare(fd::WORKER_CHANNEL)?;
    Ok(ToLauncher::new(packets(own(fd::WORKER_CHANNEL)?)?))
}

/// A zygote's channel.
pub type ToLauncher = Channel<FromZygote, ToZygote>;

/// Whether just the promised descriptors are open: 0 to `last`.
pub fn only_up_to(last: i32) -> Result<(), BootError> {
    only_up_to_and(last, None)
}

/// The same, with one more, of whichever number.
pub fn only_up_to_and(last: i32, one: Option<BorrowedFd<'_>>) -> Result<(), BootError> {
    let one = one.map(|fd| fd.as_raw_fd());
    if (0..=last).any(|fd| !shim::is_open(fd)) {
        return Err(BootError::Missing(io::ErrorKind::NotFound.into()));
    }
    match (last + 1..MAX_DESCRIPTORS).find(|fd| Some(*fd) != one && shim::is_open(*fd)) {
        Some(fd) => Err(BootError::Leaked(fd)),
        None => Ok(()),
    }
}

fn packets(channel: OwnedFd) -> Result<OwnedFd, BootError> {
    let kind = getsockopt(&channel, sockopt::SockType).map_err(|errno| BootError::Channel(errno.into()))?;
    if kind != SockType::SeqPacket {
        return Err(BootError::Channel(io::Error::other("of another type")));
    }
    Ok(channel)
}

/// Most threads that one operation may use.
const MAX_THREADS: u32 = 256;
/// As far as descriptors are looked for where there is no `/proc`; above every limit that a jail sets.
const MAX_DESCRIPTORS: i32 = 1024;

fn take() -> Result<Estate, BootError> {
    Belongings {
        requests: own(fd::WORKER_REQUESTS)?,
        responses: own(fd::WORKER_RESPONSES)?,
        model: own(fd::WORKER_MODEL)?,
        manifest: own(fd::WORKER_MANIFEST)?,
        grant: own(fd::WORKER_GRANT)?,
        digest: own(fd::WORKER_DIGEST)?,
    }
    .open()
}

/// An estate as descriptors, by whichever way they came.
#[derive(Debug)]
pub struct Belongings {
    /// The request arena.
    pub requests: OwnedFd,
    /// The response arena.
    pub responses: OwnedFd,
    /// The model.
    pub model: OwnedFd,
    /// The manifest.
    pub manifest: OwnedFd,
    /// The grant.
    pub grant: OwnedFd,
    /// Where the model's SHA-256 comes from.
    pub digest: OwnedFd,
}

impl Belongings {
    /// Maps and checks. Each descriptor is closed at the end of its line.
    pub fn open(self) -> Result<Estate, BootError> {
        let Self { requests, responses, model, manifest, grant, digest } = self;
        let grant: Grant = frame::decode(Frozen::map(grant).map_err(BootError::GrantMemory)?.bytes())?;
        if !(1..=MAX_THREADS).contains(&grant.threads) {
            return Err(BootError::Threads(grant.threads));
        }
        let Grant { requests: inward, responses: outward, instances, .. } = grant;
        let slots = inward.slots.min(outward.slots);
        if !(1..=slots).contains(&instances) {
            return Err(BootError::Instances(instances, slots));
        }
        let read = Frozen::map(&model).map_err(BootError::Model)?;
        Ok(Estate {
            requests: Reader::open(requests, inward).map_err(BootError::Requests)?,
            responses: Writer::open(responses, outward).map_err(BootError::Responses)?,
            manifest: Frozen::map(manifest).map_err(BootError::Manifest)?,
            weights: Private::map(&model).ok(),
            model: read,
            digest: Promised::new(digest),
            grant,
        })
    }
}

fn own(number: i32) -> Result<OwnedFd, BootError> {
    inherited::take(number).map_err(BootError::Missing)
}

/// Whether nothing but the promised descriptors came along.
fn bare(last: i32) -> Result<(), BootError> {
    if env::args_os().count() > 1 {
        return Err(BootError::Arguments);
    }
    if env::vars_os().next().is_some() {
        return Err(BootError::Environment);
    }
    only_up_to(last)
}
