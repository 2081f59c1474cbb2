//! SECURITY.md, "Workers of a zygote": what holds for a worker whose program was started afresh holds for one that its tenant's
//! zygote bore; no zygote is shared by two tenants; and a zygote that dies, or is worn out, costs nobody a worker.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "test code: what cannot be is a failure"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use casemate_tests::casemate::{Casemate, Setup, is_root, kill};
use casemate_tests::{models, process};
use nix::sys::signal::Signal;

const PATIENCE: Duration = Duration::from_secs(60);

/// The fields of each line of the launcher's log about that event, in order.
fn events(casemate: &Casemate, event: &str) -> Vec<BTreeMap<String, String>> {
    let wanted = format!("event={event} ");
    let fields = |line: &str| {
        line.split_whitespace()
            .filter_map(|word| word.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect()
    };
    casemate.log().lines().filter(|line| line.contains(&wanted)).map(fields).collect()
}

/// The process ids of the zygotes that were started, by tenant.
fn zygotes(casemate: &Casemate) -> Vec<(String, u32)> {
    events(casemate, "zygote-started").into_iter().map(|e| (e["tenant"].clone(), e["pid"].parse().unwrap())).collect()
}

fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| !status.contains("State:\tZ"))
}

fn answers(casemate: &Casemate, model: &str) -> bool {
    casemate.row(model, [1.0; 4]).status == 200
}

/// Kills the worker of a model and waits for its next one.
fn replace(casemate: &Casemate, model: &str) -> u32 {
    let old = casemate.worker(model);
    kill(old, Signal::SIGKILL);
    let mut new = old;
    casemate.wait_until("another worker", PATIENCE, || {
        let pid = casemate.status(model)["worker"]["pid"].as_u64();
        new = pid.and_then(|pid| u32::try_from(pid).ok()).unwrap_or(old);
        new != old && casemate.status(model)["state"] == "ready"
    });
    new
}

fn two_tenants() -> Setup {
    Setup::new()
        .simple("a", &models::double())
        .simple("b", &models::double())
        .simple("c", &models::double())
        .simple("d", &models::double())
        .sandbox("spawn = \"zygote\"\n")
        .config(
            "[models.a]\ntenant = \"t\"\n[models.b]\ntenant = \"t\"\n[models.d]\nspawn = \"exec\"\ntenant = \"t\"\n",
        )
}

#[test]
fn two_tenants_never_share_one_and_every_worker_has_its_own_uid() {
    let casemate = two_tenants().serve();
    let zygotes = zygotes(&casemate);
    let tenants: BTreeSet<&str> = zygotes.iter().map(|(tenant, _)| tenant.as_str()).collect();
    assert_eq!(tenants, ["c", "t"].into(), "{zygotes:?}");
    assert_eq!(zygotes.len(), 2, "one for each: {zygotes:?}");
    let by: BTreeMap<String, String> = events(&casemate, "worker-started")
        .into_iter()
        .map(|event| (event["model"].trim_end_matches("/1").to_owned(), event["by"].clone()))
        .collect();
    assert_eq!(
        by,
        ["a", "b", "c"]
            .map(|m| (m.to_owned(), "zygote".to_owned()))
            .into_iter()
            .chain([("d".to_owned(), "exec".to_owned())])
            .collect()
    );
    // A copy of memory has its parent's addresses: who shares them shares a zygote.
    if is_root() {
        let of = |pid: u32| {
            let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
            // Libraries have no names by now, their mounts are gone; what is mapped lowest is the program.
            maps.split('-').next().unwrap().to_owned()
        };
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|model| of(casemate.worker(model)));
        assert_eq!(a, b);
        assert!(a != c && a != d && c != d, "{a} {c} {d}");
        let uid = |pid: u32| process::status(pid)["Uid"].clone();
        let pids =
            ["a", "b", "c", "d"].map(|model| casemate.worker(model)).into_iter().chain(zygotes.iter().map(|z| z.1));
        let uids: BTreeSet<String> = pids.map(uid).collect();
        assert_eq!(uids.len(), 6, "{uids:?}");
    }
    for (model, tenant, spawn) in [("a", "t", "zygote"), ("c", "c", "zygote"), ("d", "t", "exec")] {
        let status = casemate.status(model);
        assert_eq!((status["tenant"].as_str(), status["spawn"].as_str()), (Some(tenant), Some(spawn)));
        assert!(answers(&casemate, model));
    }
    assert!(
        casemate
            .get("/metrics")
            .text()
            .contains("casemate_model{model=\"a\",version=\"1\",tenant=\"t\",spawn=\"zygote\"} 1")
    );
}

