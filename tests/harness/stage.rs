//! The programs where any user can reach them. A checkout may lie in a folder that only its owner may enter; then they are
//! laid out once more in a temporary folder, as a package would lay them out.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::casemate::program;

const PROGRAMS: [&str; 5] = ["casemate", "casemate-launcher", "casemate-front", "casemate-worker", "casemate-probe"];

/// A program of this build, where an ordinary user can run it.
pub fn reachable(name: &str) -> PathBuf {
    static STAGE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let here = program(name);
    if here.ancestors().skip(1).all(|folder| is_open(folder, 0o005)) {
        return here;
    }
    STAGE.get_or_init(stage).path().join("bin").join(name)
}

/// `bin/` and `lib/casemate/torch/lib/`, which is the second place where a worker looks for libtorch.
fn stage() -> tempfile::TempDir {
    let stage = tempfile::Builder::new().prefix("casemate-stage-").tempdir().expect("a temporary folder");
    let library = stage.path().join("lib/casemate/torch/lib");
    let bin = stage.path().join("bin");
    for folder in [&library, &bin] {
        fs::create_dir_all(folder).expect("mkdir");
    }
    for folder in [stage.path(), &bin] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("chmod");
    }
    for name in PROGRAMS {
        copy(&program(name), &bin);
    }
    let torch = crate::process::libraries(&program("casemate-worker"));
    for file in torch.iter().filter(|path| path.components().any(|part| part.as_os_str() == "torch")) {
        copy(file, &library);
    }
    stage
}

/// By another process: nobody in this one ever has a program open for writing.
fn copy(file: &Path, into: &Path) {
    assert!(Command::new("cp").arg("-L").arg(file).arg(into).status().expect("cp").success());
}

fn is_open(folder: &Path, bits: u32) -> bool {
    fs::metadata(folder).is_ok_and(|metadata| metadata.permissions().mode() & bits == bits)
}
