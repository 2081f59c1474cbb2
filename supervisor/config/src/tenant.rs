//! Whose a model is, and how its workers come to be.

use std::fmt;
use std::time::Duration;

use casemate_ipc::id::{ModelName, TenantName};
use serde::Deserialize;

use crate::config::ConfigError;
use crate::raw::RawSandbox;

/// Whose a model is. A model without a tenant is one of its own, and shares nothing with a tenant of the same name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tenant {
    /// The one that `models.NAME.tenant` names.
    Named(TenantName),
    /// Its own.
    Alone(ModelName),
}

/// How a worker comes to be, as `sandbox.spawn` and `models.NAME.spawn` say it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Spawn {
    /// Its program is started afresh: with addresses of its own, in some 200 ms and 70 MB.
    #[default]
    Exec,
    /// Its tenant's zygote bears it: in some 20 ms and a few MB, with the addresses that all of that zygote's workers have.
    Zygote,
}

/// How zygotes are renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewal {
    /// Most workers that one bears.
    pub births: u32,
    /// Longest that one lives.
    pub age: Duration,
}

/// A user namespace's map is written at once, in less than a page: 227 lines with the longest of uids, one of them the zygote's own.
const BIRTHS_MOST: u64 = 200;
const AGE_LEAST: u64 = 10;
const AGE_MOST: u64 = 604_800;

impl Renewal {
    /// Checks what is written.
    pub(crate) fn check(raw: &RawSandbox) -> Result<Self, ConfigError> {
        let bounded = |key, found: u64, least: u64, most: u64| match (least..=most).contains(&found) {
            true => Ok(found),
            false => Err(ConfigError::Renewal { key, found, least, most }),
        };
        bounded("zygote_births", raw.zygote_births.into(), 1, BIRTHS_MOST)?;
        let age = bounded("zygote_age_s", raw.zygote_age_s, AGE_LEAST, AGE_MOST)?;
        Ok(Self { births: raw.zygote_births, age: Duration::from_secs(age) })
    }
}

impl Spawn {
    /// The word in config and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Zygote => "zygote",
        }
    }
}

impl Tenant {
    /// Its name, for a person; a model's own where it has no other.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Named(name) => name.as_str(),
            Self::Alone(model) => model.as_str(),
        }
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
