//! Reads the layers of a worker's cage from outside: what the kernel says about that process, whatever it says itself.

mod marks;

use std::fmt::Write as _;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use casemate_ipc::launch::RunTimeCode;
use casemate_ipc::layer::{Layer, Reading};
use casemate_lockdown::{self as lockdown, Stage, policy};
use nix::errno::Errno;
use nix::unistd::{Pid, geteuid};

pub use marks::Marks;
use marks::Other;

use crate::cgroup::Leaf;
use crate::jail::identity::Identity;
use crate::jail::namespaces::has_time;
use crate::jail::nested;
use crate::jail::rlimit::{Ceilings, DESCRIPTORS};
use crate::sys::process::borrow_descriptor;

/// What the launcher gave a worker, to compare with.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Its process.
    pub pid: Pid,
    /// Who it is to be.
    pub identity: Identity,
    /// What it may use.
    pub ceilings: Ceilings,
    /// Whether it has namespaces of its own.
    pub namespaces: bool,
    /// The Landlock version of this kernel; 0 where there is none.
    pub landlock: u32,
    /// Whether it may make machine code.
    pub run_time_code: RunTimeCode,
    /// Whether its warm-up may, whatever comes afterwards.
    pub warmed: bool,
    /// The marks of the zygote that bore it, whose filter it has too, at its birth.
    pub zygote: Option<Marks>,
}

/// One reading for each layer, in the order in which they are put on.
pub fn read(subject: &Subject, leaf: Option<&Leaf>, pidfd: impl AsFd) -> Vec<Reading> {
    let status = Status::of(&subject.pid.to_string());
    let (own, launcher) = (Marks::of(subject.pid), Marks::of(Pid::this()));
    let zygote = subject.zygote.iter().map(|zygote| ("its zygote's", zygote));
    let others: Vec<Other<'_>> = [("the launcher's", &launcher)].into_iter().chain(zygote).collect();
    let one = |layer| {
        let (in_force, evidence) = match layer {
            Layer::Cgroup => cgroup(subject.pid, leaf),
            Layer::ResourceLimits => limits(subject),
            Layer::UserNamespace => user_namespace(subject.pid, own.apart(&others, &["user"])),
            Layer::Namespaces => namespaces(&own, &others),
            Layer::NoNestedNamespaces => nested_namespaces(subject, &pidfd),
            Layer::Speculation => speculation(&status),
            Layer::CoreScheduling => own.apart_on_cores(&others),
            Layer::OwnIdentity => own_identity(subject, &status),
            Layer::NoNewPrivileges => no_new_privileges(&status),
            Layer::NonDumpable => non_dumpable(subject.pid, &status),
            Layer::EmptyRoot => empty_root(subject.pid),
            Layer::NoCapabilities => no_capabilities(&status),
            Layer::Landlock => landlock(subject, &status),
            Layer::Seccomp => seccomp(subject, &status),
            Layer::Descriptors => descriptors(&pidfd),
        };
        Reading { layer, in_force, evidence }
    };
    Layer::ALL.map(one).into()
}

/// A layer's state, and what was read.
type Found = (bool, String);

fn limits(subject: &Subject) -> Found {
    let Ok(text) = fs::read_to_string(format!("/proc/{}/limits", subject.pid)) else { return unread("limits") };
    let counted_alone = subject.namespaces || subject.identity.own().is_some();
    let (mut holds, mut evidence) = (true, String::new());
    for ceiling in subject.ceilings.list(counted_alone) {
        let found = hard_limit(&text, ceiling.name);
        holds &= found.is_some_and(|found| found <= ceiling.most);
        let name = ceiling.name.trim_start_matches("Max ");
        let found = found.map_or("unlimited".to_owned(), |found| found.to_string());
        let _ = write!(evidence, "{}{name} {found}", if evidence.is_empty() { "" } else { ", " });
    }
    (holds, evidence)
}

