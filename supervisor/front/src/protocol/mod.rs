//! Bytes into requests and answers into bytes. A protocol sees the pipeline and the vocabulary, never another protocol.

pub mod answer;
pub mod intake;
pub mod numbers;
pub mod oip;
pub mod pieces;
pub mod slate;
