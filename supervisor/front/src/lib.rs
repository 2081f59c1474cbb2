//! The unprivileged face: HTTP in, shared memory out, workers supervised.
