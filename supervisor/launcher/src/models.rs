//! The store: which models there are, and their files, each opened anew for each start. What is large is not read anew as long as
//! it is the same file: see [`crate::kept`].
//!
//! Nothing about a model is parsed here; a worker does that, in its cage. The launcher vouches for two things only: these
//! are the files of that folder, reached without a link, and nobody but their owner could have written them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use casemate_config::{Config, Versions};
use casemate_ipc::convolution;
use casemate_ipc::id::{ModelId, ModelName, Version};
use casemate_ipc::shm::seal::{self, SealError};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use thiserror::Error;

use crate::log;
use crate::owner::{Owner, OwnerError};

/// The models that may be started.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    owner: Owner,
    folder: File,
    models: BTreeSet<ModelId>,
    model_bytes: u64,
}

/// The files of one model. What is copied is frozen: nobody can change it any more, whoever holds it.
#[derive(Debug)]
pub struct ModelFiles {
    /// The model's own file, looked at and not read yet.
    pub model: Original,
    /// Its manifest, copied.
    pub manifest: OwnedFd,
    /// The text with the sizes of its convolutions, unread; empty where there is none.
    pub shapes: Vec<u8>,
}

/// A model's own file in the store, opened and found in order.
#[derive(Debug)]
pub struct Original {
    path: PathBuf,
    file: File,
    mark: Mark,
    limit: u64,
}

/// What the kernel says of a file, and says otherwise once somebody has written it, or put another in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Why a model, or the whole store, cannot be used.
#[derive(Debug, Error)]
pub enum StoreError {
    /// It cannot be opened.
    #[error("{}: {}", path.display(), describe(*errno))]
    Open {
        /// What was opened.
        path: PathBuf,
        /// Why not.
        errno: Errno,
    },
    /// It cannot be listed.
    #[error("listing {}: {source}", path.display())]
    List {
        /// Which folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others may have written it.
    #[error(transparent)]
    Owner(#[from] OwnerError),
    /// A device, a pipe, a folder.
    #[error("{} is not a regular file", .0.display())]
    NotRegular(PathBuf),
    /// It cannot be copied, most often because it is too large.
    #[error("{}: {source}", path.display())]
    Copy {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: SealError,
    },
    /// The config names a model that is not there.
    #[error("models.{name} is in the config, but {} has no such folder with a version in it", path.display())]
    NoModel {
        /// Which.
        name: ModelName,
        /// The store.
        path: PathBuf,
    },
    /// The config names a version that is not there.
    #[error("models.{name}.versions names {version}, but {} has no such folder", path.display())]
    NoVersion {
        /// Which model.
        name: ModelName,
        /// Which version.
        version: Version,
        /// The model's folder.
        path: PathBuf,
    },
}

/// The names of a model's files in its folder.
const MODEL: &str = "model.pt";
const MANIFEST: &str = "model.toml";

/// Bytes of a manifest; the same bound as the one that the worker's parser has.
const MANIFEST_MAX: u64 = 256 * 1024;

/// Entries of one folder. A store of more is a mistake, and this program should say so rather than list for ever.
const ENTRIES_MAX: usize = 100_000;

impl Store {
    /// Lists the store and chooses what the config wants served.
    pub fn open(config: &Config, owner: Owner) -> Result<Self, StoreError> {
        let path = config.store().to_path_buf();
        // The store's own path may hold links: they are the operator's. Below it there are none.
        let opened = File::open(&path).map_err(|error| StoreError::Open {
            path: path.clone(),
            errno: Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)),
        })?;
        owner.check(&path, &opened)?;
        let folder = below(&opened, ".", OFlag::O_DIRECTORY, &path)?;
        let mut store = Self { path, owner, folder, models: BTreeSet::new(), model_bytes: config.limits.model_bytes };
        store.models = store.choose(config)?;
        Ok(store)
    }

    /// The models that may be started, in order.
    pub fn models(&self) -> &BTreeSet<ModelId> {
        &self.models
    }

