//! The users that the processes get where the launcher is root: whether they exist here, and whether somebody has them.

use std::fs;

use casemate_config::Config;
use casemate_ipc::inquiry::{Finding, State};

use super::{finding, raised};
use crate::jail::identity::uids_of_processes;
use crate::owner::Owner;

const GROUP: &str = "identities";

/// All of it.
pub(super) fn look(config: &Config, owner: Owner) -> Vec<Finding> {
    if !owner.is_root() {
        let value = format!("uid {}, not root: workers share it", owner.uid());
        return vec![finding(GROUP, "launcher", value, State::Note)];
    }
    let own = &config.identities;
    let (first, last) = (own.worker_first, own.worker_first + (own.worker_count - 1));
    let range = first..=last;
    let busy = uids_of_processes().into_iter().filter(|uid| range.contains(uid)).count();
    let mut found = vec![finding(GROUP, "launcher", "root: a uid for each worker", State::Good)];
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let value = format!("{first} to {last}; processes run under {busy} of them");
    if [own.front, first, last].into_iter().all(|uid| is_mapped(&map, uid)) {
        found.push(finding(GROUP, "worker-uids", value, State::Good));
    } else {
        let lost =
            finding(GROUP, "worker-uids", format!("{value}; not all of them exist in this user namespace"), State::Bad);
        found.push(raised(lost, "choose sandbox.front_uid and sandbox.worker_uid_first inside /proc/self/uid_map"));
    }
    for file in ["/etc/subuid", "/etc/passwd"] {
        let text = fs::read_to_string(file).unwrap_or_default();
        for line in text.lines().filter(|line| touches(line, first, last)) {
            let value =
                format!("{file} gives uids of the range to somebody: {}", line.chars().take(80).collect::<String>());
            found.push(finding(GROUP, "worker-uids", value, State::Weak));
        }
    }
    found
}

fn numbers(line: &str) -> Vec<u64> {
    line.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// Whether a uid exists here: a line of the map is `INSIDE OUTSIDE COUNT`.
fn is_mapped(map: &str, uid: u32) -> bool {
    let uid = u64::from(uid);
    map.lines().map(numbers).any(|line| match *line {
        [inside, _, count] => uid >= inside && uid - inside < count,
        _ => false,
    })
}

/// Whether a line of `/etc/subuid` (`NAME:FIRST:COUNT`) or `/etc/passwd` (`NAME:x:UID:…`) is about a uid of the range.
fn touches(line: &str, first: u32, last: u32) -> bool {
    let parts: Vec<&str> = line.split(':').collect();
    let number = |at: usize| parts.get(at).and_then(|part| part.parse::<u64>().ok());
    let (from, count) = match parts.len() {
        3 => (number(1), number(2)),
        _ => (number(2), Some(1)),
    };
    let (Some(from), Some(count)) = (from, count) else { return false };
    from <= u64::from(last) && from.saturating_add(count) > u64::from(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_exists_where_the_map_says_so() {
        assert!(is_mapped("         0          0 4294967295\n", 1_879_100_001));
        assert!(!is_mapped("0 100000 65536\n", 1_879_100_001));
        assert!(is_mapped("0 100000 65536\n1879100000 200000 5000", 1_879_100_001));
        assert!(!is_mapped("", 0));
    }

    #[test]
    fn who_else_has_a_range_is_seen() {
        assert!(touches("me:100000:65536", 165_000, 170_000));
        assert!(!touches("me:100000:65536", 165_536, 170_000));
        assert!(touches("ops:x:2005:2005::/:/bin/sh", 2000, 2010));
        assert!(!touches("# nothing", 0, 10));
    }
}
