//! SECURITY.md, "What a model cannot do": every model of the zoo against one running server, with a neighbour that is
//! asked all the time and must not notice. What each does without a cage is shown by `worker/tests/uncaged.rs`.
//!
//! `CASEMATE_ZOO` runs only the models whose names begin so. `CASEMATE_ZOO_SECONDS` keeps each attack up for so long, for
//! figures worth writing down; with `CASEMATE_WRITE_DOCUMENTS` they go into `tests/adversary/README.md`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "test code: what cannot be is a failure"
)]

use std::fmt::Write as _;
use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use casemate_tests::casemate::{Casemate, Setup};
use casemate_tests::client::Answer;
use casemate_tests::process;
use casemate_tests::pulse::{self, Pulse, Sample};
use casemate_tests::zoo::{self, Cage, Entry, Gate, MARK, Place};
use casemate_tests::{client, models};

/// The neighbour's requests in a second.
const PACE: u32 = 100;
/// A request of the neighbour that takes longer is a neighbour that noticed.
const NOTICED: Duration = Duration::from_secs(1);
/// The neighbour's p99 under attack, in times of its p99 in quiet. The goal is 1.2, on a quiet machine with cores to spare;
/// a machine that builds something beside the test is allowed this.
const GENEROUS: f64 = 10.0;
/// Below this, a ratio says nothing: a scheduler's tick or two.
const TICKS: Duration = Duration::from_millis(20);

#[test]
fn the_zoo_in_service_meets_the_cage_and_the_neighbour_does_not_notice() {
    let _turn = turn();
    let mut visit = Visit::new(|entry| !entry.is_at_load(), 90_000);
    visit.settle(Duration::from_secs(2));
    for entry in visit.entries.clone() {
        visit.attack(&entry);
    }
    visit.settle(Duration::from_secs(1));
    visit.leave("service");
}

#[test]
fn the_zoo_that_acts_at_load_never_serves_and_the_neighbour_does_not_notice() {
    let _turn = turn();
    let mut visit = Visit::new(Entry::is_at_load, 12_000);
    let begun = visit.begun;
    visit.wait_for_loads();
    visit.windows.push(Window { name: "(all that act at load, at once)", ended: "", from: begun, to: Instant::now() });
    visit.settle(Duration::from_secs(2));
    for entry in visit.entries.clone() {
        visit.look_at_load(&entry);
    }
    visit.leave("load");
}

