//! A folder that every user can write to, which the models of the zoo reach for.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;

use crate::forge::literal;

/// The folder, with a file and a FIFO in it. Whoever is outside a cage can read and change all of it.
#[derive(Debug)]
pub struct Place {
    folder: tempfile::TempDir,
}

/// What stands in the bait, again and again.
const BAIT: &[u8; 16] = b"CASEMATE BAIT 1\n";

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

impl Place {
    /// A new one.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("casemate-zoo-").tempdir().expect("a temporary folder");
        let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
        open(folder.path(), 0o777);
        let place = Self { folder };
        fs::write(place.bait(), BAIT.repeat(256)).expect("write");
        open(&place.bait(), 0o666);
        nix::unistd::mkfifo(&place.fifo(), Mode::from_bits_truncate(0o666)).expect("mkfifo");
        open(&place.fifo(), 0o666);
        place
    }

    /// A path where nothing is.
    pub fn made(&self) -> PathBuf {
        self.folder.path().join("made")
    }

    /// A file to be read and overwritten.
    pub fn bait(&self) -> PathBuf {
        self.folder.path().join("bait")
    }

    /// A FIFO that nobody writes to.
    pub fn fifo(&self) -> PathBuf {
        self.folder.path().join("fifo")
    }

    /// What has been done to it; none if it is as it was made.
    pub fn disturbed(&self) -> Option<String> {
        let mut names: Vec<String> = fs::read_dir(self.folder.path())
            .expect("readdir")
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        if names != ["bait", "fifo"] {
            return Some(format!("it holds {names:?}"));
        }
        (fs::read(self.bait()).expect("read") != BAIT.repeat(256)).then(|| "its bait was changed".to_owned())
    }

    /// A body with its paths.
    pub(super) fn fill(&self, body: &str) -> String {
        let text = |path: PathBuf| literal(path.to_str().expect("a path of ours"));
        let body = body.replace("{made}", &text(self.made())).replace("{bait}", &text(self.bait()));
        body.replace("{fifo}", &text(self.fifo()))
    }
}
