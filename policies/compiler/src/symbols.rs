//! Constants by name, so that a policy says `PROT_EXEC` and not 4.
//!
//! Only constants that have one value on every CPU the house is built for stand here, since a policy may be compiled on
//! one and run on another: most `O_` flags differ, and are left out.

/// A name that this table does not hold.
#[derive(Debug, thiserror::Error)]
#[error("no constant is called `{0}`")]
pub struct UnknownSymbol(String);

/// The value of one name, or of several joined by `|`.
pub(crate) fn bits(names: &str) -> Result<u64, UnknownSymbol> {
    names.split('|').map(str::trim).try_fold(0, |so_far, name| {
        let found = SYMBOLS.iter().chain(MISSING_IN_LIBC).find(|(known, _)| *known == name);
        found.map(|(_, value)| so_far | value).ok_or_else(|| UnknownSymbol(name.into()))
    })
}

/// The number of an errno.
pub(crate) fn errno(name: &str) -> Result<u32, UnknownSymbol> {
    let found = ERRNOS.iter().find(|(known, _)| *known == name);
    found.map(|(_, number)| *number).ok_or_else(|| UnknownSymbol(name.into()))
}

macro_rules! named {
    ($kind:ty: $($name:ident)*) => { &[$((stringify!($name), libc::$name as $kind)),*] };
}

const SYMBOLS: &[(&str, u64)] = named![u64:
    PROT_READ PROT_WRITE PROT_EXEC
    MAP_SHARED MAP_PRIVATE MAP_FIXED MAP_ANONYMOUS MAP_NORESERVE MAP_STACK MAP_POPULATE MAP_HUGETLB MAP_LOCKED
    MAP_GROWSDOWN MREMAP_MAYMOVE MREMAP_FIXED
    MADV_NORMAL MADV_WILLNEED MADV_DONTNEED MADV_FREE MADV_HUGEPAGE MADV_NOHUGEPAGE
    FUTEX_WAIT FUTEX_WAKE FUTEX_REQUEUE FUTEX_CMP_REQUEUE FUTEX_WAKE_OP FUTEX_WAIT_BITSET FUTEX_WAKE_BITSET
    FUTEX_PRIVATE_FLAG FUTEX_CLOCK_REALTIME
    CLONE_VM CLONE_FS CLONE_FILES CLONE_SIGHAND CLONE_PTRACE CLONE_VFORK CLONE_PARENT CLONE_THREAD CLONE_SYSVSEM
    CLONE_SETTLS CLONE_PARENT_SETTID CLONE_CHILD_CLEARTID CLONE_UNTRACED CLONE_CHILD_SETTID
    CLONE_NEWNS CLONE_NEWCGROUP CLONE_NEWUTS CLONE_NEWIPC CLONE_NEWUSER CLONE_NEWPID CLONE_NEWNET CLONE_IO CLONE_PIDFD
    PTRACE_CONT PTRACE_GETREGSET PTRACE_GETEVENTMSG PTRACE_SEIZE PTRACE_LISTEN
    AF_UNIX AF_INET AF_INET6 AF_NETLINK SOCK_STREAM SOCK_DGRAM SOCK_SEQPACKET SOCK_CLOEXEC SOCK_NONBLOCK
    SOL_SOCKET SO_ERROR SO_PEERCRED SO_RCVTIMEO SO_SNDTIMEO SHUT_RD SHUT_WR SHUT_RDWR IPPROTO_TCP TCP_NODELAY
    EPOLL_CTL_ADD EPOLL_CTL_DEL EPOLL_CTL_MOD SIGKILL SIGCHLD
    MSG_OOB MSG_PEEK MSG_DONTWAIT MSG_NOSIGNAL MSG_TRUNC MSG_CMSG_CLOEXEC MSG_WAITALL
    O_ACCMODE O_RDONLY O_WRONLY O_RDWR O_CREAT O_EXCL O_TRUNC O_APPEND O_CLOEXEC O_NONBLOCK
    F_DUPFD F_DUPFD_CLOEXEC F_GETFD F_SETFD F_GETFL F_SETFL F_GETPIPE_SZ F_SETPIPE_SZ F_GET_SEALS F_ADD_SEALS
    TCGETS FIONBIO FIONREAD MNT_DETACH AT_REMOVEDIR
    FALLOC_FL_KEEP_SIZE FALLOC_FL_PUNCH_HOLE
    MS_RDONLY MS_NOSUID MS_NODEV MS_NOEXEC MS_REMOUNT MS_BIND
    SEEK_SET SEEK_CUR SEEK_END MFD_CLOEXEC MFD_ALLOW_SEALING MFD_NOEXEC_SEAL
    SIG_BLOCK SIG_UNBLOCK SIG_SETMASK
    CLOCK_REALTIME CLOCK_MONOTONIC LOCK_UN
    PR_SET_NAME PR_GET_NAME PR_SET_DUMPABLE PR_GET_DUMPABLE PR_SET_NO_NEW_PRIVS PR_GET_NO_NEW_PRIVS
    PR_GET_SECCOMP PR_CAPBSET_READ PR_CAPBSET_DROP PR_GET_SECUREBITS PR_SET_SECUREBITS PR_CAP_AMBIENT
    PR_CAP_AMBIENT_IS_SET PR_CAP_AMBIENT_CLEAR_ALL
    PR_GET_SPECULATION_CTRL PR_SET_SPECULATION_CTRL PR_SCHED_CORE
    PR_SET_PDEATHSIG PR_GET_MDWE PR_SET_MDWE PR_SET_VMA PR_SET_CHILD_SUBREAPER
    SECCOMP_SET_MODE_FILTER SECCOMP_FILTER_FLAG_TSYNC
];

