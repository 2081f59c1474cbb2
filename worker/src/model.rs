//! The model's file, before the engine reads it: its SHA-256 against its manifest's first, then the gate.

pub mod digest;
pub mod gate;
pub mod verify;
