//! The layers of the cage, by the names that the config, the logs and the status use.

use std::fmt;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// One layer around a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// A user namespace of its own, also when the launcher is root.
    UserNamespace,
    /// Mount, pid, net, ipc, uts, cgroup and time namespaces of its own.
    Namespaces,
    /// A host uid and gid that no other process has.
    OwnIdentity,
    /// Nothing under `/`.
    EmptyRoot,
    /// All five capability sets empty.
    NoCapabilities,
    /// `no_new_privs`.
    NoNewPrivileges,
    /// Not dumpable: no core, no ptrace and no `/proc/PID/mem` by a process of the same uid.
    NonDumpable,
    /// No files, no cores, no processes, bounded memory.
    ResourceLimits,
    /// A Landlock domain without a single grant.
    Landlock,
    /// The serving system call filter.
    Seccomp,
    /// Only the file descriptors that the house lists.
    Descriptors,
    /// A control group of its own: memory without swap, processes and CPU time bounded as a sum.
    Cgroup,
    /// No namespace can be made inside its user namespace.
    NoNestedNamespaces,
    /// Speculative execution past what this CPU is known to leak by is off, and cannot be turned on again.
    Speculation,
    /// No other worker's thread runs beside one of its own on the same core.
    CoreScheduling,
}

/// A layer that this host may lack and that an operator may do without, by name, in `sandbox.accept_missing`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Waiver {
    /// Where no user namespace can be made: takes the other namespaces, the empty root and, for an ordinary user, the
    /// empty bounding set with it.
    Namespaces,
    /// Where the launcher is not root: workers share its uid, inside user namespaces of their own.
    OwnIdentity,
    /// Where the kernel has no Landlock.
    Landlock,
    /// Where the launcher can make no control groups: nothing bounds the sum of a worker's memory, and its CPU time.
    Cgroup,
    /// Where `/proc/sys` cannot be written: until it is locked, a worker could make namespaces inside its own.
    NoNestedNamespaces,
    /// Where the kernel or the CPU gives no control over speculative execution.
    Speculation,
}

/// One layer as the kernel answered when asked.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Reading {
    /// Which layer.
    pub layer: Layer,
    /// Whether it is in force.
    pub in_force: bool,
    /// What was read, for a person.
    pub evidence: String,
}

impl Layer {
    /// Every layer, in the order in which they are put on.
    pub const ALL: [Self; 15] = [
        Self::Cgroup,
        Self::ResourceLimits,
        Self::UserNamespace,
        Self::Namespaces,
        Self::OwnIdentity,
        Self::NoNestedNamespaces,
        Self::Speculation,
        Self::CoreScheduling,
        Self::NoNewPrivileges,
        Self::NonDumpable,
        Self::EmptyRoot,
        Self::NoCapabilities,
        Self::Landlock,
        Self::Seccomp,
        Self::Descriptors,
    ];

    /// The name in config, logs and status.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UserNamespace => "user-namespace",
            Self::Namespaces => "namespaces",
            Self::OwnIdentity => "own-identity",
            Self::EmptyRoot => "empty-root",
            Self::NoCapabilities => "no-capabilities",
            Self::NoNewPrivileges => "no-new-privileges",
            Self::NonDumpable => "non-dumpable",
            Self::ResourceLimits => "resource-limits",
            Self::Landlock => "landlock",
            Self::Seccomp => "seccomp",
            Self::Descriptors => "descriptors",
            Self::Cgroup => "cgroup",
            Self::NoNestedNamespaces => "no-nested-namespaces",
            Self::Speculation => "speculation",
            Self::CoreScheduling => "core-scheduling",
        }
    }

    /// The waiver that an operator may name for this layer; most have none.
    pub const fn waiver(self) -> Option<Waiver> {
        match self {
            Self::UserNamespace | Self::Namespaces | Self::EmptyRoot | Self::NoCapabilities | Self::Descriptors => {
                Some(Waiver::Namespaces)
            }
            Self::OwnIdentity => Some(Waiver::OwnIdentity),
            Self::Landlock => Some(Waiver::Landlock),
            Self::Cgroup => Some(Waiver::Cgroup),
            Self::NoNestedNamespaces => Some(Waiver::NoNestedNamespaces),
            Self::Speculation => Some(Waiver::Speculation),
            _ => None,
        }
    }

    /// Whether it is shown and never demanded: few hosts have it, and nobody should need a waiver for the others.
    pub const fn optional(self) -> bool {
        matches!(self, Self::CoreScheduling)
    }

    /// Whether a worker may serve without it, where the operator goes without these.
    pub fn excused_by(self, waived: &[Waiver]) -> bool {
        let without = |waiver| waived.contains(&waiver);
        match self {
            // Without a user namespace an ordinary user's worker may neither empty its bounding set nor be looked into. A
            // root launcher, which never goes without own identities, can have both all the same.
            Self::NoCapabilities | Self::Descriptors => without(Waiver::Namespaces) && without(Waiver::OwnIdentity),
            // Without a user namespace there is nothing inside which one could be made.
            Self::NoNestedNamespaces => without(Waiver::NoNestedNamespaces) || without(Waiver::Namespaces),
            _ => self.optional() || self.waiver().is_some_and(without),
        }
    }
}

impl Waiver {
    /// The name in `sandbox.accept_missing`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Namespaces => "namespaces",
            Self::OwnIdentity => "own-identity",
            Self::Landlock => "landlock",
            Self::Cgroup => "cgroup",
            Self::NoNestedNamespaces => "no-nested-namespaces",
            Self::Speculation => "speculation",
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Waiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_excused_by_its_own_waiver_only() {
        let all = [
            Waiver::Namespaces,
            Waiver::OwnIdentity,
            Waiver::Landlock,
            Waiver::Cgroup,
            Waiver::NoNestedNamespaces,
            Waiver::Speculation,
        ];
        for layer in Layer::ALL {
            assert_eq!(layer.excused_by(&[]), layer.optional(), "{layer}");
            assert_eq!(layer.excused_by(&all), layer.optional() || layer.waiver().is_some(), "{layer}");
        }
        for never in [Layer::Seccomp, Layer::NoNewPrivileges, Layer::NonDumpable, Layer::ResourceLimits] {
            assert!(!never.excused_by(&all), "{never}");
        }
        assert!(!Layer::Cgroup.excused_by(&all[..3]) && Layer::Cgroup.excused_by(&[Waiver::Cgroup]));
    }

    #[test]
    fn as_root_the_namespaces_waiver_takes_no_capability_along() {
        for layer in [Layer::NoCapabilities, Layer::Descriptors] {
            assert!(!layer.excused_by(&[Waiver::Namespaces]), "{layer}");
            assert!(layer.excused_by(&[Waiver::Namespaces, Waiver::OwnIdentity]), "{layer}");
        }
        assert!(Layer::NoNestedNamespaces.excused_by(&[Waiver::Namespaces]));
    }
}
