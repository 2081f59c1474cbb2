//! What a manifest means. A [`Manifest`] exists only checked.

use casemate_ipc::digest;
use casemate_ipc::tensor::{DType, ModelSignature, TensorError, TensorSpec};
use casemate_ipc::work::{MAX_BATCH_DELAY_US, MAX_BATCH_SIZE, MAX_DEADLINE_MS};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::raw::{Raw, RawBatching, RawEngine, RawInput, RawLimits, RawOutput};

/// A model's declaration, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// Which engine reads the file.
    pub format: Format,
    /// SHA-256 of the model file.
    pub sha256: [u8; 32],
    /// Arguments of `forward`, in order.
    pub inputs: Vec<TensorSpec>,
    /// What `forward` returns, in order.
    pub outputs: Vec<Output>,
    /// Riding together.
    pub batching: Batching,
    /// Limits.
    pub limits: Limits,
    /// Whether its weights are folded into its code when it is loaded: as far as its answers may be from those before,
    /// relative to the largest number in them. Where they are further, it is left as it is.
    pub freeze: Option<f64>,
    /// Threads that one operation of it pays for, where that was measured. A wish: how many it has is the operator's word,
    /// since its threads start before anything of a model is read, and a team cannot shrink behind the last filter.
    pub threads: Option<u32>,
}

/// The engine's file format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// A TorchScript archive.
    Torchscript,
    /// No model at all: gives back what it gets. For tests and for measuring the trip.
    Echo,
}

/// One output.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// Name, type, shape.
    pub spec: TensorSpec,
    /// Whether NaN and infinities may leave the server.
    pub non_finite: bool,
}

/// Riding together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batching {
    /// Most rows in one run, 1 to 4096.
    pub max_batch_size: u32,
    /// How long a request may wait for company, at most a second.
    pub max_batch_delay_us: u64,
}

/// Limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long a request may take, waiting included; 1 ms to an hour.
    pub deadline_ms: u64,
}

/// Why a text is not a manifest.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// Not TOML, an unknown key, a missing key, a value of another type.
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    /// Not a digest.
    #[error("sha256 must be 64 hexadecimal digits")]
    Digest,
    /// A tensor that cannot be.
    #[error("{side} {name:?}: {source}")]
    Tensor {
        /// `input` or `output`.
        side: &'static str,
        /// Its name.
        name: String,
        /// Why.
        source: TensorError,
    },
    /// The signature as a whole.
    #[error(transparent)]
    Signature(#[from] TensorError),
    /// A value outside its bounds.
    #[error("{key} is {found}; it must be {least} to {most}")]
    Bounds {
        /// Which.
        key: &'static str,
        /// What was written.
        found: u64,
        /// Least.
        least: u64,
        /// Most.
        most: u64,
    },
    /// Batches of a model whose tensors have no free first dimension.
    #[error("batching.max_batch_size is {0}, but not every input and output has -1 as its first dimension")]
    NotBatched(u32),
    /// A distance that is none.
    #[error("engine.tolerance is {0}; it must be 0 to 1")]
    Tolerance(f64),
    /// A manifest that cannot be written as TOML.
    #[error("cannot be written: {0}")]
    Write(#[from] toml::ser::Error),
}

/// Most threads for one operation that a manifest can wish for: as many as a worker may be given.
const MAX_THREADS: u64 = 256;

impl Manifest {
    /// Reads a manifest's text.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        Self::from_raw(toml::from_str(text)?)
    }

    /// The text that [`Manifest::parse`] reads.
    pub fn to_toml(&self) -> Result<String, ManifestError> {
        let input = |spec: &TensorSpec| RawInput { name: spec.name.clone(), dtype: spec.dtype, shape: spec.dims_i64() };
        let output = |output: &Output| RawOutput {
            name: output.spec.name.clone(),
            dtype: output.spec.dtype,
            shape: output.spec.dims_i64(),
            non_finite: output.non_finite,
        };
        let raw = Raw {
            format: self.format,
            sha256: self.sha256_hex(),
            input: self.inputs.iter().map(input).collect(),
            output: self.outputs.iter().map(output).collect(),
            batching: RawBatching {
                max_batch_size: self.batching.max_batch_size,
                max_batch_delay_us: self.batching.max_batch_delay_us,
            },
            limits: RawLimits { deadline_ms: self.limits.deadline_ms },
            engine: RawEngine {
                freeze: self.freeze.is_some(),
                tolerance: self.freeze.unwrap_or(RawEngine::default().tolerance),
                threads: self.threads,
            },
        };
        Ok(toml::to_string(&raw)?)
    }

    /// The digest as it is written.
    pub fn sha256_hex(&self) -> String {
        digest::write(&self.sha256)
    }

    /// Inputs and outputs, without what is the server's own business.
    pub fn signature(&self) -> Result<ModelSignature, TensorError> {
        ModelSignature::new(self.inputs.clone(), self.outputs.iter().map(|o| o.spec.clone()).collect())
    }

    fn from_raw(raw: Raw) -> Result<Self, ManifestError> {
        let inputs = raw.input.into_iter().map(|i| spec("input", i.name, i.dtype, &i.shape));
        let output =
            |o: RawOutput| Ok(Output { spec: spec("output", o.name, o.dtype, &o.shape)?, non_finite: o.non_finite });
        let manifest = Self {
            format: raw.format,
            sha256: digest::read(&raw.sha256).ok_or(ManifestError::Digest)?,
            inputs: inputs.collect::<Result<_, _>>()?,
            outputs: raw.output.into_iter().map(output).collect::<Result<_, ManifestError>>()?,
            batching: Batching {
                max_batch_size: raw.batching.max_batch_size,
                max_batch_delay_us: raw.batching.max_batch_delay_us,
            },
            limits: Limits { deadline_ms: raw.limits.deadline_ms },
            freeze: raw.engine.freeze.then_some(raw.engine.tolerance),
            threads: raw.engine.threads,
        };
        let signature = manifest.signature()?;
        bounds("batching.max_batch_size", manifest.batching.max_batch_size.into(), 1, MAX_BATCH_SIZE.into())?;
        bounds("batching.max_batch_delay_us", manifest.batching.max_batch_delay_us, 0, MAX_BATCH_DELAY_US)?;
        bounds("engine.threads", manifest.threads.unwrap_or(1).into(), 1, MAX_THREADS)?;
        bounds("limits.deadline_ms", manifest.limits.deadline_ms, 1, MAX_DEADLINE_MS)?;
        // Written so that NaN is refused too.
        if !(0.0..=1.0).contains(&raw.engine.tolerance) {
            return Err(ManifestError::Tolerance(raw.engine.tolerance));
        }
        if manifest.batching.max_batch_size > 1 && !signature.is_batched() {
            return Err(ManifestError::NotBatched(manifest.batching.max_batch_size));
        }
        Ok(manifest)
    }
}

