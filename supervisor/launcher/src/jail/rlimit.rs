//! Limits of the kernel on one process.

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What one worker may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ceilings {
    /// Threads that one operator of its model may use.
    pub threads: u32,
    /// Bytes of memory for its data.
    pub memory_bytes: u64,
}

/// One limit: which, how it is called in `/proc/PID/limits`, and how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ceiling {
    /// Which.
    pub resource: Resource,
    /// The kernel's name.
    pub name: &'static str,
    /// How much, soft and hard.
    pub most: u64,
}

/// Descriptors that a worker may have: nine that it is born with, and the files that it opens while it warms up.
pub const DESCRIPTORS: u64 = 16;

impl Ceilings {
    /// Every limit. `counted_alone` says whether the kernel counts this worker's threads apart from other processes; if
    /// not, a limit on them would strike at the whole user.
    pub fn list(&self, counted_alone: bool) -> Vec<Ceiling> {
        let Self { threads, memory_bytes } = *self;
        let ceiling = |resource, name, most| Ceiling { resource, name, most };
        let mut list = vec![
            // A core would hold every client's data.
            ceiling(Resource::RLIMIT_CORE, "Max core file size", 0),
            ceiling(Resource::RLIMIT_FSIZE, "Max file size", 0),
            ceiling(Resource::RLIMIT_NOFILE, "Max open files", DESCRIPTORS),
            ceiling(Resource::RLIMIT_MEMLOCK, "Max locked memory", 0),
            ceiling(Resource::RLIMIT_MSGQUEUE, "Max msgqueue size", 0),
            ceiling(Resource::RLIMIT_SIGPENDING, "Max pending signals", 16),
            ceiling(Resource::RLIMIT_STACK, "Max stack size", 8 << 20),
            ceiling(Resource::RLIMIT_RTPRIO, "Max realtime priority", 0),
            // Anonymous memory, which libtorch sees refused as a clean error. What is shared does not count.
            ceiling(Resource::RLIMIT_DATA, "Max data size", memory_bytes),
        ];
        if counted_alone {
            // The main thread, a pool inside an operator, a pool beside it, and a few that libraries start for themselves.
            let most = 16 + 4 * u64::from(threads);
            list.push(ceiling(Resource::RLIMIT_NPROC, "Max processes", most));
        }
        list
    }

    /// Applies them to this process. Runs in the child.
    pub fn apply(&self, counted_alone: bool) -> Result<(), Errno> {
        for Ceiling { resource, most, .. } in self.list(counted_alone) {
            // Only a privilege that nobody here needs could raise what the launcher itself was given.
            let most = most.min(getrlimit(resource)?.1);
            setrlimit(resource, most, most)?;
        }
        Ok(())
    }
}
