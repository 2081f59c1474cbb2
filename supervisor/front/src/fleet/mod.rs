//! The workers: asked for ([`launcher`]), spoken with ([`link`]), not believed ([`sanitise`]), replaced ([`supervise`]).

pub mod cause;
pub mod flight;
pub mod handle;
pub mod launcher;
pub mod lifecycle;
pub mod link;
pub mod output;
pub mod sanitise;
pub mod supervise;
pub mod tenure;
