//! Version 1: each controller in a hierarchy of its own, and a freezer in the place of a kill.

use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill as send};
use nix::unistd::Pid;

use super::home::Home;
use super::leaf::{Part, cpus, mebibytes};
use super::place::Place;
use super::{Budget, CgroupError, Controller, field, processes, put, read};

const PERIOD_US: u64 = 100_000;

/// The launcher's folder in one hierarchy.
pub(super) fn home(place: &Place) -> Result<Home, CgroupError> {
    let home = Home::make(&place.folder, place.controllers.clone())?;
    if place.controllers.contains(&Controller::Cpu) {
        // All workers together weigh as much as one thread of the front on each CPU, however many they are. Where it is
        // refused they weigh as one thread in all.
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        let _ = put(&home.folder, "cpu.shares", &(1024 * cpus).min(262_144).to_string());
    }
    Ok(home)
}

/// Writes the bounds of one controller.
pub(super) fn bound(folder: &Path, controller: Controller, budget: &Budget) -> Result<(), CgroupError> {
    match controller {
        Controller::Memory => {
            let most = budget.memory_bytes.to_string();
            put(folder, "memory.limit_in_bytes", &most)?;
            // Neither is there on every kernel; one of them is where there can be swap.
            let sum = put(folder, "memory.memsw.limit_in_bytes", &most);
            let none = put(folder, "memory.swappiness", "0");
            sum.or(none)
        }
        Controller::Pids => put(folder, "pids.max", &budget.processes.to_string()),
        Controller::Cpu => {
            if let Some(millis) = budget.cpu_millis {
                // Refused where the launcher's own group has less than that: then that is the bound.
                let quota = u64::from(millis) * PERIOD_US / 1000;
                let _ = put(folder, "cpu.cfs_period_us", &PERIOD_US.to_string());
                let _ = put(folder, "cpu.cfs_quota_us", &quota.to_string());
            }
            Ok(())
        }
        Controller::Freezer => Ok(()),
    }
}

/// Whether the bounds are in force, and what the kernel says.
pub(super) fn read_back(folder: &Path, controller: Controller, budget: &Budget) -> (bool, String) {
    let number = |file: &str| read(folder, file).and_then(|text| text.parse::<u64>().ok());
    match controller {
        Controller::Memory => {
            let most = number("memory.limit_in_bytes").unwrap_or(u64::MAX);
            let swap = number("memory.memsw.limit_in_bytes").is_some_and(|sum| sum <= budget.memory_bytes);
            let swap = swap || number("memory.swappiness") == Some(0);
            let how = if swap { "without swap" } else { "and swap" };
            (most <= budget.memory_bytes && swap, format!("memory {} {how}", mebibytes(most)))
        }
        Controller::Pids => {
            let most = number("pids.max").unwrap_or(u64::MAX);
            (most <= budget.processes, format!("{most} processes"))
        }
        Controller::Cpu => match quota(folder) {
            Some(millis) => (true, cpus(millis)),
            // Nothing was asked for, or a group around this one has less than that, and is the bound.
            None => match folder.ancestors().skip(1).find_map(quota) {
                Some(millis) => (true, format!("{} of all that is around it", cpus(millis))),
                None => (budget.cpu_millis.is_none(), "CPU time shared".to_owned()),
            },
        },
        Controller::Freezer => (true, "freezer".to_owned()),
    }
}

/// Thousandths of a CPU that a group has; nothing where it is not bounded, or no group.
fn quota(folder: &Path) -> Option<u64> {
    let number = |file: &str| read(folder, file).and_then(|text| text.parse::<u64>().ok());
    let (quota, period) = number("cpu.cfs_quota_us").zip(number("cpu.cfs_period_us"))?;
    quota.checked_mul(1000)?.checked_div(period)
}

/// Stops everything, so that nothing can be started meanwhile, sends the signal, and lets it take effect.
pub(super) fn kill(parts: &[Part]) -> io::Result<()> {
    let freezer = parts.iter().find(|part| part.controllers.contains(&Controller::Freezer)).or(parts.first());
    let Some(Part { folder, .. }) = freezer else { return Ok(()) };
    let mut told = Ok(());
    for _ in 0..ROUNDS {
        let frozen = put(folder, "freezer.state", "FROZEN").is_ok();
        let found = processes(folder);
        for pid in &found {
            match send(Pid::from_raw(*pid), Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => told = Err(errno.into()),
            }
        }
        if frozen {
            let _ = put(folder, "freezer.state", "THAWED");
        }
        if found.len() < 2 {
            // Nobody else was there to start another one.
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    told
}

const ROUNDS: usize = 5;

/// Kills for want of memory in this group.
pub(super) fn memory_kills(folder: &Path) -> Option<u64> {
    field(&read(folder, "memory.oom_control")?, "oom_kill ")
}
