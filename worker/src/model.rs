//! The model's file, before the engine reads it: SHA-256 first, then the gate.

pub mod gate;
pub mod verify;
