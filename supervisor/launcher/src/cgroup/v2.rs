//! Version 2: one hierarchy, handed on from group to group.
//!
//! A group may hold processes or hand controllers on, not both. A launcher that was given a group of its own (systemd's
//! `Delegate=yes`) moves itself one step down for that; one that shares its group with others may, as root, use the next
//! group above that already hands the controllers on.

use std::fs;
use std::io;
use std::path::Path;

use super::home::Home;
use super::leaf::{Part, cpus, mebibytes};
use super::place::Place;
use super::{Budget, CgroupError, Controller, field, is_busy, put, read};

/// Where the launcher and the front are once they have moved.
const HOUSE: &str = "house";
const SUBTREE: &str = "cgroup.subtree_control";
const PERIOD_US: u64 = 100_000;
/// Trusted, idle most of the time, and what every client waits for; a worker weighs 100.
const HOUSE_WEIGHT: &str = "10000";

/// The launcher's folder, with the controllers handed on to its groups. `launcher` is the process to move.
pub(super) fn home(place: &Place, launcher: u32) -> Result<Home, CgroupError> {
    let names: Vec<&str> = place.controllers.iter().map(|controller| controller.name()).collect();
    let refusal = match below(&place.folder, &place.controllers, &names, launcher) {
        Ok(home) => return Ok(home),
        Err(error) => error,
    };
    let above = place.folder.ancestors().skip(1).take_while(|folder| folder.starts_with(&place.root));
    for folder in above {
        let Some(handed) = read(folder, SUBTREE) else { continue };
        let handed = |controller: &Controller| handed.split(' ').any(|name| name == controller.name());
        if place.controllers.iter().filter(|controller| controller.demanded()).all(handed)
            && let Ok(home) = furnish(folder, place)
        {
            return Ok(home);
        }
    }
    Err(refusal)
}

/// A folder below the launcher's own group.
fn below(folder: &Path, controllers: &[Controller], names: &[&str], launcher: u32) -> Result<Home, CgroupError> {
    let home = Home::make(folder, controllers.to_vec())?;
    match hand_on(folder, names) {
        Ok(()) => {}
        Err(CgroupError::Refused { source, .. }) if is_busy(&source) => {
            let house = home.folder.join(HOUSE);
            fs::create_dir(&house).map_err(|source| CgroupError::Refused { path: house.clone(), source })?;
            put(&house, "cgroup.procs", &launcher.to_string())?;
            if let Err(error) = hand_on(folder, names) {
                let _ = put(folder, "cgroup.procs", &launcher.to_string());
                return Err(match error {
                    CgroupError::Refused { source, .. } if is_busy(&source) => CgroupError::Crowded(folder.into()),
                    other => other,
                });
            }
        }
        Err(error) => return Err(error),
    }
    hand_on(&home.folder, names)?;
    let _ = put(&home.folder.join(HOUSE), "cpu.weight", HOUSE_WEIGHT);
    Ok(home)
}

/// A folder below a group that hands the controllers on already.
fn furnish(folder: &Path, place: &Place) -> Result<Home, CgroupError> {
    let mut controllers = place.controllers.clone();
    let handed = read(folder, SUBTREE).unwrap_or_default();
    controllers.retain(|controller| handed.split(' ').any(|name| name == controller.name()));
    let names: Vec<&str> = controllers.iter().map(|controller| controller.name()).collect();
    let home = Home::make(folder, controllers.clone())?;
    hand_on(&home.folder, &names)?;
    Ok(home)
}

/// Lets the groups below a folder be bounded. Memory comes first: a group that holds processes refuses that, and would not
/// refuse the others.
fn hand_on(folder: &Path, names: &[&str]) -> Result<(), CgroupError> {
    for name in names {
        put(folder, SUBTREE, &format!("+{name}"))?;
    }
    Ok(())
}

