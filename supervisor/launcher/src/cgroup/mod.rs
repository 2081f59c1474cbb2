//! A control group for each worker: what the limits on one process cannot hold, the sum of its memory with all that is
//! shared, its processes and its CPU time; and a kill that nothing in it can run away from.
//!
//! Version 2 where the launcher's own group has memory and pids to give, otherwise version 1, whose controllers lie in
//! hierarchies of their own. Memory and pids are demanded. CPU time, and on version 1 the freezer, are taken where they
//! are. There is no limit on disk traffic: a worker has no file to read from or write to.

mod home;
mod leaf;
mod place;
mod v1;
mod v2;

use std::cell::RefCell;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use thiserror::Error;

pub use leaf::{Entry, Leaf};

use home::Home;
use place::{Place, Version};

/// What one worker may use, as a sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Bytes of memory: its data, what it shares, its page tables.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub processes: u64,
    /// Thousandths of a CPU's time; nothing where it is not bounded.
    pub cpu_millis: Option<u32>,
}

/// What a group can be bounded in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Controller {
    Memory,
    Pids,
    Cpu,
    /// Version 1 only; version 2 has `cgroup.kill`.
    Freezer,
}

/// The groups of this launcher. Its folders go with it.
#[derive(Debug)]
pub struct Cgroups {
    version: Version,
    homes: Vec<Home>,
    orphans: Orphans,
}

/// Folders of ended workers that the kernel would not remove yet.
type Orphans = Rc<RefCell<Vec<PathBuf>>>;

/// Why there are no control groups for workers.
#[derive(Debug, Error)]
pub enum CgroupError {
    /// The kernel shows none, or not these controllers.
    #[error("no control group hierarchy with the controllers memory and pids is mounted here")]
    None,
    /// They are there, and are not the launcher's to use.
    #[error("{}: {source}; {HINT}", path.display())]
    Refused {
        /// Which folder or file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Version 2 lets a group hold processes or hand on controllers, not both.
    #[error("{} holds other processes beside the launcher; {HINT}", .0.display())]
    Crowded(PathBuf),
}

const HINT: &str = "start the launcher as root or under systemd with Delegate=yes (systemd-run --user --scope \
                    -p Delegate=yes); in a container, mount /sys/fs/cgroup writable";

impl Controller {
    const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
            Self::Freezer => "freezer",
        }
    }

    const fn demanded(self) -> bool {
        matches!(self, Self::Memory | Self::Pids)
    }
}

// === impl Cgroups ===

impl Cgroups {
    /// Takes a place for workers below the launcher's own group, and clears away what dead launchers left there.
    pub fn found() -> Result<Self, CgroupError> {
        let read =
            |path: &str| fs::read_to_string(path).map_err(|source| CgroupError::Refused { path: path.into(), source });
        let places = place::parse(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?);
        let (version, places) = choose(places)?;
        let mut homes = Vec::new();
        for place in places {
            let demanded = place.controllers.iter().any(|controller| controller.demanded());
            let home = match version {
                Version::One => v1::home(&place),
                Version::Two => v2::home(&place, std::process::id()),
            };
            match home {
                Ok(home) => homes.push(home),
                Err(error) if demanded => return Err(error),
                Err(_) => {}
            }
        }
        Ok(Self { version, homes, orphans: Orphans::default() })
    }

    /// A group for one worker, bounded before anybody is in it.
    pub fn leaf(&self, name: &str, budget: Budget) -> Result<Leaf, CgroupError> {
        self.sweep();
        Leaf::make(self.version, &self.homes, name, budget, &self.orphans)
    }

    /// Tries again to remove what could not be removed at a worker's end.
    fn sweep(&self) {
        self.orphans.borrow_mut().retain(|folder| fs::remove_dir(folder).is_err_and(|error| is_busy(&error)));
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        self.sweep();
    }
}

/// Version 2 if it has what is demanded, otherwise each hierarchy of version 1 that has something.
fn choose(places: Vec<Place>) -> Result<(Version, Vec<Place>), CgroupError> {
    let whole = |places: &[Place]| {
        let has = |controller| places.iter().any(|place| place.controllers.contains(&controller));
        has(Controller::Memory) && has(Controller::Pids)
    };
    let (two, one): (Vec<Place>, Vec<Place>) = places.into_iter().partition(|place| place.version == Version::Two);
    if whole(&two) {
        return Ok((Version::Two, two));
    }
    let one: Vec<Place> = one.into_iter().filter(|place| !place.controllers.is_empty()).collect();
    if whole(&one) { Ok((Version::One, one)) } else { Err(CgroupError::None) }
}

/// Writes to a file that the kernel made; none of ours is ever made.
fn put(folder: &Path, file: &str, value: &str) -> Result<(), CgroupError> {
    let path = folder.join(file);
    let written = fs::OpenOptions::new().write(true).open(&path).and_then(|mut file| {
        // One write: the kernel reads each as a whole.
        io::Write::write_all(&mut file, value.as_bytes())
    });
    written.map_err(|source| CgroupError::Refused { path, source })
}

fn read(folder: &Path, file: &str) -> Option<String> {
    fs::read_to_string(folder.join(file)).ok().map(|text| text.trim().to_owned())
}

/// The number of a line `KEY NUMBER`.
fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
}

/// The processes in a group, as this process sees them; none of another process namespace.
fn processes(folder: &Path) -> Vec<i32> {
    let text = read(folder, "cgroup.procs").unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 1).collect()
}

fn is_busy(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBUSY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(version: Version, controllers: &[Controller]) -> Place {
        Place { version, controllers: controllers.to_vec(), folder: "/x".into(), root: "/".into() }
    }

    #[test]
    fn the_newer_version_is_taken_where_it_has_what_is_demanded() {
        use Controller::{Cpu, Memory, Pids};
        let whole = place(Version::Two, &[Memory, Pids]);
        let one = [place(Version::One, &[Memory]), place(Version::One, &[Pids]), place(Version::One, &[Cpu])];
        let mut both = one.to_vec();
        both.push(whole.clone());
        assert_eq!(choose(both).unwrap(), (Version::Two, vec![whole]));
        let mut hybrid = one.to_vec();
        hybrid.push(place(Version::Two, &[Cpu]));
        assert_eq!(choose(hybrid).unwrap(), (Version::One, one.to_vec()));
        assert!(matches!(choose(vec![one[0].clone(), one[2].clone()]), Err(CgroupError::None)));
        assert!(matches!(choose(Vec::new()), Err(CgroupError::None)));
    }

    #[test]
    fn lines_of_numbers_are_read() {
        assert_eq!(field("low 0\noom 3\noom_kill 2\n", "oom_kill"), Some(2));
        assert_eq!(field("oom_kill_disable 0\nunder_oom 0\noom_kill 7", "oom_kill "), Some(7));
        assert_eq!(field("oom 3\n", "oom_kill"), None);
    }
}
