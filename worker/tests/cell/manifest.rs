//! The manifest that a worker is born with.

use casemate_ipc::tensor::TensorSpec;

use super::Birth;

impl Birth {
    /// The one that was given, or one that its fields make.
    pub(crate) fn manifest_text(&self) -> String {
        if let Some(text) = &self.manifest {
            return text.clone();
        }
        let digest =
            || <sha2::Sha256 as sha2::Digest>::digest(&self.model).iter().map(|b| format!("{b:02x}")).collect();
        let sha256: String = self.sha256.clone().unwrap_or_else(digest);
        let mut text = format!("format = \"{}\"\nsha256 = \"{sha256}\"\n", self.format);
        for (side, specs) in [("input", &self.inputs), ("output", &self.outputs)] {
            for spec in specs {
                let spec: TensorSpec = spec.parse().unwrap();
                let (name, dtype, shape) = (&spec.name, spec.dtype, spec.dims_i64());
                text += &format!("[[{side}]]\nname = \"{name}\"\ndtype = \"{dtype}\"\nshape = {shape:?}\n");
            }
        }
        text + &format!("[batching]\nmax_batch_size = {}\n", self.max_batch_size)
    }
}