fn spec(side: &'static str, name: String, dtype: DType, shape: &[i64]) -> Result<TensorSpec, ManifestError> {
    let fault = |source| ManifestError::Tensor { side, name: name.chars().take(128).collect(), source };
    let dim = |d: &i64| match *d {
        -1 => Ok(None),
        d => u64::try_from(d).map(Some).map_err(|_| TensorError::Declaration(format!("{d} in shape"))),
    };
    let dims = shape.iter().map(dim).collect::<Result<_, _>>().map_err(fault)?;
    TensorSpec::new(name.clone(), dtype, dims).map_err(fault)
}

fn bounds(key: &'static str, found: u64, least: u64, most: u64) -> Result<(), ManifestError> {
    if (least..=most).contains(&found) { Ok(()) } else { Err(ManifestError::Bounds { key, found, least, most }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> String {
        let sha256 = "ab".repeat(32);
        format!(
            "format = \"torchscript\"\nsha256 = \"{sha256}\"\n\
             [[input]]\nname = \"x\"\ndtype = \"FP32\"\nshape = [-1, 16]\n\
             [[output]]\nname = \"y\"\ndtype = \"f32\"\nshape = [-1, 4]\n\
             [batching]\nmax_batch_size = 8\n[limits]\ndeadline_ms = 1000\n"
        )
    }

    #[test]
    fn a_manifest_survives_being_written() {
        let manifest = Manifest::parse(&good()).unwrap();
        assert_eq!(Manifest::parse(&manifest.to_toml().unwrap()).unwrap(), manifest);
        assert_eq!(manifest.signature().unwrap().outputs[0].to_string(), "y:FP32[-1,4]");
        assert_eq!(manifest.freeze, None);
        assert!(!manifest.to_toml().unwrap().contains("engine"));
        let frozen = Manifest::parse(&format!("{}[engine]\nfreeze = true\n", good())).unwrap();
        let threads = Manifest::parse(&format!("{}[engine]\nthreads = 2\n", good())).unwrap();
        assert_eq!((threads.threads, threads.freeze), (Some(2), None));
        assert_eq!(Manifest::parse(&threads.to_toml().unwrap()).unwrap(), threads);
        assert_eq!((frozen.freeze, Manifest::parse(&frozen.to_toml().unwrap()).unwrap()), (Some(0.001), frozen));
    }

    #[test]
    fn every_spoilt_manifest_is_refused() {
        let spoil = [
            ("sha256 = \"ab", "sha256 = \"zz"),
            ("ababab", "abab"),
            ("[-1, 16]", "[-2, 16]"),
            ("[-1, 16]", "[4611686018427387904, 16]"),
            ("FP32", "FP31"),
            ("torchscript", "pickle"),
            ("max_batch_size = 8", "max_batch_size = 0"),
            ("max_batch_size = 8", "max_batch_sise = 8"),
            ("deadline_ms = 1000", "deadline_ms = 0"),
            ("[-1, 4]", "[4]"),
            ("name = \"x\"", "name = \"x y\""),
            ("[limits]", "[engine]\ntolerance = nan\n[limits]"),
            ("[limits]", "[engine]\ntolerance = 2.0\n[limits]"),
            ("[limits]", "[engine]\nfreezes = true\n[limits]"),
            ("[limits]", "[engine]\nthreads = 0\n[limits]"),
            ("[limits]", "[engine]\nthreads = 257\n[limits]"),
        ];
        for (from, to) in spoil {
            let text = good().replacen(from, to, 1);
            assert_ne!(text, good(), "{from:?} is not in the text");
            assert!(Manifest::parse(&text).is_err(), "{to:?} passed");
        }
        let twice = good().replace("[batching]", "[[input]]\nname = \"x\"\ndtype = \"FP32\"\nshape = [-1]\n[batching]");
        assert!(Manifest::parse(&twice).is_err());
    }
}
