//! Whole-system tests: promises, adversary, flow.