/// Writes the bounds of one controller.
pub(super) fn bound(folder: &Path, controller: Controller, budget: &Budget) -> Result<(), CgroupError> {
    match controller {
        Controller::Memory => {
            put(folder, "memory.max", &budget.memory_bytes.to_string())?;
            // A kernel that cannot swap has no such file.
            if folder.join("memory.swap.max").exists() {
                put(folder, "memory.swap.max", "0")?;
            }
            put(folder, "memory.oom.group", "1")
        }
        Controller::Pids => put(folder, "pids.max", &budget.processes.to_string()),
        Controller::Cpu => match budget.cpu_millis {
            Some(millis) => put(folder, "cpu.max", &format!("{} {PERIOD_US}", u64::from(millis) * PERIOD_US / 1000)),
            None => Ok(()),
        },
        Controller::Freezer => Ok(()),
    }
}

/// Whether the bounds are in force, and what the kernel says.
pub(super) fn read_back(folder: &Path, controller: Controller, budget: &Budget) -> (bool, String) {
    let number = |file: &str| read(folder, file).and_then(|text| text.parse::<u64>().ok());
    match controller {
        Controller::Memory => {
            let most = number("memory.max").unwrap_or(u64::MAX);
            let swap = !folder.join("memory.swap.max").exists() || number("memory.swap.max") == Some(0);
            let group = number("memory.oom.group") == Some(1);
            let how = if swap { "without swap" } else { "and swap" };
            (most <= budget.memory_bytes && swap && group, format!("memory {} {how}", mebibytes(most)))
        }
        Controller::Pids => {
            let most = number("pids.max").unwrap_or(u64::MAX);
            (most <= budget.processes, format!("{most} processes"))
        }
        Controller::Cpu => {
            let text = read(folder, "cpu.max").unwrap_or_default();
            let mut words = text.split(' ').map(str::parse::<u64>);
            match (words.next(), words.next()) {
                (Some(Ok(quota)), Some(Ok(period))) if period > 0 => (true, cpus(quota * 1000 / period)),
                _ => (budget.cpu_millis.is_none(), "CPU time shared".to_owned()),
            }
        }
        Controller::Freezer => (true, String::new()),
    }
}

/// Kills everything at once.
pub(super) fn kill(parts: &[Part]) -> io::Result<()> {
    for Part { folder, .. } in parts {
        put(folder, "cgroup.kill", "1").map_err(|error| match error {
            CgroupError::Refused { source, .. } => source,
            other => io::Error::other(other),
        })?;
    }
    Ok(())
}

