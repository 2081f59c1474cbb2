//! SECURITY.md, "What a worker may use": limits read from the kernel, exactly; a control group that holds the sum, and
//! that goes with its worker; and a next worker that finds nothing of the one before.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "test code: what cannot be is a failure"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use casemate_tests::casemate::{self, Casemate, Setup, is_root};
use casemate_tests::models::{self, When};
use casemate_tests::process;
use nix::sys::signal::Signal;

const ASKED: [f32; 4] = [2000.0, 1.0, 1.0, 1.0];
const CALM: [f32; 4] = [1.0, 2.0, 3.0, 4.0];

/// Every row of `/proc/PID/limits`, and what it must say: soft, hard.
#[test]
fn every_limit_is_exact() {
    let casemate = Setup::new()
        .config("[models.m]\nthreads = 2\nmemory_mib = 512")
        .simple("m", &models::double())
        .simple("other", &models::double())
        .serve();
    let limits = limits(casemate.worker("m"));
    let exact = [
        ("Max core file size", 0),
        ("Max file size", 0),
        ("Max open files", 18),
        ("Max locked memory", 0),
        ("Max msgqueue size", 0),
        ("Max pending signals", 16),
        ("Max stack size", 8 << 20),
        ("Max realtime priority", 0),
        ("Max realtime timeout", 0),
        ("Max nice priority", 0),
        ("Max file locks", 0),
        ("Max data size", 512 << 20),
        ("Max processes", 24),
    ];
    for (name, most) in exact {
        assert_eq!(limits[name], (most.to_string(), most.to_string()), "{name}");
    }
    // Time and residence are bounded by the deadline and the group.
    for name in ["Max cpu time", "Max resident set"] {
        assert_eq!(limits[name].1, "unlimited", "{name}");
    }
    let addresses: u64 = limits["Max address space"].1.parse().unwrap();
    assert!((512 << 20..3 << 30).contains(&addresses), "{addresses}");
    let peak = process::status(casemate.worker("m"))["VmPeak"].clone();
    println!("addresses: {} MiB of {} MiB allowed", kib(&peak) >> 10, addresses >> 20);
    assert_eq!(limits.len(), exact.len() + 3, "a kind of limit that nobody thought of: {limits:?}");
    let rest = process::status(casemate.worker("other"));
    println!("with one thread: {} at its peak, {} of data", rest["VmPeak"], rest["VmData"]);
    // On a host without memory it goes first.
    let score = |pid| std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    assert_eq!(score(casemate.worker("m")), "500\n");
    assert_ne!(score(casemate.front()), "500\n");
    // Control: none of this is so in this test.
    assert_ne!(self::limits(std::process::id())["Max open files"].1, "18");
}

#[test]
fn memory_beyond_the_group_s_bound_is_an_end_by_name_and_the_neighbour_stays() {
    if !is_root() {
        return println!("not root: skipped");
    }
    let casemate = Setup::new()
        .config("[models.bomb]\nmemory_mib = 1024")
        .simple("bomb", &models::memory_bomb(When::Asked, 300 << 20))
        .simple("neighbour", &models::double())
        .serve();
    let (bomb, neighbour) = (casemate.worker("bomb"), casemate.worker("neighbour"));
    // Control: its data has room for this.
    let answer = casemate.row("bomb", ASKED);
    assert_eq!(answer.status, 200, "{}", answer.text());
    // Ordinarily the limit on data is met first; so the group's is brought down to what the worker has, and some.
    let group = group(bomb, "memory");
    let (usage, bound) = if group.join("memory.max").exists() {
        ("memory.current", "memory.max")
    } else {
        ("memory.usage_in_bytes", "memory.limit_in_bytes")
    };
    let used: u64 = std::fs::read_to_string(group.join(usage)).unwrap().trim().parse().unwrap();
    std::fs::write(group.join(bound), (used + (64 << 20)).to_string()).unwrap();
    let answer = casemate.row("bomb", ASKED);
    assert_eq!(answer.status, 502, "{}", answer.text());
    casemate.wait_until("told", Duration::from_secs(10), || casemate.status("bomb")["last_exit"].is_object());
    let exit = casemate.status("bomb")["last_exit"].clone();
    assert_eq!(exit["cause"], "oom", "{exit}");
    assert_eq!(casemate.row("neighbour", CALM).status, 200);
    assert_eq!(casemate.worker("neighbour"), neighbour);
    assert_eq!(casemate.status("neighbour")["starts"], 1);
    // Its own end is no want of memory, though there was some on this host.
    casemate::kill(neighbour, Signal::SIGKILL);
    casemate.wait_until("told", Duration::from_secs(10), || casemate.status("neighbour")["last_exit"].is_object());
    assert_eq!(casemate.status("neighbour")["last_exit"]["cause"], "signal");
    // The next one has its whole bound again.
    casemate.wait_until("back", Duration::from_secs(20), || casemate.row("bomb", CALM).status == 200);
    assert_eq!(casemate.row("bomb", ASKED).status, 200);
}

