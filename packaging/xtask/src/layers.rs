//! `cargo xtask layers`: what may import what, and where unsafe code may stand.
//!
//! The laws are data in `law.rs`. Manifests are held against the table of crates, sources against the laws of places; a
//! law, or a permission, that fits no file any more is a breach too, or a renamed file would slip out of its law.

mod law;
mod manifest;
mod reference;
mod source;
#[cfg(test)]
mod tests;
mod token;

use std::fmt;

use crate::checkout::{Checkout, CheckoutError};

/// One thing that a law forbids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Breach {
    /// `path:line`, or the crate.
    place: String,
    /// What stands there.
    found: String,
    /// The law in words, with its reason.
    law: String,
}

/// Why the layers are not in order.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayersError {
    #[error(transparent)]
    Metadata(#[from] CheckoutError),
    #[error("`cargo metadata` names no package")]
    NoPackages,
    #[error("cannot read the sources")]
    Sources(#[source] std::io::Error),
    #[error("{} forbidden:\n{}", .0.len(), list(.0))]
    Breached(Vec<Breach>),
}

/// Fails with every breach, not with the first.
pub(crate) fn check(checkout: &Checkout) -> Result<(), LayersError> {
    let packages = manifest::packages(&checkout.metadata()?).ok_or(LayersError::NoPackages)?;
    let files = source::collect(checkout.root(), &packages).map_err(LayersError::Sources)?;
    let mut breaches = manifest::check(&packages);
    breaches.extend(source::check(&files));
    if breaches.is_empty() {
        eprintln!("xtask: layers hold: {} crates, {} source files", packages.len(), files.len());
        return Ok(());
    }
    Err(LayersError::Breached(breaches))
}

impl fmt::Display for Breach {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}\n    {}", self.place, self.found, self.law)
    }
}

fn list(breaches: &[Breach]) -> String {
    breaches.iter().map(|breach| format!("  {breach}")).collect::<Vec<_>>().join("\n")
}
