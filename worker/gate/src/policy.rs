//! Which operators a model may use: a deny list, an allow list, and the operator's own word.
//!
//! The same lists judge the source before libtorch reads it and the graphs that libtorch made of it. An operator that the
//! host's owner names in `extra_ops` is allowed whatever the lists say: the lists are a policy, the cage is the wall.

mod lists;

use casemate_ipc::launch::GraphPolicy;

use self::lists::Lists;
pub use self::lists::ListsError;

/// How much is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Only what is on the list.
    Strict,
    /// All but what is denied.
    Open,
}

/// The lists, and what the host's owner says.
#[derive(Debug, Clone)]
pub struct Policy {
    lists: Lists,
    level: Level,
    extra: Vec<String>,
}

/// What the policy says of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// It may be used.
    Allowed,
    /// It may not, for this reason.
    Denied(&'a str),
    /// Nobody has said that it may.
    Unlisted,
}

impl Verdict<'_> {
    /// Whether it may be used.
    pub fn is_allowed(self) -> bool {
        self == Self::Allowed
    }
}

impl Policy {
    /// The lists that came with this build.
    pub fn new(level: Level, extra: impl IntoIterator<Item = String>) -> Result<Self, ListsError> {
        Ok(Self { lists: Lists::read()?, level, extra: extra.into_iter().collect() })
    }

    /// As a worker is told.
    pub fn granted(policy: &GraphPolicy) -> Result<Self, ListsError> {
        let level = if policy.open { Level::Open } else { Level::Strict };
        Self::new(level, policy.extra_ops.iter().cloned())
    }

    /// The release of libtorch whose operators the lists are about: `2.13`.
    pub fn libtorch(&self) -> &str {
        self.lists.libtorch()
    }

    /// Whether the lists are about this version, `2.13.0` or `2.13.1+cpu`. An operator of the same name can do something else
    /// in another.
    pub fn is_about(&self, version: &str) -> bool {
        let rest = version.strip_prefix(self.libtorch());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '+']))
    }

    /// How much is allowed.
    pub fn level(&self) -> Level {
        self.level
    }

    /// An operator in full: `aten::relu`.
    pub fn operator(&self, name: &str) -> Verdict<'_> {
        if self.is_extra(name) {
            return Verdict::Allowed;
        }
        if let Some(why) = self.lists.denied(name) {
            return Verdict::Denied(why);
        }
        if self.level == Level::Open || self.lists.allows(name) { Verdict::Allowed } else { Verdict::Unlisted }
    }

    /// A kind of node in a graph that libtorch made: an operator, or the language's own.
    pub fn node(&self, kind: &str) -> Verdict<'_> {
        self.operator(kind)
    }

    /// The name behind a dot. It may be an operator's method form, so what is denied there is denied here; `declared` says
    /// whether some class of the model has an attribute or method of this name.
    pub fn member(&self, name: &str, declared: impl FnOnce() -> bool) -> Verdict<'_> {
        let forms = [format!("aten::{name}"), format!("prim::{name}")];
        if forms.iter().any(|form| self.is_extra(form)) {
            return Verdict::Allowed;
        }
        if let Some(why) = forms.iter().find_map(|form| self.lists.denied(form)) {
            return Verdict::Denied(why);
        }
        let known = self.level == Level::Open || forms.iter().any(|form| self.lists.allows(form));
        if known || self.lists.is_property(name) || declared() { Verdict::Allowed } else { Verdict::Unlisted }
    }

    /// A name that is called as it stands.
    pub fn builtin(&self, name: &str) -> Verdict<'_> {
        let form = format!("prim::{name}");
        match self.lists.denied(&form) {
            Some(why) if !self.is_extra(&form) => Verdict::Denied(why),
            _ => Verdict::Allowed,
        }
    }

    /// A class in C++, in full: `__torch__.torch.classes.quantized.LinearPackedParamsBase`.
    pub fn native(&self, name: &str) -> Verdict<'_> {
        let short = name.strip_prefix("__torch__.").unwrap_or(name);
        if self.is_extra(short) {
            return Verdict::Allowed;
        }
        if let Some(why) = self.lists.denied(short) {
            return Verdict::Denied(why);
        }
        if self.lists.allows(short) { Verdict::Allowed } else { Verdict::Unlisted }
    }

    /// Whether a model may have code that runs while it is loaded.
    pub fn hooks(&self) -> bool {
        self.level == Level::Open || self.is_extra("__setstate__")
    }

    /// Why an operator is on no list, where somebody looked at it and said so.
    pub fn left_out(&self, name: &str) -> Option<&str> {
        self.lists.left_out(name)
    }

    /// Names of the language that no registry has.
    pub fn language(&self) -> impl Iterator<Item = &str> {
        self.lists.language()
    }

    /// Every name on the allow list.
    pub fn listed(&self) -> impl Iterator<Item = &str> {
        self.lists.allowed()
    }

    fn is_extra(&self, name: &str) -> bool {
        self.extra.iter().any(|extra| lists::fits(extra, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_are_about_one_release() {
        let policy = Policy::new(Level::Strict, []).unwrap();
        let own = policy.libtorch().to_owned();
        for version in [own.clone(), format!("{own}.0"), format!("{own}.1+cpu"), format!("{own}+cu130")] {
            assert!(policy.is_about(&version), "{version}");
        }
        for version in ["2.11.0", "2.1.3", "2.130.0", "2.14.0", "12.13.0", "unknown", ""] {
            assert!(!policy.is_about(version), "{version}");
        }
    }
}