const MISSING_IN_LIBC: &[(&str, u64)] = &[
    // include/uapi/asm-generic/mman-common.h, 6.13; glibc 2.42 guards thread stacks with it.
    ("MADV_GUARD_INSTALL", 102),
    // arch/x86/include/uapi/asm/prctl.h.
    ("ARCH_SET_FS", 0x1002),
    ("ARCH_CET_STATUS", 0x3001),
    ("ARCH_SHSTK_ENABLE", 0x5001),
    ("ARCH_SHSTK_DISABLE", 0x5002),
    ("ARCH_SHSTK_LOCK", 0x5003),
    ("ARCH_SHSTK_STATUS", 0x5005),
    ("ARCH_GET_XCOMP_SUPP", 0x1021),
    ("ARCH_GET_XCOMP_PERM", 0x1022),
    ("ARCH_REQ_XCOMP_PERM", 0x1023),
    // include/uapi/linux/sched.h; only unshare and clone3 take it.
    ("CLONE_NEWTIME", 0x80),
    // include/uapi/linux/prctl.h; kernels that can checkpoint have it.
    ("PR_GET_TID_ADDRESS", 40),
    // arch/x86/include/uapi/asm/ptrace-abi.h; Arm has no such request, and answers EIO.
    ("PTRACE_GETREGS", 12),
    // include/uapi/linux/landlock.h: asks for the version, creates nothing.
    ("LANDLOCK_CREATE_RULESET_VERSION", 1),
    ("LANDLOCK_CREATE_RULESET_ERRATA", 2),
];

const ERRNOS: &[(&str, u32)] = named![u32: EPERM ENOENT EBADF EAGAIN ENOMEM EACCES EINVAL ENOTTY ENOSYS EOPNOTSUPP];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_join() {
        assert_eq!(bits("PROT_READ | PROT_EXEC").unwrap(), 5);
        assert_eq!(bits("FUTEX_WAIT_BITSET|FUTEX_PRIVATE_FLAG|FUTEX_CLOCK_REALTIME").unwrap(), 0x189);
        assert_eq!(errno("ENOSYS").unwrap(), 38);
    }

    #[test]
    fn an_unknown_name_is_named() {
        assert!(bits("PROT_READ|PROT_NOTHING").unwrap_err().to_string().contains("PROT_NOTHING"));
        assert!(errno("EWHAT").is_err());
    }
}
