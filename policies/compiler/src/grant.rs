//! A Landlock policy file as typed grants: what a program may still open by path once it is locked.

use serde::Deserialize;

/// What one program may still do to files, sockets and other processes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FilePolicy {
    /// The program: `worker`, `front`.
    pub role: String,
    /// What the absence of grants rests on.
    pub why: String,
    /// The Landlock ABI whose file rights are a hard requirement: a kernel without them is refused.
    pub floor: u32,
    /// Newer rights, taken where the kernel has them.
    pub best_effort: BestEffort,
    /// The paths that stay open; none is the rule.
    #[serde(default, rename = "grant")]
    pub grants: Vec<Grant>,
}

/// The newest ABI whose rights are asked for, of each kind. Numbers and not "all": a new version of a crate must not
/// change a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BestEffort {
    /// Rights on files.
    pub files: u32,
    /// Rights on TCP ports.
    pub net: u32,
    /// Scopes: signals and abstract sockets.
    pub scopes: u32,
}

/// One path that stays open.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// The path, with all beneath it.
    pub path: String,
    /// What may be done there.
    pub access: Access,
    /// Who needs it, and for what.
    pub why: String,
}

/// What may be done beneath a granted path. There is no writing: no program of the house writes a file by path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Read files and list folders; no execution.
    Read,
}

/// Why a Landlock policy could not be read.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// Not TOML, or not of this shape.
    #[error("not a Landlock policy: {0}")]
    Shape(#[from] toml::de::Error),
    /// A `why` that says nothing.
    #[error("`why` is empty ({0})")]
    NoReason(String),
    /// A path that would mean something else in another working directory.
    #[error("`{0}` is not an absolute path")]
    Relative(String),
}

impl FilePolicy {
    /// Reads one Landlock policy file.
    pub fn parse(text: &str) -> Result<Self, GrantError> {
        let policy: Self = toml::from_str(text)?;
        if policy.why.trim().is_empty() {
            return Err(GrantError::NoReason(policy.role));
        }
        for grant in &policy.grants {
            if grant.why.trim().is_empty() {
                return Err(GrantError::NoReason(grant.path.clone()));
            }
            if !grant.path.starts_with('/') {
                return Err(GrantError::Relative(grant.path.clone()));
            }
        }
        Ok(policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRONT: &str = "role = \"front\"\nwhy = \"w\"\nfloor = 1\n[best-effort]\nfiles = 5\nnet = 4\nscopes = 6\n";

    #[test]
    fn a_policy_reads_as_written() {
        let text = format!("{FRONT}[[grant]]\npath = \"/usr\"\naccess = \"read\"\nwhy = \"libraries\"");
        let policy = FilePolicy::parse(&text).unwrap();
        assert_eq!((policy.floor, policy.best_effort.scopes), (1, 6));
        assert_eq!(policy.grants[0].access, Access::Read);
    }

    #[test]
    fn what_is_not_said_properly_is_refused() {
        for (grant, expected) in [
            ("path = \"/usr\"\naccess = \"read\"", "missing field `why`"),
            ("path = \"/usr\"\naccess = \"read\"\nwhy = \" \"", "`why` is empty"),
            ("path = \"usr\"\naccess = \"read\"\nwhy = \"w\"", "not an absolute path"),
            ("path = \"/usr\"\naccess = \"write\"\nwhy = \"w\"", "unknown variant"),
        ] {
            let said = FilePolicy::parse(&format!("{FRONT}[[grant]]\n{grant}")).unwrap_err().to_string();
            assert!(said.contains(expected), "{said}");
        }
        assert!(FilePolicy::parse(&FRONT.replace("scopes", "scope")).is_err());
    }
}
