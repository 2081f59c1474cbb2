//! A host that lacks something: a filter around the whole server that answers one call with an errno, as an older kernel or a
//! container's profile would.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};

/// One call that fails.
#[derive(Debug, Clone, Copy)]
pub struct Lack {
    /// Its number.
    pub call: i64,
    /// Only where the argument of that place, counted from 0, is this one, if any.
    pub when: Option<(u8, u64)>,
    /// What the kernel answers.
    pub errno: Errno,
}

impl Lack {
    /// A call that always fails.
    pub const fn of(call: i64, errno: Errno) -> Self {
        Self { call, when: None, errno }
    }

    /// A `prctl` with that option.
    pub const fn of_prctl(option: i32, errno: Errno) -> Self {
        Self { call: nix::libc::SYS_prctl, when: Some((0, option.cast_unsigned() as u64)), errno }
    }

    /// No filter for all threads is ever installed, and who installs one is told that it is done. Nothing starts by that:
    /// the launcher counts the filters of its workers.
    pub const fn of_filters() -> Self {
        // `Errno(0)` is what a call answers that has succeeded.
        Self {
            call: nix::libc::SYS_seccomp,
            when: Some((1, nix::libc::SECCOMP_FILTER_FLAG_TSYNC)),
            errno: Errno::UnknownErrno,
        }
    }

    /// Lets a program start without it; its children lack it too.
    pub fn around(self, command: &mut Command) {
        let filter = self.filter();
        // SAFETY: between fork and exec this makes two system calls over memory that was laid out before, and allocates
        // nothing.
        unsafe { command.pre_exec(move || apply_filter(&filter).map_err(|_| Errno::last().into())) };
    }

    fn filter(self) -> BpfProgram {
        let arch = TargetArch::try_from(std::env::consts::ARCH).expect("a CPU that the house is built for");
        let equals = |(place, value)| SeccompCondition::new(place, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value);
        let rule = |when| SeccompRule::new(vec![equals(when).expect("a condition")]).expect("a rule");
        let rules = BTreeMap::from([(self.call, self.when.map(rule).into_iter().collect())]);
        let answer = SeccompAction::Errno((self.errno as i32).unsigned_abs());
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, answer, arch).expect("a filter");
        filter.try_into().expect("a program")
    }
}
