//! The group of one worker: made before it, read while it runs, removed after it.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::rc::Rc;

use nix::unistd::Pid;

use super::home::Home;
use super::place::Version;
use super::{Budget, CgroupError, Controller, Orphans, is_busy, processes, v1, v2};

/// The group of one worker. Removed when dropped, and killed before that if need be.
#[derive(Debug)]
pub struct Leaf {
    version: Version,
    budget: Budget,
    parts: Vec<Part>,
    orphans: Orphans,
}

/// One folder of it: version 2 has a single one.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) folder: PathBuf,
    pub(super) controllers: Vec<Controller>,
}

/// How a child gets into the group.
#[derive(Debug, Default)]
pub struct Entry {
    born_in: Option<File>,
    doors: Vec<File>,
}

impl Leaf {
    pub(super) fn make(
        version: Version,
        homes: &[Home],
        name: &str,
        budget: Budget,
        orphans: &Orphans,
    ) -> Result<Self, CgroupError> {
        let mut leaf = Self { version, budget, parts: Vec::new(), orphans: Rc::clone(orphans) };
        for home in homes {
            let folder = home.folder.join(name);
            fs::create_dir(&folder).map_err(|source| CgroupError::Refused { path: folder.clone(), source })?;
            // From here on it is removed with the leaf, also where a limit is refused.
            leaf.parts.push(Part { folder: folder.clone(), controllers: home.controllers.clone() });
            for controller in &home.controllers {
                match version {
                    Version::One => v1::bound(&folder, *controller, &budget)?,
                    Version::Two => v2::bound(&folder, *controller, &budget)?,
                }
            }
        }
        Ok(leaf)
    }

    /// What a child needs to get in, opened by the launcher: the child has no right to.
    ///
    /// A process that another one puts into a group waits, on a machine at rest for 5 to 35 ms, until every CPU has noticed.
    /// One that is born there, or that goes by itself while it has one thread, does not.
    pub fn entry(&self) -> Result<Entry, CgroupError> {
        let refused = |path: PathBuf| move |source| CgroupError::Refused { path, source };
        let mut entry = Entry::default();
        for Part { folder, .. } in &self.parts {
            match self.version {
                Version::One => {
                    let door = folder.join("tasks");
                    let opened = File::options().write(true).open(&door);
                    entry.doors.push(opened.map_err(refused(door))?);
                }
                Version::Two => entry.born_in = Some(File::open(folder).map_err(refused(folder.clone()))?),
            }
        }
        Ok(entry)
    }

    /// Opens the doors of a process that is not born in it: one that a zygote bears, which the kernel would let into a group of
    /// version 2 only if the zygote itself might go there.
    pub fn doors(&self) -> Result<Vec<File>, CgroupError> {
        let refused = |path: PathBuf| move |source| CgroupError::Refused { path, source };
        let door = |part: &Part| {
            let door = part.folder.join(if self.version == Version::One { "tasks" } else { "cgroup.procs" });
            File::options().write(true).open(&door).map_err(refused(door))
        };
        self.parts.iter().map(door).collect()
    }

    /// Kills everything in it.
    pub fn kill(&self) -> io::Result<()> {
        match self.version {
            Version::One => v1::kill(&self.parts),
            Version::Two => v2::kill(&self.parts),
        }
    }

    /// Whether the kernel killed something in it for want of memory; nothing if it does not say.
    pub fn out_of_memory(&self) -> Option<bool> {
        let part = self.part(Controller::Memory)?;
        let kills = match self.version {
            Version::One => v1::memory_kills(&part.folder),
            Version::Two => v2::memory_kills(&part.folder),
        };
        kills.map(|kills| kills > 0)
    }

    /// Whether this process is in it and the bounds are as they were written, and what the kernel's files say.
    pub fn read(&self, pid: Pid) -> (bool, String) {
        let (mut holds, mut parts) = (true, vec![self.version.name().to_owned()]);
        for Part { folder, controllers } in &self.parts {
            let inside = processes(folder).contains(&pid.as_raw());
            holds &= inside;
            if !inside {
                parts.push(format!("not in its {} group", controllers.first().map_or("own", |c| c.name())));
            }
            for controller in controllers {
                let (held, said) = match self.version {
                    Version::One => v1::read_back(folder, *controller, &self.budget),
                    Version::Two => v2::read_back(folder, *controller, &self.budget),
                };
                holds &= held;
                parts.push(said);
            }
        }
        if self.part(Controller::Cpu).is_none() {
            parts.push("CPU time not bounded: no such controller".to_owned());
        }
        (holds, parts.join(", "))
    }

    fn part(&self, controller: Controller) -> Option<&Part> {
        self.parts.iter().find(|part| part.controllers.contains(&controller))
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        if self.parts.iter().any(|part| !processes(&part.folder).is_empty()) {
            let _ = self.kill();
        }
        for Part { folder, .. } in &self.parts {
            // A process that was killed may need a moment to go.
            if fs::remove_dir(folder).is_err_and(|error| is_busy(&error)) {
                self.orphans.borrow_mut().push(folder.clone());
            }
        }
    }
}

// === impl Entry ===

impl Entry {
    /// The group to be born into, where there is such a thing.
    pub fn born_in(&self) -> Option<BorrowedFd<'_>> {
        self.born_in.as_ref().map(AsFd::as_fd)
    }

    /// Goes in. Runs in the child, which was born outside of groups of version 1.
    pub fn enter(&self) -> Result<(), nix::errno::Errno> {
        for door in &self.doors {
            // 0 is whoever writes it.
            nix::unistd::write(door, b"0")?;
        }
        Ok(())
    }
}

impl Version {
    const fn name(self) -> &'static str {
        match self {
            Self::One => "cgroup v1",
            Self::Two => "cgroup v2",
        }
    }
}

/// `n MiB`, as a person reads it.
pub(super) fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// Thousandths of a CPU, as a person reads them.
pub(super) fn cpus(millis: u64) -> String {
    format!("{}.{:03} CPU", millis / 1000, millis % 1000)
}
