//! Connections and routes: [`accept`] bounds who speaks and how slowly, [`routes`] says what may be asked, [`reply`]
//! how a refusal is told.

pub mod accept;
mod crowd;
pub mod ops;
mod pace;
pub mod reply;
pub mod routes;
