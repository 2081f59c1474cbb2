//! A worker's way through the door, step by step, in a child process each: what a step takes away, and that it was there
//! before.

mod child;

use std::fs::File;
use std::io::ErrorKind;
use std::sync::mpsc;
use std::thread;

use casemate_lockdown::{ConfineError, LockError, Requirements, RootError, RunTimeCode};
use casemate_lockdown::{confine, confine_with, lock, seal};
use child::{DONE, KILLED, ensure, opens, run, status, text};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::unistd::{chdir, pivot_root};

const LANDLOCK_ONLY: Requirements = Requirements { empty_root: false, capabilities: false, landlock: true };
const NOTHING: Requirements = Requirements { empty_root: false, capabilities: false, landlock: false };

// --- confine ---------------------------------------------------------------------------------------------------------

#[test]
fn a_confined_process_is_as_it_says() {
    assert_eq!(
        run(|| {
            ensure(status("Seccomp")? == "0", "a filter before there should be one")?;
            let confined = confine().map_err(text)?;
            ensure(status("Seccomp")? == "2", "Seccomp")?;
            ensure(status("Seccomp_filters")? == "2", "two filters: one answers, one kills")?;
            ensure(status("NoNewPrivs")? == "1", "NoNewPrivs")?;
            ensure(!nix::sys::prctl::get_dumpable().map_err(text)?, "dumpable")?;
            drop(confined);
            Ok(())
        }),
        DONE
    );
}

#[test]
fn a_second_thread_is_refused() {
    assert_eq!(
        run(|| {
            let (hold, held) = mpsc::channel::<()>();
            let other = thread::spawn(move || held.recv());
            match confine() {
                Err(ConfineError::Threads(_)) => {}
                other => return Err(format!("two threads: {other:?}")),
            }
            drop(hold);
            let _ = other.join();
            Ok(())
        }),
        DONE
    );
}

#[test]
fn no_program_and_no_network_once_confined() {
    let calls = [
        ("execve", libc::SYS_execve, [0; 6]),
        ("socket", libc::SYS_socket, [1, 2, 0, 0, 0, 0]),
        ("ptrace", libc::SYS_ptrace, [0; 6]),
        ("kill", libc::SYS_kill, [0; 6]),
        ("mount", libc::SYS_mount, [0; 6]),
    ];
    for (name, number, arguments) in calls {
        let attempt = |confined: bool| {
            run(move || {
                let _kept = if confined { Some(confine().map_err(text)?) } else { None };
                child::raw(number.cast_unsigned(), arguments);
                Ok(())
            })
        };
        assert_eq!(attempt(false), DONE, "{name}: the control");
        assert_eq!(attempt(true), KILLED, "{name}");
    }
}

#[test]
fn a_thread_starts_by_clone_and_never_by_clone3() {
    assert_eq!(
        run(|| {
            let confined = confine().map_err(text)?;
            let seven = thread::spawn(|| 7).join().map_err(|_| "the thread panicked")?;
            drop(confined);
            ensure(seven == 7, "the thread's answer")
        }),
        DONE
    );
}

#[test]
fn handlers_of_crashes_are_the_default() {
    let handler = |signal: Signal| {
        // SAFETY: `sigaction` is plain numbers, for which zero is a value; the null pointer asks and changes nothing.
        let mut old: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: `old` lives through the call, and the kernel writes no more than it holds.
        unsafe { libc::sigaction(signal as i32, std::ptr::null(), &raw mut old) };
        old.sa_sigaction
    };
    assert_eq!(
        run(|| {
            ensure(handler(Signal::SIGPIPE) != libc::SIG_DFL, "the runtime ignores SIGPIPE: the control")?;
            let confined = confine().map_err(text)?;
            for signal in
                [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGABRT, Signal::SIGPIPE]
            {
                ensure(handler(signal) == libc::SIG_DFL, signal.as_str())?;
            }
            drop(confined);
            Ok(())
        }),
        DONE
    );
}

// --- lock ------------------------------------------------------------------------------------------------------------

