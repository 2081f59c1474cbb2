//! SECURITY.md, "The cage, layer by layer": what the kernel shows of the three programs from outside, line by line, against
//! the files in `golden/`. A layer that comes, goes or weakens changes a line there.
//!
//! Only what we promise is looked at, and nothing that differs between hosts is kept: ids become names, and what a process
//! shares with its launcher is said so. `CASEMATE_WRITE_DOCUMENTS=1` writes the files anew.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "test code: what cannot be is a failure"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use casemate_tests::casemate::{Casemate, Setup, is_root};
use casemate_tests::inherited::Inherited;
use casemate_tests::{models, process};
use nix::sys::signal::Signal;

#[test]
fn as_root_the_kernel_shows_what_the_golden_file_says() {
    if !is_root() {
        println!("SKIPPED: needs root");
        return;
    }
    check(&Setup::new().simple("m", &models::double()).serve(), "root", false);
}

#[test]
fn as_root_a_zygote_s_worker_is_shown_as_any_other() {
    if !is_root() {
        println!("SKIPPED: needs root");
        return;
    }
    check(&Setup::new().simple("m", &models::double()).sandbox("spawn = \"zygote\"").serve(), "root", true);
}

#[test]
fn as_an_ordinary_user_the_kernel_shows_what_the_golden_file_says() {
    check(&Setup::new().as_user().simple("m", &models::double()).serve(), "user", false);
}

#[test]
fn as_an_ordinary_user_a_zygote_s_worker_is_shown_as_any_other() {
    let setup = Setup::new().as_user().simple("m", &models::double());
    check(&setup.sandbox("spawn = \"zygote\"").serve(), "user", true);
}

/// What a shell's background job, `nohup` or a supervisor did to signals, and some more.
const HABITS: Inherited = Inherited {
    ignored: &[Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGCHLD, Signal::SIGTSTP],
    blocked: &[Signal::SIGUSR2, Signal::SIGALRM, Signal::SIGTERM, Signal::SIGSEGV],
};

/// Who starts a server decides nothing about its cages: started with signals ignored and blocked, all is as the same golden
/// file says, also of a worker that comes after another one's end.
#[test]
fn a_server_started_by_nohup_is_shown_as_any_other() {
    for (setup, who, born) in [
        (Setup::new().as_user(), "user", false),
        (Setup::new(), "root", false),
        (Setup::new().sandbox("spawn = \"zygote\""), "root", true),
    ] {
        if who == "root" && !is_root() {
            println!("SKIPPED in part: needs root");
            continue;
        }
        let mut casemate = setup.simple("m", &models::double()).inheriting(HABITS).serve();
        // The control: they are ignored and blocked indeed, in the one process that came before any of ours could act.
        let launcher = process::status(casemate.launcher());
        assert!(has(&launcher["SigIgn"], Signal::SIGUSR1), "{launcher:?}");
        assert!(has(&launcher["SigBlk"], Signal::SIGUSR2), "{launcher:?}");
        let first = casemate.worker("m");
        casemate_tests::casemate::kill(first, Signal::SIGKILL);
        casemate.wait_until("the next worker", Duration::from_secs(60), || {
            casemate.status("m")["worker"]["pid"].as_u64().is_some_and(|pid| pid != u64::from(first))
                && casemate.row("m", [1.0; 4]).status == 200
        });
        check(&casemate, who, born);
        // Ignored, it stays so, as `nohup` wants it; what ends it is what nobody may ignore.
        casemate.signal(Signal::SIGHUP);
        casemate.signal(Signal::SIGINT);
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(casemate.row("m", [1.0; 4]).status, 200);
        assert_eq!(casemate.stop(), Some(0), "{}", casemate.log());
    }
}

/// Whether a mask has it.
fn has(mask: &str, signal: Signal) -> bool {
    u64::from_str_radix(mask, 16).unwrap() & 1 << (signal as u32 - 1) != 0
}