/// A zygote's filter lets nothing make code, not even a warm-up.
#[test]
fn sizes_that_a_zygotes_worker_does_without_are_said() {
    let setup = two_tenants();
    for model in ["a", "d"] {
        let shapes = setup.store().join(model).join("1/model.shapes");
        std::fs::write(shapes, format!("sha256 {}\n", "ab".repeat(32))).unwrap();
    }
    let casemate = setup.serve();
    let said: BTreeSet<String> =
        events(&casemate, "model-shapes-left-aside").into_iter().map(|event| event["model"].clone()).collect();
    assert_eq!(said, ["a/1".to_owned()].into());
    // Controls: one that has none, and one that is executed, which may.
    for (model, aside) in [("a", true), ("b", false), ("d", false)] {
        assert_eq!(casemate.status(model)["shapes_left_aside"].as_bool(), Some(aside), "{model}");
        assert!(answers(&casemate, model));
    }
}

/// A zygote that answers nothing is waited for beside everything else: of other tenants, and of its own by another way, workers
/// end and start meanwhile. What is counted is what came before it was given up, so that a slow machine changes nothing.
#[test]
fn a_zygote_that_never_answers_holds_up_nobody_else() {
    let casemate = two_tenants().serve();
    let useless = || events(&casemate, "zygote-useless").len();
    let all = zygotes(&casemate);
    let stuck = all.iter().find(|(tenant, _)| tenant == "t").map(|(_, pid)| *pid).unwrap();
    kill(stuck, Signal::SIGSTOP);
    let before = events(&casemate, "worker-gone").len();
    let old = casemate.worker("a");
    kill(old, Signal::SIGKILL);
    casemate.wait_until("its worker's end", PATIENCE, || events(&casemate, "worker-gone").len() > before);
    // The front has asked for its next one by the time that it has asked for these.
    std::thread::sleep(Duration::from_millis(500));
    for model in ["c", "d"] {
        replace(&casemate, model);
        assert!(answers(&casemate, model));
    }
    assert!(answers(&casemate, "b"));
    let told = casemate.log();
    assert_eq!(useless(), 0, "they came after it was given up\n{told}");
    // The control: it was asked for a worker and had not answered; it does as soon as it can.
    assert_ne!(casemate.status("a")["state"], "ready", "{told}");
    kill(stuck, Signal::SIGCONT);
    casemate.wait_until("the worker that it bears", PATIENCE, || answers(&casemate, "a"));
    assert_eq!((useless(), casemate.worker("a") == old), (0, false));
    // One that stays like this is given up, and another one does better.
    kill(stuck, Signal::SIGSTOP);
    kill(casemate.worker("a"), Signal::SIGKILL);
    casemate.wait_until("it is given up", PATIENCE, || useless() == 1);
    casemate.wait_until("the next zygote's", PATIENCE, || casemate.status("a")["state"] == "ready");
    assert!(!is_alive(stuck) && answers(&casemate, "a"));
}

