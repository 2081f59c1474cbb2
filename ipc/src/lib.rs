//! The contract between launcher, front and worker.
//!
//! Names ([`id`]), digests ([`digest`]), what flows ([`tensor`]), how control messages travel ([`frame`], [`seqpacket`]), who may say what to
//! whom ([`launch`], [`work`]), the layers of the cage by name ([`layer`]), what the
//! launcher tells whoever asks it ([`inquiry`]), what a model's convolutions are ([`convolution`]), and the memory that tensors live in ([`shm`]).
//! Nothing here knows an engine, a protocol, a runtime or a clock.

#![deny(unsafe_code)]

pub mod convolution;
pub mod cores;
pub mod digest;
pub mod frame;
pub mod id;
#[expect(unsafe_code, reason = "descriptors that come as plain numbers")]
pub mod inherited;
pub mod inquiry;
pub mod launch;
pub mod layer;
pub mod seqpacket;
pub mod shm;
pub mod tensor;
pub mod work;
pub mod zygote;
