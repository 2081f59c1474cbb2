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
    let refusal = match below(&place.folder, place, launcher) {
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
fn below(folder: &Path, place: &Place, launcher: u32) -> Result<Home, CgroupError> {
    let home = Home::make(folder, place.controllers.clone())?;
    match hand_on(folder, &place.controllers) {
        Ok(()) => {}
        Err(CgroupError::Refused { source, .. }) if is_busy(&source) => {
            let house = home.folder.join(HOUSE);
            fs::create_dir(&house).map_err(|source| CgroupError::Refused { path: house.clone(), source })?;
            put(&house, "cgroup.procs", &launcher.to_string())?;
            if let Err(error) = hand_on(folder, &place.controllers) {
                let _ = put(folder, "cgroup.procs", &launcher.to_string());
                return Err(match error {
                    CgroupError::Refused { source, .. } if is_busy(&source) => CgroupError::Crowded(folder.into()),
                    other => other,
                });
            }
        }
        Err(error) => return Err(error),
    }
    hand_on(&home.folder, &home.controllers)?;
    let _ = put(&home.folder.join(HOUSE), "cpu.weight", HOUSE_WEIGHT);
    Ok(home)
}

/// A folder below a group that hands the controllers on already.
fn furnish(folder: &Path, place: &Place) -> Result<Home, CgroupError> {
    let mut controllers = place.controllers.clone();
    let handed = read(folder, SUBTREE).unwrap_or_default();
    controllers.retain(|controller| handed.split(' ').any(|name| name == controller.name()));
    let home = Home::make(folder, controllers)?;
    hand_on(&home.folder, &home.controllers)?;
    Ok(home)
}

/// Lets the groups below a folder be bounded.
fn hand_on(folder: &Path, controllers: &[Controller]) -> Result<(), CgroupError> {
    for controller in controllers {
        put(folder, SUBTREE, &format!("+{}", controller.name()))?;
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
