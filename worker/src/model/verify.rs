//! Whether the model is what its manifest says. Wants a [`Sealed`] worker, since the manifest's parser is the first code
//! that reads a byte which somebody else chose.
//!
//! The digest is the launcher's, taken over the very memory that the engine then gets, after it was frozen: nobody can have changed
//! it since. See [`super::digest`].

use casemate_ipc::digest;
use casemate_ipc::tensor::{ModelSignature, TensorError};
use casemate_ipc::work::Declared;
use casemate_lockdown::Sealed;
use casemate_manifest::{Format, Manifest, ManifestError};
use thiserror::Error;

use super::digest::Vouched;

/// A model whose bytes are those that its manifest names.
#[derive(Debug)]
pub struct Verified<'a> {
    /// The bytes.
    pub model: &'a [u8],
    /// Which engine reads them.
    pub format: Format,
    /// What the front is told.
    pub declared: Declared,
    /// Whether the engine freezes it, and how far its answers may then be from those before.
    pub freeze: Option<f64>,
    /// Threads that one operation of it pays for, as its manifest says.
    pub threads: Option<u32>,
}

/// Why a model is refused, for good.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// The manifest is no text.
    #[error("the manifest is not UTF-8: {0}")]
    Text(#[from] std::str::Utf8Error),
    /// The manifest is not one.
    #[error("the manifest cannot be read: {0}")]
    Manifest(#[from] ManifestError),
    /// The signature is not one.
    #[error("the manifest's inputs and outputs: {0}")]
    Signature(#[from] TensorError),
    /// Other bytes.
    #[error("the model's SHA-256 is {found}, its manifest says {expected}")]
    Digest {
        /// What the bytes have.
        found: String,
        /// What they should have.
        expected: String,
    },
    /// An engine that this build lacks.
    #[error("this worker has no engine for the format {0:?}")]
    Format(Format),
}

/// Reads the manifest, and holds what it says against the digest of the model's bytes. They are not read here.
pub fn verify<'a>(
    _: &Sealed,
    manifest: &[u8],
    (model, vouched): (&'a [u8], Vouched),
    platform: impl FnOnce(Format) -> Option<String>,
) -> Result<Verified<'a>, VerifyError> {
    let manifest = Manifest::parse(std::str::from_utf8(manifest)?)?;
    let signature: ModelSignature = manifest.signature()?;
    let platform = platform(manifest.format).ok_or(VerifyError::Format(manifest.format))?;
    let sha256 = vouched.sha256();
    if sha256 != manifest.sha256 {
        let (found, expected) = (digest::write(&sha256), digest::write(&manifest.sha256));
        return Err(VerifyError::Digest { found, expected });
    }
    let declared = Declared {
        signature,
        non_finite: manifest.outputs.iter().map(|output| output.non_finite).collect(),
        max_batch_size: manifest.batching.max_batch_size,
        max_batch_delay_us: manifest.batching.max_batch_delay_us,
        deadline_ms: manifest.limits.deadline_ms,
        sha256,
        platform,
    };
    Ok(Verified { model, format: manifest.format, declared, freeze: manifest.freeze, threads: manifest.threads })
}