#[test]
fn nothing_opens_by_path_once_locked() {
    assert_eq!(
        run(|| {
            let confined = confine().map_err(text)?;
            ensure(opens("/etc/passwd") == Ok(()), "opens before the lock: the control")?;
            let (locked, report) = lock(confined, &LANDLOCK_ONLY).map_err(text)?;
            ensure(report.landlock_abi.is_some_and(|abi| abi >= 1), "the ABI is reported")?;
            ensure(report.no_new_privs && report.non_dumpable && report.seccomp, "the rest is read back")?;
            ensure(!report.empty_root && !report.capabilities, "what was waived is reported as missing")?;
            for path in ["/etc/passwd", "/proc/self/status", "/dev/null", "/"] {
                ensure(opens(path) == Err(ErrorKind::PermissionDenied), path)?;
            }
            drop(locked);
            Ok(())
        }),
        DONE
    );
}

#[test]
fn what_is_waived_is_left_out() {
    assert_eq!(
        run(|| {
            let (locked, report) = lock(confine().map_err(text)?, &NOTHING).map_err(text)?;
            ensure(opens("/etc/passwd") == Ok(()), "no Landlock")?;
            ensure(report.landlock_abi.is_none() && !report.landlock_complete, "and none reported")?;
            drop(locked);
            Ok(())
        }),
        DONE
    );
}

#[test]
fn a_thread_of_the_warm_up_is_refused() {
    assert_eq!(
        run(|| {
            let confined = confine().map_err(text)?;
            let (hold, held) = mpsc::channel::<()>();
            let other = thread::spawn(move || held.recv());
            match lock(confined, &LANDLOCK_ONLY) {
                Err(LockError::Threads(_)) => {}
                other => return Err(format!("two threads: {:?}", other.map(|(_, report)| report))),
            }
            drop(hold);
            let _ = other.join();
            Ok(())
        }),
        DONE
    );
}

#[test]
fn every_capability_is_gone() {
    if !namespaces() {
        return;
    }
    assert_eq!(
        run(|| {
            unshare(CloneFlags::CLONE_NEWUSER).map_err(text)?;
            let sets = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];
            ensure(status("CapEff")? != NO_CAPABILITY && status("CapBnd")? != NO_CAPABILITY, "the control")?;
            let only = Requirements { capabilities: true, ..NOTHING };
            let (locked, report) = lock(confine().map_err(text)?, &only).map_err(text)?;
            ensure(report.capabilities, "reported")?;
            for set in sets {
                ensure(status(set)? == NO_CAPABILITY, set)?;
            }
            // SAFETY: takes numbers and touches no memory.
            let bits = unsafe { libc::prctl(libc::PR_GET_SECUREBITS, 0, 0, 0, 0) };
            ensure(bits == 0xef, &format!("securebits {bits:#x}"))?;
            drop(locked);
            Ok(())
        }),
        DONE
    );
}

#[test]
fn the_root_is_empty() {
    if !namespaces() {
        return;
    }
    assert_eq!(
        run(|| {
            jail(Empty::Mounted)?;
            ensure(opens("/inside") == Ok(()), "the jail's root holds a file: the control")?;
            let (locked, report) = lock(confine().map_err(text)?, &Requirements::ALL).map_err(text)?;
            ensure(report.empty_root && report.capabilities && report.landlock_abi.is_some(), "all reported")?;
            let gone = std::fs::metadata("/inside").map_err(|error| error.kind());
            ensure(gone.is_err_and(|kind| kind == ErrorKind::NotFound), "the old root")?;
            ensure(std::fs::metadata("/").is_ok(), "stat is not Landlock's business: the control")?;
            drop(locked);
            Ok(())
        }),
        DONE
    );
}

#[test]
fn a_root_that_is_not_empty_is_refused() {
    if !namespaces() {
        return;
    }
    for (empty, step) in [
        (Empty::Missing, "entering /empty"),
        (Empty::Folder, "pivot_root"),
        (Empty::Holding, "the new root is not empty"),
    ] {
        let end = run(|| {
            jail(empty)?;
            match lock(confine().map_err(text)?, &Requirements::ALL) {
                Err(LockError::Root(error)) => ensure(root_step(&error).starts_with(step), &text(error)),
                Err(other) => Err(format!("{step}: {other}")),
                Ok((_, report)) => Err(format!("{step}: {report:?}")),
            }
        });
        assert_eq!(end, DONE, "{step}");
    }
}

// --- seal ------------------------------------------------------------------------------------------------------------

