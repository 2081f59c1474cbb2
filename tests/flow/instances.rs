//! Several batches of one model at once: in one worker over one copy of the weights, and in several workers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "test code: what cannot be is a failure"
)]

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use casemate_ipc::work::FromWorker;
use casemate_tests::casemate::{self, Casemate, Setup};
use casemate_tests::client::{self, Answer};
use casemate_tests::fake_launcher::{FakeLauncher, Part};
use casemate_tests::models;
use casemate_tests::puppet::{Puppet, Run};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

/// One row, asked for on a thread of its own.
fn ask(address: SocketAddr, model: &str, row: [f32; 4]) -> JoinHandle<Answer> {
    let path = format!("/v2/models/{model}/infer");
    let body = json!({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": row}]}).to_string();
    std::thread::spawn(move || client::send(address, "POST", &path, &[], body.as_bytes()).unwrap())
}

fn statuses(asked: Vec<JoinHandle<Answer>>) -> Vec<u16> {
    let mut all: Vec<u16> = asked.into_iter().map(|asked| asked.join().unwrap().status).collect();
    all.sort_unstable();
    all
}

fn data(answer: &Answer) -> Vec<f32> {
    let data = answer.json()["outputs"][0]["data"].clone();
    serde_json::from_value(data).unwrap_or_else(|_| panic!("{}", answer.text()))
}

fn running(status: &Value) -> Vec<u64> {
    let workers = status["workers"].as_array().unwrap();
    workers.iter().map(|worker| worker["running"].as_u64().unwrap_or(0)).collect()
}

fn ready(casemate: &Casemate, model: &str, workers: usize) {
    casemate.wait_until("every worker", Duration::from_secs(60), || {
        let status = casemate.status(model);
        let ready = status["workers"].as_array().unwrap().iter().filter(|worker| worker["state"] == "ready");
        ready.count() == workers
    });
}

#[test]
fn two_requests_meet_in_a_worker_of_two_instances() {
    let casemate =
        Setup::new().echo("two", "meet = 2").echo("one", "meet = 2").config("[models.two]\ninstances = 2").serve();
    for _ in 0..5 {
        let asked = (0..2).map(|_| ask(casemate.address, "two", [1.0; 4])).collect();
        assert_eq!(statuses(asked), [200, 200], "{}", casemate.log());
    }
    assert_eq!(casemate.status("two")["instances"], 2);
    // Control: where one comes after the other, nobody meets anybody.
    let asked = (0..2).map(|_| ask(casemate.address, "one", [1.0; 4])).collect();
    let alone = statuses(asked);
    // The second has waited for the first one's patience, so it may be late before its own is over.
    assert!(alone.iter().all(|status| matches!(status, 500 | 504)), "{alone:?}");
}

#[test]
fn each_answer_is_that_of_its_request() {
    let casemate =
        Setup::new().simple("m", &models::linear(4, 4)).config("[models.m]\ninstances = 3\nworkers = 2").serve();
    ready(&casemate, "m", 2);
    let address = casemate.address;
    let clients = (0..8_u16).map(|client| {
        std::thread::spawn(move || {
            for n in 0..40_u16 {
                let row = [client, n, client + n, 1].map(f32::from);
                assert_eq!(data(&ask(address, "m", row).join().unwrap()), models::linear_answer(&row, 4), "{row:?}");
            }
        })
    });
    clients.collect::<Vec<_>>().into_iter().for_each(|client| client.join().unwrap());
    let status = casemate.status("m");
    let batches: Vec<u64> =
        status["workers"].as_array().unwrap().iter().map(|worker| worker["batches"].as_u64().unwrap()).collect();
    assert_eq!(batches.iter().sum::<u64>(), 320, "{batches:?}");
    assert_eq!(running(&status), [0, 0]);
    assert_eq!(casemate.metric("casemate_worker_batches_total{model=\"m\""), 320.0);
}

#[test]
fn a_killed_worker_loses_what_it_had_and_the_other_goes_on() {
    let (input, output, deadline) = (&["x:FP32[-1,4]"], &["y:FP32[-1,4]"], "[limits]\ndeadline_ms = 30000");
    let casemate = Setup::new()
        .version("m", "1", "echo", b"sleep_ms = 4000", input, output, deadline)
        .config("[models.m]\nworkers = 2")
        .serve();
    ready(&casemate, "m", 2);
    let status = casemate.status("m");
    let of = |field: &str| -> BTreeSet<u64> {
        status["workers"].as_array().unwrap().iter().map(|worker| worker[field].as_u64().unwrap()).collect()
    };
    assert_eq!((of("pid").len(), of("id").len()), (2, 2), "{status}");
    assert_eq!(casemate.metric("casemate_worker_ready{model=\"m\""), 2.0);
    assert_eq!(status["worker"]["pid"], status["workers"][0]["pid"]);
    let asked = (0..2).map(|_| ask(casemate.address, "m", [1.0; 4])).collect();
    casemate.wait_until("one batch each", Duration::from_secs(4), || running(&casemate.status("m")) == [1, 1]);
    let second = status["workers"][1]["pid"].as_u64().unwrap();
    casemate::kill(u32::try_from(second).unwrap(), Signal::SIGKILL);
    assert_eq!(statuses(asked), [200, 502]);
    let after = casemate.status("m");
    assert_eq!(after["state"], "ready", "{after}");
    assert_eq!(after["workers"][0]["pid"], status["workers"][0]["pid"], "the other one is the same");
    assert_eq!(after["last_exit"]["cause"], "signal");
    ready(&casemate, "m", 2);
    assert_eq!(casemate.status("m")["starts"], 3);
}

#[test]
fn a_worker_that_is_replaced_is_not_waited_for_where_another_serves() {
    let casemate = Setup::new().simple("m", &models::double()).config("[models.m]\nworkers = 2").serve();
    ready(&casemate, "m", 2);
    casemate::kill(casemate.worker("m"), Signal::SIGKILL);
    // It takes a worker longer than this to begin; whoever met the kill is told, and the next one is served.
    let until = Instant::now() + Duration::from_millis(100);
    let mut good = 0;
    while Instant::now() < until {
        good += usize::from(ask(casemate.address, "m", [1.0; 4]).join().unwrap().status == 200);
    }
    assert!(good > 0, "{}", casemate.log());
    ready(&casemate, "m", 2);
}

#[test]
fn workers_and_instances_keep_to_the_cores_that_are_dealt_to_them() {
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let list = |status: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        line.unwrap().trim().to_owned()
    };
    if list(&own) != "0-1" && !list(&own).starts_with("0-") {
        return println!("this host has not the first two CPUs, so nothing is shown");
    }
    let casemate = Setup::new()
        .simple("both", &models::double())
        .simple("apart", &models::double())
        .config("[models.both]\ninstances = 2\ncores = [0, 1]\n[models.apart]\nworkers = 2\ncores = [0, 1]")
        .serve();
    ready(&casemate, "apart", 2);
    let of = |pid: u64| -> Vec<(String, String)> {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
        tasks
            .map(|task| {
                let status = fs::read_to_string(task.path().join("status")).unwrap();
                (status.lines().next().unwrap().replace("Name:\t", ""), list(&status))
            })
            .collect()
    };
    let worker = of(u64::from(casemate.worker("both")));
    let cores = |name: &str| worker.iter().find(|(n, _)| n.starts_with(name)).map(|(_, cores)| cores.as_str());
    assert_eq!((cores("casemate-worker"), cores("instance-1")), (Some("0"), Some("1")), "{worker:?}");
    let status = casemate.status("apart");
    let pids = status["workers"].as_array().unwrap().iter().map(|worker| worker["pid"].as_u64().unwrap());
    let cores: BTreeSet<String> = pids.flat_map(of).map(|(_, cores)| cores).collect();
    assert_eq!(cores, ["0".to_owned(), "1".to_owned()].into());
}

#[test]
fn a_config_beyond_its_bounds_is_refused_with_its_reason() {
    for (line, says) in [
        ("instances = 65", "models.m.instances = 65 must be 1 to 64"),
        ("workers = 17", "models.m.workers = 17 must be 1 to 16"),
        ("cores = [1000]", "models.m.cores names CPU 1000, which the launcher may not run on"),
    ] {
        let (code, log) = Setup::new().simple("m", &models::double()).config(&format!("[models.m]\n{line}")).refused();
        assert_eq!(code, Some(78), "{log}");
        assert!(log.contains(says), "{log}");
    }
}

// === what a front makes of workers that do as a test likes ===

/// What a puppet does with the first batches that it is given, once that many are there.
fn first(count: usize, act: impl Fn(&mut Puppet, Vec<Run>) + Send + Sync + 'static) -> Part {
    Arc::new(move |mut puppet: Puppet| {
        puppet.begin();
        if puppet.incarnation == 0 {
            let runs: Option<Vec<Run>> = (0..count).map(|_| puppet.next_run()).collect();
            if let Some(runs) = runs {
                act(&mut puppet, runs);
            }
        }
        puppet.serve();
    })
}

fn launch(part: Part, lines: &str) -> FakeLauncher {
    let launcher = FakeLauncher::start(vec![("m", part)], &format!("[models.m]\n{lines}"));
    launcher.wait_until("ready", SOON, || launcher.status("m")["state"] == "ready");
    launcher
}

#[test]
fn answers_come_in_any_order_among_those_that_run() {
    let part = first(3, |puppet, runs| {
        for run in runs.iter().rev() {
            let answer = puppet.answer(run);
            puppet.say(&answer);
        }
    });
    let launcher = launch(part, "instances = 3");
    let asked: Vec<_> = [1.0, 2.0, 3.0].map(|x| ask(launcher.address, "m", [x; 4])).into_iter().collect();
    for (asked, x) in asked.into_iter().zip([1.0, 2.0, 3.0]) {
        assert_eq!(data(&asked.join().unwrap()), [x; 4]);
    }
    assert_eq!(launcher.status("m")["starts"], 1);
}

#[test]
fn an_answer_for_a_batch_that_cannot_have_begun_is_a_lie() {
    // Two run, and the third waits in the arena until one of them is done.
    let part = first(3, |puppet, runs| {
        let answer = puppet.answer(&runs[2]);
        puppet.say(&answer);
    });
    let launcher = launch(part, "instances = 2");
    let asked = (0..3).map(|_| ask(launcher.address, "m", [1.0; 4])).collect();
    // The two that it had begun are told; the one that it had not is answered by the next worker.
    assert_eq!(statuses(asked), [200, 502, 502]);
    assert_eq!(launcher.status("m")["last_exit"]["cause"], "protocol");
}

#[test]
fn an_instance_that_hangs_is_killed_and_what_the_others_ran_is_run_again() {
    let part = first(2, |puppet, _runs| {
        // Neither is answered: the first is late when the second has most of its time left.
        puppet.linger();
    });
    let launcher = launch(part, "instances = 2");
    let begun = Instant::now();
    let late = ask(launcher.address, "m", [1.0; 4]);
    std::thread::sleep(Duration::from_millis(1200));
    let innocent = ask(launcher.address, "m", [2.0; 4]);
    assert_eq!(late.join().unwrap().status, 504);
    let answer = innocent.join().unwrap();
    assert_eq!((answer.status, data(&answer)), (200, vec![2.0; 4]));
    assert!(begun.elapsed() > Duration::from_millis(1900), "the first had two seconds");
    let status = launcher.status("m");
    assert_eq!((&status["last_exit"]["cause"], &status["starts"]), (&json!("deadline"), &json!(2)));
}

#[test]
fn what_is_met_by_a_hanging_neighbour_twice_is_told() {
    let lives = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&lives);
    let part: Part = Arc::new(move |puppet: Puppet| {
        count.fetch_add(1, Ordering::SeqCst);
        puppet.begin();
        puppet.linger();
    });
    let launcher = launch(part, "instances = 2");
    // Each life lasts until its oldest batch is late. The last one asked is in two of them.
    let asked: Vec<_> = [0, 900, 900]
        .map(|pause| {
            std::thread::sleep(Duration::from_millis(pause));
            ask(launcher.address, "m", [1.0; 4])
        })
        .into_iter()
        .collect();
    let all = statuses(asked);
    assert!(all.iter().all(|status| matches!(status, 502 | 504)), "{all:?}");
    assert!(lives.load(Ordering::SeqCst) >= 2);
}

