//! What a program must have around it, and what the kernel said it has.

use crate::files::Landlock;
use crate::prctl;
use crate::privileges::{self, PrivilegeError};

/// Which layers must be there. `false` means that the operator waived the layer by name in the config: it is left out, and
/// the report says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requirements {
    /// Nothing under `/`.
    pub empty_root: bool,
    /// All five capability sets empty, the securebits locked.
    pub capabilities: bool,
    /// A Landlock domain without a grant.
    pub landlock: bool,
}

/// What is in force, as read back from the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// `no_new_privs` is set.
    pub no_new_privs: bool,
    /// The process is not dumpable.
    pub non_dumpable: bool,
    /// The kernel refuses to make a page executable that was not (`PR_SET_MDWE`, Linux 6.3).
    pub no_exec_gain: bool,
    /// A system call filter is in force.
    pub seccomp: bool,
    /// The root holds nothing.
    pub empty_root: bool,
    /// The capability sets are empty.
    pub capabilities: bool,
    /// The Landlock ABI that is in force, if any.
    pub landlock_abi: Option<u32>,
    /// Whether every right that the policy names is in force, or only those that this kernel has.
    pub landlock_complete: bool,
}

impl Requirements {
    /// Every layer.
    pub const ALL: Self = Self { empty_root: true, capabilities: true, landlock: true };
}

impl Report {
    /// Asks the kernel. The root, the capabilities and Landlock were read back when they were put on, or the lock would
    /// have failed; a root and a domain that were not required were not put on.
    pub(crate) fn read(requirements: &Requirements, landlock: Option<Landlock>) -> Result<Self, PrivilegeError> {
        Ok(Self {
            no_new_privs: privileges::has_no_new_privs()?,
            non_dumpable: privileges::is_non_dumpable()?,
            no_exec_gain: prctl::refuses_exec_gain(),
            seccomp: prctl::seccomp_mode()? == prctl::SECCOMP_MODE_FILTER,
            empty_root: requirements.empty_root,
            // Where it was not for this process to empty them, whoever made it may have done so.
            capabilities: requirements.capabilities || privileges::holds_no_capability()?,
            landlock_abi: landlock.as_ref().map(|landlock| landlock.abi),
            landlock_complete: landlock.is_some_and(|landlock| landlock.complete),
        })
    }
}
