//! Control groups: which kind, which controllers, and whether this user may make groups of its own.

use std::path::{Path, PathBuf};

use casemate_ipc::inquiry::{Finding, State};
use nix::unistd::{AccessFlags, access};

use super::finding;
use super::kernel::read;

const GROUP: &str = "cgroup";

/// One hierarchy, and where this process is in it.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    /// Empty for version 2.
    controllers: String,
    /// The folder of this process's own group.
    own: PathBuf,
}

/// Controllers that can keep a worker from using up its host.
const USEFUL: [&str; 3] = ["memory", "pids", "cpu"];

/// All of it.
pub(super) fn look() -> Vec<Finding> {
    let (mounts, groups) = (read("/proc/self/mountinfo"), read("/proc/self/cgroup"));
    let found = hierarchies(&mounts.unwrap_or_default(), &groups.unwrap_or_default());
    if found.is_empty() {
        return vec![finding(GROUP, "none", "no hierarchy is mounted", State::Weak)];
    }
    found.iter().filter_map(said).collect()
}

fn said(hierarchy: &Hierarchy) -> Option<Finding> {
    let Hierarchy { controllers, own } = hierarchy;
    let (name, controllers) = if controllers.is_empty() {
        ("v2", read(&own.join("cgroup.controllers").to_string_lossy()).unwrap_or_default())
    } else {
        ("v1", controllers.clone())
    };
    if name == "v1" && !controllers.split(',').any(|one| USEFUL.contains(&one)) {
        return None;
    }
    let may = access(own, AccessFlags::W_OK).is_ok() && access(&own.join("cgroup.procs"), AccessFlags::W_OK).is_ok();
    let controllers = if controllers.is_empty() { "no controllers".to_owned() } else { controllers };
    let may = if may { "this user may make groups in it" } else { "this user may not make groups in it" };
    Some(finding(GROUP, name, format!("{controllers}; {} ; {may}", own.display()).replace(" ;", ";"), State::Note))
}

/// Hierarchies that are mounted and that this process is in. `mounts` is `/proc/self/mountinfo`, `groups` is
/// `/proc/self/cgroup`.
fn hierarchies(mounts: &str, groups: &str) -> Vec<Hierarchy> {
    let mut found = Vec::new();
    for group in groups.lines() {
        let mut parts = group.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        if controllers.starts_with("name=") {
            continue;
        }
        if let Some(own) = mounts.lines().find_map(|line| folder(line, controllers, path)) {
            found.push(Hierarchy { controllers: controllers.to_owned(), own });
        }
    }
    found
}

/// The folder of a group, if that line mounts its hierarchy.
fn folder(line: &str, controllers: &str, path: &str) -> Option<PathBuf> {
    let (place, kind) = line.split_once(" - ")?;
    let kind: Vec<&str> = kind.split(' ').collect();
    let fits = match *kind.first()? {
        "cgroup2" => controllers.is_empty(),
        "cgroup" => {
            let options: Vec<&str> = kind.last()?.split(',').collect();
            !controllers.is_empty() && controllers.split(',').all(|one| options.contains(&one))
        }
        _ => false,
    };
    let place: Vec<&str> = place.split(' ').collect();
    let (root, point) = (*place.get(3)?, *place.get(4)?);
    // What is mounted may be a part of the hierarchy, as in a container.
    let inner = if root == "/" { path } else { path.strip_prefix(root).unwrap_or(path) };
    fits.then(|| Path::new(point).join(inner.trim_start_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_are_found_where_they_are_mounted() {
        let mounts = "36 25 0:31 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory\n\
                      37 25 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                      38 25 0:33 /box /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
                      39 25 0:34 / /proc rw - proc proc rw";
        let groups = "9:name=systemd:/\n4:memory:/a/b\n3:cpu,cpuacct:/box/c\n2:pids:/\n0::/me";
        let found = hierarchies(mounts, groups);
        let owns: Vec<_> = found.iter().map(|one| (one.controllers.as_str(), one.own.to_str().unwrap())).collect();
        let expected = [
            ("memory", "/sys/fs/cgroup/memory/a/b"),
            ("cpu,cpuacct", "/sys/fs/cgroup/cpu/c"),
            ("", "/sys/fs/cgroup/unified/me"),
        ];
        assert_eq!(owns, expected);
    }
}
