//! Benches: ratios in one run.
