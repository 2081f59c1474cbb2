//! What a worker cannot do while it serves, as groups of calls that are looked up in the filter itself.

use casemate_ipc::inquiry::explanation::Never;
use casemate_lockdown::policy::Filter;

/// An act, and every call that could do it.
struct Group {
    act: &'static str,
    calls: &'static [&'static str],
}

const GROUPS: &[Group] = &[
    group("open a file or a folder", &["open", "openat", "openat2", "creat", "open_by_handle_at", "open_tree"]),
    group(
        "look at a path, or change what is there",
        &[
            "stat",
            "newfstatat",
            "statx",
            "readlinkat",
            "getdents64",
            "mkdirat",
            "unlinkat",
            "renameat2",
            "linkat",
            "fchmodat",
        ],
    ),
    group(
        "reach a network, or another process's socket",
        &["socket", "socketpair", "connect", "bind", "listen", "accept4"],
    ),
    group("send or receive descriptors", &["sendmsg", "sendmmsg", "recvmsg", "recvmmsg", "pidfd_getfd"]),
    group("start a program, a process or a thread", &["execve", "execveat", "fork", "vfork", "clone", "clone3"]),
    group(
        "look into another process, or send it a signal",
        &[
            "ptrace",
            "process_vm_readv",
            "process_vm_writev",
            "kill",
            "tkill",
            "tgkill",
            "rt_sigqueueinfo",
            "pidfd_open",
            "kcmp",
        ],
    ),
    group(
        "change who it is or what it may do",
        &["setuid", "setresuid", "setgroups", "capset", "prctl", "personality", "seccomp"],
    ),
    group("make namespaces or mounts", &["unshare", "setns", "mount", "umount2", "pivot_root", "chroot", "fsopen"]),
    group("make memory executable, or map a file", &["mmap", "mprotect", "pkey_mprotect", "remap_file_pages", "shmat"]),
    group("raise its limits", &["setrlimit", "prlimit64", "setpriority", "sched_setaffinity", "sched_setscheduler"]),
    group(
        "reach the kernel's larger doors",
        &[
            "ioctl",
            "bpf",
            "io_uring_setup",
            "userfaultfd",
            "perf_event_open",
            "keyctl",
            "add_key",
            "init_module",
            "kexec_load",
        ],
    ),
];

const fn group(act: &'static str, calls: &'static [&'static str]) -> Group {
    Group { act, calls }
}

/// The groups, against a filter.
pub(super) fn of(filter: &Filter) -> Vec<Never> {
    let one = |group: &Group| {
        let rules = filter.rules.iter().filter(|rule| group.calls.contains(&rule.call));
        Never {
            act: group.act.to_owned(),
            calls: group.calls.iter().map(|call| (*call).to_owned()).collect(),
            only: rules.map(|rule| format!("{}: {}", rule.call, rule.condition())).collect(),
        }
    };
    GROUPS.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use casemate_lockdown::{Stage, policy};

    /// A sentence that begins with "it cannot" must be true: memory is the one group with rules, and those refuse code and
    /// files.
    #[test]
    fn every_never_is_one() {
        let filter = policy::filter(Stage::WorkerServe.name()).unwrap();
        for never in of(filter) {
            let memory = never.act.contains("memory");
            assert_eq!(never.only.is_empty(), !memory, "{never:?}");
            assert!(never.only.iter().all(|rule| rule.contains("prot lacks PROT_EXEC")), "{never:?}");
        }
    }
}
