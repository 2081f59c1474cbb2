//! The data: `operators/torch-2.13.toml`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use thiserror::Error;

const TEXT: &str = include_str!("../../operators/torch-2.13.toml");

/// Why there are no lists; a mistake in this build, which a test finds.
#[derive(Debug, Error)]
#[error("the list of operators: {0}")]
pub struct ListsError(#[from] toml::de::Error);

/// What is denied, and what is allowed.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Lists {
    /// The version of libtorch whose operators these are.
    libtorch: String,
    deny: Vec<Rule>,
    /// What is looked at and left off the list of what is allowed.
    unlisted: Vec<Rule>,
    /// In graphs and in source, but no registered operators.
    language: Vec<String>,
    /// Names behind a dot that are no operators.
    properties: BTreeSet<String>,
    /// Names by their namespace.
    allow: BTreeMap<String, BTreeSet<String>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    names: Vec<String>,
    #[serde(default)]
    except: Vec<String>,
    why: String,
}

impl Lists {
    pub(super) fn read() -> Result<Self, ListsError> {
        Ok(toml::from_str(TEXT)?)
    }

    pub(super) fn libtorch(&self) -> &str {
        &self.libtorch
    }

    /// The reason why a name is denied.
    pub(super) fn denied(&self, name: &str) -> Option<&str> {
        Some(&self.deny.iter().find(|rule| rule.means(name))?.why)
    }

    /// The reason why a name is not allowed, although it is not denied either.
    pub(super) fn left_out(&self, name: &str) -> Option<&str> {
        Some(&self.unlisted.iter().find(|rule| rule.means(name))?.why)
    }

    pub(super) fn language(&self) -> impl Iterator<Item = &str> {
        self.language.iter().map(String::as_str)
    }

    pub(super) fn allows(&self, name: &str) -> bool {
        let Some((space, name)) = name.split_once("::") else { return false };
        self.allow.get(space).is_some_and(|names| names.contains(name))
    }

    pub(super) fn is_property(&self, name: &str) -> bool {
        self.properties.contains(name)
    }

    pub(super) fn allowed(&self) -> impl Iterator<Item = &str> {
        self.allow.values().flatten().map(String::as_str)
    }
}

impl Rule {
    /// Here a `*` may stand in the middle too.
    fn means(&self, name: &str) -> bool {
        let any = |patterns: &[String]| patterns.iter().any(|pattern| covers(pattern, name));
        any(&self.names) && !any(&self.except)
    }
}

fn covers(pattern: &str, name: &str) -> bool {
    match pattern.trim_end_matches('*').split_once('*') {
        Some((start, rest)) => match name.strip_prefix(start) {
            Some(inner) if pattern.ends_with('*') => inner.contains(rest),
            Some(inner) => inner.ends_with(rest),
            None => false,
        },
        None => fits(pattern, name),
    }
}

/// Whether a pattern means a name; a `*` at its end stands for any rest.
pub(super) fn fits(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => pattern == name,
    }
}
