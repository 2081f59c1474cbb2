//! Who a worker is on the host, and how little of that it may use.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use caps::errors::CapsError;
use caps::{CapSet, Capability};
use casemate_config::config::Identities;
use nix::errno::Errno;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use thiserror::Error;

use crate::sys::capability::{bound_to, lock_securebits};

/// The uid and gid that a worker sees itself as.
pub const INNER: u32 = 1000;

/// Who a worker is on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// A uid and gid that no other process has.
    Own(u32),
    /// The launcher's, where it is not root.
    Shared,
}

/// The uids for workers, each in use by one at most, and by nobody for a while after that: what one left behind, a message
/// queue or a file that was not seen, must not be found by the next one under its name. Goes round, so that a uid stays
/// unused for longer than it must.
#[derive(Debug)]
pub struct Pool {
    range: Option<Identities>,
    /// Counted from the first uid of the range.
    next: u32,
    in_use: BTreeSet<u32>,
    /// Until when each is left alone.
    resting: BTreeMap<u32, Instant>,
}

/// Why there is no uid for one more worker.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "no uid is free: of sandbox.worker_uid_count = {count} are {in_use} in use, {resting} rest for sandbox.uid_rest_s = {} s \
     after their worker's end, {strange} belong to other processes; make the range larger or the rest shorter",
    rest.as_secs()
)]
pub struct Dry {
    count: u32,
    in_use: usize,
    resting: usize,
    strange: usize,
    rest: Duration,
}

impl Identity {
    /// The host uid, where it is a worker's own.
    pub const fn own(self) -> Option<u32> {
        match self {
            Self::Own(uid) => Some(uid),
            Self::Shared => None,
        }
    }

    /// Becomes it on a host without user namespaces. Runs in the child. An ordinary user has nothing to change.
    pub fn become_bare(self) -> Result<(), Errno> {
        match self {
            Self::Own(id) => become_powerless(id),
            Self::Shared => Ok(()),
        }
    }
}

/// A place in a range that another launcher does not come up with. Not a process id: two launchers that are started one
/// after the other would begin next to each other, and meet a few workers later.
pub fn anywhere() -> u32 {
    u32::try_from(RandomState::new().hash_one(0) >> 32).unwrap_or(0)
}

/// Becomes the one user that its user namespace knows. Runs in the child; keeps its capabilities in there.
pub fn become_inner() -> Result<(), Errno> {
    setresgid(Gid::from_raw(INNER), Gid::from_raw(INNER), Gid::from_raw(INNER))?;
    setresuid(Uid::from_raw(INNER), Uid::from_raw(INNER), Uid::from_raw(INNER))
}

/// From root to a user with nothing: no group, no capability, no way to one. Runs in a child.
pub fn become_powerless(id: u32) -> Result<(), Errno> {
    bound_to(&[])?;
    setgroups(&[])?;
    // Needs a capability that the change of uid would take; and keeps that change from taking any, so they go by hand.
    lock_securebits()?;
    setresgid(Gid::from_raw(id), Gid::from_raw(id), Gid::from_raw(id))?;
    setresuid(Uid::from_raw(id), Uid::from_raw(id), Uid::from_raw(id))?;
    hold(&[])
}

/// What a worker needs to swap its root and to empty its bounding set; both mean something in its own user namespace only,
/// and both are gone before it reads a model.
const KEPT: [Capability; 2] = [Capability::CAP_SYS_ADMIN, Capability::CAP_SETPCAP];

/// Gives up all capabilities but two, and takes those along over the exec. Runs in the child.
pub fn keep_two_capabilities() -> Result<(), Errno> {
    bound_to(&KEPT.map(|capability| capability.index()))?;
    hold(&KEPT)?;
    for capability in KEPT {
        caps::raise(None, CapSet::Ambient, capability).map_err(errno)?;
    }
    Ok(())
}

fn hold(kept: &[Capability]) -> Result<(), Errno> {
    let kept: HashSet<Capability> = kept.iter().copied().collect();
    caps::clear(None, CapSet::Ambient).map_err(errno)?;
    // Each must stay inside the next one, so the permitted set shrinks after the effective one.
    for set in [CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &kept).map_err(errno)?;
    }
    Ok(())
}

/// The crate keeps the kernel's answer as text; the call that failed was the last one.
fn errno(_: CapsError) -> Errno {
    Errno::last()
}

// === impl Pool ===

