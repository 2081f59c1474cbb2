//! `cargo xtask libtorch`: the CPU part of a pinned PyTorch wheel under `.libtorch/`, ready for torch-sys.
//!
//! The order: fetch, check the digest, unpack aside, strip, stubs, stamp, and only then one rename into place. A run that
//! was interrupted leaves the old state, and the stamp makes a second run instant.

use std::env;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::checkout::Checkout;
use crate::program::{self, ProgramError};
use crate::setup::{self, SetupError};
use crate::stubs::{self, StubError};
use crate::wheel::{CheckedWheel, WheelError};

/// A release of PyTorch that the workspace builds against.
#[derive(Debug)]
pub(crate) struct Pin {
    pub(crate) version: &'static str,
    /// Of the wheel for CPython 3.12 on x86-64; the libraries in it do not depend on Python.
    pub(crate) sha256: &'static str,
}

/// The first is the default. The other goes with tch 0.24: `cargo update -p tch --precise 0.24.0`.
pub(crate) const PINS: [Pin; 2] = [
    Pin { version: "2.13.0", sha256: "796633c4cdf0fe2cdced72d8f88f22e73dbcfce83132763162f6d4bff13b820b" },
    Pin { version: "2.11.0", sha256: "0f68f4ac6d95d12e896c3b7a912b5871619542ec54d3649cf48cc1edd4dd2756" },
];

/// What the caller asked for; the default is the first pin, from the package index.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) version: Option<String>,
    pub(crate) wheel: Option<PathBuf>,
}