/// Kills for want of memory in this group.
pub(super) fn memory_kills(folder: &Path) -> Option<u64> {
    field(&read(folder, "memory.events")?, "oom_kill ")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::process::{Child, Command};

    use super::*;
    use crate::cgroup::processes;

    /// A group of its own in the real hierarchy, with a sleeper in it; nothing where the hierarchy cannot be used.
    struct Ground {
        folder: PathBuf,
        sleepers: Vec<Child>,
        controller: &'static str,
    }

    impl Ground {
        fn new(name: &str) -> Option<Self> {
            let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
            let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"))?.split(' ').nth(1)?;
            // One that a group with processes may not hand on: of pids and cpu, which know threads, it may, and what is below
            // it can then hold nothing. It may be an odd one, where the others are in version 1.
            let root = read(Path::new(mount), "cgroup.controllers")?;
            let controller =
                ["memory", "hugetlb"].into_iter().find(|name| root.split(' ').any(|word| word == *name))?;
            let folder = Path::new(mount).join(format!("cm-test-{name}-{}", std::process::id()));
            let handed = put(Path::new(mount), SUBTREE, &format!("+{controller}"));
            (handed.is_ok() && fs::create_dir(&folder).is_ok()).then_some(Self {
                folder,
                sleepers: Vec::new(),
                controller,
            })
        }

        fn sleeper(&mut self, group: &Path) -> u32 {
            let sleeper = Command::new("sleep").arg("60").spawn().unwrap();
            let pid = sleeper.id();
            self.sleepers.push(sleeper);
            put(group, "cgroup.procs", &pid.to_string()).unwrap();
            pid
        }
    }

    impl Drop for Ground {
        fn drop(&mut self) {
            for sleeper in &mut self.sleepers {
                let _ = sleeper.kill();
                let _ = sleeper.wait();
            }
            let _ = fs::remove_dir(&self.folder);
        }
    }

    fn holds(group: &Path, pid: u32) -> bool {
        processes(group).contains(&i32::try_from(pid).unwrap())
    }

    #[test]
    fn a_launcher_alone_in_its_group_moves_down_and_kills_at_once() {
        let Some(mut ground) = Ground::new("alone") else { return println!("no cgroup2 to write to: skipped") };
        let (folder, names) = (ground.folder.clone(), [ground.controller]);
        let launcher = ground.sleeper(&folder);
        let home = below(&folder, &[], &names, launcher).unwrap();
        assert!(holds(&home.folder.join(HOUSE), launcher) && processes(&folder).is_empty());
        let leaf = home.folder.join("w1");
        fs::create_dir(&leaf).unwrap();
        assert_eq!(read(&leaf, "cgroup.controllers").as_deref(), Some(names[0]), "it was not handed on");
        let worker = ground.sleeper(&leaf);
        kill(&[Part { folder: leaf.clone(), controllers: Vec::new() }]).unwrap();
        let end = ground.sleepers.pop().unwrap().wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&end), Some(libc::SIGKILL));
        assert!(!holds(&leaf, worker));
        fs::remove_dir(&leaf).unwrap();
        ground.sleepers.remove(0).kill().unwrap();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while !processes(&home.folder.join(HOUSE)).is_empty() && std::time::Instant::now() < until {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let folder = home.folder.clone();
        drop(home);
        assert!(!folder.exists());
    }

    #[test]
    fn a_launcher_among_others_is_put_back() {
        let Some(mut ground) = Ground::new("crowd") else { return println!("no cgroup2 to write to: skipped") };
        let (folder, names) = (ground.folder.clone(), [ground.controller]);
        let (launcher, other) = (ground.sleeper(&folder), ground.sleeper(&folder));
        let refusal = below(&folder, &[], &names, launcher).unwrap_err();
        assert!(matches!(refusal, CgroupError::Crowded(_)), "{refusal}");
        assert!(holds(&folder, launcher) && holds(&folder, other));
        let left = fs::read_dir(&folder).unwrap().flatten().filter(|entry| entry.path().is_dir()).count();
        assert_eq!(left, 0);
    }

    /// The files of a group as this kernel would show them, on an ordinary folder.
    #[test]
    fn bounds_are_written_and_read_back() {
        let folder = std::env::temp_dir().join(format!("casemate-v2-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        for file in ["memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cpu.max"] {
            fs::write(folder.join(file), "").unwrap();
        }
        let budget = Budget { memory_bytes: 1 << 30, processes: 20, cpu_millis: Some(1500) };
        let said = [Controller::Memory, Controller::Pids, Controller::Cpu].map(|controller| {
            bound(&folder, controller, &budget).unwrap();
            read_back(&folder, controller, &budget)
        });
        let expected = ["memory 1024 MiB without swap", "20 processes", "1.500 CPU"];
        assert_eq!(said, expected.map(|text| (true, text.to_owned())));
        assert_eq!(read(&folder, "cpu.max").as_deref(), Some("150000 100000"));
        for (file, wrong, controller) in [
            ("memory.max", "max", Controller::Memory),
            ("memory.swap.max", "max", Controller::Memory),
            ("memory.oom.group", "0", Controller::Memory),
            ("pids.max", "max", Controller::Pids),
            ("cpu.max", "max 100000", Controller::Cpu),
        ] {
            let right = read(&folder, file).unwrap();
            fs::write(folder.join(file), wrong).unwrap();
            assert!(!read_back(&folder, controller, &budget).0, "{file} = {wrong} was taken for a bound");
            fs::write(folder.join(file), right).unwrap();
        }
        fs::write(folder.join("memory.events"), "low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\noom_group_kill 1\n").unwrap();
        assert_eq!(memory_kills(&folder), Some(1));
        fs::remove_dir_all(&folder).unwrap();
    }
}
