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
    /// Mount, pid, net, ipc, uts and cgroup namespaces of its own.
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
    pub const ALL: [Self; 11] = [
        Self::ResourceLimits,
        Self::UserNamespace,
        Self::Namespaces,
        Self::OwnIdentity,
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
        }
    }

    /// The waiver that an operator may name for this layer; most have none.
    pub const fn waiver(self) -> Option<Waiver> {
        match self {
            // Without a user namespace an ordinary user's worker may neither empty its bounding set nor be looked into.
            Self::UserNamespace | Self::Namespaces | Self::EmptyRoot | Self::NoCapabilities | Self::Descriptors => {
                Some(Waiver::Namespaces)
            }
            Self::OwnIdentity => Some(Waiver::OwnIdentity),
            Self::Landlock => Some(Waiver::Landlock),
            _ => None,
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