impl Pool {
    /// The configured range as root, entered at any place of it, so that two launchers with the same range seldom meet;
    /// otherwise every worker shares the launcher's identity.
    pub fn new(range: Option<Identities>, place: u32) -> Self {
        let next = range.as_ref().map_or(0, |range| place % range.worker_count);
        Self { range, next, in_use: BTreeSet::new(), resting: BTreeMap::new() }
    }

    /// An identity for one more worker, none of those that have `strangers`.
    pub fn take(&mut self, strangers: &BTreeSet<u32>, now: Instant) -> Result<Identity, Dry> {
        let Some(range) = &self.range else { return Ok(Identity::Shared) };
        self.resting.retain(|_, until| *until > now);
        let mut strange = 0;
        for _ in 0..range.worker_count {
            let candidate = range.worker_first + self.next;
            self.next = (self.next + 1) % range.worker_count;
            if self.resting.contains_key(&candidate) || self.in_use.contains(&candidate) {
                continue;
            }
            if !strangers.contains(&candidate) {
                self.in_use.insert(candidate);
                return Ok(Identity::Own(candidate));
            }
            strange += 1;
        }
        let (count, rest) = (range.worker_count, range.rest);
        Err(Dry { count, in_use: self.in_use.len(), resting: self.resting.len(), strange, rest })
    }

    /// Identities for as many workers to be; fewer where there are no more.
    pub fn reserve(&mut self, count: u32, strangers: &BTreeSet<u32>, now: Instant) -> Vec<Identity> {
        if self.range.is_none() {
            return Vec::new();
        }
        (0..count).map_while(|_| self.take(strangers, now).ok()).collect()
    }

    /// Takes one back that nobody ever had.
    pub fn release(&mut self, identity: Identity) {
        if let Identity::Own(uid) = identity {
            self.in_use.remove(&uid);
        }
    }

    /// Takes it back, once its worker is gone.
    pub fn give_back(&mut self, identity: Identity, now: Instant) {
        if let (Identity::Own(uid), Some(range)) = (identity, &self.range) {
            self.in_use.remove(&uid);
            if let Some(until) = now.checked_add(range.rest) {
                self.resting.insert(uid, until);
            }
        }
    }
}

/// Every uid that some process of this host has. The folder of a process belongs to its user, whatever else is hidden.
pub fn uids_of_processes() -> BTreeSet<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return BTreeSet::new() };
    let processes =
        entries.flatten().filter(|entry| entry.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit));
    processes.filter_map(|entry| Some(entry.metadata().ok()?.uid())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: Duration = Duration::from_secs(60);

    fn pool(place: u32) -> Pool {
        Pool::new(Some(Identities { front: 2000, worker_first: 3000, worker_count: 3, rest: REST }), place)
    }

    #[test]
    fn a_uid_comes_back_as_late_as_it_can_and_not_before_it_has_rested() {
        let (mut pool, nobody, start) = (pool(0), BTreeSet::new(), Instant::now());
        assert_eq!(pool.take(&nobody, start), Ok(Identity::Own(3000)));
        assert_eq!(pool.take(&nobody, start), Ok(Identity::Own(3001)));
        pool.give_back(Identity::Own(3000), start);
        assert_eq!(pool.take(&nobody, start), Ok(Identity::Own(3002)), "the one that was just used was given again");
        let early = pool.take(&nobody, start + REST - Duration::from_secs(1)).unwrap_err().to_string();
        assert!(early.contains("2 in use, 1 rest for sandbox.uid_rest_s = 60 s"), "{early}");
        assert_eq!(pool.take(&nobody, start + REST), Ok(Identity::Own(3000)));
        let full = pool.take(&nobody, start + REST).unwrap_err().to_string();
        assert!(full.contains("worker_uid_count = 3 are 3 in use, 0 rest"), "{full}");
        pool.give_back(Identity::Own(3001), start);
        assert_eq!(pool.take(&nobody, start + REST), Ok(Identity::Own(3001)));
        assert_eq!(Pool::new(None, 7).take(&nobody, start), Ok(Identity::Shared));
    }

    #[test]
    fn a_stranger_s_uid_is_not_given() {
        let (mut pool, now) = (pool(5), Instant::now());
        assert_eq!(pool.take(&BTreeSet::from([3002, 3000]), now), Ok(Identity::Own(3001)));
        assert_eq!(pool.take(&BTreeSet::from([3002]), now), Ok(Identity::Own(3000)));
        let dry = pool.take(&BTreeSet::from([3002]), now).unwrap_err().to_string();
        assert!(dry.contains("1 belong to other processes"), "{dry}");
        assert!(uids_of_processes().contains(&nix::unistd::geteuid().as_raw()));
    }
}
