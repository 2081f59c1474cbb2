//! The contract between launcher, front and worker: names, tensors, frames, shared memory.
