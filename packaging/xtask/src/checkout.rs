//! The checkout that a task works in: its root, its Cargo, and what `cargo metadata` says of it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::program::{self, ProgramError};

/// A clone of the repository.
#[derive(Debug)]
pub(crate) struct Checkout {
    root: PathBuf,
}

/// Why the checkout could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckoutError {
    #[error("run this as `cargo xtask`: CARGO_MANIFEST_DIR is not set, or lies outside a checkout")]
    NotUnderCargo,
    #[error(transparent)]
    Metadata(#[from] ProgramError),
    #[error("`cargo metadata` answered what is not JSON")]
    NotJson(#[source] serde_json::Error),
    #[error("`cargo metadata` answered without `{0}`")]
    Lacks(&'static str),
}

impl Checkout {
    /// Cargo tells at run time where this crate lies, so a moved target folder does no harm.
    pub(crate) fn find() -> Result<Self, CheckoutError> {
        let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or(CheckoutError::NotUnderCargo)?);
        let root = package.ancestors().nth(2).filter(|root| root.join("Cargo.lock").is_file());
        Ok(Self { root: root.ok_or(CheckoutError::NotUnderCargo)?.to_owned() })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The Cargo that started us, in the root.
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(&self.root);
        cargo
    }

    /// The workspace's own packages; dependencies are not resolved, so this needs no network.
    pub(crate) fn metadata(&self) -> Result<Value, CheckoutError> {
        let mut cargo = self.cargo();
        let text = program::output(cargo.args(["metadata", "--format-version", "1", "--no-deps"]))?;
        serde_json::from_str(&text).map_err(CheckoutError::NotJson)
    }

    /// Where everything is built.
    pub(crate) fn target_dir(&self) -> Result<PathBuf, CheckoutError> {
        let metadata = self.metadata()?;
        let target = metadata["target_directory"].as_str().ok_or(CheckoutError::Lacks("target_directory"))?;
        Ok(PathBuf::from(target))
    }

    /// Where release programs are built.
    pub(crate) fn release_dir(&self) -> Result<PathBuf, CheckoutError> {
        Ok(self.target_dir()?.join("release"))
    }
}
