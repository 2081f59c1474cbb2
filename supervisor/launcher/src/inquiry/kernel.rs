//! The kernel itself: its version, what it has, how it is set.

use std::fs;

use casemate_ipc::inquiry::{Finding, State};
use nix::errno::Errno;
use nix::sys::utsname::uname;

use super::{finding, raised};
use crate::sys::process::landlock_version;
use crate::sys::question::{self, Speculation};

const GROUP: &str = "kernel";

/// All of it.
pub(super) fn look() -> Vec<Finding> {
    let mut found = vec![version(), landlock(), seccomp(), threads(), yama()];
    found.extend([speculation(), cores(), exec_gain(), memory_files(), overcommit()]);
    found
}

/// A file's text without its last newline, cut; nothing where it cannot be read.
pub(super) fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim_end().to_owned())
}

/// A setting by its name in sysctl(8).
pub(super) fn sysctl(key: &str) -> Option<String> {
    read(&format!("/proc/sys/{}", key.replace('.', "/")))
}

fn version() -> Finding {
    let said = uname().map(|name| format!("{} {}", name.release().to_string_lossy(), name.machine().to_string_lossy()));
    finding(GROUP, "version", said.unwrap_or_else(|errno| errno.to_string()), State::Note)
}

/// Scopes, which keep abstract sockets and signals inside, came with version 6: the last rights that the policy asks for.
const LANDLOCK_WHOLE: u32 = 6;

fn landlock() -> Finding {
    let errata = question::landlock_errata().map_or("not told".to_owned(), |bits| format!("{bits:#x}"));
    match landlock_version() {
        Ok(version) if version >= LANDLOCK_WHOLE => {
            finding(GROUP, "landlock", format!("version {version}, errata {errata}"), State::Good)
        }
        Ok(version) => {
            let value = format!("version {version}, errata {errata}: newer rights are left out");
            raised(finding(GROUP, "landlock", value, State::Weak), "a kernel of 6.12 or later")
        }
        Err(errno) => finding(GROUP, "landlock", format!("none ({errno})"), State::Bad),
    }
}

fn seccomp() -> Finding {
    const NEEDED: [&str; 2] = ["kill_process", "errno"];
    let Some(actions) = sysctl("kernel.seccomp.actions_avail") else {
        let lost = finding(GROUP, "seccomp", "no filters", State::Bad);
        return raised(lost, "a kernel with CONFIG_SECCOMP_FILTER");
    };
    let known: Vec<&str> = actions.split_whitespace().collect();
    let whole = NEEDED.iter().all(|action| known.contains(action));
    finding(GROUP, "seccomp", format!("filters; {actions}"), if whole { State::Good } else { State::Bad })
}

fn threads() -> Finding {
    match question::filters_all_threads() {
        Ok(()) => finding(GROUP, "seccomp-tsync", "a filter can be put on all threads at once", State::Good),
        Err(errno) => finding(GROUP, "seccomp-tsync", format!("refused: {errno}"), State::Bad),
    }
}

fn yama() -> Finding {
    match sysctl("kernel.yama.ptrace_scope").as_deref() {
        None => finding(GROUP, "yama", "not there", State::Note),
        Some("3") => {
            let value = "ptrace_scope 3: nobody may trace, so a refused call has no name in the log";
            finding(GROUP, "yama", value, State::Weak)
        }
        Some(scope) => finding(GROUP, "yama", format!("ptrace_scope {scope}"), State::Note),
    }
}

fn speculation() -> Finding {
    let kinds = [("store bypass", Speculation::StoreBypass), ("indirect branches", Speculation::IndirectBranch)];
    let said = kinds.map(|(name, kind)| format!("{name}: {}", controlled(question::speculation(kind))));
    finding(GROUP, "speculation", said.join("; "), State::Note)
}

/// The bits of `PR_GET_SPECULATION_CTRL` in words.
fn controlled(answer: nix::Result<i32>) -> String {
    const CONTROL: i32 = 1;
    const DISABLE: i32 = 4;
    const FORCED: i32 = 8;
    match answer {
        Err(errno) => format!("no control ({errno})"),
        Ok(0) => "this CPU is not affected".to_owned(),
        Ok(bits) if bits & CONTROL == 0 => "the same for all processes".to_owned(),
        Ok(bits) if bits & (DISABLE | FORCED) != 0 => "off for this process".to_owned(),
        Ok(_) => "can be taken from a process".to_owned(),
    }
}

/// What there is of it, or why there is none.
pub(super) fn core_scheduling() -> Result<String, String> {
    match question::core_cookie() {
        Ok(cookie) => Ok(format!("there; cookie {cookie:#x}")),
        Err(Errno::ENODEV) => Ok("not needed: one thread a core".to_owned()),
        Err(errno) => Err(format!("not there ({errno}): a kernel with CONFIG_SCHED_CORE would have it")),
    }
}

fn cores() -> Finding {
    let (Ok(value) | Err(value)) = core_scheduling();
    finding(GROUP, "core-scheduling", value, State::Note)
}

fn exec_gain() -> Finding {
    match question::exec_gain() {
        Ok(_) => finding(GROUP, "mdwe", "pages can be kept from becoming executable", State::Good),
        Err(errno) => {
            let value = format!("not there ({errno}): only the filters keep pages from becoming executable");
            raised(finding(GROUP, "mdwe", value, State::Weak), "a kernel of 6.3 or later")
        }
    }
}

fn memory_files() -> Finding {
    match sysctl("vm.memfd_noexec") {
        Some(level) => finding(GROUP, "memfd-noexec", format!("vm.memfd_noexec = {level}"), State::Note),
        None => {
            finding(GROUP, "memfd-noexec", "not there: memory files cannot be sealed against execution", State::Note)
        }
    }
}

fn overcommit() -> Finding {
    match sysctl("vm.overcommit_memory").as_deref() {
        Some("2") => {
            let value = "vm.overcommit_memory = 2: all that a worker may use counts before it is used";
            finding(GROUP, "overcommit", value, State::Weak)
        }
        level => finding(GROUP, "overcommit", format!("vm.overcommit_memory = {}", level.unwrap_or("?")), State::Note),
    }
}
