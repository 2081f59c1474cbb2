//! The front's and the launcher's way through the door, step by step, in a child process each: what a step takes away, and
//! that it was there before.

mod child;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use casemate_lockdown::{FrontError, LauncherError, Requirements};
use casemate_lockdown::{confine, confine_launcher, lock_front, seal_front};
use child::{DONE, End, KILLED, ensure, opens, run, status, text};

/// A front behind both of its steps, or as it was born: the control.
fn front(sealed: bool, act: impl Fn() -> Result<(), String>) -> End {
    run(|| {
        let _kept = match sealed {
            true => Some(seal_front(lock_front(&Requirements::ALL).map_err(text)?.0).map_err(text)?),
            false => None,
        };
        act()
    })
}

/// Does it without a filter, or in a confined launcher.
fn launcher(confined: bool, act: impl Fn() -> Result<(), String>) -> End {
    run(|| {
        let _kept = if confined { Some(confine_launcher().map_err(text)?) } else { None };
        act()
    })
}

/// Does it in a front without a cage, and in a sealed one.
fn only_before(what: &str, act: impl Fn() -> Result<(), String>) {
    assert_eq!(front(false, &act), DONE, "{what}: the control");
    assert_eq!(front(true, &act), KILLED, "{what}");
}

// --- lock_front ------------------------------------------------------------------------------------------------------

#[test]
fn a_locked_front_opens_and_binds_nothing() {
    assert_eq!(
        run(|| {
            let listener = TcpListener::bind("127.0.0.1:0").map_err(text)?;
            ensure(opens("/etc/passwd") == Ok(()), "opens before the lock: the control")?;
            let (locked, report) = lock_front(&Requirements::ALL).map_err(text)?;
            ensure(opens("/etc/passwd") == Err(ErrorKind::PermissionDenied), "open")?;
            if report.landlock_abi >= Some(4) {
                let bound = TcpListener::bind("127.0.0.1:0").map_err(|error| error.kind());
                ensure(bound.is_err_and(|kind| kind == ErrorKind::PermissionDenied), "bind")?;
            }
            ensure(listener.local_addr().is_ok(), "the socket in hand still works")?;
            for set in [caps::CapSet::Effective, caps::CapSet::Permitted, caps::CapSet::Inheritable] {
                ensure(caps::read(None, set).map_err(text)?.is_empty(), "capabilities")?;
            }
            let core = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_CORE).map_err(text)?;
            ensure(core == (0, 0), "core")?;
            ensure(report.no_new_privs && report.non_dumpable && !report.empty_root && !report.seccomp, "report")?;
            drop(locked);
            Ok(())
        }),
        DONE
    );
}

#[test]
fn a_front_of_two_threads_is_refused() {
    assert_eq!(
        run(|| {
            let (hold, held) = mpsc::channel::<()>();
            let other = thread::spawn(move || held.recv());
            let refused = matches!(lock_front(&Requirements::ALL), Err(FrontError::Threads(_)));
            drop(hold);
            let _ = other.join();
            ensure(refused, "two threads")
        }),
        DONE
    );
}

/// Before the filter, which refuses the same: `PR_SET_MDWE` alone, where the kernel has it.
#[test]
fn a_locked_front_makes_no_code() {
    let code = || map(libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC);
    assert_eq!(
        run(|| {
            ensure(code(), "the control")?;
            let (locked, report) = lock_front(&Requirements::ALL).map_err(text)?;
            ensure(report.no_exec_gain != code(), "reported as it is")?;
            ensure(map(libc::PROT_READ | libc::PROT_WRITE), "memory without code")?;
            drop(locked);
            Ok(())
        }),
        DONE
    );
}

// --- seal_front ------------------------------------------------------------------------------------------------------

#[test]
fn a_sealed_front_opens_nothing() {
    only_before("open", || opens("/etc/passwd").map_err(|kind| format!("{kind:?}")));
    only_before("stat", || std::fs::metadata("/etc/passwd").map(drop).map_err(text));
    only_before("list", || std::fs::read_dir("/").map(drop).map_err(text));
    only_before("link", || std::fs::read_link("/proc/self/exe").map(drop).map_err(text));
}

#[test]
fn a_sealed_front_connects_nowhere() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    only_before("connect", move || TcpStream::connect(address).map(drop).map_err(text));
    only_before("bind", || TcpListener::bind("127.0.0.1:0").map(drop).map_err(text));
    only_before("pair", || std::os::unix::net::UnixStream::pair().map(drop).map_err(text));
    only_before("name", || std::os::unix::net::UnixDatagram::unbound().map(drop).map_err(text));
}

#[test]
fn a_sealed_front_starts_nothing() {
    only_before("program", || Command::new("/bin/true").status().map(drop).map_err(text));
    only_before("thread", || thread::Builder::new().spawn(|| ()).map(drop).map_err(text));
    only_before("process", || {
        // SAFETY: the child of the fork leaves at once.
        match unsafe { libc::fork() } {
            0 => child::leave(0),
            -1 => Err("fork".into()),
            _ => Ok(()),
        }
    });
    only_before("signal", || {
        nix::sys::signal::kill(nix::unistd::getpid(), None::<nix::sys::signal::Signal>).map_err(text)
    });
    only_before("code", || ensure(map(libc::PROT_READ | libc::PROT_EXEC), "mmap"));
}

