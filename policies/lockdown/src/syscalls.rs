//! Installs the compiled filter of a stage, on every thread.

use nix::errno::Errno;
use seccompiler::{apply_filter_all_threads, sock_filter};

use crate::policy::{self, INSTRUCTION};
use crate::prctl;
use crate::role::Stage;

/// Why a filter is not in force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    /// There is no policy file for that stage; a test of this crate holds that there is.
    #[error("no policy was compiled for {0}")]
    NoPolicy(&'static str),
    /// The kernel did not take it, or not on all threads.
    #[error("{stage}: {source}")]
    Refused {
        /// The stage.
        stage: &'static str,
        /// Its answer.
        #[source]
        source: seccompiler::Error,
    },
    /// The kernel took it, and says that there is none.
    #[error("{0}: installed, but no filter is in force")]
    NotInForce(&'static str),
    /// The kernel could not be asked.
    #[error("reading back the filter: {0}")]
    ReadBack(#[source] Errno),
}

/// Installs the stage's programs in their order: first the one that answers with an errno, last the one that kills, since
/// that one forbids to install another.
pub(crate) fn install(stage: Stage) -> Result<(), InstallError> {
    let filter = policy::filter(stage.name()).ok_or(InstallError::NoPolicy(stage.name()))?;
    for program in filter.programs() {
        let steps: Vec<sock_filter> = program.chunks_exact(INSTRUCTION).filter_map(step).collect();
        apply_filter_all_threads(&steps).map_err(|source| InstallError::Refused { stage: stage.name(), source })?;
    }
    // For a stage that may not ask, its caller has seen to it before.
    if stage.may_ask() && prctl::seccomp_mode().map_err(InstallError::ReadBack)? != prctl::SECCOMP_MODE_FILTER {
        return Err(InstallError::NotInForce(stage.name()));
    }
    Ok(())
}

/// One instruction as the compiler wrote it, little-endian.
fn step(bytes: &[u8]) -> Option<sock_filter> {
    let &[code_low, code_high, jt, jf, k0, k1, k2, k3] = bytes else { return None };
    Some(sock_filter {
        code: u16::from_le_bytes([code_low, code_high]),
        jt,
        jf,
        k: u32::from_le_bytes([k0, k1, k2, k3]),
    })
}
