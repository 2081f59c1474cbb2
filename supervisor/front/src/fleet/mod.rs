//! The workers: asked for ([`launcher`]), spoken with ([`link`]), not believed ([`sanitise`]), replaced ([`supervise`]).

pub mod cause;
pub mod flight;
pub mod handle;
pub mod launcher;
pub mod lifecycle;
pub mod link;
pub mod output;
#[expect(unsafe_code, reason = "tokio's registration asks for a promise about the descriptor")]
mod registered;
pub mod sanitise;
pub mod supervise;
pub mod tenure;
