//! What one worker has been given and has not yet answered, counted without a lock: every batch comes by here.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::metrics::WorkerNumbers;

/// The counts of one worker. Written by its tenure alone.
#[derive(Debug, Default)]
pub struct Tally {
    batches: AtomicU64,
    running: AtomicUsize,
    numbers: WorkerNumbers,
}

impl Tally {
    /// Of a worker that serves from now on.
    pub fn new(numbers: WorkerNumbers) -> Self {
        numbers.ready.set(1);
        numbers.busy.set(0);
        Self { numbers, ..Self::default() }
    }

    /// Another batch was given; so many are with it now.
    pub fn given(&self, running: usize) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.numbers.batches.inc();
        self.now(running);
    }

    /// So many are with it now.
    pub fn now(&self, running: usize) {
        self.running.store(running, Ordering::Relaxed);
        self.numbers.busy.set(i64::try_from(running).unwrap_or(i64::MAX));
    }

    /// Its worker is gone.
    pub fn end(&self) {
        self.now(0);
        self.numbers.ready.set(0);
    }

    /// Batches that it has been given.
    pub fn batches(&self) -> u64 {
        self.batches.load(Ordering::Relaxed)
    }

    /// Batches that it has now.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }
}
