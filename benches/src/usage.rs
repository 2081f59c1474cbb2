//! What a server takes of the machine: CPU time and memory of all its processes, read from `/proc`.

use std::error::Error;
use std::fs;
use std::time::Duration;

use casemate_tests::process;

/// A process and all that came of it, as they are now.
pub(crate) fn tree(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut at = 0;
    while let Some(pid) = all.get(at) {
        let children = process::children(*pid);
        all.extend(children);
        at += 1;
    }
    all
}

/// CPU time of all threads of these processes, to the nanosecond. What a thread that has ended took is not in it.
pub(crate) fn cpu(pids: &[u32]) -> Duration {
    let threads = pids.iter().flat_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten());
    let time = |thread: fs::DirEntry| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    };
    Duration::from_nanos(threads.filter_map(time).sum())
}

/// Proportional set size of these processes together, in bytes: what several map is counted once.
pub(crate) fn memory(pids: &[u32]) -> Result<u64, Box<dyn Error>> {
    let mut sum = 0;
    for pid in pids {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).ok_or("no Pss in smaps_rollup")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        sum += kib << 10;
    }
    Ok(sum)
}
