//! SECURITY.md, "A host that lacks something": each call that the cage is made of fails in turn, as on an older kernel or in
//! a container. The server says which layer it cannot put on, and ends before a socket is opened; or the operator has
//! accepted that by name, and the status shows it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "test code: what cannot be is a failure"
)]

use casemate_tests::casemate::{Casemate, ORDINARY_WAIVERS, Setup, is_root};
use casemate_tests::lack::Lack;
use casemate_tests::{models, process};
use nix::errno::Errno;
use nix::libc;
use serde_json::{Value, json};

/// Of `sysexits.h`: a system call of the launcher itself failed.
const OS: i32 = 71;
/// The host cannot give what the config asks for.
const CONFIG: i32 = 78;

const HERE: &[&str] = &ORDINARY_WAIVERS;

fn setup(user: bool) -> Setup {
    let setup = Setup::new().simple("m", &models::double());
    if user { setup.as_user() } else { setup }
}

/// As root, where this test is, and as an ordinary user.
fn whoever() -> impl Iterator<Item = bool> {
    [false, true].into_iter().filter(|user| *user || is_root())
}

#[track_caller]
fn refuses(lack: Lack, user: bool, waived: &[&'static str], (code, words): (i32, &[&str])) {
    let waived: Vec<&str> = HERE.iter().filter(|_| user).chain(waived).copied().collect();
    let (ended, says) = setup(user).waive(&waived).lacking(lack).refused();
    println!("{lack:?} as user: {user}\n{says}");
    assert_eq!(ended, Some(code), "{lack:?}, user: {user}: {says}");
    for word in words {
        assert!(says.contains(word), "{lack:?}, user: {user}: {word:?} is not said: {says}");
    }
    assert!(!says.contains("listening on"), "{lack:?}, user: {user}: a socket was opened: {says}");
    assert!(!says.contains("front-started") && !says.contains("worker-started"), "{lack:?}, user: {user}: {says}");
}

fn serves(lack: Option<Lack>, user: bool, waived: &[&'static str]) -> Casemate {
    let waived: Vec<&str> = HERE.iter().filter(|_| user).chain(waived).copied().collect();
    let setup = setup(user).waive(&waived);
    let casemate = lack.into_iter().fold(setup, Setup::lacking).serve();
    assert_eq!(casemate.row("m", [1.0; 4]).status, 200, "{lack:?}, user: {user}: {}", casemate.log());
    casemate
}

/// The layers that are not in force, as the model's status shows them, sorted. Few hosts have the one that is never
/// demanded.
fn missing(casemate: &Casemate) -> Vec<String> {
    let cage = casemate.status("m")["worker"]["cage"].clone();
    let missing = cage.as_array().unwrap().iter().filter(|layer| layer["in_force"] == false);
    sorted(missing.map(|layer| layer["layer"].clone())).into_iter().filter(|layer| layer != "core-scheduling").collect()
}

fn sorted(words: impl IntoIterator<Item = Value>) -> Vec<String> {
    let mut words: Vec<String> = words.into_iter().map(|word| word.as_str().unwrap().to_owned()).collect();
    words.sort();
    words
}

/// The control of all the others: the same shape of filter, around a call that nobody here makes.
#[test]
fn a_lack_that_concerns_nobody_changes_nothing() {
    for user in whoever() {
        let filters = |casemate: &Casemate| process::status(casemate.launcher())["Seccomp_filters"].clone();
        let free = serves(None, user, &[]);
        // The calls by which a filter is put on without seccomp(2) are none of ours either.
        for lack in [Lack::of(libc::SYS_swapoff, Errno::EPERM), Lack::of_prctl(libc::PR_SET_SECCOMP, Errno::EPERM)] {
            let casemate = serves(Some(lack), user, &[]);
            assert_eq!(missing(&casemate), missing(&free), "user: {user}");
            assert_ne!(filters(&casemate), filters(&free), "the filter is there");
        }
    }
}

#[test]
fn without_system_call_filters_nothing_starts() {
    for user in whoever() {
        for errno in [Errno::ENOSYS, Errno::EPERM] {
            let lack = Lack::of(libc::SYS_seccomp, errno);
            // No waiver helps: the filters have none.
            for waived in [&[][..], &["landlock", "namespaces"]] {
                refuses(lack, user, waived, (CONFIG, &["confine itself", "system call filter"]));
            }
        }
    }
}

#[test]
fn without_landlock_nothing_starts_unless_that_is_accepted() {
    for user in whoever() {
        for lack in [
            Lack::of(libc::SYS_landlock_create_ruleset, Errno::ENOSYS),
            Lack::of(libc::SYS_landlock_create_ruleset, Errno::EOPNOTSUPP),
            Lack::of(libc::SYS_landlock_restrict_self, Errno::EPERM),
        ] {
            refuses(lack, user, &[], (CONFIG, &["landlock: ", "sandbox.accept_missing = [", "\\\"landlock\\\""]));
        }
        for lack in [
            Lack::of(libc::SYS_landlock_create_ruleset, Errno::ENOSYS),
            Lack::of(libc::SYS_landlock_restrict_self, Errno::EPERM),
        ] {
            let casemate = serves(Some(lack), user, &["landlock"]);
            let without = sorted(HERE.iter().filter(|_| user).chain(&["landlock"]).map(|word| json!(word)));
            assert_eq!(missing(&casemate), without, "user: {user}");
            let waived = casemate.status("m")["waived"].as_array().unwrap().clone();
            assert_eq!(sorted(waived), without, "user: {user}");
            assert!(casemate.log().contains("event=layer-missing layer=landlock"), "{}", casemate.log());
        }
    }
}

#[test]
fn without_a_control_over_speculation_nothing_starts_unless_that_is_accepted() {
    /// Asking what can be controlled; and setting it, which a kernel that leaves it on for everybody refuses.
    const LACKS: [(i32, Errno); 2] =
        [(libc::PR_GET_SPECULATION_CTRL, Errno::ENODEV), (libc::PR_SET_SPECULATION_CTRL, Errno::EPERM)];
    // Where the CPU has nothing to control, or the kernel keeps it off for all, nothing is ever set.
    let own = process::status(std::process::id());
    let open = |key: &str, word: &str| own.get(key).is_some_and(|state| state == word);
    let settable = open("Speculation_Store_Bypass", "thread vulnerable");
    println!("store bypass can be set: {settable}");
    for user in whoever() {
        for (option, errno) in LACKS.into_iter().filter(|(option, _)| settable || *option == LACKS[0].0) {
            let lack = Lack::of_prctl(option, errno);
            let words = ["speculation: jail step", "sandbox.accept_missing = [", "\\\"speculation\\\""];
            refuses(lack, user, &[], (CONFIG, &words));
            let casemate = serves(Some(lack), user, &["speculation"]);
            let waived = casemate.status("m")["waived"].as_array().unwrap().clone();
            assert!(waived.contains(&json!("speculation")), "user: {user}: {waived:?}");
            assert_eq!(missing(&casemate).contains(&"speculation".to_owned()), settable, "user: {user}");
            assert!(casemate.log().contains("event=layer-missing layer=speculation"), "{}", casemate.log());
        }
        // The control: with the call nothing is missing, also where going without is accepted.
        let casemate = serves(None, user, &["speculation"]);
        assert!(!missing(&casemate).contains(&"speculation".to_owned()), "user: {user}");
    }
}

#[test]
fn without_namespaces_nothing_starts_unless_that_is_accepted() {
    for user in whoever() {
        for call in [libc::SYS_mount, libc::SYS_pivot_root, libc::SYS_open_tree, libc::SYS_move_mount] {
            let lack = Lack::of(call, Errno::EPERM);
            refuses(
                lack,
                user,
                &[],
                (CONFIG, &["namespaces: jail step", "sandbox.accept_missing = [", "\\\"namespaces\\\""]),
            );
        }
        let casemate = serves(Some(Lack::of(libc::SYS_mount, Errno::EPERM)), user, &["namespaces"]);
        let status = casemate.status("m");
        let waived = status["waived"].as_array().unwrap().clone();
        assert!(waived.contains(&json!("namespaces")), "user: {user}: {status}");
        let missing = missing(&casemate);
        for layer in ["user-namespace", "namespaces", "empty-root"] {
            assert!(missing.iter().any(|name| name == layer), "user: {user}: {layer} is not missing: {missing:?}");
        }
        // What needs no namespace is there all the same.
        for layer in ["seccomp", "landlock", "no-new-privileges", "non-dumpable", "resource-limits"] {
            assert!(!missing.iter().any(|name| name == layer), "user: {user}: {layer} is missing: {missing:?}");
        }
        assert!(casemate.log().contains("event=layer-missing layer=namespaces"), "{}", casemate.log());
    }
}

/// What every process of the house does to itself, or is made with: nobody can go without.
#[test]
fn what_has_no_waiver_cannot_be_gone_without() {
    let all: &[&str] = &["landlock", "namespaces"];
    for user in whoever() {
        let (enosys, eperm) = (Errno::ENOSYS, Errno::EPERM);
        let cases: &[(Lack, i32, &[&str])] = &[
            (Lack::of(libc::SYS_clone3, enosys), CONFIG, &["making a process", "ENOSYS"]),
            // The first process is the loader, which says what the worker needs; libc has another call where there is no such one.
            (Lack::of(libc::SYS_clone3, eperm), CONFIG, &["--list", "not permitted"]),
            (Lack::of(libc::SYS_unshare, eperm), CONFIG, &["making a process", "EPERM"]),
            (Lack::of(libc::SYS_capset, eperm), CONFIG, &["confine itself", "capabilities"]),
            (Lack::of(libc::SYS_memfd_create, enosys), OS, &["memfd_create", "not implemented"]),
            (Lack::of_prctl(libc::PR_SET_NO_NEW_PRIVS, eperm), OS, &["no_new_privs", "EPERM"]),
            (Lack::of_prctl(libc::PR_SET_DUMPABLE, eperm), OS, &["non-dumpable", "EPERM"]),
            (Lack::of(libc::SYS_prlimit64, eperm), OS, &["core limit", "EPERM"]),
        ];
        for (lack, code, words) in cases {
            refuses(*lack, user, all, (*code, words));
        }
    }
    if is_root() {
        refuses(Lack::of(libc::SYS_setgroups, Errno::EPERM), false, all, (OS, &["setgroups", "EPERM"]));
    }
}

/// Tracing only tells which call a filter refused: without it the cage is whole, and the cause has no number.
#[test]
fn without_tracing_a_server_serves_and_says_so() {
    for user in whoever() {
        let casemate = serves(Some(Lack::of(libc::SYS_ptrace, Errno::EPERM)), user, &[]);
        let expected = sorted(HERE.iter().filter(|_| user).map(|word| json!(word)));
        assert_eq!(missing(&casemate), expected, "user: {user}");
        assert!(casemate.log().contains("event=tracing-impossible"), "{}", casemate.log());
    }
}
