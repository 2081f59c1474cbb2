//! A store and a config for one question, in a folder that goes with it.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use casemate_config::{Config, ConfigError};
use casemate_ipc::layer::Waiver;
use casemate_manifest::{Batching, Format, Limits, Manifest, ManifestError, Output};
use nix::unistd::geteuid;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use thiserror::Error;
use toml::{Table, Value};

/// The folder, with `store/` and, once there is one, a config in it.
#[derive(Debug)]
pub(crate) struct Scratch(TempDir);

/// Why there is no such folder, or nothing in it.
#[derive(Debug, Error)]
pub(crate) enum ScratchError {
    #[error("cannot make a folder to work in")]
    Folder(#[source] io::Error),
    #[error("cannot write {path:?}")]
    Write {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("cannot read the config {path:?}")]
    Read {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("the config {path:?} is refused")]
    Toml {
        path: PathBuf,
        #[source]
        cause: toml::de::Error,
    },
    #[error("the config {path:?} is refused")]
    Config {
        path: PathBuf,
        #[source]
        cause: ConfigError,
    },
    #[error("a manifest")]
    Manifest(#[from] ManifestError),
    #[error("a config")]
    Text(#[from] toml::ser::Error),
}

/// Largest config, in bytes.
const MAX_CONFIG: u64 = 1 << 20;
/// What an act may take, in a worker and in its manifest.
const DEADLINE_MS: u64 = 2000;

impl Scratch {
    pub(crate) fn new() -> Result<Self, ScratchError> {
        let folder = private_folder().map_err(ScratchError::Folder)?;
        let scratch = Self(folder);
        make(&scratch.store())?;
        Ok(scratch)
    }

    /// Puts a scripted model into the store. Its worker is one like any other, and its engine does what is written.
    pub(crate) fn script(&self, name: &str, script: &str) -> Result<(), ScratchError> {
        let folder = self.folder(name)?;
        let spec = |text: &str| casemate_ipc::tensor::TensorSpec {
            name: text.to_owned(),
            dtype: casemate_ipc::tensor::DType::Fp32,
            dims: vec![None, Some(4)],
        };
        let manifest = Manifest {
            format: Format::Echo,
            sha256: Sha256::digest(script).into(),
            inputs: vec![spec("x")],
            outputs: vec![Output { spec: spec("y"), non_finite: false }],
            batching: Batching { max_batch_size: 1, max_batch_delay_us: 0 },
            limits: Limits { deadline_ms: DEADLINE_MS },
            freeze: None,
            threads: None,
        };
        put(&folder.join("model.pt"), script.as_bytes())?;
        put(&folder.join(casemate_manifest::FILE), manifest.to_toml()?.as_bytes())
    }

    /// A folder for version 1 of a model.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf, ScratchError> {
        let folder = self.store().join(name).join("1");
        make(&self.store().join(name))?;
        make(&folder)?;
        Ok(folder)
    }

    /// Writes a config of the defaults, which goes without these layers.
    pub(crate) fn defaults(&self, waived: &[&str]) -> Result<PathBuf, ScratchError> {
        self.without(None, waived)
    }

    /// Writes a config with the operator's limits, or the defaults where they cannot be had, which goes without these layers.
    pub(crate) fn without(&self, path: Option<&Path>, waived: &[&str]) -> Result<PathBuf, ScratchError> {
        let mut table = path.and_then(|path| read(path).ok()).unwrap_or_default();
        let names: Vec<Value> = waived.iter().map(|name| Value::from(*name)).collect();
        let sandbox = table.entry("sandbox").or_insert_with(|| Table::new().into());
        if let Some(sandbox) = sandbox.as_table_mut() {
            sandbox.insert("accept_missing".to_owned(), names.into());
        }
        self.config(table, None, &[])
    }

    /// Writes the operator's config, for this store and a free port. What it says about `like` is said about `models`.
    pub(crate) fn like(&self, path: &Path, like: Option<&str>, models: &[&str]) -> Result<PathBuf, ScratchError> {
        self.config(read(path)?, like, models)
    }

    fn config(&self, mut table: Table, like: Option<&str>, models: &[&str]) -> Result<PathBuf, ScratchError> {
        let store = self.store();
        table.insert("store".to_owned(), store.to_string_lossy().into_owned().into());
        table.insert("only_listed".to_owned(), false.into());
        let listen = Table::from_iter([("inference".to_owned(), Value::from("127.0.0.1:0"))]);
        table.insert("listen".to_owned(), listen.into());
        let said = like.and_then(|like| table.get("models")?.get(like)?.as_table().cloned());
        table.remove("models");
        if let Some(mut said) = said {
            said.remove("versions");
            let each = models.iter().map(|name| ((*name).to_owned(), Value::from(said.clone())));
            table.insert("models".to_owned(), Table::from_iter(each).into());
        }
        let path = self.0.path().join("casemate.toml");
        put(&path, toml::to_string(&table)?.as_bytes())?;
        Ok(path)
    }

    fn store(&self) -> PathBuf {
        self.0.path().join("store")
    }
}

/// What an ordinary user cannot have, and the default config for one goes without. By name, so that a layer that this
/// program does not know is left out.
pub(crate) fn waived_by_default() -> Vec<&'static str> {
    const OF_ROOT: [&str; 2] = ["own-identity", "cgroup"];
    let known = |name: &&str| serde_json::from_value::<Waiver>((*name).into()).is_ok();
    if geteuid().is_root() { Vec::new() } else { OF_ROOT.into_iter().filter(known).collect() }
}

/// As root in `/run`, which only root can write to; in `/tmp` anybody could have laid things around it.
pub(crate) fn private_folder() -> io::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("casemate-").permissions(fs::Permissions::from_mode(0o700));
    let run = Path::new("/run");
    if geteuid().is_root()
        && let Ok(folder) = builder.tempdir_in(run)
    {
        return Ok(folder);
    }
    builder.tempdir()
}

