//! The acts themselves: each a call or two, with arguments that do no harm.

use std::ffi::CStr;

use libc::{self as c, c_long};

use super::{Act, Mechanism, Probe};
use crate::engine::script::Moment;
use crate::engine::shim::{self, Arg, ZERO};

pub(super) const ALL: &[Probe] = &[
    // --- files -----------------------------------------------------------------------------------------------------
    #[cfg(target_arch = "x86_64")]
    probe("open", || call(c::SYS_open, [text(c"/etc/passwd"), n(c::O_RDONLY)])),
    probe("openat", || openat(c"/etc/passwd", c::O_RDONLY)),
    // A file without a name, which goes with the process.
    probe("openat-create", || openat(c"/tmp", c::O_WRONLY | c::O_TMPFILE)),
    probe("openat-own-memory", || openat(c"/proc/self/mem", c::O_RDWR)),
    probe("openat-root", || openat(c"/", c::O_RDONLY | c::O_DIRECTORY)),
    probe("openat2", || {
        // struct open_how { flags, mode, resolve }
        call(c::SYS_openat2, [cwd(), text(c"/etc/passwd"), Arg::Words(&[0, 0, 0]), Arg::Number(24)])
    }),
    probe("newfstatat", || {
        let mut stat = [0; 256];
        call(c::SYS_newfstatat, [cwd(), text(c"/etc/passwd"), Arg::Room(&mut stat), n(0)])
    }),
    probe("readlinkat", || {
        let mut link = [0; 256];
        call(c::SYS_readlinkat, [cwd(), text(c"/proc/self/exe"), Arg::Room(&mut link), Arg::Number(256)])
    }),
    probe("getcwd", || {
        let mut path = [0; 256];
        call(c::SYS_getcwd, [Arg::Room(&mut path), Arg::Number(256)])
    }),
    probe("chdir", || call(c::SYS_chdir, [text(c"/")])),
    probe("mkdirat", || call(c::SYS_mkdirat, [cwd(), text(c"/proc/casemate-probe"), n(0o700)])),
    probe("unlinkat", || call(c::SYS_unlinkat, [cwd(), text(c"/proc/casemate-probe"), n(0)])),
    probe("renameat2", || {
        let (from, to) = (text(c"/proc/casemate-probe"), text(c"/proc/casemate-probe-2"));
        call(c::SYS_renameat2, [cwd(), from, cwd(), to, n(0)])
    }),
    probe("name-to-handle-at", || {
        let (mut handle, mut mount) = ([0; 256], [0; 8]);
        handle[0] = 128;
        let out = [Arg::Room(&mut handle), Arg::Room(&mut mount)];
        let [handle, mount] = out;
        call(c::SYS_name_to_handle_at, [cwd(), text(c"/"), handle, mount, n(0)])
    }),
    probe("open-by-handle-at", || {
        let handle = [8u8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        call(c::SYS_open_by_handle_at, [cwd(), Arg::Bytes(&handle), n(c::O_RDONLY)])
    }),
    probe("memfd-create", || call(c::SYS_memfd_create, [text(c"probe"), n(0)])),
    probe("ftruncate", || call(c::SYS_ftruncate, [n(3), n(0)])),
    probe("quotactl", || call(c::SYS_quotactl, [Arg::Number(0x8000_0700), ZERO, ZERO, ZERO])),
    probe("inotify-init1", || call(c::SYS_inotify_init1, [n(0)])),
    probe("fanotify-init", || call(c::SYS_fanotify_init, [n(0), n(0)])),
    // --- network and descriptors -----------------------------------------------------------------------------------
    probe("connect-tcp", || {
        // 127.0.0.1, port 1: nobody listens, and the answer is a refusal.
        let address = [2, 0, 0, 1, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        connect(c::AF_INET, &address)
    }),
    probe("socket-udp", || socket(c::AF_INET, c::SOCK_DGRAM)),
    probe("connect-unix", || connect(c::AF_UNIX, b"\x01\x00/run/casemate-probe\x00")),
    probe("connect-abstract", || connect(c::AF_UNIX, b"\x01\x00\x00casemate-probe")),
    probe("socket-netlink", || socket(c::AF_NETLINK, c::SOCK_RAW)),
    probe("socket-vsock", || socket(40, c::SOCK_STREAM)),
    probe("socketpair", || {
        let mut pair = [0; 8];
        call(c::SYS_socketpair, [n(c::AF_UNIX), n(c::SOCK_STREAM), n(0), Arg::Room(&mut pair)])
    }),
    probe("pipe2", || {
        let mut pair = [0; 8];
        call(c::SYS_pipe2, [Arg::Room(&mut pair), n(0)])
    }),
    prepared("sendmsg-descriptors", channel, || {
        // One byte, and beside it descriptor 3 itself (SCM_RIGHTS).
        let byte = [0u8];
        let iov = [byte.as_ptr() as u64, 1];
        let rights = [20u64, 1 << 32 | 1, 3];
        let message = [0, 0, iov.as_ptr() as u64, 1, rights.as_ptr() as u64, 24, 0];
        call(c::SYS_sendmsg, [n(3), Arg::Words(&message), n(0)])
    }),
    prepared("recvmsg", channel, || call(c::SYS_recvmsg, [n(3), Arg::Words(&[0; 7]), n(c::MSG_DONTWAIT)])),
    prepared("sendto-address", channel, || {
        let address = Arg::Bytes(b"\x01\x00\x00casemate-probe");
        call(c::SYS_sendto, [n(3), Arg::Bytes(b"x"), n(1), n(0), address, n(17)])
    }),
    prepared("read-channel", channel, || {
        let mut byte = [0];
        call(c::SYS_read, [n(3), Arg::Room(&mut byte), n(0)])
    }),
    prepared("getsockopt-peer", channel, || {
        let (mut peer, mut length) = ([0; 12], 12u32.to_le_bytes());
        let out = [Arg::Room(&mut peer), Arg::Room(&mut length)];
        let [peer, length] = out;
        call(c::SYS_getsockopt, [n(3), n(c::SOL_SOCKET), n(c::SO_PEERCRED), peer, length])
    }),
    probe("write-elsewhere", || call(c::SYS_write, [n(0), Arg::Bytes(b""), n(0)])),
    probe("dup", || call(c::SYS_dup, [n(1)])),
    probe("fcntl-setfl", || call(c::SYS_fcntl, [n(1), n(c::F_GETFL), n(0)])),
    probe("epoll-create1", || call(c::SYS_epoll_create1, [n(0)])),
    probe("eventfd2", || call(c::SYS_eventfd2, [n(0), n(0)])),
    probe("ioctl-tiocsti", || call(c::SYS_ioctl, [n(0), Arg::Number(0x5412), Arg::Bytes(b"x")])),
    // --- processes -------------------------------------------------------------------------------------------------
    #[cfg(target_arch = "x86_64")]
    probe("fork", || shim::birth(c::SYS_fork, words([]))),
    #[cfg(target_arch = "x86_64")]
    probe("vfork", || shim::birth(c::SYS_vfork, words([]))),
    probe("clone-process", || shim::birth(c::SYS_clone, words([n(c::SIGCHLD)]))),
    probe("clone-thread", || shim::birth(c::SYS_clone, words([n(c::CLONE_VM | c::CLONE_SIGHAND | c::CLONE_THREAD)]))),
    probe("clone3", || {
        // struct clone_args, 64 bytes: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls
        shim::birth(c::SYS_clone3, words([Arg::Words(&[0, 0, 0, 0, 17, 0, 0, 0]), Arg::Number(64)]))
    }),
    probe("execve", || {
        // The program that would take over says what this one cannot say any more.
        with_line("execve", |argv| call(c::SYS_execve, [text(c"/bin/echo"), Arg::Words(argv), Arg::Words(&[0])]))
    }),
    probe("execveat", || {
        let argv =
            |argv: &[u64]| call(c::SYS_execveat, [cwd(), text(c"/bin/echo"), Arg::Words(argv), Arg::Words(&[0]), n(0)]);
        with_line("execveat", argv)
    }),
    probe("execveat-memory", || {
        let file = call(c::SYS_memfd_create, [text(c"probe"), n(0)]);
        if file < 0 {
            return file;
        }
        // An empty file is no program: the answer is ENOEXEC where it is reached.
        let arguments = [Arg::Number(file as u64), text(c""), Arg::Words(&[0]), Arg::Words(&[0]), n(c::AT_EMPTY_PATH)];
        call(c::SYS_execveat, arguments)
    }),
    probe("kill-all", || call(c::SYS_kill, [n(-1), n(0)])),
    probe("kill-first", || call(c::SYS_kill, [n(1), n(0)])),
    probe("tgkill-other", || call(c::SYS_tgkill, [n(1), n(1), n(0)])),
    probe("tkill", || call(c::SYS_tkill, [n(1), n(0)])),
    probe("rt-sigqueueinfo", || call(c::SYS_rt_sigqueueinfo, [n(1), n(0), Arg::Bytes(&[0; 128])])),
    probe("pidfd-open", || call(c::SYS_pidfd_open, [n(1), n(0)])),
    probe("pidfd-getfd", || call(c::SYS_pidfd_getfd, [n(3), n(0), n(0)])),
    probe("ptrace", || call(c::SYS_ptrace, [n(0)])),
    probe("process-vm-readv", || call(c::SYS_process_vm_readv, [n(1), ZERO, n(0), ZERO, n(0), n(0)])),
    probe("process-vm-writev", || call(c::SYS_process_vm_writev, [n(1), ZERO, n(0), ZERO, n(0), n(0)])),
    probe("process-madvise", || call(c::SYS_process_madvise, [n(3), ZERO, n(0), n(0), n(0)])),
    probe("kcmp", || call(c::SYS_kcmp, [n(1), n(1), n(0), n(0), n(0)])),
    probe("sched-setaffinity", || call(c::SYS_sched_setaffinity, [n(0), n(8), Arg::Bytes(&[0xff; 8])])),
    probe("setpriority", || call(c::SYS_setpriority, [n(0), n(0), n(0)])),
    probe("prlimit64", || call(c::SYS_prlimit64, [n(0), n(7), ZERO, ZERO])),
    probe("rt-sigaction", || call(c::SYS_rt_sigaction, [n(10), ZERO, ZERO, n(8)])),
    probe("timer-create", || {
        let mut timer = [0; 8];
        call(c::SYS_timer_create, [n(0), ZERO, Arg::Room(&mut timer)])
    }),
    probe("getpid", || call(c::SYS_getpid, [])),
    // --- namespaces and mounts -------------------------------------------------------------------------------------
    prepared("mount", own_mounts, || call(c::SYS_mount, [text(c"none"), text(c"/tmp"), text(c"tmpfs"), n(0), ZERO])),
    prepared("umount2", own_mounts, || call(c::SYS_umount2, [text(c"/proc"), n(c::MNT_DETACH)])),
    prepared("fsopen", own_mounts, || call(c::SYS_fsopen, [text(c"tmpfs"), n(0)])),
    probe("open-tree", || call(c::SYS_open_tree, [cwd(), text(c"/"), n(0)])),
    prepared("pivot-root", own_mounts, || call(c::SYS_pivot_root, [text(c"/"), text(c"/")])),
    probe("chroot", || call(c::SYS_chroot, [text(c"/")])),
    probe("unshare-user", || call(c::SYS_unshare, [n(c::CLONE_NEWUSER)])),
    probe("unshare-net", || call(c::SYS_unshare, [n(c::CLONE_NEWNET)])),
    probe("setns", || call(c::SYS_setns, [n(0), n(0)])),
    prepared("sethostname", own_mounts, || call(c::SYS_sethostname, [Arg::Bytes(b"probe"), n(5)])),
    // --- privileges ------------------------------------------------------------------------------------------------
    probe("setuid", || call(c::SYS_setuid, [n(0)])),
    probe("setresuid", || call(c::SYS_setresuid, [n(0), n(0), n(0)])),
    probe("setgroups", || call(c::SYS_setgroups, [n(0), ZERO])),
    probe("capset", || {
        // _LINUX_CAPABILITY_VERSION_3, this process; all sets empty.
        let header = [0x22, 0x05, 0x08, 0x20, 0, 0, 0, 0];
        call(c::SYS_capset, [Arg::Bytes(&header), Arg::Bytes(&[0; 24])])
    }),
    probe("prctl-dumpable", || call(c::SYS_prctl, [n(c::PR_SET_DUMPABLE), n(1), ZERO, ZERO, ZERO])),
    probe("prctl-ptracer", || call(c::SYS_prctl, [n(c::PR_SET_PTRACER), n(-1), ZERO, ZERO, ZERO])),
    probe("seccomp", || call(c::SYS_seccomp, [n(2), n(0), Arg::Bytes(&[0; 4])])),
    probe("personality", || call(c::SYS_personality, [Arg::Number(0xffff_ffff)])),
    // --- the kernel itself -----------------------------------------------------------------------------------------
    probe("bpf", || call(c::SYS_bpf, [n(0), Arg::Bytes(&[0; 128]), n(128)])),
    probe("io-uring-setup", || {
        let mut parameters = [0; 120];
        call(c::SYS_io_uring_setup, [n(1), Arg::Room(&mut parameters)])
    }),
    probe("userfaultfd", || call(c::SYS_userfaultfd, [n(c::O_NONBLOCK)])),
    probe("perf-event-open", || {
        let mut attributes = [0u8; 128];
        attributes[0] = 1; // PERF_TYPE_SOFTWARE
        attributes[4] = 128;
        call(c::SYS_perf_event_open, [Arg::Bytes(&attributes), n(0), n(-1), n(-1), n(0)])
    }),
    probe("keyctl", || call(c::SYS_keyctl, [n(0), n(-3), n(0), ZERO, ZERO])),
    probe("add-key", || call(c::SYS_add_key, [text(c"user"), text(c"casemate-probe"), Arg::Bytes(b"x"), n(1), n(-1)])),
    probe("init-module", || call(c::SYS_init_module, [ZERO, n(0), text(c"")])),
    probe("finit-module", || call(c::SYS_finit_module, [n(0), text(c""), n(0)])),
    probe("kexec-load", || call(c::SYS_kexec_load, [n(0), n(0), ZERO, Arg::Number(u64::MAX)])),
    // Wrong magic numbers: an errno wherever it is reached.
    probe("reboot", || call(c::SYS_reboot, [n(0), n(0), n(0), ZERO])),
    probe("swapon", || call(c::SYS_swapon, [text(c"/proc/casemate-probe"), n(0)])),
    probe("syslog", || call(c::SYS_syslog, [n(10), ZERO, n(0)])),
    probe("acct", || call(c::SYS_acct, [text(c"/proc/casemate-probe")])),
    probe("clock-settime", || call(c::SYS_clock_settime, [n(0), Arg::Words(&[0, u64::MAX])])),
    #[cfg(target_arch = "x86_64")]
    probe("iopl", || call(c::SYS_iopl, [n(0)])),
    #[cfg(target_arch = "x86_64")]
    probe("modify-ldt", || {
        let mut table = [0; 16];
        call(c::SYS_modify_ldt, [n(0), Arg::Room(&mut table), n(16)])
    }),
    #[cfg(target_arch = "x86_64")]
    Probe { by: Mechanism::Door, ..probe("x32-getpid", || call(c::SYS_getpid | 0x4000_0000, [])) },
    #[cfg(target_arch = "x86_64")]
    Probe { by: Mechanism::Door, ..probe("int80-getpid", shim::int80_getpid) },
    // --- memory ----------------------------------------------------------------------------------------------------
    probe("mmap-exec", || pages(c::PROT_READ | c::PROT_EXEC, c::MAP_PRIVATE | c::MAP_ANONYMOUS, -1)),
    probe("mmap-write-exec", || {
        pages(c::PROT_READ | c::PROT_WRITE | c::PROT_EXEC, c::MAP_PRIVATE | c::MAP_ANONYMOUS, -1)
    }),
    probe("mmap-shared", || pages(c::PROT_READ | c::PROT_WRITE, c::MAP_SHARED | c::MAP_ANONYMOUS, -1)),
    probe("mmap-file", || pages(c::PROT_READ, c::MAP_PRIVATE, 1)),
    probe("mprotect-exec", || {
        let page = pages(c::PROT_READ | c::PROT_WRITE, c::MAP_PRIVATE | c::MAP_ANONYMOUS, -1);
        if page < 0 {
            return page;
        }
        call(c::SYS_mprotect, [Arg::Number(page as u64), n(PAGE), n(c::PROT_READ | c::PROT_EXEC)])
    }),
    probe("mprotect-write-exec", || {
        let page = pages(c::PROT_READ | c::PROT_WRITE, c::MAP_PRIVATE | c::MAP_ANONYMOUS, -1);
        if page < 0 {
            return page;
        }
        call(c::SYS_mprotect, [Arg::Number(page as u64), n(PAGE), n(c::PROT_READ | c::PROT_WRITE | c::PROT_EXEC)])
    }),
    probe("pkey-mprotect-exec", || {
        let page = pages(c::PROT_READ | c::PROT_WRITE, c::MAP_PRIVATE | c::MAP_ANONYMOUS, -1);
        if page < 0 {
            return page;
        }
        call(c::SYS_pkey_mprotect, [Arg::Number(page as u64), n(PAGE), n(c::PROT_READ | c::PROT_EXEC), n(-1)])
    }),
    // A key that nobody has: asked for, not made.
    probe("shmget", || call(c::SYS_shmget, [n(NO_KEY), n(PAGE), n(0)])),
    probe("msgget", || call(c::SYS_msgget, [n(NO_KEY), n(0)])),
    probe("semget", || call(c::SYS_semget, [n(NO_KEY), n(1), n(0)])),
    probe("mq-open", || call(c::SYS_mq_open, [text(c"casemate-probe"), n(c::O_RDONLY), n(0), ZERO])),
];

const PAGE: i32 = 4096;
const NO_KEY: i32 = 0x0c_a5_e0_07;

const fn probe(name: &'static str, act: fn() -> i64) -> Probe {
    Probe { name, at: Moment::Run, by: Mechanism::Seccomp, act: Act::Alone(act), prepare: None }
}

const fn prepared(name: &'static str, prepare: fn(), act: fn() -> i64) -> Probe {
    Probe { prepare: Some(prepare), ..probe(name, act) }
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