#[test]
fn a_zygote_is_caged_itself() {
    let casemate = two_tenants().serve();
    let (_, zygote) = zygotes(&casemate)[0].clone();
    let status = process::status(zygote);
    assert_eq!((status["NoNewPrivs"].as_str(), status["Seccomp"].as_str()), ("1", "2"));
    assert_eq!(status["Threads"], "1");
    for set in ["CapInh", "CapBnd", "CapAmb"] {
        assert_eq!(status[set], "0000000000000000", "{set}");
    }
    // CAP_SYS_ADMIN, in a user namespace of its own.
    for set in ["CapPrm", "CapEff"] {
        assert_eq!(status[set], "0000000000200000", "{set}");
    }
    let (own, above) = (process::namespaces(zygote), process::namespaces(casemate.launcher()));
    for kind in ["user", "mnt", "net", "ipc", "uts", "cgroup", "time"] {
        assert_ne!(own.get(kind), above.get(kind), "{kind}");
    }
    if is_root() {
        assert_eq!(process::root_entries(zygote), ["empty"]);
        let held: Vec<String> = process::descriptors(zygote).into_keys().collect();
        assert_eq!(held, ["0", "1", "2", "3"]);
        let maps = std::fs::read_to_string(format!("/proc/{zygote}/maps")).unwrap();
        assert!(!maps.contains("memfd"), "nothing of a model or a request is in it\n{maps}");
        // The control: its worker has arenas.
        assert!(
            std::fs::read_to_string(format!("/proc/{}/maps", casemate.worker("a")))
                .unwrap()
                .contains("memfd:casemate-requests")
        );
    }
    assert_eq!(process::name(zygote), "casemate-zygote");
    assert_eq!(process::name(casemate.worker("a")), "casemate-worker");
}

#[test]
fn a_death_hurts_nobody_else() {
    let casemate = two_tenants().serve();
    let first: BTreeMap<&str, u32> = ["a", "b", "c"].map(|model| (model, casemate.worker(model))).into();
    let tenant = zygotes(&casemate).into_iter().find(|(tenant, _)| tenant == "t").unwrap().1;
    // A worker dies: its sibling, and the zygote that bore it, do not; the next one is the same zygote's.
    let second = replace(&casemate, "a");
    assert!(second != first["a"] && casemate.worker("b") == first["b"] && is_alive(tenant));
    assert_eq!(zygotes(&casemate).len(), 2);
    // The zygote dies: its workers do not, and the next start has another one.
    kill(tenant, Signal::SIGKILL);
    casemate.wait_until("its end", PATIENCE, || !events(&casemate, "zygote-gone").is_empty());
    assert!(casemate.worker("a") == second && casemate.worker("b") == first["b"]);
    assert!(answers(&casemate, "a") && answers(&casemate, "b"));
    replace(&casemate, "b");
    assert!(answers(&casemate, "b") && casemate.worker("a") == second);
    let all = zygotes(&casemate);
    assert_eq!((all.len(), all[2].0.as_str()), (3, "t"), "{all:?}");
    assert_eq!(casemate.worker("c"), first["c"]);
}

#[test]
fn one_is_renewed_after_so_many_births() {
    let casemate =
        Setup::new().simple("a", &models::double()).sandbox("spawn = \"zygote\"\nzygote_births = 2\n").serve();
    for round in 0..4 {
        replace(&casemate, "a");
        assert!(answers(&casemate, "a"), "{round}");
    }
    let born = events(&casemate, "worker-started");
    assert_eq!(born.len(), 5);
    let renewed = events(&casemate, "zygote-renewed").len();
    assert!(renewed >= 2, "{renewed} after 5 births");
    if is_root() {
        let uids: BTreeSet<&String> = born.iter().map(|event| &event["uid"]).collect();
        assert_eq!(uids.len(), 5, "no uid comes again before it has rested: {uids:?}");
    }
}

/// Where the first thing of a process lies.
fn first_address(pid: u32) -> String {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    maps.split('-').next().unwrap().to_owned()
}

#[test]
fn a_zygote_of_one_birth_gives_each_worker_addresses_of_its_own() {
    if !is_root() {
        return println!("skipped: only root can read where things lie in a worker");
    }
    let addresses = |births: u32| -> BTreeSet<String> {
        let keys = format!("spawn = \"zygote\"\nzygote_births = {births}\n");
        let casemate = Setup::new().simple("a", &models::double()).sandbox(&keys).serve();
        let first = first_address(casemate.worker("a"));
        BTreeSet::from([first, first_address(replace(&casemate, "a"))])
    };
    assert_eq!(addresses(8).len(), 1, "the control: siblings have the same");
    assert_eq!(addresses(1).len(), 2);
}