#[test]
fn a_sealed_front_still_serves() {
    assert_eq!(
        run(|| {
            // A trace of calls is read out of files; the launcher gives the front an empty environment.
            // SAFETY: this child has one thread.
            unsafe { std::env::remove_var("RUST_BACKTRACE") };
            let listener = TcpListener::bind("127.0.0.1:0").map_err(text)?;
            // SAFETY: nothing of this child has number 4; it is where the launcher puts the front's listening socket.
            ensure(unsafe { libc::dup2(listener.as_raw_fd(), 4) } == 4, "dup2")?;
            let mut client = TcpStream::connect(listener.local_addr().map_err(text)?).map_err(text)?;
            let (locked, _) = lock_front(&Requirements::ALL).map_err(text)?;
            let (go, wait) = mpsc::channel::<()>();
            let (up, is_up) = mpsc::channel::<()>();
            let other = thread::spawn(move || {
                let _ = up.send(());
                let _ = wait.recv();
                drop(std::hint::black_box(vec![vec![1_u8; 100_000]; 400]));
            });
            let _ = is_up.recv();
            let sealed = seal_front(locked).map_err(text)?;
            let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
            // SAFETY: without an address the kernel writes to no memory of ours.
            let accepted = unsafe { libc::accept4(4, std::ptr::null_mut(), std::ptr::null_mut(), flags) };
            ensure(accepted >= 0, "accept")?;
            client.write_all(b"hello").map_err(text)?;
            let mut heard = [0; 5];
            // SAFETY: the kernel writes at most five bytes into `heard`.
            let count = unsafe { libc::recv(accepted, heard.as_mut_ptr().cast(), heard.len(), 0) };
            ensure(count == 5 && &heard == b"hello", "recv")?;
            drop(std::hint::black_box(vec![1_u8; 64 << 20]));
            let _ = go.send(());
            other.join().map_err(|_| "the thread panicked")?;
            ensure(std::panic::catch_unwind(|| panic!("on purpose")).is_err(), "a panic is told and caught")?;
            drop((sealed, client));
            Ok(())
        }),
        DONE
    );
}

#[test]
fn every_thread_of_a_front_is_sealed() {
    let with_thread = |seal_it: bool| {
        run(move || {
            let (locked, _) = lock_front(&Requirements::ALL).map_err(text)?;
            let (go, wait) = mpsc::channel::<()>();
            let (up, is_up) = mpsc::channel::<()>();
            thread::spawn(move || {
                let _ = up.send(());
                let _ = wait.recv();
                child::raw(libc::SYS_getppid.cast_unsigned(), [0; 6]);
                child::leave(0)
            });
            let _ = is_up.recv();
            let _sealed = if seal_it { Some(seal_front(locked).map_err(text)?) } else { None };
            let _ = go.send(());
            loop {
                thread::yield_now();
            }
        })
    };
    assert_eq!(with_thread(false), DONE, "the control");
    assert_eq!(with_thread(true), KILLED);
}

// --- the launcher ----------------------------------------------------------------------------------------------------

#[test]
fn a_confined_launcher_is_as_it_says() {
    assert_eq!(
        run(|| {
            ensure(status("Seccomp")? == "0", "a filter before there should be one")?;
            let confined = confine_launcher().map_err(text)?;
            ensure(status("Seccomp")? == "2" && status("Seccomp_filters")? == "1", "Seccomp")?;
            ensure(status("NoNewPrivs")? == "1", "NoNewPrivs")?;
            drop(confined);
            Ok(())
        }),
        DONE
    );
}

#[test]
fn a_confined_launcher_reaches_no_network() {
    let only_before = |what: &str, act: fn() -> Result<(), String>| {
        assert_eq!(launcher(false, act), DONE, "{what}: the control");
        assert_eq!(launcher(true, act), KILLED, "{what}");
    };
    only_before("listen", || TcpListener::bind("127.0.0.1:0").map(drop).map_err(text));
    // Nobody listens there: the control comes back all the same.
    only_before("connect", || TcpStream::connect("127.0.0.1:9").map(drop).or(Ok(())));
    only_before("datagram", || std::net::UdpSocket::bind("127.0.0.1:0").map(drop).map_err(text));
    only_before("a name", || std::os::unix::net::UnixDatagram::unbound().map(drop).map_err(text));
    let pair = || {
        let (mut left, mut right) = std::os::unix::net::UnixStream::pair().map_err(text)?;
        left.write_all(b"x").map_err(text)?;
        right.read_exact(&mut [0]).map_err(text)
    };
    assert_eq!(launcher(true, pair), DONE, "a pair is no network");
}

/// What it starts inherits its filter, and can still go the whole way of a worker and of a front.
#[test]
fn a_confined_launcher_s_children_confine_themselves() {
    let starts = || {
        let _kept = confine_launcher().map_err(text)?;
        let confined = confine().map_err(text)?;
        ensure(status("Seccomp_filters")? == "3", "filters add up")?;
        drop(confined);
        Ok(())
    };
    assert_eq!(run(starts), DONE);
    let starts = || {
        let _kept = confine_launcher().map_err(text)?;
        let (locked, report) = lock_front(&Requirements::ALL).map_err(text)?;
        ensure(report.seccomp, "the inherited filter is reported")?;
        seal_front(locked).map(drop).map_err(text)
    };
    assert_eq!(run(starts), DONE);
}

#[test]
fn a_launcher_of_two_threads_is_refused() {
    assert_eq!(
        run(|| {
            let (hold, held) = mpsc::channel::<()>();
            let other = thread::spawn(move || held.recv());
            let refused = matches!(confine_launcher(), Err(LauncherError::Threads(_)));
            drop(hold);
            let _ = other.join();
            ensure(refused, "two threads")
        }),
        DONE
    );
}

/// Whether memory of that protection can be mapped.
fn map(protection: i32) -> bool {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping at a place of the kernel's choice touches no memory that anybody refers to.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
    start != libc::MAP_FAILED
}
