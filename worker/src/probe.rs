//! Ways out of the cage, one by one, each by its name: what native code in a worker would try.
//!
//! A probe says that it was reached, acts, and says what the kernel answered; under a filter that kills, the second line
//! never comes. `casemate-probe` does the same acts without a cage, as the positive control: a probe that fails there
//! proves nothing anywhere else. So every act is harmless should it succeed: it opens for reading, asks with signal 0,
//! gives absurd arguments, or makes a child that ends at once.
//!
//! Most acts are system calls, which the serving filter ends. The others ([`bounds`]) are refused by another layer: a
//! mapping, a seal, a limit, the time that a request has.

mod acts;
mod bounds;
mod scene;

use libc::c_long;

use crate::engine::script::Moment;
use crate::engine::shim;

pub use scene::Scene;

/// One named act.
#[derive(Debug, Clone, Copy)]
pub struct Probe {
    /// Its name.
    pub name: &'static str,
    /// When a worker's script must act.
    pub at: Moment,
    /// What refuses it in the cage.
    pub by: Mechanism,
    /// The number of the call that it is stopped at, where a filter stops it: as the kernel tells it, in whichever table.
    pub stop: Option<c_long>,
    /// The act; what the kernel answered, `-errno` on failure.
    act: Act,
    /// Without a cage: makes the circumstances in which the act can succeed without harm.
    prepare: Option<fn()>,
}

/// What refuses an act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// The serving filter: SIGSYS.
    Seccomp,
    /// The same, for a door that has numbers of its own: SIGSYS, and the number means another call than it seems.
    Door,
    /// Memory that was mapped for reading: SIGSEGV.
    Mapping,
    /// A seal on the memory file behind a mapping: EACCES.
    Seal,
    /// The limit on data: ENOMEM.
    DataLimit,
    /// The limit on the stack: SIGSEGV.
    StackLimit,
    /// The time that a request has: its supervisor kills it.
    Deadline,
}

#[derive(Debug, Clone, Copy)]
enum Act {
    Alone(fn() -> i64),
    /// With what a worker has.
    Within(fn(&Scene) -> i64),
}

/// Every probe that must be refused.
pub fn all() -> impl Iterator<Item = &'static Probe> {
    acts::ALL.iter().chain(bounds::ALL)
}

/// The probe of this name; also one of the few that show how a proof fails, which [`all`] leaves out.
pub fn find(name: &str) -> Option<&'static Probe> {
    all().chain(bounds::FAILING).find(|probe| probe.name == name)
}

impl Probe {
    /// Says that it was reached, acts, says what came of it.
    pub fn act(&self, scene: &Scene) {
        shim::log(1, format!("probe {} reached\n", self.name).as_bytes());
        let answer = match self.act {
            Act::Alone(act) => act(),
            Act::Within(act) => act(scene),
        };
        let (returned, errno) = if answer < 0 { (-1, -answer) } else { (answer, 0) };
        shim::log(1, format!("probe {} returned {returned} errno {errno}\n", self.name).as_bytes());
    }

    /// The same without a cage.
    pub fn act_freely(&self) {
        if let Some(prepare) = self.prepare {
            prepare();
        }
        self.act(&Scene::free());
    }
}

impl Mechanism {
    /// Its name in the list of `casemate-probe --list`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Seccomp => "seccomp",
            Self::Door => "door",
            Self::Mapping => "mapping",
            Self::Seal => "seal",
            Self::DataLimit => "data-limit",
            Self::StackLimit => "stack-limit",
            Self::Deadline => "deadline",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_probe_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = all().map(|probe| probe.name).collect();
        assert_eq!(names.len(), all().count());
        assert!(bounds::FAILING.iter().all(|probe| !names.contains(probe.name) && find(probe.name).is_some()));
        assert!(find("fork").is_some() && find("frok").is_none());
    }

    #[test]
    fn what_a_filter_stops_says_at_which_call() {
        for probe in all() {
            let filtered = matches!(probe.by, Mechanism::Seccomp | Mechanism::Door);
            assert_eq!(probe.stop.is_some(), filtered, "{}", probe.name);
        }
    }
}
