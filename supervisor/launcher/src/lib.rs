//! The privileged parent: makes jails, starts workers, hears no client.
//!
//! Started as root or as an ordinary user, with one thread, it reads its config ([`owner`], [`models`]), tries out what the
//! host can give ([`host`], [`trial`]), binds the public socket ([`listen`]), starts the front ([`front`]), and then answers the few
//! requests that [`permit`] allows ([`monitor`]): it starts workers ([`workers`], [`spawn`], [`kept`], [`fork`], [`jail`]), tells how they end
//! ([`trace`], [`origin`]), and reads their cages from outside ([`attest`]). Where the operator wants it so, workers
//! are borne by their tenant's zygote ([`nursery`], [`zygote`]) and not started afresh. Asked a question instead of being told to
//! serve, it answers that and ends ([`inquiry`]).

#![deny(unsafe_code)]

pub mod attest;
pub mod cgroup;
pub mod fork;
pub mod front;
pub mod heard;
pub mod host;
pub mod inquiry;
pub mod jail;
pub mod kept;
pub mod library;
pub mod listen;
pub mod log;
pub mod models;
pub mod monitor;
pub mod nursery;
pub mod origin;
pub mod owner;
pub mod permit;
pub mod program;
pub mod spawn;
pub mod startup;
#[expect(unsafe_code, reason = "system calls that no crate wraps")]
pub mod sys;
pub mod trace;
pub mod trial;
pub mod workers;
pub mod zygote;