#[test]
fn a_death_takes_all_that_had_begun_and_nothing_else() {
    let part = first(3, |puppet, _runs| puppet.close(nix::sys::socket::Shutdown::Both));
    let launcher = launch(part, "instances = 2");
    let asked = (0..3).map(|_| ask(launcher.address, "m", [1.0; 4])).collect();
    assert_eq!(statuses(asked), [200, 502, 502]);
}

#[test]
fn several_workers_are_never_given_a_batch_that_another_could_begin() {
    // Each holds what it has until both have one.
    let holding = Arc::new(AtomicUsize::new(0));
    let held = Arc::clone(&holding);
    let part: Part = Arc::new(move |mut puppet: Puppet| {
        puppet.begin();
        while let Some(run) = puppet.next_run() {
            held.fetch_add(1, Ordering::SeqCst);
            let until = Instant::now() + Duration::from_secs(1);
            while held.load(Ordering::SeqCst) < 2 && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1));
            }
            let answer = match held.load(Ordering::SeqCst) < 2 {
                true => FromWorker::Failed {
                    batch: run.batch,
                    failure: casemate_ipc::work::Failure::Model,
                    detail: "alone".into(),
                },
                false => puppet.answer(&run),
            };
            puppet.say(&answer);
        }
    });
    let launcher = launch(part, "workers = 2");
    launcher.wait_until("both", SOON, || {
        launcher.status("m")["workers"].as_array().unwrap().iter().all(|worker| worker["state"] == "ready")
    });
    let asked = (0..2).map(|_| ask(launcher.address, "m", [1.0; 4])).collect();
    assert_eq!(statuses(asked), [200, 200]);
}
