//! Landlock for a role: what is enforced, and the proof that `/` can no longer be opened.
//!
//! Before ABI 8 Landlock binds the calling thread alone and what it starts; the door proves one thread after this.

use std::fs::File;
use std::io::ErrorKind;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd, PathFdError,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use crate::policy::{self, FilePolicy};
use crate::role::Role;

/// What is enforced.
#[derive(Debug)]
pub(crate) struct Landlock {
    /// The ABI of the kernel, as far as it is known here.
    pub(crate) abi: u32,
    /// Whether every right that the policy names is enforced.
    pub(crate) complete: bool,
}

/// Why Landlock is not in force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilesError {
    /// There is no policy file for that role; a test of this crate holds that there is.
    #[error("no policy was compiled for {0}")]
    NoPolicy(&'static str),
    /// The kernel lacks a required right, or refused the domain.
    #[error(transparent)]
    Ruleset(#[from] RulesetError),
    /// A granted path that cannot be opened: left out it would turn up later as a refusal with no name.
    #[error("granted path: {0}")]
    Path(#[from] PathFdError),
    /// The kernel has Landlock switched off, or was built without it.
    #[error("the kernel enforces nothing ({0:?})")]
    NotEnforced(LandlockStatus),
    /// The domain was entered, and `/` opens all the same.
    #[error("/ can still be opened")]
    StillOpen,
    /// `/` did not open, and not because of Landlock.
    #[error("reading back: {0}")]
    ReadBack(#[source] std::io::Error),
}

/// Enters the domain of that role.
pub(crate) fn restrict(role: Role) -> Result<Landlock, FilesError> {
    let policy = policy::file_policies().iter().find(|policy| policy.role == role.name());
    let enforced = enter(policy.ok_or(FilesError::NoPolicy(role.name()))?)?;
    match File::open("/") {
        Ok(_) => Err(FilesError::StillOpen),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(enforced),
        Err(error) => Err(FilesError::ReadBack(error)),
    }
}

fn enter(policy: &FilePolicy) -> Result<Landlock, FilesError> {
    // The numbers come from the policy, so that a newer crate does not change what is asked for.
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(abi(policy.floor)))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi(policy.files)))?
        .handle_access(AccessNet::from_all(abi(policy.net)))?
        .scope(Scope::from_all(abi(policy.scopes)))?
        .create()?;
    for path in policy.readable {
        ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new(path)?, AccessFs::ReadFile | AccessFs::ReadDir))?;
    }
    let status = ruleset.restrict_self()?;
    match status.landlock {
        LandlockStatus::Available { effective_abi, .. } if status.ruleset != RulesetStatus::NotEnforced => {
            Ok(Landlock { abi: effective_abi as u32, complete: status.ruleset == RulesetStatus::FullyEnforced })
        }
        other => Err(FilesError::NotEnforced(other)),
    }
}

fn abi(number: u32) -> ABI {
    ABI::from(i32::try_from(number).unwrap_or(i32::MAX))
}
