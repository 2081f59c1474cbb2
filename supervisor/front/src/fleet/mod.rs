//! The workers: asked for ([`launcher`]), spoken with ([`link`]), not believed ([`sanitise`]), replaced ([`supervise`]).
//! A model has a place for each of its workers ([`seat`]).
//! What they try is seen ([`violation`]), and bytes that keep killing them rest for a while ([`breaker`]).

pub mod breaker;
pub mod breakers;
pub mod cage;
pub mod cause;
pub mod excuse;
pub mod flight;
pub mod handle;
pub mod launcher;
pub mod lifecycle;
pub mod link;
pub mod output;
pub mod pings;
pub mod printed;
#[expect(unsafe_code, reason = "tokio's registration asks for a promise about the descriptor")]
mod registered;
pub mod sanitise;
pub mod seat;
pub mod supervise;
pub mod tenure;
pub mod tide;
pub mod turn;
pub mod vigil;
pub mod violation;
