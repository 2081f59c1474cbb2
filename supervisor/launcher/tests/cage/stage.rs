//! A host that lacks something: takes it away from itself, then becomes the launcher.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;

use casemate_launcher::sys::process::{self, Forked};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, execv, setgroups, setresgid, setresuid};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};

/// `stage WHAT UID PROGRAM ARGUMENTS`.
pub(crate) fn main() -> ! {
    if let Some(group) = std::env::args().nth(1).as_deref().and_then(|word| word.strip_prefix("born-in=")) {
        born_in(group);
    }
    let words: Vec<CString> = std::env::args_os().skip(1).map(|word| CString::new(word.into_vec()).unwrap()).collect();
    let (what, uid) = (words[0].to_str().unwrap(), words[1].to_str().unwrap().parse().unwrap());
    if what == "no-namespaces" {
        unshare(CloneFlags::CLONE_NEWUSER).unwrap();
        println!("ready");
        // The rig maps every uid to itself meanwhile.
        std::io::stdin().read_exact(&mut [0]).unwrap();
        fs::write("/proc/sys/user/max_user_namespaces", "0").unwrap();
    }
    if what == "no-proc-sys" {
        // As containers show it.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let (none, flags) = (None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC);
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some("/proc/sys"), "/proc/sys", none, flags, none).unwrap();
        mount(none, "/proc/sys", none, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY, none).unwrap();
    }
    if what == "no-cgroups" {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        umount2("/sys/fs/cgroup", MntFlags::MNT_DETACH).unwrap();
    }
    if uid != 0 && nix::unistd::geteuid().is_root() {
        setgroups(&[]).unwrap();
        setresgid(Gid::from_raw(uid), Gid::from_raw(uid), Gid::from_raw(uid)).unwrap();
        setresuid(Uid::from_raw(uid), Uid::from_raw(uid), Uid::from_raw(uid)).unwrap();
    }
    match what {
        "no-ptrace" => refuse(libc::SYS_ptrace, Errno::EPERM),
        "no-landlock" => refuse(libc::SYS_landlock_create_ruleset, Errno::ENOSYS),
        _ => {}
    }
    let _ = execv(&words[2], &words[2..]).unwrap();
    unreachable!()
}

/// Makes a child in a control group, as the launcher makes workers, and lets it say where it is.
fn born_in(group: &str) -> ! {
    let group = fs::File::open(group).unwrap();
    match process::fork(CloneFlags::empty(), Some(group.as_fd())).unwrap() {
        Forked::Child => {
            print!("{}", fs::read_to_string("/proc/self/cgroup").unwrap());
            let _ = std::io::stdout().flush();
            process::exit_now(0)
        }
        Forked::Parent { pid, .. } => {
            nix::sys::wait::waitpid(pid, None).unwrap();
            process::exit_now(0)
        }
    }
}

fn refuse(call: i64, errno: Errno) {
    let arch = TargetArch::try_from(std::env::consts::ARCH).unwrap();
    let answer = SeccompAction::Errno((errno as i32).unsigned_abs());
    let rules = BTreeMap::from([(call, Vec::new())]);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, answer, arch).unwrap();
    apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
}
