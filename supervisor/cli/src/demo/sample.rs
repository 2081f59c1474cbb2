//! Handwritten digits that the model was not trained on, with what their writers meant.

use casemate_ipc::tensor::TensorSpec;
use serde::Deserialize;
use thiserror::Error;

use crate::model::request::Request;

const SAMPLES: &str = include_str!("../../../../packaging/demo/samples.json");

/// Side of an image, in pixels.
pub(crate) const SIDE: usize = 8;
/// The blackest ink.
pub(crate) const INK: u8 = 16;

/// One image.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Sample {
    /// What it is.
    pub(crate) label: u8,
    /// Rows from the top, 0 to [`INK`].
    pub(crate) pixels: Vec<u8>,
}

/// Why the images cannot be used.
#[derive(Debug, Error)]
pub(crate) enum SampleError {
    #[error("are not as expected")]
    Json(#[from] serde_json::Error),
    #[error("are not images of {SIDE} by {SIDE}")]
    Shape,
}

/// All of them, at least one.
pub(crate) fn all() -> Result<Vec<Sample>, SampleError> {
    let samples: Vec<Sample> = serde_json::from_str(SAMPLES)?;
    let good = |s: &Sample| s.pixels.len() == SIDE * SIDE && s.pixels.iter().all(|p| *p <= INK);
    if samples.is_empty() || !samples.iter().all(good) { Err(SampleError::Shape) } else { Ok(samples) }
}

/// The question which digit it is.
pub(crate) fn request<'a>(input: &'a TensorSpec, sample: &Sample) -> Request<'a> {
    Request::of(input, sample.pixels.clone())
}

#[cfg(test)]
mod tests {
    #[test]
    fn there_are_samples_of_every_digit() {
        let samples = super::all().unwrap();
        assert!((0..10).all(|digit| samples.iter().any(|s| s.label == digit)));
    }
}
