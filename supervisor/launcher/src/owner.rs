//! Who may have written what the launcher trusts: the config, the store, the programs.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{getegid, geteuid};
use thiserror::Error;

/// Whose files are trusted: root's and the launcher's own, that nobody else can write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    uid: u32,
    /// An ordinary user's own group may write: many systems give each user a group of their own, and a umask to match.
    group: Option<u32>,
}

/// Why a file is not trusted.
#[derive(Debug, Error)]
pub enum OwnerError {
    /// It cannot be looked at.
    #[error("{}: {source}", path.display())]
    Look {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Somebody else's.
    #[error("{} belongs to uid {found}; it must belong to root or to the launcher's user (uid {expected})", path.display())]
    Foreign {
        /// Which file.
        path: PathBuf,
        /// Whose it is.
        found: u32,
        /// Whose it should be.
        expected: u32,
    },
    /// Others may write it.
    #[error("{} has mode {mode:04o}: others than its owner can write it; run chmod go-w on it", path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

impl Owner {
    /// The user that this launcher runs as.
    pub fn current() -> Self {
        let uid = geteuid();
        Self { uid: uid.as_raw(), group: (!uid.is_root()).then(|| getegid().as_raw()) }
    }

    /// Whether that is root.
    pub const fn is_root(self) -> bool {
        self.uid == 0
    }

    /// Their number.
    pub const fn uid(self) -> u32 {
        self.uid
    }

    /// Proves that an opened file or folder can be trusted. Looks at what was opened, not at what the path says by now.
    pub fn check(self, path: &Path, file: &File) -> Result<Metadata, OwnerError> {
        let look = |source| OwnerError::Look { path: path.to_path_buf(), source };
        let metadata = file.metadata().map_err(look)?;
        self.judge(path, metadata.uid(), metadata.gid(), metadata.mode())?;
        Ok(metadata)
    }

    fn judge(self, path: &Path, uid: u32, gid: u32, mode: u32) -> Result<(), OwnerError> {
        if uid != 0 && uid != self.uid {
            return Err(OwnerError::Foreign { path: path.to_path_buf(), found: uid, expected: self.uid });
        }
        let by_group = mode & 0o020 != 0 && self.group != Some(gid);
        if by_group || mode & 0o002 != 0 {
            return Err(OwnerError::Open { path: path.to_path_buf(), mode: mode & 0o7777 });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_and_the_launcher_may_have_written() {
        let root = Owner { uid: 0, group: None };
        let user = Owner { uid: 1000, group: Some(1000) };
        let judge = |owner: Owner, uid, gid, mode| owner.judge(Path::new("/x"), uid, gid, mode).is_ok();
        assert!(judge(root, 0, 0, 0o644) && judge(user, 1000, 1000, 0o644) && judge(user, 0, 0, 0o755));
        assert!(judge(user, 1000, 1000, 0o664), "a group of its own");
        for (owner, uid, gid, mode) in [
            (root, 1000, 0, 0o644),
            (root, 0, 0, 0o664),
            (root, 0, 0, 0o646),
            (user, 1001, 1000, 0o644),
            (user, 1000, 100, 0o664),
            (user, 1000, 1000, 0o666),
        ] {
            assert!(!judge(owner, uid, gid, mode), "{owner:?} trusts {uid}:{gid} {mode:o}");
        }
    }
}
