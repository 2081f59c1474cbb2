//! Hosts that lack something: each takes it away from itself before it becomes `casemate`.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

use casemate_tests::casemate::{is_root, program};
use casemate_tests::stage::reachable;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, getpid, setgroups, setresgid, setresuid};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};

/// A host.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Host {
    /// This machine.
    Plain,
    /// Where no further user namespace can be made.
    NoNamespaces,
    /// A user namespace in which one user is root, with its own processes and mounts.
    Container,
    /// Where that system call is answered by that errno.
    Without(i64, i32),
}

impl Host {
    /// `casemate` on this host, as that user.
    pub(crate) fn command(self, user: Option<u32>) -> Command {
        let casemate =
            if is_root() && !matches!(self, Self::Container) { reachable("casemate") } else { program("casemate") };
        let mut command = match self {
            Self::Container => {
                let mut command = Command::new("unshare");
                command.args(["-r", "-m", "-p", "-f", "--kill-child", "--mount-proc"]).arg(casemate);
                command
            }
            _ => Command::new(casemate),
        };
        match self {
            Self::Plain | Self::Container => become_user(&mut command, user),
            Self::Without(call, errno) => {
                become_user(&mut command, user);
                let program = refusing(call, errno);
                // SAFETY: two system calls on a program that was made before the fork.
                unsafe { command.pre_exec(move || apply_filter(&program).map_err(io::Error::other)) };
            }
            Self::NoNamespaces => no_namespaces(&mut command, user),
        }
        command
    }
}

fn become_user(command: &mut Command, user: Option<u32>) {
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
}

fn refusing(call: i64, errno: i32) -> BpfProgram {
    let arch = TargetArch::try_from(std::env::consts::ARCH).expect("a CPU that has policies");
    let answer = SeccompAction::Errno(errno.unsigned_abs());
    let rules = BTreeMap::from([(call, Vec::new())]);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, answer, arch).expect("a filter");
    BpfProgram::try_from(filter).expect("a program")
}

/// A user namespace that knows every user and lets no further one be made. Somebody outside has to say who is who in it.
fn no_namespaces(command: &mut Command, user: Option<u32>) {
    let (mut ours, mut theirs) = UnixStream::pair().expect("a pair");
    std::thread::spawn(move || {
        let mut pid = [0; 4];
        if ours.read_exact(&mut pid).is_ok() {
            for map in ["uid_map", "gid_map"] {
                let _ = std::fs::write(format!("/proc/{}/{map}", u32::from_le_bytes(pid)), "0 0 4294967295");
            }
            let _ = ours.write_all(b"!");
        }
    });
    let enter = move || {
        unshare(CloneFlags::CLONE_NEWUSER)?;
        theirs.write_all(&getpid().as_raw().to_le_bytes())?;
        theirs.read_exact(&mut [0])?;
        std::fs::write("/proc/sys/user/max_user_namespaces", "0")?;
        if let Some(user) = user {
            setgroups(&[])?;
            setresgid(Gid::from_raw(user), Gid::from_raw(user), Gid::from_raw(user))?;
            setresuid(Uid::from_raw(user), Uid::from_raw(user), Uid::from_raw(user))?;
        }
        Ok(())
    };
    // SAFETY: it makes system calls, and allocates no more than a path: the allocator's locks are whole in a child of
    // `Command`, which glibc's fork sees to.
    unsafe { command.pre_exec(enter) };
}
