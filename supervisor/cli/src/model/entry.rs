//! One version of one model, put into a store: whole, or not at all.
//!
//! The file is copied into a hidden folder of the store and hashed on the way, looked into *there* (so that what is looked
//! at is what will be served), joined by its manifest, written to disk, and only then renamed to its place.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use casemate_ipc::id::{ModelName, Version};
use casemate_ipc::tensor::TensorSpec;
use casemate_manifest::{Batching, Format, Limits, Manifest, ManifestError, Output};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::archive::{Archive, ArchiveError, Kind};

/// The model's file name in a version's folder; the manifest's is [`casemate_manifest::FILE`].
pub(crate) const MODEL: &str = "model.pt";

/// What is said about a model by whoever adds it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Declaration {
    pub(crate) inputs: Vec<TensorSpec>,
    pub(crate) outputs: Vec<Output>,
    pub(crate) batching: Batching,
    pub(crate) limits: Limits,
}

/// What has been put into the store.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Its folder.
    pub(crate) folder: PathBuf,
    /// Its version.
    pub(crate) version: Version,
    /// Its manifest.
    pub(crate) manifest: Manifest,
    /// The model file's size.
    pub(crate) bytes: u64,
}

/// Why nothing has been put into the store.
#[derive(Debug, Error)]
pub(crate) enum EntryError {
    #[error("the declaration is refused")]
    Declaration(#[source] ManifestError),
    #[error("{0:?} is there already; choose another --version, or leave --version out for the next number")]
    Exists(PathBuf),
    #[error("the newest version in {folder:?} is {newest}, and no number follows it; say --version")]
    NoNext { folder: PathBuf, newest: Version },
    #[error("cannot read the model")]
    Source(#[source] io::Error),
    #[error("cannot look into the model")]
    Archive(#[from] ArchiveError),
    #[error("the file is {}", .0.describe())]
    Kind(Kind),
    #[error("cannot write {path:?}")]
    Write {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
}

// === impl Declaration ===

impl Declaration {
    /// The manifest of a file with this digest, checked as every reader of it will check it.
    pub(crate) fn manifest(&self, sha256: [u8; 32]) -> Result<Manifest, ManifestError> {
        let Self { inputs, outputs, batching, limits } = self.clone();
        let manifest = Manifest {
            format: Format::Torchscript,
            sha256,
            inputs,
            outputs,
            batching,
            limits,
            freeze: None,
            threads: None,
        };
        Manifest::parse(&manifest.to_toml()?)
    }
}

// === impl Entry ===

impl Entry {
    /// Copies a model into the store, under this version or the next one.
    pub(crate) fn write(
        store: &Path,
        name: &ModelName,
        version: Option<&Version>,
        declaration: &Declaration,
        source: &mut impl Read,
    ) -> Result<Self, EntryError> {
        // Before anything is written: a declaration does not get better by copying gigabytes.
        declaration.manifest([0; 32]).map_err(EntryError::Declaration)?;
        let model = store.join(name.as_str());
        let version = version.cloned().map_or_else(|| next_version(&model), Ok)?;
        let folder = model.join(version.as_str());
        if folder.symlink_metadata().is_ok() {
            return Err(EntryError::Exists(folder));
        }

        make_folder(store)?;
        let new = tempfile::Builder::new().prefix(".new-").tempdir_in(store).map_err(write(store))?;
        let (sha256, bytes) = copy(source, &new.path().join(MODEL))?;
        let manifest = declaration.manifest(sha256).map_err(EntryError::Declaration)?;
        let text = manifest.to_toml().map_err(EntryError::Declaration)?;
        let path = new.path().join(casemate_manifest::FILE);
        let mut file = create(&path)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(write(&path))?;
        open_up(new.path(), 0o755)?;
        sync(new.path())?;

        make_folder(&model)?;
        // Renaming onto a folder with something in it fails, so of two at once only one wins.
        fs::rename(new.path(), &folder).map_err(|cause| match cause.kind() {
            io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists => EntryError::Exists(folder.clone()),
            _ => EntryError::Write { path: folder.clone(), cause },
        })?;
        // It has moved: nothing is left to be removed.
        let _ = new.keep();
        sync(&model)?;
        sync(store)?;
        Ok(Self { folder, version, manifest, bytes })
    }
}

fn copy(source: &mut impl Read, path: &Path) -> Result<([u8; 32], u64), EntryError> {
    let mut file = create(path)?;
    let mut hash = Sha256::new();
    let mut bytes = 0u64;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(EntryError::Source(e)),
        };
        hash.update(&buffer[..read]);
        file.write_all(&buffer[..read]).map_err(write(path))?;
        bytes += read as u64;
    }
    file.sync_all().and_then(|()| file.seek(SeekFrom::Start(0))).map_err(write(path))?;
    match Archive::read(file)?.kind() {
        Kind::Torchscript => Ok((hash.finalize().into(), bytes)),
        other => Err(EntryError::Kind(other)),
    }
}

/// 1, or the number after the newest version's first one.
fn next_version(model: &Path) -> Result<Version, EntryError> {
    let entries = match fs::read_dir(model) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return first(),
        Err(cause) => return Err(EntryError::Write { path: model.to_owned(), cause }),
    };
    let versions = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<Version>().ok());
    let Some(newest) = versions.max() else { return first() };
    let number = newest.as_str().split('.').next().and_then(|part| part.parse::<u64>().ok());
    let next = number.and_then(|n| n.checked_add(1)).and_then(|n| n.to_string().parse().ok());
    next.ok_or_else(|| EntryError::NoNext { folder: model.to_owned(), newest })
}