/// The default policy: what the gate refuses never reaches libtorch. What passes it meets the cage under the same policy, in
/// the two tests above.
#[test]
fn what_the_gate_refuses_never_reaches_libtorch() {
    let _turn = turn();
    let place = Place::new();
    let refused: Vec<Entry> = chosen(|entry| entry.gate != Gate::Passes);
    let mut setup = Setup::new().limit("start_attempts", 1).simple("neighbour", &models::double());
    for entry in &refused {
        setup = put(setup, entry, &place, false);
    }
    let casemate = setup.serve();
    let mut faults = Vec::new();
    for entry in &refused {
        let (Gate::Refuses(code) | Gate::Always(code)) = entry.gate else { continue };
        let answer = casemate.row(entry.name, zoo::ASKED);
        let last = &casemate.status(entry.name)["last_exit"];
        let detail = last["detail"].as_str().unwrap_or_default();
        if answer.status != 503 || last["cause"] != "refused" || !detail.contains(code) {
            faults.push(format!("{}: {code} was expected: {} {last}", entry.name, answer.status));
        }
        if answer.text().contains(detail) {
            faults.push(format!("{}: a client is told more than a code: {}", entry.name, answer.text()));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert_eq!(place.disturbed(), None);
    assert_eq!(casemate.row("neighbour", [1.0; 4]).status, 200);
}

/// One server at a time: what is measured is attacks, not other tests.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One server with many hostile models, and the neighbour's pulse.
struct Visit {
    entries: Vec<Entry>,
    casemate: Casemate,
    place: Place,
    pulse: Pulse,
    begun: Instant,
    front: u32,
    held: (usize, u64),
    windows: Vec<Window>,
    quiet: Vec<(Instant, Instant)>,
    faults: Vec<String>,
}

/// One attack in time.
struct Window {
    name: &'static str,
    ended: &'static str,
    from: Instant,
    to: Instant,
}

/// What became of an attack.
#[derive(Debug)]
struct Outcome {
    status: u16,
    word: String,
    data: Vec<f32>,
    cause: String,
    detail: String,
    same_worker: bool,
}

impl Visit {
    /// All of them start at once, on as many processors as there are: `load_ms` must leave room for that.
    fn new(choose: impl Fn(&Entry) -> bool, load_ms: u64) -> Self {
        let (entries, place) = (chosen(choose), Place::new());
        let mut setup = Setup::new()
            .limit("start_attempts", 1)
            .limit("load_ms", load_ms)
            .limit("worker_memory_mib", 320)
            .limit("request_bytes", 1 << 20)
            .limit("response_bytes", 1 << 20)
            .simple("neighbour", &models::double());
        for entry in &entries {
            setup = put(setup, entry, &place, entry.gate != Gate::Passes);
        }
        let casemate = setup.start();
        casemate.wait_until("the neighbour", Duration::from_secs(90), || {
            client::send(casemate.address, "GET", "/v2/models/neighbour/ready", &[], b"").is_ok_and(|a| a.status == 200)
        });
        let begun = Instant::now();
        let pulse = Pulse::start(casemate.address, "neighbour", [MARK; 4], [MARK * 2.0; 4], PACE);
        let mut visit = Self {
            front: casemate.front(),
            held: (0, 0),
            entries,
            casemate,
            place,
            pulse,
            begun,
            windows: Vec::new(),
            quiet: Vec::new(),
            faults: Vec::new(),
        };
        if visit.entries.iter().all(|entry| !entry.is_at_load()) {
            visit.wait_for_loads();
            println!("{} workers after {:?}", visit.entries.len() + 1, begun.elapsed());
        }
        visit.held = visit.holds();
        visit
    }

    /// Until every model serves or is given up.
    fn wait_for_loads(&self) {
        let ready =
            || client::send(self.casemate.address, "GET", "/v2/health/ready", &[], b"").is_ok_and(|a| a.status == 200);
        self.casemate.wait_until("every model's load", Duration::from_secs(120), ready);
    }

    /// Nothing happens but the pulse.
    fn settle(&mut self, time: Duration) {
        // The next worker has just started; what it still does is not quiet.
        std::thread::sleep(Duration::from_millis(100));
        let from = Instant::now();
        std::thread::sleep(time);
        self.quiet.push((from, Instant::now()));
    }

    fn attack(&mut self, entry: &Entry) {
        let from = Instant::now();
        let most = std::env::var("CASEMATE_ZOO_SECONDS").ok().and_then(|s| s.parse().ok());
        let until = from + most.map_or(Duration::from_millis(300), Duration::from_secs_f64);
        let mut outcome = self.once(entry);
        let ended = self.judge(entry, &outcome);
        while Instant::now() < until && most.is_some() && outcome.status != 503 {
            outcome = self.once(entry);
        }
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
        self.windows.push(Window { name: entry.name, ended, from, to: Instant::now() });
        if let Some(how) = self.place.disturbed() {
            self.faults.push(format!("{}: {how}", entry.name));
            self.place = Place::new();
        }
        self.settle(Duration::from_millis(100));
    }

    /// One attack, and the wait for the next worker where this one did not live.
    fn once(&self, entry: &Entry) -> Outcome {
        let name = entry.name;
        let calm = self.casemate.row(name, zoo::CALM);
        if calm.status != 200 {
            return self.outcome(entry, &calm, 0);
        }
        let before = self.casemate.status(name)["starts"].as_u64().unwrap_or(0);
        let mut answer = self.casemate.row(name, zoo::ASKED);
        for _ in 1..entry.requests {
            if answer.status == 200 {
                answer = self.casemate.row(name, zoo::ASKED);
            }
        }
        if matches!(answer.status, 502 | 504) {
            let back = || {
                let status = self.casemate.status(name);
                status["state"] == "ready"
                    && (status["starts"].as_u64() > Some(before) || answer.error_word() == "bad_output")
            };
            self.casemate.wait_until(&format!("{name} is back"), Duration::from_secs(30), back);
        }
        self.outcome(entry, &answer, before)
    }

    fn outcome(&self, entry: &Entry, answer: &Answer, before: u64) -> Outcome {
        let status = self.casemate.status(entry.name);
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let data = answer.json()["outputs"][0]["data"].as_array().cloned().unwrap_or_default();
        Outcome {
            status: answer.status,
            word: answer.error_word(),
            data: data.iter().map(|v| v.as_f64().unwrap_or(f64::NAN) as f32).collect(),
            cause: text(&status["last_exit"]["cause"]),
            detail: text(&status["last_exit"]["detail"]),
            same_worker: status["starts"].as_u64() == Some(before),
        }
    }

    /// Holds an outcome against what the zoo says. The word for the table.
    fn judge(&mut self, entry: &Entry, outcome: &Outcome) -> &'static str {
        let cage = match entry.gate {
            Gate::Always(code) => Cage::Never("refused", code),
            _ => entry.cage,
        };
        let met = met(&cage, outcome);
        if met.is_none() {
            self.faults.push(format!("{}: {cage:?} was expected: {outcome:?}", entry.name));
        }
        met.unwrap_or("NOT AS EXPECTED")
    }

    fn look_at_load(&mut self, entry: &Entry) {
        let answer = self.casemate.row(entry.name, zoo::ASKED);
        let outcome = self.outcome(entry, &answer, 1);
        let ended = self.judge(entry, &outcome);
        println!("{:26} {ended:22} {}", entry.name, outcome.detail.chars().take(120).collect::<String>());
        if matches!(entry.cage, Cage::Never(..)) && answer.status != 503 {
            self.faults.push(format!("{}: it answered {}", entry.name, answer.text()));
        }
        if let Some(how) = self.place.disturbed() {
            self.faults.push(format!("{how}, after the loads"));
        }
    }

    /// Descriptors and KiB of the front.
    fn holds(&self) -> (usize, u64) {
        let rss = process::status(self.front).get("VmRSS").cloned().unwrap_or_default();
        let kib = rss.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0);
        (process::descriptors(self.front).len(), kib)
    }

    /// The reckoning.
    fn leave(mut self, title: &str) {
        assert_eq!(self.casemate.front(), self.front, "the front was replaced");
        assert_eq!(self.casemate.status("neighbour")["starts"], 1, "the neighbour's worker was replaced");
        let (fds, kib) = self.holds();
        println!("front: {:?} descriptors and KiB before, {:?} after", self.held, (fds, kib));
        if self.held.0 > 0 {
            assert!(fds <= self.held.0 + 16, "descriptors: {} before, {fds} after", self.held.0);
            assert!(kib <= self.held.1 + 64 * 1024, "KiB: {} before, {kib} after", self.held.1);
        }
        let log = self.casemate.log();
        assert!(!log.contains('\u{1b}'), "a terminal escape reached the log");
        assert!(!log.lines().any(|line| line.starts_with("{\"level\"")), "a model forged a line of the log");
        assert!(log.lines().all(|line| line.len() < 16 << 10), "a line without end reached the log");
        let samples = self.pulse.stop();
        let faulty: Vec<&Sample> = samples.iter().filter(|sample| sample.fault.is_some()).collect();
        assert!(faulty.is_empty(), "the neighbour failed {} times: {:?}", faulty.len(), faulty[0]);
        let quiet: Vec<&Sample> =
            samples.iter().filter(|s| self.quiet.iter().any(|(a, b)| (*a..*b).contains(&s.due))).collect();
        let (p50, p99) = (pulse::quantile(&quiet, 0.5), pulse::quantile(&quiet, 0.99));
        let mut table = format!(
            "| model | what becomes of it | requests | p50 | p99 | p99 / quiet |\n|---|---|---|---|---|---|\n| quiet | | {} | {} | {} | |\n",
            quiet.len(),
            ms(p50),
            ms(p99)
        );
        for Window { name, ended, from, to } in &self.windows {
            let under: Vec<&Sample> = samples.iter().filter(|sample| (*from..*to).contains(&sample.due)).collect();
            let high = pulse::quantile(&under, 0.99);
            let ratio = high.as_secs_f64() / p99.as_secs_f64();
            let (median, count) = (pulse::quantile(&under, 0.5), under.len());
            let _ = writeln!(table, "| {name} | {ended} | {count} | {} | {} | {ratio:.2} |", ms(median), ms(high));
            if pulse::quantile(&under, 1.0) > NOTICED {
                self.faults.push(format!("{name}: the neighbour waited {:?}", pulse::quantile(&under, 1.0)));
            }
            if ratio > GENEROUS && high > TICKS {
                self.faults.push(format!("{name}: the neighbour's p99 is {high:?}, and {p99:?} in quiet"));
            }
        }
        println!("{table}");
        write_down(title, &table);
        assert!(self.faults.is_empty(), "{}", self.faults.join("\n"));
    }
}

