//! Whose files the config, the store and the programs are: each bad permission by name, not only the first one.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use casemate_config::Config;
use casemate_ipc::inquiry::{Finding, State};

use super::{finding, raised};
use crate::owner::{Owner, OwnerError};

const GROUP: &str = "files";

/// A store's folder, its models, their versions, their files.
const DEPTH: u32 = 3;
/// Entries that are looked at. A store of more is a mistake.
const MOST: usize = 10_000;

/// All of it.
pub(super) fn look(config: &Config, path: &Path, owner: Owner) -> Vec<Finding> {
    let mut looked = Looked { owner, count: 0, bad: Vec::new() };
    looked.tree(path, 0);
    looked.tree(config.store(), DEPTH);
    for program in ["casemate-launcher", "casemate-front", "casemate-worker"] {
        if let Ok(own) = std::env::current_exe() {
            looked.tree(&own.with_file_name(program), 0);
        }
    }
    let mut found = looked.bad;
    if found.is_empty() {
        let value =
            format!("{} files and folders belong to root or this user, and nobody else can write them", looked.count);
        found.push(finding(GROUP, "owners", value, State::Good));
    }
    found.extend([path, config.store()].into_iter().flat_map(|path| above(path, owner)));
    found
}

struct Looked {
    owner: Owner,
    count: usize,
    bad: Vec<Finding>,
}

impl Looked {
    fn tree(&mut self, path: &Path, depth: u32) {
        // Without looking through a link, and without waiting for whoever writes into a pipe.
        let opened = File::options().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path);
        // What is not there is said by the start itself.
        let Ok(file) = opened else { return };
        self.count += 1;
        if let Err(error) = self.owner.check(path, &file) {
            let raise = match &error {
                OwnerError::Look { .. } => None,
                OwnerError::Foreign { expected, .. } => Some(format!("sudo chown {expected} {}", path.display())),
                OwnerError::Open { .. } => Some(format!("chmod go-w {}", path.display())),
            };
            let found = finding(GROUP, "owners", error.to_string(), State::Bad);
            self.bad.push(Finding { raise, ..found });
        }
        let Some(depth) = depth.checked_sub(1).filter(|_| self.count < MOST) else { return };
        let mut inside: Vec<PathBuf> = fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path()).collect();
        inside.sort();
        for entry in inside.iter().filter(|entry| entry.symlink_metadata().is_ok_and(|found| !found.is_symlink())) {
            self.tree(entry, depth);
        }
    }
}

/// Folders on the way that somebody else could put another one in the place of. Serving does not refuse them: /tmp is one.
fn above(path: &Path, owner: Owner) -> Vec<Finding> {
    const STICKY: u32 = 0o1000;
    let open = |folder: &&Path| {
        let Ok(found) = fs::metadata(folder) else { return false };
        let mode = found.permissions().mode();
        let written = mode & 0o022 != 0 && mode & STICKY == 0;
        written || (found.uid() != 0 && found.uid() != owner.uid())
    };
    let said = |folder: &Path| {
        let value = format!("{}: others can replace what {} leads to", folder.display(), path.display());
        raised(finding(GROUP, "way", value, State::Weak), format!("chmod go-w {}", folder.display()))
    };
    path.ancestors().skip(1).filter(open).map(said).collect()
}
