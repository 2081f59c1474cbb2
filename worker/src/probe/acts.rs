//! The acts themselves: each a call or two, with arguments that do no harm.

use std::ffi::CStr;

use libc::{self as c, c_long};

use super::{Act, Mechanism, Probe};
use crate::engine::script::Moment;
use crate::engine::shim::{self, Arg, ZERO};

pub(super) const ALL: &[Probe] = &[
    // --- files -----------------------------------------------------------------------------------------------------
    #[cfg(target_arch = "x86_64")]
    probe("open", c::SYS_open, || call(c::SYS_open, [text(c"/etc/passwd"), n(c::O_RDONLY)])),
    probe("openat", c::SYS_openat, || openat(c"/etc/passwd", c::O_RDONLY)),
    // A file without a name, which goes with the process.
    probe("openat-create", c::SYS_openat, || openat(c"/tmp", c::O_WRONLY | c::O_TMPFILE)),
    probe("openat-own-memory", c::SYS_openat, || openat(c"/proc/self/mem", c::O_RDWR)),
    probe("openat-root", c::SYS_openat, || openat(c"/", c::O_RDONLY | c::O_DIRECTORY)),
    probe("openat2", c::SYS_openat2, || {
        // struct open_how { flags, mode, resolve }
        call(c::SYS_openat2, [cwd(), text(c"/etc/passwd"), Arg::Words(&[0, 0, 0]), Arg::Number(24)])
    }),
    probe("newfstatat", c::SYS_newfstatat, || {
        let mut stat = [0; 256];
        call(c::SYS_newfstatat, [cwd(), text(c"/etc/passwd"), Arg::Room(&mut stat), n(0)])
    }),
    probe("readlinkat", c::SYS_readlinkat, || {
        let mut link = [0; 256];
        call(c::SYS_readlinkat, [cwd(), text(c"/proc/self/exe"), Arg::Room(&mut link), Arg::Number(256)])
    }),
    probe("getcwd", c::SYS_getcwd, || {
        let mut path = [0; 256];
        call(c::SYS_getcwd, [Arg::Room(&mut path), Arg::Number(256)])
    }),
    probe("chdir", c::SYS_chdir, || call(c::SYS_chdir, [text(c"/")])),
    probe("mkdirat", c::SYS_mkdirat, || call(c::SYS_mkdirat, [cwd(), text(c"/proc/casemate-probe"), n(0o700)])),
    probe("unlinkat", c::SYS_unlinkat, || call(c::SYS_unlinkat, [cwd(), text(c"/proc/casemate-probe"), n(0)])),
    probe("renameat2", c::SYS_renameat2, || {
        let (from, to) = (text(c"/proc/casemate-probe"), text(c"/proc/casemate-probe-2"));
        call(c::SYS_renameat2, [cwd(), from, cwd(), to, n(0)])
    }),
    probe("name-to-handle-at", c::SYS_name_to_handle_at, || {
        let (mut handle, mut mount) = ([0; 256], [0; 8]);
        handle[0] = 128;
        let out = [Arg::Room(&mut handle), Arg::Room(&mut mount)];
        let [handle, mount] = out;
        call(c::SYS_name_to_handle_at, [cwd(), text(c"/"), handle, mount, n(0)])
    }),
    probe("open-by-handle-at", c::SYS_open_by_handle_at, || {
        let handle = [8u8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        call(c::SYS_open_by_handle_at, [cwd(), Arg::Bytes(&handle), n(c::O_RDONLY)])
    }),
    probe("memfd-create", c::SYS_memfd_create, || call(c::SYS_memfd_create, [text(c"probe"), n(0)])),
    probe("ftruncate", c::SYS_ftruncate, || call(c::SYS_ftruncate, [n(3), n(0)])),
    probe("quotactl", c::SYS_quotactl, || call(c::SYS_quotactl, [Arg::Number(0x8000_0700), ZERO, ZERO, ZERO])),
    probe("inotify-init1", c::SYS_inotify_init1, || call(c::SYS_inotify_init1, [n(0)])),
    probe("fanotify-init", c::SYS_fanotify_init, || call(c::SYS_fanotify_init, [n(0), n(0)])),
    // --- network and descriptors -----------------------------------------------------------------------------------
    probe("connect-tcp", c::SYS_socket, || {
        // 127.0.0.1, port 1: nobody listens, and the answer is a refusal.
        let address = [2, 0, 0, 1, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        connect(c::AF_INET, &address)
    }),
    probe("socket-udp", c::SYS_socket, || socket(c::AF_INET, c::SOCK_DGRAM)),
    probe("connect-unix", c::SYS_socket, || connect(c::AF_UNIX, b"\x01\x00/run/casemate-probe\x00")),
    probe("connect-abstract", c::SYS_socket, || connect(c::AF_UNIX, b"\x01\x00\x00casemate-probe")),
    probe("socket-netlink", c::SYS_socket, || socket(c::AF_NETLINK, c::SOCK_RAW)),
    probe("socket-vsock", c::SYS_socket, || socket(40, c::SOCK_STREAM)),
    probe("socketpair", c::SYS_socketpair, || {
        let mut pair = [0; 8];
        call(c::SYS_socketpair, [n(c::AF_UNIX), n(c::SOCK_STREAM), n(0), Arg::Room(&mut pair)])
    }),
    probe("pipe2", c::SYS_pipe2, || {
        let mut pair = [0; 8];
        call(c::SYS_pipe2, [Arg::Room(&mut pair), n(0)])
    }),
    prepared("sendmsg-descriptors", c::SYS_sendmsg, channel, || {
        // One byte, and beside it descriptor 3 itself (SCM_RIGHTS).
        let byte = [0u8];
        let iov = [byte.as_ptr() as u64, 1];
        let rights = [20u64, 1 << 32 | 1, 3];
        let message = [0, 0, iov.as_ptr() as u64, 1, rights.as_ptr() as u64, 24, 0];
        call(c::SYS_sendmsg, [n(3), Arg::Words(&message), n(0)])
    }),
    prepared("recvmsg", c::SYS_recvmsg, channel, || {
        call(c::SYS_recvmsg, [n(3), Arg::Words(&[0; 7]), n(c::MSG_DONTWAIT)])
    }),
    prepared("sendto-address", c::SYS_sendto, channel, || {
        let address = Arg::Bytes(b"\x01\x00\x00casemate-probe");
        call(c::SYS_sendto, [n(3), Arg::Bytes(b"x"), n(1), n(0), address, n(17)])
    }),
    prepared("read-channel", c::SYS_read, channel, || {
        let mut byte = [0];
        call(c::SYS_read, [n(3), Arg::Room(&mut byte), n(0)])
    }),
    prepared("getsockopt-peer", c::SYS_getsockopt, channel, || {
        let (mut peer, mut length) = ([0; 12], 12u32.to_le_bytes());
        let out = [Arg::Room(&mut peer), Arg::Room(&mut length)];
        let [peer, length] = out;
        call(c::SYS_getsockopt, [n(3), n(c::SOL_SOCKET), n(c::SO_PEERCRED), peer, length])
    }),
    probe("write-elsewhere", c::SYS_write, || call(c::SYS_write, [n(0), Arg::Bytes(b""), n(0)])),
    probe("dup", c::SYS_dup, || call(c::SYS_dup, [n(1)])),
    probe("fcntl-setfl", c::SYS_fcntl, || call(c::SYS_fcntl, [n(1), n(c::F_GETFL), n(0)])),
    probe("epoll-create1", c::SYS_epoll_create1, || call(c::SYS_epoll_create1, [n(0)])),
    probe("eventfd2", c::SYS_eventfd2, || call(c::SYS_eventfd2, [n(0), n(0)])),
    probe("ioctl-tiocsti", c::SYS_ioctl, || call(c::SYS_ioctl, [n(0), Arg::Number(0x5412), Arg::Bytes(b"x")])),
    // --- processes -------------------------------------------------------------------------------------------------
    #[cfg(target_arch = "x86_64")]
    probe("fork", c::SYS_fork, || shim::birth(c::SYS_fork, words([]))),
    #[cfg(target_arch = "x86_64")]
    probe("vfork", c::SYS_vfork, || shim::birth(c::SYS_vfork, words([]))),
    probe("clone-process", c::SYS_clone, || shim::birth(c::SYS_clone, words([n(c::SIGCHLD)]))),
    probe("clone-thread", c::SYS_clone, || {
        shim::birth(c::SYS_clone, words([n(c::CLONE_VM | c::CLONE_SIGHAND | c::CLONE_THREAD)]))
    }),
    probe("clone3", c::SYS_clone3, || {
        // struct clone_args, 64 bytes: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls
        shim::birth(c::SYS_clone3, words([Arg::Words(&[0, 0, 0, 0, 17, 0, 0, 0]), Arg::Number(64)]))
    }),
    probe("execve", c::SYS_execve, || {
        // The program that would take over says what this one cannot say any more.
        with_line("execve", |argv| call(c::SYS_execve, [text(c"/bin/echo"), Arg::Words(argv), Arg::Words(&[0])]))
    }),
    probe("execveat", c::SYS_execveat, || {
        let argv =
            |argv: &[u64]| call(c::SYS_execveat, [cwd(), text(c"/bin/echo"), Arg::Words(argv), Arg::Words(&[0]), n(0)]);
        with_line("execveat", argv)
    }),
    probe("execveat-memory", c::SYS_memfd_create, || {
        let file = call(c::SYS_memfd_create, [text(c"probe"), n(0)]);
        if file < 0 {
            return file;
        }
        // An empty file is no program: the answer is ENOEXEC where it is reached.
        let arguments = [Arg::Number(file as u64), text(c""), Arg::Words(&[0]), Arg::Words(&[0]), n(c::AT_EMPTY_PATH)];
        call(c::SYS_execveat, arguments)
    }),
    probe("kill-all", c::SYS_kill, || call(c::SYS_kill, [n(-1), n(0)])),
    probe("kill-first", c::SYS_kill, || call(c::SYS_kill, [n(1), n(0)])),
    probe("tgkill-other", c::SYS_tgkill, || call(c::SYS_tgkill, [n(1), n(1), n(0)])),
    probe("tkill", c::SYS_tkill, || call(c::SYS_tkill, [n(1), n(0)])),
    probe("rt-sigqueueinfo", c::SYS_rt_sigqueueinfo, || {
        call(c::SYS_rt_sigqueueinfo, [n(1), n(0), Arg::Bytes(&[0; 128])])
    }),
    probe("pidfd-open", c::SYS_pidfd_open, || call(c::SYS_pidfd_open, [n(1), n(0)])),
    probe("pidfd-getfd", c::SYS_pidfd_getfd, || call(c::SYS_pidfd_getfd, [n(3), n(0), n(0)])),
    probe("ptrace", c::SYS_ptrace, || call(c::SYS_ptrace, [n(0)])),
    probe("process-vm-readv", c::SYS_process_vm_readv, || {
        call(c::SYS_process_vm_readv, [n(1), ZERO, n(0), ZERO, n(0), n(0)])
    }),
    probe("process-vm-writev", c::SYS_process_vm_writev, || {
        call(c::SYS_process_vm_writev, [n(1), ZERO, n(0), ZERO, n(0), n(0)])
    }),
    probe("process-madvise", c::SYS_process_madvise, || call(c::SYS_process_madvise, [n(3), ZERO, n(0), n(0), n(0)])),
    probe("kcmp", c::SYS_kcmp, || call(c::SYS_kcmp, [n(1), n(1), n(0), n(0), n(0)])),
    probe("sched-setaffinity", c::SYS_sched_setaffinity, || {
        call(c::SYS_sched_setaffinity, [n(0), n(8), Arg::Bytes(&[0xff; 8])])
    }),
    probe("setpriority", c::SYS_setpriority, || call(c::SYS_setpriority, [n(0), n(0), n(0)])),
    probe("prlimit64", c::SYS_prlimit64, || call(c::SYS_prlimit64, [n(0), n(7), ZERO, ZERO])),
    probe("rt-sigaction", c::SYS_rt_sigaction, || call(c::SYS_rt_sigaction, [n(10), ZERO, ZERO, n(8)])),
    probe("timer-create", c::SYS_timer_create, || {
        let mut timer = [0; 8];
        call(c::SYS_timer_create, [n(0), ZERO, Arg::Room(&mut timer)])
    }),
    probe("getpid", c::SYS_getpid, || call(c::SYS_getpid, [])),
    // --- namespaces and mounts -------------------------------------------------------------------------------------
    prepared("mount", c::SYS_mount, own_mounts, || {
        call(c::SYS_mount, [text(c"none"), text(c"/tmp"), text(c"tmpfs"), n(0), ZERO])
    }),
    prepared("umount2", c::SYS_umount2, own_mounts, || call(c::SYS_umount2, [text(c"/proc"), n(c::MNT_DETACH)])),
    prepared("fsopen", c::SYS_fsopen, own_mounts, || call(c::SYS_fsopen, [text(c"tmpfs"), n(0)])),
    probe("open-tree", c::SYS_open_tree, || call(c::SYS_open_tree, [cwd(), text(c"/"), n(0)])),
    prepared("pivot-root", c::SYS_pivot_root, own_mounts, || call(c::SYS_pivot_root, [text(c"/"), text(c"/")])),
    probe("chroot", c::SYS_chroot, || call(c::SYS_chroot, [text(c"/")])),
    probe("unshare-user", c::SYS_unshare, || call(c::SYS_unshare, [n(c::CLONE_NEWUSER)])),
    probe("unshare-net", c::SYS_unshare, || call(c::SYS_unshare, [n(c::CLONE_NEWNET)])),
    probe("setns", c::SYS_setns, || call(c::SYS_setns, [n(0), n(0)])),
    prepared("sethostname", c::SYS_sethostname, own_mounts, || call(c::SYS_sethostname, [Arg::Bytes(b"probe"), n(5)])),
    // --- privileges ------------------------------------------------------------------------------------------------
    probe("setuid", c::SYS_setuid, || call(c::SYS_setuid, [n(0)])),
    probe("setresuid", c::SYS_setresuid, || call(c::SYS_setresuid, [n(0), n(0), n(0)])),
    probe("setgroups", c::SYS_setgroups, || call(c::SYS_setgroups, [n(0), ZERO])),
    probe("capset", c::SYS_capset, || {
        // _LINUX_CAPABILITY_VERSION_3, this process; all sets empty.
        let header = [0x22, 0x05, 0x08, 0x20, 0, 0, 0, 0];
        call(c::SYS_capset, [Arg::Bytes(&header), Arg::Bytes(&[0; 24])])
    }),
    probe("prctl-dumpable", c::SYS_prctl, || call(c::SYS_prctl, [n(c::PR_SET_DUMPABLE), n(1), ZERO, ZERO, ZERO])),
    probe("prctl-ptracer", c::SYS_prctl, || call(c::SYS_prctl, [n(c::PR_SET_PTRACER), n(-1), ZERO, ZERO, ZERO])),
    probe("seccomp", c::SYS_seccomp, || call(c::SYS_seccomp, [n(2), n(0), Arg::Bytes(&[0; 4])])),
    probe("personality", c::SYS_personality, || call(c::SYS_personality, [Arg::Number(0xffff_ffff)])),
    // --- the kernel itself -----------------------------------------------------------------------------------------
    probe("bpf", c::SYS_bpf, || call(c::SYS_bpf, [n(0), Arg::Bytes(&[0; 128]), n(128)])),
    probe("io-uring-setup", c::SYS_io_uring_setup, || {
        let mut parameters = [0; 120];
        call(c::SYS_io_uring_setup, [n(1), Arg::Room(&mut parameters)])
    }),
    probe("userfaultfd", c::SYS_userfaultfd, || call(c::SYS_userfaultfd, [n(c::O_NONBLOCK)])),
    probe("perf-event-open", c::SYS_perf_event_open, || {
        let mut attributes = [0u8; 128];
        attributes[0] = 1; // PERF_TYPE_SOFTWARE
        attributes[4] = 128;
        call(c::SYS_perf_event_open, [Arg::Bytes(&attributes), n(0), n(-1), n(-1), n(0)])
    }),
    probe("keyctl", c::SYS_keyctl, || call(c::SYS_keyctl, [n(0), n(-3), n(0), ZERO, ZERO])),
    probe("add-key", c::SYS_add_key, || {
        call(c::SYS_add_key, [text(c"user"), text(c"casemate-probe"), Arg::Bytes(b"x"), n(1), n(-1)])
    }),
    probe("init-module", c::SYS_init_module, || call(c::SYS_init_module, [ZERO, n(0), text(c"")])),
    probe("finit-module", c::SYS_finit_module, || call(c::SYS_finit_module, [n(0), text(c""), n(0)])),
    probe("kexec-load", c::SYS_kexec_load, || call(c::SYS_kexec_load, [n(0), n(0), ZERO, Arg::Number(u64::MAX)])),
    // Wrong magic numbers: an errno wherever it is reached.
    probe("reboot", c::SYS_reboot, || call(c::SYS_reboot, [n(0), n(0), n(0), ZERO])),
    probe("swapon", c::SYS_swapon, || call(c::SYS_swapon, [text(c"/proc/casemate-probe"), n(0)])),
    probe("syslog", c::SYS_syslog, || call(c::SYS_syslog, [n(10), ZERO, n(0)])),
    probe("acct", c::SYS_acct, || call(c::SYS_acct, [text(c"/proc/casemate-probe")])),
    probe("clock-settime", c::SYS_clock_settime, || call(c::SYS_clock_settime, [n(0), Arg::Words(&[0, u64::MAX])])),
    #[cfg(target_arch = "x86_64")]
    probe("iopl", c::SYS_iopl, || call(c::SYS_iopl, [n(0)])),
    #[cfg(target_arch = "x86_64")]
    probe("modify-ldt", c::SYS_modify_ldt, || {
        let mut table = [0; 16];
        call(c::SYS_modify_ldt, [n(0), Arg::Room(&mut table), n(16)])
    }),
    #[cfg(target_arch = "x86_64")]
    Probe { by: Mechanism::Door, ..probe("x32-getpid", X32_GETPID, || call(X32_GETPID, [])) },
    #[cfg(target_arch = "x86_64")]
    Probe { by: Mechanism::Door, ..probe("int80-getpid", INT80_GETPID, shim::int80_getpid) },
    // --- memory ----------------------------------------------------------------------------------------------------
    probe("mmap-exec", c::SYS_mmap, || pages(c::PROT_READ | c::PROT_EXEC, c::MAP_PRIVATE | c::MAP_ANONYMOUS, -1)),
    probe("mmap-write-exec", c::SYS_mmap, || {
        pages(c::PROT_READ | c::PROT_WRITE | c::PROT_EXEC, c::MAP_PRIVATE | c::MAP_ANONYMOUS, -1)
    }),
    probe("mmap-shared", c::SYS_mmap, || pages(c::PROT_READ | c::PROT_WRITE, c::MAP_SHARED | c::MAP_ANONYMOUS, -1)),
    probe("mmap-file", c::SYS_mmap, || pages(c::PROT_READ, c::MAP_PRIVATE, 1)),
    probe("mprotect-exec", c::SYS_mprotect, || {
        let page = pages(c::PROT_READ | c::PROT_WRITE, c::MAP_PRIVATE | c::MAP_ANONYMOUS, -1);
        if page < 0 {
            return page;
        }
        call(c::SYS_mprotect, [Arg::Number(page as u64), n(PAGE), n(c::PROT_READ | c::PROT_EXEC)])
    }),
    probe("mprotect-write-exec", c::SYS_mprotect, || {
        let page = pages(c::PROT_READ | c::PROT_WRITE, c::MAP_PRIVATE | c::MAP_ANONYMOUS, -1);
        if page < 0 {
            return page;
        }
        call(c::SYS_mprotect, [Arg::Number(page as u64), n(PAGE), n(c::PROT_READ | c::PROT_WRITE | c::PROT_EXEC)])
    }),
    probe("pkey-mprotect-exec", c::SYS_pkey_mprotect, || {
        let page = pages(c::PROT_READ | c::PROT_WRITE, c::MAP_PRIVATE | c::MAP_ANONYMOUS, -1);
        if page < 0 {
            return page;
        }
        call(c::SYS_pkey_mprotect, [Arg::Number(page as u64), n(PAGE), n(c::PROT_READ | c::PROT_EXEC), n(-1)])
    }),
    // A key that nobody has: asked for, not made.
    probe("shmget", c::SYS_shmget, || call(c::SYS_shmget, [n(NO_KEY), n(PAGE), n(0)])),
    probe("msgget", c::SYS_msgget, || call(c::SYS_msgget, [n(NO_KEY), n(0)])),
    probe("semget", c::SYS_semget, || call(c::SYS_semget, [n(NO_KEY), n(1), n(0)])),
    probe("mq-open", c::SYS_mq_open, || call(c::SYS_mq_open, [text(c"casemate-probe"), n(c::O_RDONLY), n(0), ZERO])),
];

const PAGE: i32 = 4096;
const NO_KEY: i32 = 0x0c_a5_e0_07;
/// `getpid` of the x32 table: the same number, with a bit beside it.
#[cfg(target_arch = "x86_64")]
const X32_GETPID: c_long = c::SYS_getpid | 0x4000_0000;
/// `getpid` of the 32-bit table.
#[cfg(target_arch = "x86_64")]
const INT80_GETPID: c_long = 20;

/// An act that must be stopped at this call.
pub(super) const fn probe(name: &'static str, stop: c_long, act: fn() -> i64) -> Probe {
    Probe { name, at: Moment::Run, by: Mechanism::Seccomp, stop: Some(stop), act: Act::Alone(act), prepare: None }
}

const fn prepared(name: &'static str, stop: c_long, prepare: fn(), act: fn() -> i64) -> Probe {
    Probe { prepare: Some(prepare), ..probe(name, stop, act) }
}

pub(super) fn call<const N: usize>(number: c_long, arguments: [Arg<'_>; N]) -> i64 {
    shim::call(number, words(arguments))
}

fn words<'a, const N: usize>(arguments: [Arg<'a>; N]) -> [Arg<'a>; 6] {
    let mut given = arguments.into_iter();
    std::array::from_fn(|_| given.next().unwrap_or(ZERO))
}

fn text(text: &CStr) -> Arg<'_> {
    Arg::Text(text)
}

