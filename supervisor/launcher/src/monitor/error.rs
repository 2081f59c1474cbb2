//! What ends the loop.

use nix::errno::Errno;
use thiserror::Error;

use super::{QUICK, QUICK_DEATHS_MAX};

/// Why the launcher ends without being told to.
#[derive(Debug, Error)]
pub enum MonitorError {
    /// A call of the loop itself.
    #[error("{step}: {errno}")]
    Call {
        /// Which.
        step: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },
    /// Fronts die as soon as they live.
    #[error("{QUICK_DEATHS_MAX} fronts in a row died within {} s of their start; their last lines say why", QUICK.as_secs())]
    FrontKeepsDying,
    /// The front did not end in order when it was told to.
    #[error("the front did not stop in order: {0}")]
    Disorder(&'static str),
}