    /// Opens a model's files, and copies the small ones.
    pub fn files(&self, model: &ModelId) -> Result<ModelFiles, StoreError> {
        let freeze = |(path, file): (PathBuf, File), name, limit| {
            seal::freeze(name, file, limit).map_err(|source| StoreError::Copy { path, source })
        };
        let manifest = freeze(self.file(model, MANIFEST)?, "casemate-manifest", MANIFEST_MAX)?;
        let shapes = self.shapes(model)?;
        let (path, file, metadata) = self.look(model, MODEL)?;
        let model = Original { path, file, mark: Mark::of(&metadata), limit: self.model_bytes };
        if model.mark.bytes > self.model_bytes {
            return Err(StoreError::Copy { path: model.path, source: SealError::TooLong(self.model_bytes) });
        }
        Ok(ModelFiles { model, manifest, shapes })
    }

    /// The one file that a model may lack.
    fn shapes(&self, model: &ModelId) -> Result<Vec<u8>, StoreError> {
        let (path, file) = match self.file(model, convolution::FILE) {
            Ok(found) => found,
            Err(StoreError::Open { errno: Errno::ENOENT, .. }) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut text = Vec::new();
        let read = file.take(convolution::MAX_TEXT + 1).read_to_end(&mut text);
        let read = read.map_err(|source| SealError::Call { step: "read", source });
        match read {
            Ok(_) if text.len() as u64 <= convolution::MAX_TEXT => Ok(text),
            Ok(_) => Err(StoreError::Copy { path, source: SealError::TooLong(convolution::MAX_TEXT) }),
            Err(source) => Err(StoreError::Copy { path, source }),
        }
    }

    /// Proves that a model's files can be opened, without reading them.
    pub fn check(&self, model: &ModelId) -> Result<(), StoreError> {
        self.file(model, MANIFEST)?;
        self.file(model, MODEL).map(drop)
    }

    fn file(&self, model: &ModelId, name: &str) -> Result<(PathBuf, File), StoreError> {
        self.look(model, name).map(|(path, file, _)| (path, file))
    }

    fn look(&self, model: &ModelId, name: &str) -> Result<(PathBuf, File, Metadata), StoreError> {
        let folder = self.subfolder(&self.folder, &self.path, model.name.as_str())?;
        let path = self.path.join(model.name.as_str());
        let folder = self.subfolder(&folder, &path, model.version.as_str())?;
        let path = path.join(model.version.as_str()).join(name);
        // Without O_NONBLOCK a pipe of that name would hold the launcher for ever.
        let file = below(&folder, name, OFlag::O_NONBLOCK, &path)?;
        let metadata = self.owner.check(&path, &file)?;
        if metadata.is_file() { Ok((path, file, metadata)) } else { Err(StoreError::NotRegular(path)) }
    }

    fn subfolder(&self, folder: &File, path: &Path, name: &str) -> Result<File, StoreError> {
        let path = path.join(name);
        let opened = below(folder, name, OFlag::O_DIRECTORY, &path)?;
        self.owner.check(&path, &opened)?;
        Ok(opened)
    }

    fn choose(&self, config: &Config) -> Result<BTreeSet<ModelId>, StoreError> {
        let mut found: BTreeMap<ModelName, Vec<Version>> = BTreeMap::new();
        for name in self.names::<ModelName>(&self.folder, &self.path)? {
            if config.only_listed && !config.models.contains_key(&name) {
                continue;
            }
            let path = self.path.join(name.as_str());
            match self.subfolder(&self.folder, &self.path, name.as_str()) {
                Ok(folder) => drop(found.insert(name, self.names(&folder, &path)?)),
                Err(StoreError::Open { errno: Errno::ENOTDIR | Errno::ELOOP, .. }) => ignored(&path),
                Err(error) => return Err(error),
            }
        }
        if let Some(name) = config.models.keys().find(|name| found.get(*name).is_none_or(Vec::is_empty)) {
            return Err(StoreError::NoModel { name: name.clone(), path: self.path.clone() });
        }
        let mut chosen = BTreeSet::new();
        for (name, versions) in found {
            for version in pick(config.model(&name).versions, versions, &name, &self.path)? {
                chosen.insert(ModelId { name: name.clone(), version });
            }
        }
        Ok(chosen)
    }

    /// The subfolders whose names are of that kind; what else is there is said and left alone.
    fn names<N: std::str::FromStr + Ord>(&self, folder: &File, path: &Path) -> Result<Vec<N>, StoreError> {
        let list = |source| StoreError::List { path: path.to_path_buf(), source };
        let mut names = Vec::new();
        // Through the opened folder: what stands under its path may be another one by now.
        for entry in fs::read_dir(format!("/proc/self/fd/{}", folder.as_raw_fd())).map_err(list)?.take(ENTRIES_MAX) {
            let entry = entry.map_err(list)?;
            let name = entry.file_name().to_str().and_then(|name| name.parse().ok());
            match (name, entry.file_type().map_err(list)?.is_dir()) {
                (Some(name), true) => names.push(name),
                _ => ignored(&path.join(entry.file_name())),
            }
        }
        names.sort_unstable();
        Ok(names)
    }
}

impl Original {
    /// What the kernel said of it before anything was read.
    pub const fn mark(&self) -> Mark {
        self.mark
    }

