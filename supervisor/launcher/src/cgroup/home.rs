//! The folder of one launcher in one hierarchy. A lock on it says that its launcher lives: names alone would not tell two
//! launchers apart that see different process numbers.

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::{CgroupError, Controller};

/// Made by this launcher, and held.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) folder: PathBuf,
    pub(super) controllers: Vec<Controller>,
    _lock: Flock<File>,
}

const PREFIX: &str = "casemate-";

impl Home {
    /// Clears away what dead launchers left, and makes one of this launcher's own.
    pub(super) fn make(parent: &Path, controllers: Vec<Controller>) -> Result<Self, CgroupError> {
        tidy(parent);
        let mut last = io::Error::from_raw_os_error(libc::EEXIST);
        // Somebody who tidies may take a new folder for an old one, before it is locked.
        for _ in 0..8 {
            let any = RandomState::new().hash_one(0);
            let folder = parent.join(format!("{PREFIX}{}-{any:016x}", std::process::id()));
            match fs::create_dir(&folder).and_then(|()| lock(&folder)) {
                Ok(Some(lock)) => return Ok(Self { folder, controllers, _lock: lock }),
                Ok(None) => {}
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EEXIST)) => last = error,
                // The parent by name: that of the folder is another one each time.
                Err(source) => return Err(CgroupError::Refused { path: parent.into(), source }),
            }
        }
        Err(CgroupError::Refused { path: parent.into(), source: last })
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        remove(&self.folder);
    }
}

/// Removes the folders whose launchers are gone. What is left of their workers died with them.
fn tidy(parent: &Path) {
    for folder in folders(parent) {
        let ours = folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
        if ours && let Ok(Some(_lock)) = lock(&folder) {
            remove(&folder);
        }
    }
}

/// Takes the lock of a folder that still is there; nothing if somebody has it.
fn lock(folder: &Path) -> io::Result<Option<Flock<File>>> {
    let file = File::open(folder)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok((fs::metadata(folder)?.ino() == lock.metadata()?.ino()).then_some(lock)),
        Err((_, nix::errno::Errno::EAGAIN)) => Ok(None),
        Err((_, errno)) => Err(errno.into()),
    }
}

/// With its groups, as far as they are empty.
fn remove(folder: &Path) {
    for group in folders(folder) {
        let _ = fs::remove_dir(group);
    }
    let _ = fs::remove_dir(folder);
}

fn folders(parent: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(parent) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_launcher_s_folder_goes_and_a_living_one_s_stays() {
        let parent = std::env::temp_dir().join(format!("casemate-home-test-{}", std::process::id()));
        fs::create_dir_all(parent.join("casemate-1-dead/w1")).unwrap();
        fs::create_dir_all(parent.join("other/w1")).unwrap();
        let first = Home::make(&parent, Vec::new()).unwrap();
        assert!(!parent.join("casemate-1-dead").exists());
        let second = Home::make(&parent, Vec::new()).unwrap();
        assert_ne!(first.folder, second.folder);
        assert!(first.folder.exists(), "the second launcher removed the first one's");
        fs::create_dir(first.folder.join("w1")).unwrap();
        let gone = first.folder.clone();
        drop(first);
        assert!(!gone.exists() && second.folder.exists() && parent.join("other/w1").exists());
        drop(second);
        fs::remove_dir_all(&parent).unwrap();
    }
}
