//! The model's file, before anything but SHA-256 has read it.

pub mod verify;
