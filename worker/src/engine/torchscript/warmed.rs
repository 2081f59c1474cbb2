//! oneDNN's code for the convolutions that a model was seen to run, made before the last filter from their sizes alone.

use std::time::Instant;

use casemate_ipc::convolution::{ConvolutionError, Convolutions};

use super::super::shim;
use super::super::shim::convolution;

/// Runs them on zeros; afterwards the model's own go to oneDNN where they are among them. Says for which model's bytes they
/// are meant. One that fails is left out: it runs as it would without.
pub fn learn(text: &[u8]) -> Result<[u8; 32], ConvolutionError> {
    let begun = Instant::now();
    let all = Convolutions::parse(text)?;
    let plan = all.plan();
    if let Some(said) = plan.shortfall() {
        shim::log(2, format!("model.shapes: {said}\n").as_bytes());
    }
    let mut failed = 0;
    for one in &plan.pieces {
        if let Err(fault) = convolution::learn(one) {
            failed += 1;
            shim::log(2, format!("not warmed up: {one}: {fault}\n").as_bytes());
        }
    }
    let (kinds, pieces, took) = (all.list.len(), plan.pieces.len() - failed, begun.elapsed().as_millis());
    shim::log(2, format!("oneDNN's code for {kinds} convolutions, {pieces} sizes of batches: {took} ms\n").as_bytes());
    Ok(all.sha256)
}

/// The model is another one: nothing of it goes to oneDNN.
pub fn forget() {
    // An error would be one of a lock that nobody holds.
    let _ = convolution::unlearn();
}
