//! System calls that no crate of ours wraps safely. **All unsafe code of this program lives below this folder**, and every
//! function here is safe to call from a program of one thread.

pub mod capability;
pub mod control;
pub mod mount;
pub mod process;
pub mod ptrace;
pub mod question;