/// A number as C would pass it: with its sign.
pub(super) fn n(number: i32) -> Arg<'static> {
    Arg::Number(i64::from(number).cast_unsigned())
}

fn cwd() -> Arg<'static> {
    n(c::AT_FDCWD)
}

fn openat(path: &CStr, flags: i32) -> i64 {
    call(c::SYS_openat, [cwd(), text(path), n(flags), n(0o600)])
}

fn socket(family: i32, kind: i32) -> i64 {
    call(c::SYS_socket, [n(family), n(kind), n(0)])
}

fn connect(family: i32, address: &[u8]) -> i64 {
    let socket = socket(family, c::SOCK_STREAM);
    if socket < 0 {
        return socket;
    }
    call(c::SYS_connect, [Arg::Number(socket as u64), Arg::Bytes(address), Arg::Number(address.len() as u64)])
}

fn pages(protection: i32, flags: i32, fd: i32) -> i64 {
    call(c::SYS_mmap, [ZERO, n(PAGE), n(protection), n(flags), n(fd), n(0)])
}

/// `echo`'s arguments, which say the line that this process cannot say once it has become `echo`.
fn with_line(name: &str, exec: impl FnOnce(&[u64]) -> i64) -> i64 {
    let line = format!("probe {name} returned 0 errno 0\0");
    exec(&[c"echo".as_ptr() as u64, line.as_ptr() as u64, 0])
}

/// A socket at 3, as a worker has one.
fn channel() {
    let mut pair = [0; 8];
    call(c::SYS_socketpair, [n(c::AF_UNIX), n(c::SOCK_SEQPACKET), n(0), Arg::Room(&mut pair)]);
    let end = i32::from_le_bytes([pair[0], pair[1], pair[2], pair[3]]);
    call(c::SYS_dup3, [n(end), n(3), n(0)]);
}

/// A mount namespace and a host name of its own, from which nothing comes back to the host.
fn own_mounts() {
    call(c::SYS_unshare, [n(c::CLONE_NEWNS | c::CLONE_NEWUTS)]);
    call(c::SYS_mount, [text(c"none"), text(c"/"), ZERO, Arg::Number(c::MS_REC | c::MS_PRIVATE), ZERO]);
}
