//! The answer to `doctor`: what this host and this user can give, and what would raise it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A host and a user, looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkup {
    /// How far it reaches.
    pub tier: Tier,
    /// Whether `casemate serve` would start with this config.
    pub starts: bool,
    /// Why not, in the words of `casemate serve`.
    pub refusal: Option<String>,
    /// Where something listens already, this server perhaps: the address that it would have to leave first.
    pub taken: Option<String>,
    /// Every layer that is missing here, accepted or not.
    pub lacks: Vec<Lack>,
    /// All that was looked at.
    pub findings: Vec<Finding>,
}

/// How much of the cage a host and a user can give, whatever the config says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// No worker could be caged, whatever is waived.
    Refused,
    /// Layers are missing that the kernel, or whoever set it up, could give.
    Reduced,
    /// All but what only root can give.
    User,
    /// Every layer.
    Full,
}

/// A layer that is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lack {
    /// What `sandbox.accept_missing` calls it.
    pub layer: String,
    /// Whether this config goes without.
    pub accepted: bool,
    /// What was found.
    pub why: String,
    /// What would give it: a command where there is one.
    pub raise: String,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What it belongs to: `kernel`, `namespaces`, `files`…
    pub group: String,
    /// What it is.
    pub name: String,
    /// What was found.
    pub value: String,
    /// Whether that is good.
    pub state: State,
    /// What would make it better: a command where there is one.
    pub raise: Option<String>,
}

/// Whether a finding is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// As it should be.
    Good,
    /// Neither good nor bad.
    Note,
    /// It could be better, and nothing is refused for it.
    Weak,
    /// A layer is missing, or a start refused, for it.
    Bad,
}

impl Tier {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Reduced => "reduced",
            Self::User => "user",
            Self::Full => "full",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