/// A config, as it is written, once it is known to be one.
fn read(path: &Path) -> Result<Table, ScratchError> {
    let fault = |cause| ScratchError::Read { path: path.to_owned(), cause };
    let mut text = String::new();
    fs::File::open(path).map_err(fault)?.take(MAX_CONFIG).read_to_string(&mut text).map_err(fault)?;
    Config::parse(&text).map_err(|cause| ScratchError::Config { path: path.to_owned(), cause })?;
    toml::from_str(&text).map_err(|cause| ScratchError::Toml { path: path.to_owned(), cause })
}

/// Whatever the umask is: nobody else may be able to write.
fn make(folder: &Path) -> Result<(), ScratchError> {
    let made = DirBuilder::new().mode(0o700).create(folder);
    made.map_err(|cause| ScratchError::Write { path: folder.to_owned(), cause })
}

fn put(path: &Path, bytes: &[u8]) -> Result<(), ScratchError> {
    let mut options = OpenOptions::new();
    let opened = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    let written = opened.and_then(|mut file| file.write_all(bytes));
    written.map_err(|cause| ScratchError::Write { path: path.to_owned(), cause })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_is_taken_over_with_what_it_says_about_one_model() {
        let scratch = Scratch::new().unwrap();
        let own = scratch.0.path().join("own.toml");
        let text = "store = \"/srv\"\nonly_listed = true\n[listen]\ninference = \"127.0.0.1:80\"\n\
                    [sandbox]\naccept_missing = [\"landlock\"]\n[limits]\nthreads = 3\n\
                    [models.iris]\nversions = \"all\"\nmemory_mib = 128\n[models.rose]\nthreads = 2\n";
        fs::write(&own, text).unwrap();
        let config = |like| {
            let path = scratch.like(&own, like, &["a", "b"]).unwrap();
            Config::parse(&fs::read_to_string(path).unwrap()).unwrap()
        };
        let iris = config(Some("iris"));
        assert_eq!(iris.store(), scratch.store());
        assert!(iris.waives(Waiver::Landlock) && !iris.only_listed);
        assert_eq!((iris.inference.port(), iris.models.len()), (0, 2));
        let a = iris.model(&"a".parse().unwrap());
        assert_eq!((a.memory_bytes, a.threads), (128 << 20, 3));
        assert!(config(None).models.is_empty());
        assert_eq!(config(None).model(&"a".parse().unwrap()).threads, 3);
    }
}