trait ErrorWord {
    fn error_word(&self) -> String;
}

impl ErrorWord for Answer {
    fn error_word(&self) -> String {
        self.headers.get("x-casemate-error").cloned().unwrap_or_default()
    }
}

/// Which expectation an outcome meets, in words.
fn met(cage: &Cage, outcome: &Outcome) -> Option<&'static str> {
    let died =
        |cause: &str, detail: &str| outcome.cause == cause && outcome.detail.contains(detail) && !outcome.same_worker;
    match cage {
        Cage::Answers(such) => (outcome.status == 200 && such(&outcome.data)).then_some("served"),
        Cage::Refuses(status, word) => {
            let met = (outcome.status, outcome.word.as_str()) == (*status, *word) && outcome.same_worker;
            met.then_some(*word)
        }
        Cage::Syscall(call) => (outcome.status == 502 && died("syscall", call)).then_some("killed by the filter"),
        Cage::Signal(signal) => (outcome.status == 502 && died("signal", signal)).then_some(*signal),
        Cage::Deadline => (outcome.status == 504 && died("deadline", "")).then_some("killed at its deadline"),
        Cage::Never(cause, detail) => {
            (outcome.status == 503 && outcome.cause == *cause && outcome.detail.contains(detail))
                .then_some("never serves")
        }
        Cage::Either(cages) => cages.iter().find_map(|cage| met(cage, outcome)),
    }
}