/// The second number of a line `NAME  SOFT  HARD  UNIT`; nothing where it is unlimited.
fn hard_limit(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn user_namespace(pid: Pid, (apart, mut evidence): Found) -> Found {
    let map = fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap_or_default();
    let map = map.split_whitespace().collect::<Vec<_>>().join(" ");
    let _ = write!(evidence, ", uid_map {map}");
    (apart, evidence)
}

fn namespaces(own: &Marks, others: &[Other<'_>]) -> Found {
    let mut kinds = vec!["mnt", "pid", "net", "ipc", "uts", "cgroup"];
    if !has_time() {
        let (holds, evidence) = own.apart(others, &kinds);
        return (holds, format!("{evidence}, no time namespaces in this kernel"));
    }
    kinds.push("time");
    own.apart(others, &kinds)
}

fn cgroup(pid: Pid, leaf: Option<&Leaf>) -> Found {
    leaf.map_or((false, "the launcher's own control group".to_owned()), |leaf| leaf.read(pid))
}

fn nested_namespaces(subject: &Subject, pidfd: impl AsFd) -> Found {
    if !subject.namespaces {
        return (false, "it has no user namespace of its own".to_owned());
    }
    match nested::read(pidfd) {
        Ok(kinds) => {
            let holds = kinds.iter().all(|(_, most)| *most == 0);
            let list: Vec<_> = kinds.iter().map(|(kind, most)| format!("{kind} {most}")).collect();
            (holds, format!("most inside its user namespace: {}", list.join(", ")))
        }
        Err(error) => (false, format!("its user namespace cannot be looked into: {error}")),
    }
}

/// The words of `/proc/PID/status` that mean: forced off for good, off for everybody, or nothing that this CPU does.
fn speculation(status: &Status) -> Found {
    const STORE: [&str; 3] = ["thread force mitigated", "globally mitigated", "not vulnerable"];
    const BRANCH: [&str; 3] = ["conditional force disabled", "always disabled", "not affected"];
    let (store, branch) = (status.line("Speculation_Store_Bypass"), status.line("SpeculationIndirectBranch"));
    // Only x86 has a control for branches.
    let holds = STORE.contains(&store) && (BRANCH.contains(&branch) || !cfg!(target_arch = "x86_64"));
    (holds, format!("store bypass: {store}; indirect branch: {branch}"))
}

fn own_identity(subject: &Subject, status: &Status) -> Found {
    let (uids, groups) = (status.words("Uid"), status.words("Groups"));
    let Some(uid) = subject.identity.own() else {
        let extra = if groups.is_empty() { String::new() } else { format!(" and groups {}", groups.join(" ")) };
        return (false, format!("uid {}, shared with the launcher{extra}", geteuid()));
    };
    let text = uid.to_string();
    let own = |words: &[String]| words.len() == 4 && words.iter().all(|word| *word == text);
    let holds = own(&uids) && own(&status.words("Gid")) && groups.is_empty();
    let others = count_processes_of(&text, subject.pid);
    let shared = match others {
        0 => "shared with nobody".to_owned(),
        n => format!("shared with {n} other processes"),
    };
    let groups = if groups.is_empty() { "no other group".to_owned() } else { format!("groups {}", groups.join(" ")) };
    (holds && others == 0, format!("uid {}, {shared}, {groups}", uids.first().unwrap_or(&text)))
}

/// Processes with that uid, one left out.
fn count_processes_of(uid: &str, but: Pid) -> usize {
    let Ok(entries) = fs::read_dir("/proc") else { return usize::MAX };
    // The folder of a process belongs to its effective uid. What root's has as its others is of no use to anybody: so the
    // many processes of the host and of the kernel are not read one by one.
    let others = entries.flatten().filter(|entry| entry.metadata().is_ok_and(|folder| folder.uid() != 0));
    let names = others.filter_map(|entry| entry.file_name().into_string().ok());
    let names = names.filter(|name| name.parse::<i32>().is_ok_and(|pid| pid != but.as_raw()));
    names.filter(|name| Status::of(name).words("Uid").iter().any(|word| word == uid)).count()
}

fn no_new_privileges(status: &Status) -> Found {
    (status.is("NoNewPrivs", "1"), status.said(&["NoNewPrivs"]))
}

/// The files in `/proc/PID` belong to the process's user, unless it is not dumpable: then to root.
fn non_dumpable(pid: Pid, status: &Status) -> Found {
    let owner = fs::metadata(format!("/proc/{pid}/environ")).map(|metadata| metadata.uid());
    match (owner, status.words("Uid").get(1).and_then(|uid| uid.parse::<u32>().ok())) {
        (Ok(owner), Some(uid)) => (owner != uid, format!("its /proc files belong to uid {owner}, it runs as {uid}")),
        _ => unread("environ"),
    }
}

fn empty_root(pid: Pid) -> Found {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/root/")) else { return unread("root") };
    let entries = entries.count();
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).map_or(0, |text| text.lines().count());
    (entries == 0 && mounts == 1, format!("/ has {entries} entries, {mounts} mounts"))
}

fn no_capabilities(status: &Status) -> Found {
    const SETS: [&str; 5] = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];
    let empty = |set: &&str| status.words(set).first().is_some_and(|word| word.bytes().all(|byte| byte == b'0'));
    if SETS.iter().all(empty) { (true, "all five sets 0".to_owned()) } else { (false, status.said(&SETS)) }
}