fn first() -> Result<Version, EntryError> {
    "1".parse().map_err(|e| EntryError::Source(io::Error::other(e)))
}

/// A file that is new, readable by all (the launcher decides who gets the model) and writable by its owner.
fn create(path: &Path) -> Result<File, EntryError> {
    let file =
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o644).open(path).map_err(write(path))?;
    // The umask may have taken bits away.
    file.set_permissions(Permissions::from_mode(0o644)).map_err(write(path))?;
    Ok(file)
}

/// A folder that only its owner can write to; one that is there is left as it is.
fn make_folder(path: &Path) -> Result<(), EntryError> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(write(path))?;
    open_up(path, 0o755)
}

fn open_up(path: &Path, mode: u32) -> Result<(), EntryError> {
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(write(path))
}

fn sync(folder: &Path) -> Result<(), EntryError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(write(folder))
}

fn write(path: &Path) -> impl FnOnce(io::Error) -> EntryError {
    let path = path.to_owned();
    move |cause| EntryError::Write { path, cause }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::archive::tests::{MODEL as RECORDS, zipped};

    pub(crate) fn declaration() -> Declaration {
        Declaration {
            inputs: vec!["x:f32[-1,16]".parse().unwrap()],
            outputs: vec![Output { spec: "y:f32[-1,4]".parse().unwrap(), non_finite: false }],
            batching: Batching { max_batch_size: 8, max_batch_delay_us: 0 },
            limits: Limits { deadline_ms: 1000 },
        }
    }

    pub(crate) fn put(store: &Path, name: &str, version: Option<&str>) -> Result<Entry, EntryError> {
        let version: Option<Version> = version.map(|v| v.parse().unwrap());
        let name = name.parse().unwrap();
        Entry::write(store, &name, version.as_ref(), &declaration(), &mut zipped(RECORDS))
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn an_entry_is_whole_and_its_digest_is_the_files() {
        let store = tempfile::tempdir().unwrap();
        let store = store.path().join("store");
        let entry = put(&store, "net", None).unwrap();
        assert_eq!(entry.folder, store.join("net/1"));
        let bytes = fs::read(entry.folder.join(MODEL)).unwrap();
        assert_eq!(<[u8; 32]>::from(Sha256::digest(&bytes)), entry.manifest.sha256);
        assert_eq!(bytes.len() as u64, entry.bytes);
        let text = fs::read_to_string(entry.folder.join(casemate_manifest::FILE)).unwrap();
        assert_eq!(Manifest::parse(&text).unwrap(), entry.manifest);
        assert_eq!([&store, &store.join("net"), &entry.folder].map(|p| mode(p)), [0o755; 3]);
        assert_eq!([MODEL, "model.toml"].map(|f| mode(&entry.folder.join(f))), [0o644; 2]);
        assert_eq!(fs::read_dir(&store).unwrap().count(), 1, "nothing else is left in the store");
    }

    #[test]
    fn versions_count_on_and_none_is_overwritten() {
        let store = tempfile::tempdir().unwrap();
        let version = |given| put(store.path(), "net", given).map(|entry| entry.version.to_string());
        assert_eq!(version(None).unwrap(), "1");
        assert_eq!(version(Some("9")).unwrap(), "9");
        assert_eq!(version(None).unwrap(), "10");
        assert_eq!(version(Some("10.2")).unwrap(), "10.2");
        assert_eq!(version(None).unwrap(), "11");
        assert!(matches!(version(Some("9")), Err(EntryError::Exists(_))));
        assert_eq!(version(Some("beta")).unwrap(), "beta");
        assert!(matches!(version(None), Err(EntryError::NoNext { .. })));
    }

    #[test]
    fn what_is_refused_leaves_nothing_behind() {
        let store = tempfile::tempdir().unwrap();
        let name = "net".parse().unwrap();
        let pickle = Entry::write(store.path(), &name, None, &declaration(), &mut zipped(&[("a/data.pkl", b".")]));
        assert!(matches!(pickle, Err(EntryError::Kind(Kind::Pickle))));
        let text = Entry::write(store.path(), &name, None, &declaration(), &mut &b"no zip at all"[..]);
        assert!(matches!(text, Err(EntryError::Archive(_))));
        let mut unfit = declaration();
        unfit.inputs = vec!["x:f32[16]".parse().unwrap()];
        let unfit = Entry::write(store.path(), &name, None, &unfit, &mut zipped(RECORDS));
        assert!(matches!(unfit, Err(EntryError::Declaration(ManifestError::NotBatched(8)))));
        assert_eq!(fs::read_dir(store.path()).unwrap().count(), 0);
    }
}