/// Of a zygote's worker nothing may differ but how many filters it has: its zygote's two stay under its own.
fn check(casemate: &Casemate, who: &str, born: bool) {
    assert_eq!(casemate.row("m", [1.0; 4]).status, 200);
    // Its connections close.
    std::thread::sleep(Duration::from_millis(300));
    let launcher = Subject { pid: casemate.launcher(), launcher: casemate.launcher(), strict: false };
    let (worker, front) = (
        Subject { pid: casemate.worker("m"), strict: true, ..launcher },
        Subject { pid: casemate.front(), ..launcher },
    );
    let seen = format!("{}{}{}", worker.portrait("worker"), front.portrait("front"), launcher.portrait("launcher"));
    // Whether an ordinary user has control groups to give is the host's affair.
    let of_hosts = |line: &str| line.contains("r cgroup: ") || line.ends_with("control group");
    let seen: String =
        seen.lines().filter(|line| who == "root" || !of_hosts(line)).map(|line| format!("{line}\n")).collect();
    let maps = fs::read_to_string(format!("/proc/{}/maps", worker.pid)).unwrap_or_default();
    assert!(!maps.contains("rwx"), "{maps}");
    // The control: of a process without a cage the same look shows something else, in the layers that count.
    let free = Subject { pid: std::process::id(), ..launcher }.portrait("worker");
    assert!(free.contains("seccomp filters of its own: 0") && !seen.contains("worker seccomp filters of its own: 0"));
    let shared = free.lines().filter(|line| seen.lines().any(|seen| seen == *line)).count();
    assert!(shared * 2 < free.lines().count(), "{free}\nis too much like\n{seen}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("adversary/golden/attestation-{who}.txt"));
    if std::env::var_os("CASEMATE_WRITE_DOCUMENTS").is_some() && !born {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &seen).unwrap();
        return;
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    if !born {
        return compare(&golden, &seen, &path);
    }
    // The launcher has a zygote's channel and group beside the rest.
    let of_worker = |text: &str| -> String {
        text.lines().filter(|line| line.starts_with("worker ")).map(|line| format!("{line}\n")).collect()
    };
    let (own, born) = ("worker seccomp filters of its own: 4\n", "worker seccomp filters of its own: 6\n");
    assert!(golden.contains(own), "{golden}");
    compare(&of_worker(&golden).replace(own, born), &of_worker(&seen), &path);
}

/// Line by line, but for what this test's user may not read of a process that is not dumpable.
fn compare(golden: &str, seen: &str, path: &Path) {
    let hidden: BTreeSet<&str> = seen.lines().filter_map(|line| line.strip_suffix(HIDDEN)).collect();
    for topic in &hidden {
        println!("SKIPPED: {topic}, which only root may look at");
    }
    let known = |text: &str| -> Vec<String> {
        let topics = text.lines().filter(|line| !hidden.iter().any(|topic| line.starts_with(topic)));
        topics.map(str::to_owned).collect()
    };
    let (golden, seen) = (known(golden), known(seen));
    let missing: Vec<&String> = golden.iter().filter(|line| !seen.contains(line)).collect();
    let fresh: Vec<&String> = seen.iter().filter(|line| !golden.contains(line)).collect();
    assert!(
        golden == seen,
        "{} does not say what the kernel says (CASEMATE_WRITE_DOCUMENTS=1 writes it anew)\ngone: {missing:#?}\nnew: {fresh:#?}",
        path.display()
    );
}

const HIDDEN: &str = " cannot be read";

/// A process to be drawn.
#[derive(Clone, Copy)]
struct Subject {
    pid: u32,
    launcher: u32,
    /// Each descriptor and each kind of mapping by itself.
    strict: bool,
}

impl Subject {
    /// A line for each thing that is promised, each with the program's name in front.
    fn portrait(&self, name: &str) -> String {
        let mut lines = Vec::new();
        self.status(&mut lines);
        self.namespaces(&mut lines);
        self.users(&mut lines);
        self.places(&mut lines);
        self.limits(&mut lines);
        self.descriptors(&mut lines);
        self.mappings(&mut lines);
        self.birth(&mut lines);
        lines.iter().map(|line| format!("{name} {line}\n")).collect()
    }

    fn read(&self, file: &str) -> Option<String> {
        let bytes = fs::read(format!("/proc/{}/{file}", self.pid)).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn status(&self, lines: &mut Vec<String>) {
        let status = process::status(self.pid);
        let above = process::status(self.launcher);
        for field in ["Uid", "Gid"] {
            lines.push(format!("{field}: {}", ids(&status[field], &above[field])));
        }
        lines.push(format!("Groups: {}", if status["Groups"].is_empty() { "none" } else { "some" }));
        lines.push(format!("NoNewPrivs: {}", status["NoNewPrivs"]));
        // This test may be in a container, with a filter that everything in it inherits.
        let filters =
            |status: &BTreeMap<String, String>| status.get("Seccomp_filters").and_then(|n| n.parse::<u32>().ok());
        let around = filters(&process::status(std::process::id())).unwrap_or(0);
        let own = filters(&status).map_or(0, |filters| filters.saturating_sub(around));
        lines.push(format!("seccomp filters of its own: {own}"));
        if own > 0 {
            lines.push(format!("Seccomp: {}", status["Seccomp"]));
        }
        if self.strict {
            lines.push(format!("Threads: {}", status["Threads"]));
        }
        if self.pid != self.launcher {
            lines.extend(["SigIgn", "SigCgt", "SigBlk"].map(|field| format!("{field}: {}", signals(&status[field]))));
            // What a launcher has is what its user has, and what a container leaves of it.
            for field in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                let none = status[field].bytes().all(|digit| digit == b'0');
                lines.push(format!("{field}: {}", if none { "none" } else { "some" }));
            }
            // The kernel gives the files of a process that cannot be dumped to root.
            let mem = fs::metadata(format!("/proc/{}/mem", self.pid)).map(|file| file.uid());
            let hidden = mem.is_ok_and(|owner| owner == 0) && !status["Uid"].starts_with("0\t");
            lines.push(format!("dumpable: {}", if hidden { "no" } else { "yes" }));
        }
    }

    fn namespaces(&self, lines: &mut Vec<String>) {
        let (own, above) = (process::namespaces(self.pid), process::namespaces(self.launcher));
        if own.is_empty() {
            return lines.push(format!("ns{HIDDEN}"));
        }
        for kind in
            ["cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "time_for_children", "user", "uts"]
        {
            let whose = if own.get(kind) == above.get(kind) { "the launcher's" } else { "its own" };
            lines.push(format!("ns {kind}: {whose}"));
        }
    }

    fn users(&self, lines: &mut Vec<String>) {
        for file in ["uid_map", "gid_map"] {
            let text = self.read(file).unwrap_or_default();
            // The launcher's is the host's or the container's.
            let same = Some(&text) == Subject { pid: self.launcher, ..*self }.read(file).as_ref();
            let maps = text.lines().map(|line| line.split_whitespace().map(number).collect::<Vec<_>>().join(" "));
            let maps = maps.collect::<Vec<_>>().join(", ");
            lines.push(format!("{file}: {}", if same { "the launcher's" } else { &maps }));
        }
        if self.strict {
            lines.push(format!("setgroups: {}", self.read("setgroups").unwrap_or_default().trim()));
        }
    }

    fn places(&self, lines: &mut Vec<String>) {
        if self.strict {
            let root = process::root_entries(self.pid);
            let unreadable = root.first().is_some_and(|entry| entry.starts_with("unreadable"));
            lines.push(match root.len() {
                _ if unreadable => format!("root{HIDDEN}"),
                0 => "root: empty".to_owned(),
                entries => format!("root: {entries} entries"),
            });
            for line in self.read("mountinfo").unwrap_or_default().lines() {
                lines.push(format!("mount: {}", mount(line)));
            }
        } else {
            let same = self.read("mountinfo") == (Subject { pid: self.launcher, ..*self }.read("mountinfo"));
            lines.push(format!("mounts: {}", if same { "the launcher's" } else { "its own" }));
        }
        let same = self.read("cgroup") == (Subject { pid: self.launcher, ..*self }.read("cgroup"));
        lines.push(format!("cgroup: {}", if same { "the launcher's" } else { "its own" }));
        let adjust = |subject: &Self| subject.read("oom_score_adj").and_then(|text| text.trim().parse::<i64>().ok());
        let above = adjust(&Subject { pid: self.launcher, ..*self });
        let more = adjust(self).zip(above).map_or(0, |(own, above)| own - above);
        lines.push(format!(
            "oom_score_adj: the launcher's{}",
            if more == 0 { String::new() } else { format!(" {more:+}") }
        ));
    }

    fn limits(&self, lines: &mut Vec<String>) {
        if !self.strict {
            return;
        }
        for line in self.read("limits").unwrap_or_default().lines() {
            // Limits of time, of the address space and of niceness are the host's.
            let ours = [
                "Max file size",
                "Max data size",
                "Max stack size",
                "Max core file size",
                "Max open files",
                "Max locked memory",
                "Max pending signals",
                "Max msgqueue size",
                "Max realtime priority",
            ];
            if ours.iter().any(|name| line.starts_with(name)) {
                lines.push(format!("limit: {}", line.split_whitespace().collect::<Vec<_>>().join(" ")));
            }
        }
    }

    fn descriptors(&self, lines: &mut Vec<String>) {
        let descriptors = process::descriptors(self.pid);
        if descriptors.is_empty() {
            return lines.push(format!("fd{HIDDEN}"));
        }
        let kind = |path: &Path| {
            let name = path.to_string_lossy().into_owned();
            // `socket:[4711]`
            match name.split_once(":[") {
                Some((kind, number)) if number.ends_with(']') => kind.to_owned(),
                // `/sys/fs/cgroup/…/casemate-4711-89ab…`; how many there are is the host's affair.
                _ if name
                    .rsplit("/casemate-")
                    .next()
                    .is_some_and(|end| end.starts_with(|c: char| c.is_ascii_digit())) =>
                {
                    "control group".to_owned()
                }
                // Whose folder it lies in is the host's affair.
                _ if name.starts_with('/') && !name.starts_with("/dev/") && !name.starts_with("/memfd:") => {
                    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
                }
                _ => name,
            }
        };
        if self.strict {
            lines.extend(descriptors.iter().map(|(number, path)| format!("fd {number}: {}", kind(path))));
            return;
        }
        let kinds: BTreeSet<String> = descriptors.values().map(|path| kind(path)).collect();
        lines.extend(kinds.iter().map(|kind| format!("fd: {kind}")));
    }

    fn mappings(&self, lines: &mut Vec<String>) {
        let Some(maps) = self.read("maps").filter(|maps| !maps.is_empty()) else {
            return lines.push(format!("map{HIDDEN}"));
        };
        let mut kinds: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for line in maps.lines() {
            let mut fields = line.split_whitespace();
            let protection = fields.nth(1).unwrap_or_default();
            let name = fields.skip(3).collect::<Vec<_>>().join(" ");
            if protection == "---p" {
                continue;
            }
            let kind = match name.as_str() {
                "" => "nameless",
                name if name.starts_with("[anon") => "nameless",
                // The kernel's own pages; which there are is its affair.
                "[vdso]" | "[vvar]" | "[vvar_vclock]" | "[vsyscall]" => continue,
                name if name.starts_with('[') => name,
                name if name.starts_with("/memfd:") => name.split(' ').next().unwrap_or(name),
                _ => "of programs and libraries",
            };
            kinds.entry(kind.to_owned()).or_default().insert(protection.to_owned());
        }
        for (kind, protections) in kinds {
            lines.push(format!("map {kind}: {}", protections.into_iter().collect::<Vec<_>>().join(" ")));
        }
    }

    fn birth(&self, lines: &mut Vec<String>) {
        match self.read("environ") {
            None => lines.push(format!("environ{HIDDEN}")),
            Some(_) if self.pid == self.launcher => {}
            Some(text) => {
                let names: Vec<&str> = text.split('\0').filter_map(|variable| variable.split('=').next()).collect();
                lines.push(format!("environ: {:?}", names.join(" ").trim()));
            }
        }
        if self.pid != self.launcher {
            lines.push(format!("cmdline: {:?}", self.read("cmdline").unwrap_or_default()));
        }
        lines.push(format!("comm: {}", process::name(self.pid)));
    }
}

/// A set of signals, but for the two that libc keeps for itself, and may handle or not.
fn signals(mask: &str) -> String {
    const LIBC: u64 = 0b11 << 31;
    match u64::from_str_radix(mask, 16).map(|mask| mask & !LIBC) {
        Ok(0) => "none".to_owned(),
        Ok(mask) => format!("{mask:016x}"),
        Err(_) => mask.to_owned(),
    }
}

/// Four ids: whose they are.
fn ids(own: &str, above: &str) -> String {
    let all: BTreeSet<&str> = own.split_whitespace().collect();
    let whose = match all.first().and_then(|id| id.parse::<u32>().ok()) {
        _ if own == above => "the launcher's",
        Some(1_879_100_000) => "the front's",
        Some(1_879_100_001..1_879_104_097) => "a worker's",
        _ => "others",
    };
    format!("{whose}{}", if all.len() == 1 { "" } else { ", and they differ" })
}

/// A number of an id map: small ones as they are.
fn number(word: &str) -> String {
    match word.parse::<u32>() {
        Ok(u32::MAX) => "all".to_owned(),
        Ok(small @ 0..1000) => small.to_string(),
        _ => "id".to_owned(),
    }
}

/// A line of `mountinfo` without its numbers: place, options, type.
fn mount(line: &str) -> String {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let kind = fields.iter().position(|field| *field == "-").and_then(|at| fields.get(at + 1));
    format!("{} {} {}", fields.get(4).unwrap_or(&""), fields.get(5).unwrap_or(&""), kind.unwrap_or(&""))
}