fn chosen(choose: impl Fn(&Entry) -> bool) -> Vec<Entry> {
    let only = std::env::var("CASEMATE_ZOO").unwrap_or_default();
    zoo::all().into_iter().filter(|entry| choose(entry) && entry.name.starts_with(&only)).collect()
}

/// `open`: with all that the gate's lists refuse allowed, so that the cage is met.
fn put(setup: Setup, entry: &Entry, place: &Place, open: bool) -> Setup {
    let limits = format!("[limits]\ndeadline_ms = {}", entry.deadline_ms);
    let setup = setup.model(entry.name, &entry.archive(place), &["x:FP32[-1,4]"], entry.outputs, &limits);
    let setup = setup.config(&format!("[models.{}]\nthreads = {}", entry.name, entry.threads));
    if open { setup.past_the_gate(entry.name, &zoo::OPEN) } else { setup }
}

fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

/// Into the README, between the markers of this table.
fn write_down(title: &str, table: &str) {
    if std::env::var_os("CASEMATE_WRITE_DOCUMENTS").is_none() {
        return;
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/adversary/README.md");
    let text = fs::read_to_string(path).unwrap();
    let (first, last) = (format!("<!-- {title} -->\n"), format!("<!-- /{title} -->"));
    let (before, rest) = text.split_once(&first).expect("the first marker");
    let (_, after) = rest.split_once(&last).expect("the last marker");
    fs::write(path, format!("{before}{first}\n{table}\n{last}{after}")).unwrap();
}
