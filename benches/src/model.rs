//! The models that are measured: those that `benches/models/make.py` has written, and the demo's.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use casemate_ipc::tensor::{DType, TensorSpec};
use casemate_load::Request;
use casemate_load::request::Body;
use casemate_manifest::Manifest;
use casemate_tests::casemate::{Casemate, Setup};

/// One version of a model, on disk.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) manifest: Manifest,
}

impl Model {
    /// One of `make.py`'s; nothing, and a line about it, where it has not been made.
    pub(crate) fn made(name: &str) -> Result<Option<Self>, Box<dyn Error>> {
        let given = std::env::var_os("CASEMATE_BENCH_MODELS").map(PathBuf::from);
        let all = given.unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../target/models").into());
        let folder = all.join(name).join("1");
        if folder.is_dir() {
            return Self::read(name, &folder).map(Some);
        }
        eprintln!(
            "skipped: {} is not there; benches/models/make.py writes it, its head says how, and CASEMATE_BENCH_MODELS \
             names another folder",
            folder.display()
        );
        Ok(None)
    }

    /// The demo's.
    pub(crate) fn digits() -> Result<Self, Box<dyn Error>> {
        Self::read("digits", Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/demo/store/digits/1")))
    }

    fn read(name: &str, folder: &Path) -> Result<Self, Box<dyn Error>> {
        let manifest = Manifest::parse(&fs::read_to_string(folder.join("model.toml"))?)?;
        Ok(Self { name: name.to_owned(), folder: folder.to_owned(), manifest })
    }

    /// Puts it into the store of a server, under that name and with that many rows in a run.
    pub(crate) fn put(&self, setup: &Setup, served: &str, batch: u32) -> Result<(), Box<dyn Error>> {
        let version = setup.store().join(served).join("1");
        fs::create_dir_all(&version)?;
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            fs::copy(entry.path(), version.join(entry.file_name()))?;
        }
        let written = fs::read_to_string(self.folder.join("model.toml"))?;
        let is_size = |line: &&str| line.starts_with("max_batch_size");
        if let Some(line) = written.lines().find(is_size) {
            let text = written.replace(line, &format!("max_batch_size = {batch}"));
            fs::write(version.join("model.toml"), text)?;
        }
        Ok(())
    }

    /// A request of so many rows of ones. A model with one input gets its bytes and nothing else. The answer comes in bytes
    /// too, so that it is not the printing of numbers that is measured.
    pub(crate) fn request(&self, served: &str, rows: u64) -> Result<Request, Box<dyn Error>> {
        let path = format!("/v2/models/{served}/infer");
        let (json, tensors) = self.body(rows)?;
        Ok(Request::post("bench", &path, Body::Binary { json: &json, tensors: &tensors }))
    }

    /// The same to a server that answers whatever comes.
    pub(crate) fn request_to_echo(&self, rows: u64) -> Result<Request, Box<dyn Error>> {
        let (json, tensors) = self.body(rows)?;
        Ok(Request::post("bench", "/", Body::Binary { json: &json, tensors: &tensors }))
    }

    /// How long the body of an answer is.
    pub(crate) fn answer_bytes(&self, casemate: &Casemate, served: &str) -> Result<usize, Box<dyn Error>> {
        let (json, tensors) = self.body(1)?;
        let length = json.len().to_string();
        let headers = [("inference-header-content-length", length.as_str())];
        let body = [json.as_bytes(), &tensors].concat();
        let answer = casemate.send("POST", &format!("/v2/models/{served}/infer"), &headers, &body);
        if answer.status == 200 { Ok(answer.body.len()) } else { Err(answer.text().into()) }
    }

    fn body(&self, rows: u64) -> Result<(String, Vec<u8>), Box<dyn Error>> {
        let inputs = &self.manifest.inputs;
        let (mut heads, mut body) = (Vec::new(), Vec::new());
        for spec in inputs {
            let (dims, bytes) = ones(spec, rows)?;
            let (name, dtype, size) = (&spec.name, spec.dtype, bytes.len());
            heads.push(format!(
                r#"{{"name":"{name}","datatype":"{dtype}","shape":{dims:?},"parameters":{{"binary_data_size":{size}}}}}"#
            ));
            body.extend(bytes);
        }
        if inputs.len() == 1 {
            return Ok((String::new(), body));
        }
        let head = format!(r#"{{"inputs":[{}],"parameters":{{"binary_data_output":true}}}}"#, heads.join(","));
        Ok((head, body))
    }
}

/// A tensor of ones; the free dimensions of a bench model are its rows and nothing else.
pub(crate) fn ones(spec: &TensorSpec, rows: u64) -> Result<(Vec<u64>, Vec<u8>), Box<dyn Error>> {
    let dims: Vec<u64> = spec.dims.iter().map(|dim| dim.unwrap_or(rows)).collect();
    let count = usize::try_from(dims.iter().product::<u64>())?;
    let one: &[u8] = match spec.dtype {
        DType::Fp32 => &1_f32.to_le_bytes(),
        DType::Int64 => &1_i64.to_le_bytes(),
        other => return Err(format!("a bench model with an input of {other}").into()),
    };
    Ok((dims, one.repeat(count)))
}
