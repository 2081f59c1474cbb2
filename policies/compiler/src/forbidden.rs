//! The calls that no reason makes lawful: lists that the laws of `check.rs` read. A `*` stands for any ending.
//!
//! A call that is in no policy is killed anyway; these lists are about the next edit of a policy.

/// A kind of program, and what no reason makes lawful there.
pub(crate) struct Kind {
    /// As a broken law names it.
    pub(crate) whom: &'static str,
    /// Whether a stage is one of its.
    pub(crate) has: fn(&str) -> bool,
    /// Calls that may not stand in its policy.
    pub(crate) never: &'static [&'static [&'static str]],
    /// Whether it may map or make executable memory: the launcher's filter holds for loaders too.
    pub(crate) code: bool,
}

/// Every kind. A stage that is of none is held to the laws for all.
pub(crate) const KINDS: &[Kind] = &[
    Kind {
        whom: "a worker",
        has: |stage| stage.starts_with("worker-"),
        never: &[NEVER_FOR_ANYBODY, NEVER_A_NETWORK, NEVER_OUTSIDE, NEVER_BUT_AT_BIRTH, NEVER_FOR_WORKER],
        code: false,
    },
    // The row above holds for it too.
    Kind {
        whom: "a serving worker",
        has: |stage| stage.strip_suffix(CODE).unwrap_or(stage).ends_with(SERVE),
        never: &[NEVER_WHILE_SERVING],
        code: true,
    },
    Kind {
        whom: "a zygote",
        has: |stage| stage == ZYGOTE,
        never: &[NEVER_FOR_ANYBODY, NEVER_A_NETWORK, NEVER_OUTSIDE, NEVER_FOR_WORKER],
        code: false,
    },
    Kind {
        whom: "the front",
        has: |stage| stage == "front",
        never: &[NEVER_FOR_ANYBODY, NEVER_A_NETWORK, NEVER_OUTSIDE, NEVER_BUT_AT_BIRTH, NEVER_FOR_FRONT],
        code: false,
    },
    Kind {
        whom: "the launcher",
        has: |stage| stage == LAUNCHER,
        never: &[NEVER_FOR_ANYBODY, NEVER_A_NETWORK],
        code: true,
    },
];

/// The stage whose filter every other program inherits.
pub(crate) const LAUNCHER: &str = "launcher";
/// The stage that bears workers.
pub(crate) const ZYGOTE: &str = "zygote";
/// How the name of a stage ends that meets untrusted bytes.
pub(crate) const SERVE: &str = "-serve";
/// The end of the name of a stage in which a worker may make machine code, in one exact way; in no other it may.
pub(crate) const CODE: &str = "-code";

/// Kernel surfaces with a history, other processes' memory, and what would reach over to somebody else's process, files or
/// namespace: no program of the house needs them, the privileged one included.
pub(crate) const NEVER_FOR_ANYBODY: &[&str] = &[
    "io_uring*",
    "io_setup",
    "io_submit",
    "bpf",
    "perf_event_open",
    "userfaultfd",
    "add_key",
    "request_key",
    "keyctl",
    "init_module",
    "finit_module",
    "delete_module",
    "kexec*",
    "reboot",
    "open_by_handle_at",
    "name_to_handle_at",
    "personality",
    "modify_ldt",
    "iopl",
    "ioperm",
    "quotactl*",
    "swapon",
    "swapoff",
    "syslog",
    "fanotify_*",
    "uselib",
    "acct",
    "kcmp",
    "process_*",
    "memfd_secret",
    "shm*",
    "sem*",
    "msg*",
    "mq_*",
    "vmsplice",
    "remap_file_pages",
    "move_pages",
    "migrate_pages",
    "chroot",
    "rt_sigqueueinfo",
    "rt_tgsigqueueinfo",
    "tkill",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "rename*",
    "link*",
    "mknod*",
    "setxattr*",
    "truncate",
    "setuid",
    "setgid",
    "setreuid",
    "setregid",
    "setfsuid",
    "setfsgid",
    "fork",
    "vfork",
];

/// Every way to a network. A pair of `AF_UNIX` sockets is a law of its own.
pub(crate) const NEVER_A_NETWORK: &[&str] = &["socket", "connect", "bind", "listen", "accept", "sendmmsg", "recvmmsg"];

/// New programs, other users, other processes, sockets, mounts, and every way to change a file system.
pub(crate) const NEVER_OUTSIDE: &[&str] = &[
    "execve",
    "execveat",
    "ptrace",
    "pidfd_*",
    "kill",
    "tgkill",
    "socketpair",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "setgroups",
    "setns",
    "splice",
    "tee",
    "unlink*",
    "mkdir*",
    "rmdir",
    "symlink*",
    "chmod",
    "fchmod*",
    "chown",
    "fchown*",
    "lchown",
    "creat",
    "openat2",
];

/// What a newborn process does on the way into its cage, and nobody does later: to become its own user, to mount its root.
pub(crate) const NEVER_BUT_AT_BIRTH: &[&str] = &["mount", "setresuid", "setresgid", "setsid"];

/// What only the front may do: take connections, send descriptors, make memory for others.
pub(crate) const NEVER_FOR_WORKER: &[&str] = &["accept4", "sendmsg", "memfd_create", "ftruncate"];

/// Opening, naming, starting threads, changing the cage: all of it is over when the first client is heard.
pub(crate) const NEVER_FOR_FRONT: &[&str] = &[
    "open",
    "openat",
    "stat",
    "lstat",
    "newfstatat",
    "statx",
    "statfs",
    "access",
    "faccessat",
    "faccessat2",
    "readlink",
    "readlinkat",
    "getdents",
    "getdents64",
    "chdir",
    "fchdir",
    "getcwd",
    "clone",
    "clone3",
    "unshare",
    "prctl",
    "seccomp",
    "landlock_*",
    "capset",
    "capget",
    "pivot_root",
    "umount2",
    "ioctl",
    "dup",
    "dup2",
    "dup3",
    "rt_sigaction",
    "arch_prctl",
    "prlimit64",
    "sched_setaffinity",
    "wait4",
    "waitid",
    "inotify_*",
    "epoll_create*",
    "eventfd*",
    "pipe",
    "pipe2",
];

/// Opening, naming, waiting on others, starting threads, changing the cage.
pub(crate) const NEVER_WHILE_SERVING: &[&str] = &[
    "open",
    "openat",
    "clone",
    "clone3",
    "unshare",
    "prctl",
    "seccomp",
    "landlock_*",
    "capset",
    "pivot_root",
    "umount2",
    "chdir",
    "fchdir",
    "ioctl",
    "fcntl",
    "dup",
    "dup2",
    "dup3",
    "recvmsg",
    "rt_sigaction",
    "sigaltstack",
    "rt_sigreturn",
    "arch_prctl",
    "sched_setaffinity",
    "prlimit64",
    "close",
];