#[test]
fn the_next_worker_finds_nothing_of_the_one_before() {
    if !is_root() {
        return println!("not root: skipped");
    }
    let casemate = Setup::new().simple("keeps", &models::keeps_state()).serve();
    assert_eq!(casemate.row("keeps", [7.0; 4]).status, 200);
    let first = casemate.worker("keeps");
    let uid = |pid| process::status(pid)["Uid"].clone();
    let (old_uid, old_namespaces) = (uid(first), process::namespaces(first));
    let old_groups: Vec<PathBuf> = ["memory", "pids"].map(|name| group(first, name)).to_vec();
    assert!(old_groups.iter().all(|group| group.exists()), "the control: it had groups: {old_groups:?}");
    casemate::kill(first, Signal::SIGKILL);
    casemate.wait_until("replaced", Duration::from_secs(20), || {
        let status = casemate.status("keeps");
        status["starts"] == 2 && status["state"] == "ready"
    });
    let next = casemate.worker("keeps");
    assert_ne!(uid(next), old_uid);
    for (kind, namespace) in process::namespaces(next) {
        // The number of a namespace may be used again; most are not.
        println!("{kind}: {namespace:?}, before {:?}", old_namespaces.get(&kind));
    }
    for name in ["memory", "pids"] {
        assert!(!old_groups.contains(&group(next, name)), "{name}");
    }
    for group in &old_groups {
        assert!(!group.exists(), "{group:?} outlived its worker");
    }
    let last = casemate.row("keeps", [9.0; 4]).json()["outputs"][0]["data"].clone();
    assert_eq!(last, serde_json::json!([0.0, 0.0, 0.0, 0.0]));
}

#[test]
fn an_orderly_end_leaves_no_group() {
    if !is_root() {
        return println!("not root: skipped");
    }
    let mut casemate = Setup::new().simple("m", &models::double()).serve();
    let home = group(casemate.worker("m"), "memory").parent().unwrap().to_owned();
    assert!(home.exists());
    assert_eq!(casemate.stop(), Some(0));
    assert!(!home.exists(), "{home:?}");
}

