//! Ways out of the cage, one by one, each by its name: what native code in a worker would try.
//!
//! A probe says that it was reached, acts, and says what the kernel answered; under a filter that kills, the second line
//! never comes. `casemate-probe` does the same acts without a cage, as the positive control: a probe that fails there
//! proves nothing anywhere else. So every act is harmless should it succeed: it opens for reading, asks with signal 0,
//! gives absurd arguments, or makes a child that ends at once.

mod acts;

use crate::engine::shim;

/// One named act.
#[derive(Debug, Clone, Copy)]
pub struct Probe {
    /// Its name.
    pub name: &'static str,
    /// The act; what the kernel answered, `-errno` on failure.
    act: fn() -> i64,
    /// Without a cage: makes the circumstances in which the act can succeed without harm.
    prepare: Option<fn()>,
}

/// Every probe.
pub const ALL: &[Probe] = acts::ALL;

/// The probe of this name.
pub fn find(name: &str) -> Option<&'static Probe> {
    ALL.iter().find(|probe| probe.name == name)
}

impl Probe {
    /// Says that it was reached, acts, says what came of it.
    pub fn act(&self) {
        shim::log(1, format!("probe {} reached\n", self.name).as_bytes());
        let answer = (self.act)();
        let (returned, errno) = if answer < 0 { (-1, -answer) } else { (answer, 0) };
        shim::log(1, format!("probe {} returned {returned} errno {errno}\n", self.name).as_bytes());
    }

    /// The same without a cage.
    pub fn act_freely(&self) {
        if let Some(prepare) = self.prepare {
            prepare();
        }
        self.act();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_probe_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = ALL.iter().map(|probe| probe.name).collect();
        assert_eq!(names.len(), ALL.len());
        assert!(find("fork").is_some() && find("frok").is_none());
    }
}