    /// All of it, frozen.
    pub fn copy(self) -> Result<OwnedFd, StoreError> {
        let Self { path, file, limit, .. } = self;
        seal::freeze("casemate-model", file, limit).map_err(|source| StoreError::Copy { path, source })
    }
}

impl Mark {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether a later change would show: clocks of files go in steps, and two changes within one look like one.
    pub fn is_settled(&self, now: SystemTime) -> bool {
        const STEP: Duration = Duration::from_secs(2);
        let (seconds, nanoseconds) = self.changed;
        let changed = u64::try_from(seconds).ok().zip(u32::try_from(nanoseconds).ok());
        let changed = changed.and_then(|(s, ns)| SystemTime::UNIX_EPOCH.checked_add(Duration::new(s, ns)));
        changed.and_then(|changed| now.duration_since(changed).ok()).is_some_and(|since| since > STEP)
    }
}

/// Which of a model's versions are served.
fn pick(wanted: Versions, mut found: Vec<Version>, name: &ModelName, store: &Path) -> Result<Vec<Version>, StoreError> {
    match wanted {
        Versions::All => Ok(found),
        Versions::Latest => Ok(found.pop().into_iter().collect()),
        Versions::Listed(listed) => match listed.iter().find(|version| !found.contains(version)) {
            None => Ok(listed),
            Some(version) => Err(StoreError::NoVersion {
                name: name.clone(),
                version: version.clone(),
                path: store.join(name.as_str()),
            }),
        },
    }
}

/// Opens beneath a folder: no link, no `..`, no other way out.
fn below(folder: &File, name: &str, flags: OFlag, path: &Path) -> Result<File, StoreError> {
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let flags = flags | OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    let opened = openat2(folder, name, OpenHow::new().flags(flags).resolve(resolve));
    opened.map(File::from).map_err(|errno| StoreError::Open { path: path.to_path_buf(), errno })
}

fn describe(errno: Errno) -> String {
    match errno {
        Errno::ELOOP => "there is a symbolic link on the way; a store holds real folders and files only".to_owned(),
        Errno::ENOENT => "it is not there; `casemate model add` makes a store, and puts models into it".to_owned(),
        Errno::EXDEV => "it leads out of its folder".to_owned(),
        Errno::ENOSYS => {
            "openat2(2) cannot be had: it came with Linux 5.6, and somebody's filter may take it away, as \
                          RestrictSUIDSGID= of a systemd unit does"
                .to_owned()
        }
        other => other.to_string(),
    }
}

fn ignored(path: &Path) {
    let why = "a store holds MODEL/VERSION folders";
    log::warn("store-entry-ignored", &[("path", &path.display()), ("why", &why)]);
}

#[cfg(test)]
#[path = "models_tests.rs"]
pub(crate) mod tests;