/// The kernel shows a Landlock domain to nobody outside. What can be seen is the serving filter; the worker's program
/// installs it only with the proof of its domain in hand.
fn landlock(subject: &Subject, status: &Status) -> Found {
    let version = subject.landlock;
    if version == 0 {
        return (false, "this kernel has no Landlock".to_owned());
    }
    let (sealed, filters) = filters(subject, status);
    let how = "not to be read from outside; the worker's program takes its domain on before the serving filter";
    (sealed, format!("version {version}, {how}: {filters}"))
}

/// The filters, and what the serving one must have kept from happening: a page of machine code that no file holds.
fn seccomp(subject: &Subject, status: &Status) -> Found {
    let (holds, evidence) = filters(subject, status);
    let Ok(maps) = fs::read_to_string(format!("/proc/{}/maps", subject.pid)) else {
        return (holds, format!("{evidence}; its maps cannot be read"));
    };
    let (made, writable) = (count_made_code(&maps, ""), count_made_code(&maps, "w"));
    match (subject.run_time_code, subject.warmed) {
        (RunTimeCode::Allowed, _) => (holds, format!("{evidence}; run-time code allowed, {made} mappings of it")),
        (RunTimeCode::Refused, false) => (holds && made == 0, format!("{evidence}; {made} mappings of run-time code")),
        // Made before the last filter. That no more came, the filter sees to; that none can be changed is seen here.
        (RunTimeCode::Refused, true) => (
            holds && writable == 0,
            format!("{evidence}; {made} mappings of code from the warm-up, {writable} writable"),
        ),
    }
}

/// Executable mappings of no file, in the text of a `/proc/PID/maps`, that also have this permission; what the kernel itself
/// puts there does not count.
fn count_made_code(maps: &str, also: &str) -> usize {
    let made = |line: &&str| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let executable =
            words.next().is_some_and(|permissions| permissions.contains('x') && permissions.contains(also));
        let (inode, name) = (words.nth(2), words.next().unwrap_or(""));
        executable
            && (inode == Some("0") && !matches!(name, "[vdso]" | "[vsyscall]" | "[uprobes]") || name.contains("memfd:"))
    };
    maps.lines().filter(made).count()
}

/// The stages of a worker that may or may not make code; `warmed` is one whose warm-up may.
pub fn worker_stages(code: RunTimeCode, warmed: bool) -> [Stage; 2] {
    Stage::of_worker(match code {
        RunTimeCode::Refused if warmed => lockdown::RunTimeCode::Warmed,
        RunTimeCode::Refused => lockdown::RunTimeCode::Refused,
        RunTimeCode::Allowed => lockdown::RunTimeCode::Allowed,
    })
}

