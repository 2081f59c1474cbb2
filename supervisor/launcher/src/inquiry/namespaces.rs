//! Which namespaces can be made, tried one by one: what a kernel is built with says nothing about what it allows.

use casemate_ipc::inquiry::{Finding, State};
use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::wait::waitpid;

use super::kernel::sysctl;
use super::{finding, raise, raised};
use crate::sys::process::{self, Forked, exit_now};

const GROUP: &str = "namespaces";

/// By name, and by flag. Each is tried inside a user namespace, as a worker gets it.
const KINDS: [(&str, CloneFlags); 7] = [
    ("mnt", CloneFlags::CLONE_NEWNS),
    ("pid", CloneFlags::CLONE_NEWPID),
    ("net", CloneFlags::CLONE_NEWNET),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
    // No name in nix's set: CLONE_NEWTIME (Linux 5.6).
    ("time", CloneFlags::from_bits_retain(0x80)),
];

/// Settings that take user namespaces away, with the value that does.
const SETTINGS: [(&str, &str); 3] = [
    ("user.max_user_namespaces", "0"),
    ("kernel.unprivileged_userns_clone", "0"),
    ("kernel.apparmor_restrict_unprivileged_userns", "1"),
];

/// All of it.
pub(super) fn look() -> Vec<Finding> {
    let mut found = vec![user()];
    let (mut made, mut refused) = (Vec::new(), Vec::new());
    for (name, flag) in KINDS {
        match make(CloneFlags::CLONE_NEWUSER | flag) {
            Ok(()) => made.push(name.to_owned()),
            Err(errno) => refused.push(format!("{name} ({errno})")),
        }
    }
    if !made.is_empty() {
        found.push(finding(GROUP, "others", format!("can be made: {}", made.join(", ")), State::Good));
    }
    if !refused.is_empty() {
        found.push(finding(GROUP, "others", format!("refused: {}", refused.join(", ")), State::Bad));
    }
    found.extend(SETTINGS.into_iter().filter_map(setting));
    found
}

fn user() -> Finding {
    match make(CloneFlags::CLONE_NEWUSER) {
        Ok(()) => finding(GROUP, "user", "can be made", State::Good),
        Err(errno) => raised(finding(GROUP, "user", format!("refused: {errno}"), State::Bad), raise::namespaces()),
    }
}

fn setting((key, takes_away): (&str, &str)) -> Option<Finding> {
    let value = sysctl(key)?;
    // As root AppArmor's restriction and Debian's switch mean nothing.
    let matters = !nix::unistd::geteuid().is_root() || key == "user.max_user_namespaces";
    let state = if value == takes_away && matters { State::Bad } else { State::Note };
    let found = finding(GROUP, key, format!("= {value}"), state);
    Some(if state == State::Bad { raised(found, raise::namespaces()) } else { found })
}

/// Makes a process in such namespaces, which ends at once.
fn make(flags: CloneFlags) -> Result<(), Errno> {
    match process::fork(flags, None)? {
        Forked::Child => exit_now(0),
        Forked::Parent { pid, .. } => waitpid(pid, None).map(drop),
    }
}