/// Why there is no libtorch.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LibtorchError {
    #[error("LIBTORCH is set to {0}, and there is no lib/libtorch_cpu.so in it; correct it, or unset it")]
    NotALibtorch(PathBuf),
    #[error("LIBTORCH is set to {0}, which is relative, and each build script would look for it elsewhere")]
    NotAbsolute(PathBuf),
    #[error("no pinned libtorch for this machine (only Linux on x86-64 with glibc): set LIBTORCH to one of your own")]
    Platform,
    #[error("no pin for version {0}; there are {known}", known = PINS.map(|pin| pin.version).join(", "))]
    Version(String),
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error(transparent)]
    Wheel(#[from] WheelError),
    #[error("cannot strip libtorch_cpu.so")]
    Strip(#[source] ProgramError),
    #[error(transparent)]
    Stub(#[from] StubError),
    #[error("cannot write below {path}")]
    Write {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
}

/// Makes sure that the libtorch which Cargo will build against is there. Says nothing where it already is.
pub(crate) fn provide(checkout: &Checkout, wanted: &Wanted) -> Result<(), LibtorchError> {
    let pin = match &wanted.version {
        None => &PINS[0],
        Some(version) => {
            PINS.iter().find(|pin| pin.version == version).ok_or_else(|| LibtorchError::Version(version.clone()))?
        }
    };
    if wanted.version.is_none()
        && let Some(own) = own_libtorch(checkout)
    {
        return accept(own);
    }
    if !cfg!(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")) {
        return Err(LibtorchError::Platform);
    }
    Place::of(checkout, pin).fill(pin, wanted.wheel.clone())
}

/// Cargo sets LIBTORCH to the default for us (`.cargo/config.toml`), unless the user did.
fn own_libtorch(checkout: &Checkout) -> Option<PathBuf> {
    let set = PathBuf::from(env::var_os("LIBTORCH").filter(|set| !set.is_empty())?);
    (set != Place::of(checkout, &PINS[0]).torch()).then_some(set)
}

/// The user's own is taken as it is, and said aloud: a build against another libtorch should surprise nobody.
fn accept(own: PathBuf) -> Result<(), LibtorchError> {
    if !own.is_absolute() {
        return Err(LibtorchError::NotAbsolute(own));
    }
    if !own.join("lib/libtorch_cpu.so").exists() {
        return Err(LibtorchError::NotALibtorch(own));
    }
    let version = fs::read_to_string(own.join(BUILD_VERSION)).unwrap_or_else(|_| "of unknown version".into());
    eprintln!(
        "xtask: LIBTORCH is set: building against {} (torch {}), nothing is downloaded",
        own.display(),
        version.trim()
    );
    Ok(())
}

/// Where one release lies: `.libtorch/` for the default, `.libtorch-VERSION/` for another.
#[derive(Debug)]
struct Place(PathBuf);

impl Place {
    fn of(checkout: &Checkout, pin: &Pin) -> Self {
        let default = pin.version == PINS[0].version;
        Self(checkout.root().join(if default { ".libtorch".into() } else { format!(".libtorch-{}", pin.version) }))
    }

    /// What LIBTORCH names. Everything is in here, the stamp too, so one rename puts it all in place: the stubs lie in
    /// `lib/` beside libtorch_cpu.so, whose DT_RPATH ends with `$ORIGIN`.
    fn torch(&self) -> PathBuf {
        self.0.join("torch")
    }

    fn fill(&self, pin: &Pin, wheel: Option<PathBuf>) -> Result<(), LibtorchError> {
        let stamp = stamp(pin);
        if self.bears(&stamp) {
            return Ok(());
        }
        setup::ensure(setup::TO_LAY_OUT)?;
        fs::create_dir_all(&self.0).map_err(self.failed())?;
        fs::write(self.0.join(".gitignore"), "*\n").map_err(self.failed())?;
        // Two tasks at once in one checkout: the second waits, then finds the stamp.
        let lock = File::create(self.0.join("lock")).map_err(self.failed())?;
        lock.lock().map_err(self.failed())?;
        if self.bears(&stamp) {
            return Ok(());
        }
        let (download, aside) = (self.0.join("download"), self.0.join("aside"));
        self.clear(&download)?;
        self.clear(&aside)?;

        let wheel = match wheel {
            Some(path) => CheckedWheel::check(pin, path)?,
            None => {
                eprintln!("xtask: downloading torch {} (530 MB, once)", pin.version);
                CheckedWheel::fetch(pin, &download)?
            }
        };
        eprintln!("xtask: laying out {}", self.torch().display());
        wheel.unpack(&aside)?;
        self.clear(&download)?;
        strip(&aside.join("torch/lib/libtorch_cpu.so"))?;
        stubs::make(&aside.join("torch/lib"))?;
        fs::write(aside.join("torch").join(BUILD_VERSION), pin.version).map_err(self.failed())?;
        fs::write(aside.join("torch").join(STAMP), &stamp).map_err(self.failed())?;

        // The old one goes first, stamp and all: an interruption here means a new start, never a mixture.
        self.clear(&self.torch())?;
        fs::rename(aside.join("torch"), self.torch()).map_err(self.failed())?;
        self.clear(&aside)
    }

    fn bears(&self, stamp: &str) -> bool {
        fs::read_to_string(self.torch().join(STAMP)).is_ok_and(|found| found == stamp)
    }

    fn clear(&self, folder: &Path) -> Result<(), LibtorchError> {
        match fs::remove_dir_all(folder) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(self.failed()(cause)),
            _ => Ok(()),
        }
    }

    fn failed(&self) -> impl FnOnce(io::Error) -> LibtorchError + use<> {
        let path = self.0.clone();
        move |cause| LibtorchError::Write { path, cause }
    }
}

const STAMP: &str = "casemate-stamp";

/// PyTorch's own archives have this file and wheels do not: with it, torch-sys refuses a release that it was not made for.
const BUILD_VERSION: &str = "build-version";

/// Changes when the wheel, the stubs or the layout change.
fn stamp(pin: &Pin) -> String {
    let stubs = format!("{:x}", Sha256::digest(stubs::recipe()));
    format!("layout 2\ntorch {}\nwheel {}\nstubs {stubs}\n", pin.version, pin.sha256)
}

/// The symbol table for debuggers is 90 MB; the dynamic one, which the loader reads, stays.
fn strip(library: &Path) -> Result<(), LibtorchError> {
    program::run(Command::new("strip").arg("--strip-unneeded").arg(library)).map_err(LibtorchError::Strip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_release_has_its_own_stamp() {
        assert_ne!(stamp(&PINS[0]), stamp(&PINS[1]));
        assert!(stamp(&PINS[0]).contains(PINS[0].sha256));
    }

    #[test]
    fn a_stamp_of_another_recipe_does_not_count() {
        let root = env::temp_dir().join(format!("casemate-xtask-place-{}", std::process::id()));
        let place = Place(root.clone());
        fs::create_dir_all(place.torch()).unwrap();
        fs::write(place.torch().join(STAMP), stamp(&PINS[1])).unwrap();
        assert!(place.bears(&stamp(&PINS[1])));
        assert!(!place.bears(&stamp(&PINS[0])));
        fs::remove_dir_all(root).unwrap();
    }
}
