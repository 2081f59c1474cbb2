//! Where the launcher's own group lies in each hierarchy.

use std::path::{Path, PathBuf};

use super::{Controller, read};

/// Which interface a hierarchy has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

/// The launcher's own group in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) version: Version,
    /// What can be bounded in it.
    pub(super) controllers: Vec<Controller>,
    /// The group.
    pub(super) folder: PathBuf,
    /// Where the hierarchy is mounted.
    pub(super) root: PathBuf,
}

const KNOWN: [Controller; 4] = [Controller::Memory, Controller::Pids, Controller::Cpu, Controller::Freezer];

/// From `/proc/self/cgroup` and `/proc/self/mountinfo`.
pub(super) fn parse(groups: &str, mounts: &str) -> Vec<Place> {
    groups.lines().filter_map(|line| place(line, mounts)).collect()
}

/// `NUMBER:CONTROLLERS:PATH`; version 2 has the number 0 and names none.
fn place(line: &str, mounts: &str) -> Option<Place> {
    let mut parts = line.splitn(3, ':');
    let (number, names, path) = (parts.next()?, parts.next()?, parts.next()?);
    let version = if number == "0" && names.is_empty() { Version::Two } else { Version::One };
    let first = names.split(',').next()?;
    let (within, root) = mounts.lines().find_map(|line| mount(line, version, first))?;
    // A group outside of what is mounted (`/../..`) cannot be reached.
    let folder = root.join(Path::new(path).strip_prefix(within).ok()?);
    if path.contains("/..") {
        return None;
    }
    let named: Vec<String> = match version {
        Version::One => names.split(',').map(str::to_owned).collect(),
        Version::Two => read(&folder, "cgroup.controllers")?.split(' ').map(str::to_owned).collect(),
    };
    let controllers = KNOWN.into_iter().filter(|known| named.iter().any(|name| name == known.name())).collect();
    Some(Place { version, controllers, folder, root })
}

/// `ID PARENT DEVICE ROOT POINT OPTIONS [TAGS] - TYPE SOURCE OPTIONS`: the root and the mount point, if it is the one.
fn mount(line: &str, version: Version, controller: &str) -> Option<(PathBuf, PathBuf)> {
    let (left, right) = line.split_once(" - ")?;
    let mut right = right.split(' ');
    let (kind, options) = (right.next()?, right.nth(1)?);
    let fits = match version {
        Version::One => kind == "cgroup" && options.split(',').any(|option| option == controller),
        Version::Two => kind == "cgroup2",
    };
    let mut left = left.split(' ').skip(3);
    let (root, point) = (left.next()?, left.next()?);
    (fits && !point.contains('\\')).then(|| (root.into(), point.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_hierarchy_has_its_own_path() {
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
            32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:5 - cgroup cgroup rw,cpu,cpuacct\n\
            35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            36 31 0:32 /docker/abc /odd\\040name rw - cgroup cgroup rw,pids\n";
        let groups = "9:name=systemd:/\n8:pids:/\n4:memory:/docker/abc/inner\n1:cpu,cpuacct:/\n5:freezer:/\n";
        let found = parse(groups, mounts);
        let folders: Vec<_> = found.iter().map(|p| (p.folder.to_str().unwrap(), p.controllers.clone())).collect();
        let expected = [
            ("/sys/fs/cgroup/memory/inner", vec![Controller::Memory]),
            ("/sys/fs/cgroup/cpu,cpuacct/", vec![Controller::Cpu]),
        ];
        assert_eq!(folders, expected);
    }

    #[test]
    fn a_group_that_cannot_be_reached_is_none() {
        let mounts = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        assert_eq!(parse("4:memory:/../other\n", mounts), []);
        let mounts = "35 31 0:32 /a /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        assert_eq!(parse("4:memory:/b\n", mounts), []);
        assert_eq!(parse("nonsense\n::\n", mounts), []);
    }

    #[test]
    fn the_newer_version_says_itself_what_it_has() {
        let folder = std::env::temp_dir().join(format!("casemate-place-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("a.service")).unwrap();
        std::fs::write(folder.join("a.service/cgroup.controllers"), "cpuset cpu io memory pids\n").unwrap();
        let mounts = format!("30 23 0:26 / {} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n", folder.display());
        let found = parse("0::/a.service\n", &mounts);
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(found[0].controllers, [Controller::Memory, Controller::Pids, Controller::Cpu]);
        assert_eq!((found[0].version, &found[0].root), (Version::Two, &folder));
    }
}