#[test]
fn a_model_gets_no_more_time_than_it_may_have() {
    if !is_root() {
        return println!("not root: skipped");
    }
    // Longer than the look at it takes, also where a machine is slow.
    let slow = "[limits]\ndeadline_ms = 8000";
    let (input, output) = (&["x:FP32[-1,4]"], &["y:FP32[-1,4]"]);
    let casemate = Setup::new()
        .config("[models.slow]\ncpus = 0.2\n[models.free]\ncpus = 0")
        .model("slow", &models::loop_forever(When::Asked), input, output, slow)
        .model("free", &models::double(), input, output, slow)
        .serve();
    let cpu = group(casemate.worker("slow"), "cpu");
    if !cpu.exists() {
        return println!("no cpu controller here: skipped");
    }
    let evidence = |model: &str| {
        let cage = casemate.status(model)["worker"]["cage"].clone();
        let layer = cage.as_array().unwrap().iter().find(|l| l["layer"] == "cgroup").cloned().unwrap();
        layer["evidence"].as_str().unwrap().to_owned()
    };
    assert!(evidence("slow").contains("0.200 CPU"), "{}", evidence("slow"));
    assert!(evidence("free").contains("CPU time shared"), "the control: {}", evidence("free"));
    let worker = casemate.worker("slow");
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| casemate.row("slow", ASKED));
        std::thread::sleep(Duration::from_millis(500));
        let (before, start) = (ticks(worker), Instant::now());
        for _ in 0..4 {
            assert_eq!(casemate.row("free", CALM).status, 200);
            std::thread::sleep(Duration::from_millis(500));
        }
        let used = Duration::from_millis((ticks(worker) - before) * 10);
        let share = used.as_secs_f64() / start.elapsed().as_secs_f64();
        println!("a loop that may have 0.2 of a CPU had {share:.3}");
        assert!(share < 0.35, "{share}");
        assert!(share > 0.01, "it never looped");
        assert_eq!(asked.join().unwrap().status, 504);
    });
}

fn limits(pid: u32) -> BTreeMap<String, (String, String)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let row = |line: &str| {
        // Names are of several words, in a column of 26.
        let (name, rest) = line.split_at_checked(26)?;
        let mut words = rest.split_whitespace().map(str::to_owned);
        Some((name.trim().to_owned(), (words.next()?, words.next()?)))
    };
    text.lines().skip(1).filter_map(row).collect()
}

/// The control group of a process that bounds this.
fn group(pid: u32, controller: &str) -> PathBuf {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = |fits: &dyn Fn(&str, &str) -> bool| {
        text.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (number, names, path) = (parts.next()?, parts.next()?, parts.next()?);
            fits(number, names).then(|| path.trim_start_matches('/').to_owned())
        })
    };
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let mount = |kind: &str, option: &str| {
        let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let fits =
            |f: &Vec<&str>| f.get(2) == Some(&kind) && (option.is_empty() || f[3].split(',').any(|o| o == option));
        fields.into_iter().find(fits).map(|f| PathBuf::from(f[1]))
    };
    let one = path(&|_, names| names.split(',').any(|name| name == controller));
    if let (Some(path), Some(mount)) = (one, mount("cgroup", controller)) {
        return mount.join(path);
    }
    mount("cgroup2", "").expect("a hierarchy").join(path(&|number, _| number == "0").expect("a group"))
}

/// Hundredths of a second that a process has run.
fn ticks(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after = text.rsplit_once(") ").unwrap().1;
    after.split(' ').skip(11).take(2).map(|word| word.parse::<u64>().unwrap()).sum()
}

fn kib(text: &str) -> u64 {
    text.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn a_uid_rests_and_its_model_waits_for_it() {
    if !is_root() {
        return println!("not root: skipped");
    }
    let setup = Setup::new().sandbox("worker_uid_first = 1879190000\nworker_uid_count = 1\nuid_rest_s = 3");
    // A start that is refused for now is not one that failed, or the model would be given up at the first refusal.
    let casemate: Casemate = setup.limit("start_attempts", 1).simple("m", &models::double()).serve();
    let first = casemate.worker("m");
    let start = Instant::now();
    casemate::kill(first, Signal::SIGKILL);
    casemate.wait_until("its reason", Duration::from_secs(10), || {
        let status = casemate.status("m");
        status["state"] == "backing-off" && status["reason"].as_str().is_some_and(|r| r.contains("no uid is free"))
    });
    casemate.wait_until("back", Duration::from_secs(40), || casemate.row("m", CALM).status == 200);
    assert!(start.elapsed() >= Duration::from_secs(3), "the uid had no rest: {:?}", start.elapsed());
    assert!(casemate.log().contains("no uid is free"), "the refusal must say why");
    assert_ne!(casemate.worker("m"), first);
}
