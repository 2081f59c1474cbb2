//! Limits of the kernel on one process.

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::cgroup::Budget;

/// What one worker may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ceilings {
    /// Threads that one operator of its model may use.
    pub threads: u32,
    /// Batches that it runs at once, each with threads of its own.
    pub instances: u32,
    /// Bytes of memory for its data.
    pub memory_bytes: u64,
    /// Bytes that it maps beside its data: arenas, model, libraries.
    pub mapped_bytes: u64,
    /// Thousandths of a CPU's time; nothing where it is not bounded.
    pub cpu_millis: Option<u32>,
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

/// Descriptors that a worker may have: ten that it is born with, and the files that it opens while it warms up; a newborn has its
/// zygote's and the doors of its groups besides, for a moment.
pub const DESCRIPTORS: u64 = 18;

impl Ceilings {
    /// Every limit. `counted_alone` says whether the kernel counts this worker's threads apart from other processes; if
    /// not, a limit on them would strike at the whole user.
    pub fn list(&self, counted_alone: bool) -> Vec<Ceiling> {
        let Self { memory_bytes, .. } = *self;
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
            ceiling(Resource::RLIMIT_RTTIME, "Max realtime timeout", 0),
            ceiling(Resource::RLIMIT_NICE, "Max nice priority", 0),
            ceiling(Resource::RLIMIT_LOCKS, "Max file locks", 0),
            // Anonymous memory, which libtorch sees refused as a clean error. What is shared does not count.
            ceiling(Resource::RLIMIT_DATA, "Max data size", memory_bytes),
            ceiling(Resource::RLIMIT_AS, "Max address space", self.addresses()),
        ];
        if counted_alone {
            list.push(ceiling(Resource::RLIMIT_NPROC, "Max processes", self.processes()));
        }
        list
    }

    /// The same for the whole of it, as its control group counts: data, what it maps, and what the kernel keeps for it (page
    /// tables, stacks, sockets, its root). So much that a model which only wants too much memory meets the limit on its
    /// data first, and is refused it cleanly.
    pub fn budget(&self) -> Budget {
        const KERNEL: u64 = 64 << 20;
        let Self { memory_bytes, mapped_bytes, cpu_millis, .. } = *self;
        let all = memory_bytes.saturating_add(mapped_bytes);
        let bytes = all.saturating_add(all / 128).saturating_add(KERNEL);
        Budget { memory_bytes: bytes & !0xfff, processes: self.processes(), cpu_millis }
    }

    /// For each instance its thread, a pool inside an operator and a pool beside it; and a few that libraries start for
    /// themselves.
    fn processes(&self) -> u64 {
        16 + 4 * self.workers()
    }

    /// Threads that work at once, all instances together.
    fn workers(&self) -> u64 {
        u64::from(self.threads) * u64::from(self.instances)
    }

    /// Bytes of addresses. Reserving some is not using them: glibc reserves 128 MiB for each thread that allocates, and
    /// each has a stack. libtorch with two threads and nothing but a small model has been seen to take 40 MiB more than its
    /// data and what it maps.
    fn addresses(&self) -> u64 {
        const A_THREAD: u64 = (128 + 16) << 20;
        const LOADER: u64 = 256 << 20;
        let threads = A_THREAD.saturating_mul(2 + 2 * self.workers());
        self.memory_bytes.saturating_add(self.mapped_bytes).saturating_add(threads).saturating_add(LOADER)
    }

    /// Those of a zygote. Its workers have their own, which cannot be above these, and their threads count against a limit
    /// on its own too: so there is none on data, addresses and processes but its control group's.
    pub fn of_zygote(&self) -> Vec<Ceiling> {
        const OF_WORKERS: [Resource; 3] = [Resource::RLIMIT_DATA, Resource::RLIMIT_AS, Resource::RLIMIT_NPROC];
        self.list(false).into_iter().filter(|ceiling| !OF_WORKERS.contains(&ceiling.resource)).collect()
    }

    /// Applies them to this process. Runs in the child.
    pub fn apply(&self, counted_alone: bool, bears: bool) -> Result<(), Errno> {
        for Ceiling { resource, most, .. } in if bears { self.of_zygote() } else { self.list(counted_alone) } {
            // Only a privilege that nobody here needs could raise what the launcher itself was given.
            let most = most.min(getrlimit(resource)?.1);
            setrlimit(resource, most, most)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_on_data_is_the_first_one_that_a_model_meets() {
        for (memory_bytes, mapped_bytes) in [(64 << 20, 0), (4 << 30, 1 << 30), (1 << 44, 1 << 40)] {
            let ceilings = Ceilings { threads: 1, instances: 1, memory_bytes, mapped_bytes, cpu_millis: None };
            let budget = ceilings.budget();
            // Page tables are one part in 512.
            assert!(budget.memory_bytes > memory_bytes + mapped_bytes + memory_bytes / 256);
            assert_eq!(budget.memory_bytes % 4096, 0);
            assert!(ceilings.addresses() > memory_bytes + mapped_bytes);
        }
        let most = Ceilings { threads: 1024, instances: 1, memory_bytes: u64::MAX, mapped_bytes: 1, cpu_millis: None };
        assert_eq!(most.budget().processes, 16 + 4096);
        let several = Ceilings { threads: 4, instances: 64, ..most };
        assert_eq!(several.budget().processes, 16 + 4 * 256, "each instance has threads of its own");
        assert_eq!(several.addresses(), u64::MAX);
        let one = Ceilings { memory_bytes: 1 << 30, instances: 1, ..several };
        assert!(Ceilings { instances: 2, ..one }.addresses() > one.addresses());
    }
}
