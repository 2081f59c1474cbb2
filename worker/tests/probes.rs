//! Every probe without a cage, where the kernel answers; and in a sealed worker, where it ends the worker. A call that is
//! refused everywhere would prove nothing.

mod cell;

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use casemate_ipc::launch::RunTimeCode;
use casemate_worker::probe::{self, Mechanism, Probe};
use cell::{Birth, f32s};

#[test]
fn without_a_cage_the_kernel_answers() {
    let output = Command::new(env!("CARGO_BIN_EXE_casemate-probe")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{said}");
    let lacks = |name: &str| {
        !said.contains(&format!("probe {name} reached\n")) || !said.contains(&format!("probe {name} returned "))
    };
    let silent: Vec<&str> = probe::all().map(|probe| probe.name).filter(|name| lacks(name)).collect();
    assert!(silent.is_empty(), "{}", silent.join(", "));
}

/// Where the operator allows machine code, the one call that makes it returns, and the rest is as closed as ever.
#[test]
fn run_time_code_opens_one_call_and_no_other() {
    let act = |name: &str| {
        let birth = Birth { run_time_code: RunTimeCode::Allowed, ..Birth::echo(&format!("probe = \"{name}\"")) };
        let mut cell = birth.ready();
        cell.log();
        cell.send(&[f32s(&[1, 4], &[0.0; 4])]);
        let heard = cell.try_hear();
        let killed =
            heard.is_none() && std::os::unix::process::ExitStatusExt::signal(&cell.wait()) == Some(libc::SIGSYS);
        (cell.log(), killed)
    };
    let open = ("probe mprotect-exec reached\nprobe mprotect-exec returned 0 errno 0\n".to_owned(), false);
    assert_eq!(act("mprotect-exec"), open);
    for name in [
        "mmap-exec",
        "mmap-write-exec",
        "mprotect-write-exec",
        "pkey-mprotect-exec",
        "mmap-file",
        "memfd-create",
        "execveat-memory",
        "clone-thread",
        "connect-tcp",
        "getpid",
    ] {
        assert_eq!(act(name), (format!("probe {name} reached\n"), true));
    }
}

#[test]
fn in_a_sealed_worker_every_probe_is_the_end() {
    // What a limit of the jail refuses is not refused here: this worker has none.
    let by_filter = |probe: &&Probe| matches!(probe.by, Mechanism::Seccomp | Mechanism::Door);
    let names = Mutex::new(probe::all().filter(by_filter).map(|probe| probe.name));
    let survivors = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while let Some(name) = { names.lock().unwrap().next() } {
                    let mut cell = Birth::echo(&format!("probe = \"{name}\"")).ready();
                    cell.log();
                    cell.send(&[f32s(&[1, 4], &[0.0; 4])]);
                    let heard = cell.try_hear();
                    let log = cell.log();
                    let status = if heard.is_some() { None } else { Some(cell.wait()) };
                    let killed = status.and_then(|s| std::os::unix::process::ExitStatusExt::signal(&s));
                    let expected = log == format!("probe {name} reached\n") && killed == Some(libc::SIGSYS);
                    if !expected {
                        survivors.lock().unwrap().insert(name, format!("{heard:?} {status:?} {log:?}"));
                    }
                }
            });
        }
    });
    let survivors = survivors.into_inner().unwrap();
    assert!(survivors.is_empty(), "{survivors:#?}");
}