fn filters(subject: &Subject, status: &Status) -> Found {
    // The launcher's own filters, and a container's around it, are inherited and count too.
    let count = |status: &Status| status.words("Seccomp_filters").first().and_then(|word| word.parse::<usize>().ok());
    let own = count(&Status::of("self")).unwrap_or(0);
    let programs = |stage: &Stage| policy::filter(stage.name()).map_or(1, |filter| filter.programs().len());
    let stages = worker_stages(subject.run_time_code, subject.warmed);
    let inherited = if subject.zygote.is_some() { programs(&Stage::Zygote) } else { 0 };
    let expected = own + inherited + stages.iter().map(programs).sum::<usize>();
    let found = count(status).unwrap_or(0);
    let holds = status.is("Seccomp", "2") && found >= expected;
    let [_, serve] = stages;
    (holds, format!("{}, {found} filters of {expected}, the last one {}", status.said(&["Seccomp"]), serve.name()))
}

/// Every descriptor that it can have, by number: the limit on them was in force before its program began.
fn descriptors(pidfd: impl AsFd) -> Found {
    const ALLOWED: [i32; 4] = [0, 1, 2, 3];
    let most = i32::try_from(DESCRIPTORS).unwrap_or(i32::MAX);
    let mut open = Vec::new();
    for number in 0..most {
        match borrow_descriptor(&pidfd, number) {
            Ok(_) => open.push(number),
            Err(Errno::EBADF) => {}
            Err(errno) => return (false, format!("its descriptors cannot be read: {errno}")),
        }
    }
    let list: Vec<_> = open.iter().map(ToString::to_string).collect();
    (open == ALLOWED, format!("fds {}", list.join(",")))
}

fn unread(what: &str) -> Found {
    (false, format!("/proc/PID/{what} cannot be read"))
}

/// `/proc/PID/status`.
struct Status(String);

impl Status {
    fn of(pid: &str) -> Self {
        Self(fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default())
    }

    fn words(&self, key: &str) -> Vec<String> {
        let line = self.0.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.unwrap_or_default().split_whitespace().map(str::to_owned).collect()
    }

    fn line(&self, key: &str) -> &str {
        let line = self.0.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.map_or("not shown by this kernel", str::trim)
    }

    fn is(&self, key: &str, value: &str) -> bool {
        self.words(key) == [value]
    }

    fn said(&self, keys: &[&str]) -> String {
        let parts: Vec<_> = keys.iter().map(|key| format!("{key}: {}", self.words(key).join(" "))).collect();
        parts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc_are_read() {
        let status = Status("Name:\tw\nUid:\t1\t2\t3\t4\nSeccomp:\t2\nSeccomp_filters:\t3\nGroups:\t \n".to_owned());
        assert_eq!(status.words("Uid"), ["1", "2", "3", "4"]);
        assert!(status.is("Seccomp", "2") && status.words("Groups").is_empty() && status.words("None").is_empty());
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files  16  17  files\nMax data size  unlimited  \
                      unlimited  bytes\n";
        assert_eq!(hard_limit(limits, "Max open files"), Some(17));
        assert_eq!(hard_limit(limits, "Max data size"), None);
    }

    #[test]
    fn code_that_no_file_holds_is_counted() {
        let maps = "7f00-7f01 r-xp 00000000 fe:00 5 /lib/libc.so.6\n7f02-7f03 rw-p 00000000 00:00 0 \n\
                    7f04-7f05 r-xp 00000000 00:00 0 [vdso]\n7f06-7f07 rwxp 00000000 00:00 0 \n\
                    7f08-7f09 r-xp 00000000 00:01 9 /memfd:x (deleted)\n7f0a-7f0b r-xp 00000000 00:00 0 [anon:code]\n";
        assert_eq!((count_made_code(maps, ""), count_made_code(maps, "w")), (3, 1));
    }

    /// A process without a cage must not look as if it had one.
    #[test]
    fn this_test_has_no_cage() {
        let subject = Subject {
            pid: Pid::this(),
            identity: Identity::Own(1_879_100_001),
            ceilings: Ceilings { threads: 1, instances: 1, memory_bytes: 64 << 20, mapped_bytes: 0, cpu_millis: None },
            namespaces: true,
            landlock: 1,
            run_time_code: RunTimeCode::Refused,
            warmed: false,
            zygote: None,
        };
        let own = std::fs::File::open("/dev/null").unwrap();
        for reading in read(&subject, None, &own) {
            assert!(!reading.in_force || reading.layer == Layer::NoNewPrivileges, "{reading:?}");
            assert!(!reading.evidence.is_empty());
        }
    }
}
