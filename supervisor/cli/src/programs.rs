//! Where the other programs are: beside this one (a build folder), or in `../libexec/casemate` (an installation).
//!
//! Never by `PATH`: what is run as root must not depend on it.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

const LAUNCHER: &str = "casemate-launcher";
const PROBE: &str = "casemate-probe";

/// Why a program is not known.
#[derive(Debug, Error)]
pub(crate) enum ProgramsError {
    #[error("cannot tell where this program lies")]
    Here(#[source] io::Error),
    #[error(
        "{name} is neither in {beside:?} nor in {libexec:?}; in a checkout `cargo xtask demo` builds all the programs"
    )]
    Missing { name: &'static str, beside: PathBuf, libexec: PathBuf },
}

/// The launcher's path.
pub(crate) fn launcher() -> Result<PathBuf, ProgramsError> {
    beside(LAUNCHER)
}

/// The path of the program that does without a cage what must fail inside.
pub(crate) fn probe() -> Result<PathBuf, ProgramsError> {
    beside(PROBE)
}

fn beside(name: &'static str) -> Result<PathBuf, ProgramsError> {
    // The kernel's link is already the real path, whatever symbolic link this program was started by.
    let here = std::env::current_exe().map_err(ProgramsError::Here)?;
    find(name, here.parent().unwrap_or(Path::new("/")))
}

fn find(name: &'static str, beside: &Path) -> Result<PathBuf, ProgramsError> {
    let libexec = beside.parent().unwrap_or(Path::new("/")).join("libexec/casemate");
    let found = [beside, &libexec].map(|folder| folder.join(name)).into_iter().find(|path| path.is_file());
    found.ok_or_else(|| ProgramsError::Missing { name, beside: beside.to_owned(), libexec })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beside_comes_before_libexec() {
        let prefix = tempfile::tempdir().unwrap();
        let bin = prefix.path().join("bin");
        let libexec = prefix.path().join("libexec/casemate");
        for folder in [&bin, &libexec] {
            std::fs::create_dir_all(folder).unwrap();
        }
        assert!(matches!(find(LAUNCHER, &bin), Err(ProgramsError::Missing { .. })));
        std::fs::write(libexec.join(LAUNCHER), "").unwrap();
        assert_eq!(find(LAUNCHER, &bin).unwrap(), libexec.join(LAUNCHER));
        std::fs::write(bin.join(LAUNCHER), "").unwrap();
        assert_eq!(find(LAUNCHER, &bin).unwrap(), bin.join(LAUNCHER));
    }
}