#[test]
fn one_is_renewed_after_a_time() {
    let casemate =
        Setup::new().simple("a", &models::double()).sandbox("spawn = \"zygote\"\nzygote_age_s = 10\n").serve();
    let worker = casemate.worker("a");
    casemate.wait_until("a second zygote", PATIENCE, || events(&casemate, "zygote-warm").len() == 2);
    assert_eq!(casemate.worker("a"), worker, "its workers are not renewed with it");
    assert!(answers(&casemate, "a"));
}

#[test]
fn an_ordinary_user_has_them_too() {
    let casemate = two_tenants().as_user().serve();
    assert_eq!(zygotes(&casemate).len(), 2);
    replace(&casemate, "a");
    assert!(answers(&casemate, "a") && answers(&casemate, "b") && answers(&casemate, "c"));
    let cage = casemate.status("a")["worker"]["cage"].clone();
    let missing: Vec<&str> = cage
        .as_array()
        .unwrap()
        .iter()
        .filter(|reading| reading["in_force"] == false)
        .map(|reading| reading["layer"].as_str().unwrap())
        .collect();
    // The same as of an exec'd worker.
    let of = casemate.status("d")["worker"]["cage"].clone();
    let exec: Vec<&str> = of
        .as_array()
        .unwrap()
        .iter()
        .filter(|reading| reading["in_force"] == false)
        .map(|reading| reading["layer"].as_str().unwrap())
        .collect();
    assert_eq!(missing, exec);
}

#[test]
fn siblings_do_not_roll_the_same_dice() {
    // The control is that two requests to one worker differ too: the model does roll.
    let casemate = Setup::new()
        .simple("a", &models::dice())
        .simple("b", &models::dice())
        .sandbox("spawn = \"zygote\"\n")
        .config("[models.a]\ntenant = \"t\"\n[models.b]\ntenant = \"t\"\n")
        .serve();
    let roll = |model: &str| casemate.row(model, [0.0; 4]).json()["outputs"][0]["data"].clone();
    let rolls = [roll("a"), roll("b"), roll("a"), roll("b")];
    let different: BTreeSet<String> = rolls.iter().map(ToString::to_string).collect();
    assert_eq!(different.len(), 4, "{rolls:?}");
}

/// What a zygote needs beyond a worker's jail is tried before a socket is opened. The control is that the same host serves
/// the same model where its program is started afresh.
#[test]
fn a_host_that_cannot_bear_refuses_before_it_serves() {
    use casemate_tests::lack::Lack;
    use nix::errno::Errno;
    use nix::libc;
    let clock = Lack { call: libc::SYS_unshare, when: Some((0, 0x80)), errno: Errno::EPERM };
    let cases = [
        (Lack::of_prctl(libc::PR_GET_TID_ADDRESS, Errno::EINVAL), "CONFIG_CHECKPOINT_RESTORE"),
        (clock, "a clock of its own for a worker: EPERM"),
    ];
    for user in [false, true].into_iter().filter(|user| *user || is_root()) {
        for (lack, words) in cases {
            let setup = |spawn: &str| {
                let setup = Setup::new().simple("a", &models::double()).lacking(lack);
                let setup = setup.config(&format!("[models.a]\nspawn = \"{spawn}\""));
                if user { setup.as_user() } else { setup }
            };
            let (code, says) = setup("zygote").refused();
            println!("{says}");
            assert_eq!(code, Some(78), "user: {user}: {says}");
            for words in [words, "a: spawn = \\\"zygote\\\" cannot be had here", "write spawn = \\\"exec\\\""] {
                let plain = words.replace('\\', "");
                assert!(says.contains(words) || says.contains(&plain), "user: {user}: {words}: {says}");
            }
            assert!(!says.contains("listening on"), "{says}");
            assert!(answers(&setup("exec").serve(), "a"), "user: {user}");
        }
    }
}
