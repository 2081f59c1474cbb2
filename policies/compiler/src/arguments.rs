//! The arguments of a call by name, with their place and width: the words that a clause may use.
//!
//! A call without a line here can only be allowed with any arguments. The width is what the kernel compares: an `int` is
//! truncated by the kernel, so the filter must look at the low half alone; a pointer, a length or an `unsigned long` is
//! compared whole, or its high half would be a hole.

/// One argument of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Argument {
    /// The name used in policy files, as in the manual pages.
    pub name: &'static str,
    /// Its place, from 0.
    pub index: u8,
    /// Whether all 64 bits count.
    pub wide: bool,
}

/// The argument of that name, if the call has it.
pub(crate) fn find(call: &str, name: &str) -> Option<Argument> {
    let (_, words) = CALLS.iter().find(|(known, _)| *known == call)?;
    words.split(' ').zip(0..).find_map(|(word, index)| {
        let (known, width) = word.split_once(':')?;
        (known == name).then(|| Argument { name: known, index, wide: width == "64" })
    })
}

/// Call, then its arguments in order as `name:width`. The first four of `clone` are not the same on every CPU, so only
/// its first is named. `mmap` takes its `int`s as `unsigned long`, and looks at the low half of them.
const CALLS: &[(&str, &str)] = &[
    ("accept4", "fd:32 addr:64 addr_length:64 flags:32"),
    ("arch_prctl", "code:32 addr:64"),
    ("capget", "header:64 data:64"),
    ("capset", "header:64 data:64"),
    ("clock_gettime", "clock:32 time:64"),
    ("clock_nanosleep", "clock:32 flags:32 request:64 remain:64"),
    ("clone", "flags:64"),
    ("close", "fd:32"),
    ("dup3", "old:32 new:32 flags:32"),
    ("epoll_ctl", "epfd:32 op:32 fd:32 event:64"),
    ("epoll_pwait", "epfd:32 events:64 count:32 timeout:32 mask:64 size:64"),
    ("execveat", "dirfd:32 path:64 argv:64 envp:64 flags:32"),
    ("fallocate", "fd:32 mode:32 offset:64 length:64"),
    ("fcntl", "fd:32 cmd:32 arg:64"),
    ("flock", "fd:32 operation:32"),
    ("fstat", "fd:32 buf:64"),
    ("ftruncate", "fd:32 length:64"),
    ("futex", "uaddr:64 op:32 val:32 timeout:64 uaddr2:64 val3:32"),
    ("getsockopt", "fd:32 level:32 name:32 value:64 length:64"),
    ("ioctl", "fd:32 cmd:32 arg:64"),
    ("kill", "pid:32 signal:32"),
    ("landlock_create_ruleset", "attr:64 size:64 flags:32"),
    ("landlock_restrict_self", "fd:32 flags:32"),
    ("lseek", "fd:32 offset:64 whence:32"),
    ("madvise", "addr:64 length:64 advice:32"),
    ("memfd_create", "name:64 flags:32"),
    ("mmap", "addr:64 length:64 prot:32 flags:32 fd:32 offset:64"),
    ("mount", "source:64 target:64 type:64 flags:64 data:64"),
    ("mprotect", "addr:64 length:64 prot:32"),
    ("mremap", "old:64 old_length:64 new_length:64 flags:64 new:64"),
    ("munmap", "addr:64 length:64"),
    ("newfstatat", "dirfd:32 path:64 buf:64 flags:32"),
    ("open", "path:64 flags:32 mode:32"),
    ("openat", "dirfd:32 path:64 flags:32 mode:32"),
    ("pidfd_open", "pid:32 flags:32"),
    ("pivot_root", "new_root:64 put_old:64"),
    ("prctl", "option:32 arg2:64 arg3:64 arg4:64 arg5:64"),
    ("pread64", "fd:32 buf:64 count:64 offset:64"),
    ("prlimit64", "pid:32 resource:32 new:64 old:64"),
    ("ptrace", "request:64 pid:64 addr:64 data:64"),
    ("read", "fd:32 buf:64 count:64"),
    ("recvfrom", "fd:32 buf:64 length:64 flags:32 addr:64 addr_length:64"),
    ("recvmsg", "fd:32 message:64 flags:32"),
    ("rt_sigaction", "signal:32 new:64 old:64 size:64"),
    ("rt_sigprocmask", "how:32 new:64 old:64 size:64"),
    ("sched_setaffinity", "pid:32 length:64 mask:64"),
    ("seccomp", "op:32 flags:32 args:64"),
    ("sendmsg", "fd:32 message:64 flags:32"),
    ("sendto", "fd:32 buf:64 length:64 flags:32 addr:64 addr_length:32"),
    ("setns", "fd:32 type:32"),
    ("setsockopt", "fd:32 level:32 name:32 value:64 length:32"),
    ("shutdown", "fd:32 how:32"),
    ("socket", "family:32 type:32 protocol:32"),
    ("socketpair", "family:32 type:32 protocol:32 fds:64"),
    ("umount2", "target:64 flags:32"),
    ("unlinkat", "dirfd:32 path:64 flags:32"),
    ("unshare", "flags:64"),
    ("write", "fd:32 buf:64 count:64"),
    ("writev", "fd:32 iov:64 count:64"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_well_formed() {
        for (call, words) in CALLS {
            assert!(words.split(' ').count() <= 6, "{call}");
            for word in words.split(' ') {
                let (name, width) = word.split_once(':').unwrap();
                assert!(!name.is_empty() && (width == "32" || width == "64"), "{call}: {word}");
            }
        }
        assert!(CALLS.is_sorted_by_key(|(call, _)| *call));
    }

    #[test]
    fn pointers_are_compared_whole() {
        assert_eq!(find("sendto", "addr"), Some(Argument { name: "addr", index: 4, wide: true }));
        assert_eq!(find("sendto", "fd"), Some(Argument { name: "fd", index: 0, wide: false }));
        assert_eq!(find("sendto", "port"), None);
        assert_eq!(find("brk", "addr"), None);
    }
}