#[test]
fn a_sealed_process_computes_and_nothing_else() {
    let sealed = |act: fn()| {
        run(move || {
            let (locked, _) = lock(confine().map_err(text)?, &NOTHING).map_err(text)?;
            let sealed = seal(locked).map_err(text)?;
            act();
            drop(sealed);
            Ok(())
        })
    };
    assert_eq!(sealed(|| drop(std::hint::black_box(vec![1_u8; 64 << 20]))), DONE, "a large allocation");
    assert_eq!(sealed(|| drop(File::open("/etc/passwd"))), KILLED, "open");
    assert_eq!(sealed(|| assert!(nix::sys::prctl::get_no_new_privs().is_ok())), KILLED, "prctl");
    assert_eq!(sealed(|| drop(thread::Builder::new().spawn(|| ()))), KILLED, "a thread");
}

/// Native code tries both: only the one way that oneDNN takes is open, only where the operator opened it, and nothing else.
#[test]
fn a_page_becomes_code_only_where_it_may() {
    const RWX: i32 = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    // A page of our own, from the kernel, so that nothing else lies on it.
    let page = |protection: i32| {
        let (private, none) = ((libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64, u64::MAX);
        let page = child::raw(libc::SYS_mmap.cast_unsigned(), [0, 4096, protection as u64, private, none, 0]);
        u64::try_from(page).map_err(|_| "mmap".to_owned())
    };
    let change = |protection: i32| {
        let at = page(libc::PROT_READ | libc::PROT_WRITE)?;
        match child::raw(libc::SYS_mprotect.cast_unsigned(), [at, 4096, protection as u64, 0, 0, 0]) {
            0 => Ok(()),
            _ => Err("mprotect".to_owned()),
        }
    };
    let sealed = |code: RunTimeCode, act: &dyn Fn() -> Result<(), String>| {
        run(|| {
            let (locked, report) = lock(confine_with(code).map_err(text)?, &NOTHING).map_err(text)?;
            ensure(!report.no_exec_gain || code == RunTimeCode::Refused, "the kernel's own refusal")?;
            let sealed = seal(locked).map_err(text)?;
            // Where this kernel has it; and with code while serving, never.
            ensure(!sealed.no_exec_gain() || code != RunTimeCode::Allowed, "the kernel's own refusal")?;
            act()
        })
    };
    let warmed = |act: &dyn Fn() -> Result<(), String>| {
        run(|| {
            let (_locked, _) = lock(confine_with(RunTimeCode::Warmed).map_err(text)?, &NOTHING).map_err(text)?;
            act()
        })
    };
    let all = [RunTimeCode::Refused, RunTimeCode::Warmed, RunTimeCode::Allowed];
    let code = || change(libc::PROT_READ | libc::PROT_EXEC);
    assert_eq!(run(code), DONE, "the control");
    assert_eq!(all.map(|when| sealed(when, &code)), [KILLED, KILLED, DONE], "as oneDNN does");
    assert_eq!(warmed(&code), DONE, "in the warm-up");
    assert_eq!(run(|| change(RWX)), DONE, "the control");
    assert_eq!(all.map(|when| sealed(when, &|| change(RWX))), [KILLED; 3], "to write and to run");
    assert_eq!(warmed(&|| change(RWX)), KILLED);
    assert_eq!(run(|| page(RWX).map(drop)), DONE, "the control");
    assert_eq!(all.map(|when| sealed(when, &|| page(RWX).map(drop))), [KILLED; 3], "code from the start");
    let open = || opens("/etc/passwd").map_err(|kind| kind.to_string());
    assert_eq!(run(open), DONE, "the control");
    assert_eq!(all.map(|when| sealed(when, &open)), [KILLED; 3]);
}

#[test]
fn every_thread_is_sealed() {
    let with_thread = |seal_it: bool| {
        run(move || {
            let (locked, _) = lock(confine().map_err(text)?, &LANDLOCK_ONLY).map_err(text)?;
            let (go, wait) = mpsc::channel::<()>();
            let (up, is_up) = mpsc::channel::<()>();
            thread::spawn(move || {
                let _ = up.send(());
                let _ = wait.recv();
                // Allowed in the warm-up, not while serving.
                child::raw(libc::SYS_gettid.cast_unsigned(), [0; 6]);
                child::leave(0)
            });
            let _ = is_up.recv();
            let _sealed = if seal_it { Some(seal(locked).map_err(text)?) } else { None };
            let _ = go.send(());
            loop {
                thread::yield_now();
            }
        })
    };
    assert_eq!(with_thread(false), DONE, "the control");
    assert_eq!(with_thread(true), KILLED);
}

/// glibc opens a file when it first gives a thread's memory back; `lock` sees to it that this happened before.
#[test]
fn a_thread_gives_memory_back_while_serving() {
    let serve = casemate_lockdown::policy::filter("worker-serve").unwrap();
    let filters: Vec<_> = serve.programs().iter().map(|program| child::steps(program)).collect();
    let fill = |bytes: usize| drop(std::hint::black_box(vec![vec![1_u8; 100_000]; bytes / 100_000]));
    // What the warm-up frees in one piece decides from which size on the allocator gives back.
    for (freed_before, filled) in [(0, 40 << 20), (5 << 20, 40 << 20), (25 << 20, 60 << 20)] {
        let serving = |through_the_door: bool| {
            run(|| {
                drop(std::hint::black_box(vec![1_u8; freed_before]));
                let locked = match through_the_door {
                    true => Some(lock(confine().map_err(text)?, &NOTHING).map_err(text)?.0),
                    false => None,
                };
                let (go, wait) = mpsc::channel::<()>();
                let (up, is_up) = mpsc::channel::<()>();
                thread::spawn(move || {
                    let _ = up.send(());
                    let _ = wait.recv();
                    fill(filled);
                    child::leave(0)
                });
                let _ = is_up.recv();
                let _sealed = match locked {
                    Some(locked) => Some(seal(locked).map_err(text)?),
                    None => {
                        filters.iter().try_for_each(|f| seccompiler::apply_filter_all_threads(f)).map_err(text)?;
                        None
                    }
                };
                let _ = go.send(());
                loop {
                    thread::yield_now();
                }
            })
        };
        if cfg!(target_env = "gnu") {
            assert_eq!(serving(false), KILLED, "{freed_before}: the control: the filter without the door");
        }
        assert_eq!(serving(true), DONE, "{freed_before}");
    }
}

// --- a jail as the launcher makes it ---------------------------------------------------------------------------------

const NO_CAPABILITY: &str = "0000000000000000";

/// What stands at `/empty`.
#[derive(Clone, Copy)]
enum Empty {
    Missing,
    Folder,
    Mounted,
    Holding,
}

/// A root of its own for this process: `/inside`, and `/empty`.
fn jail(empty: Empty) -> Result<(), String> {
    let tmpfs = |at: &str| mount(Some("none"), at, Some("tmpfs"), MsFlags::empty(), None::<&str>).map_err(text);
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).map_err(text)?;
    // Without a map this process has no uid to own a file with.
    for (file, line) in
        [("uid_map", format!("0 {uid} 1")), ("setgroups", "deny".into()), ("gid_map", format!("0 {gid} 1"))]
    {
        std::fs::write(format!("/proc/self/{file}"), line).map_err(text)?;
    }
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).map_err(text)?;
    tmpfs("/tmp")?;
    chdir("/tmp").map_err(text)?;
    File::create("inside").map_err(text)?;
    if !matches!(empty, Empty::Missing) {
        std::fs::create_dir("empty").map_err(text)?;
    }
    if matches!(empty, Empty::Mounted | Empty::Holding) {
        tmpfs("empty")?;
    }
    if matches!(empty, Empty::Holding) {
        File::create("empty/something").map_err(text)?;
    }
    pivot_root(".", ".").map_err(text)?;
    umount2(".", MntFlags::MNT_DETACH).map_err(text)?;
    chdir("/").map_err(text)
}

/// Whether a user namespace can be made here; says so aloud where it cannot.
fn namespaces() -> bool {
    let can = run(|| unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).map_err(text)) == DONE;
    if !can {
        eprintln!("skipped: no user namespace can be made on this host");
    }
    can
}

fn root_step(error: &RootError) -> String {
    match error {
        RootError::Pivot(Errno::EINVAL) => "pivot_root".into(),
        other => other.to_string(),
    }
}
