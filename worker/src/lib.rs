//! The cell: one model, locked down before its first byte is read.
