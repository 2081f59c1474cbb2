//! `cargo xtask fuzz`: builds the fuzz targets for libFuzzer with the stable compiler, and runs them from their seeds.
//!
//! cargo-fuzz would do the same with a nightly compiler and minutes of installing; the folder is laid out as it expects,
//! so `cargo fuzz --fuzz-dir tests/fuzz/libfuzzer` works too where there is one.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::checkout::{Checkout, CheckoutError};
use crate::program::{self, ProgramError};

/// Which targets, and how long each.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    target: Option<String>,
    seconds: u32,
}

/// Why fuzzing ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FuzzError {
    #[error(transparent)]
    Checkout(#[from] CheckoutError),
    #[error("there is no target {name:?}; there are {known}")]
    Unknown { name: String, known: String },
    #[error("cannot lay out {}", folder.display())]
    Folder {
        folder: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error(transparent)]
    Build(ProgramError),
    #[error("the target {target} failed; its input lies in {}", folder.display())]
    Found {
        target: String,
        folder: PathBuf,
        #[source]
        cause: ProgramError,
    },
}

const SECONDS: u32 = 60;

/// What cargo-fuzz gives the compiler, but for the sanitizers: they want a nightly one, and what is fuzzed is safe Rust.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing";

impl Wanted {
    /// Reads `[TARGET] [--seconds N]`.
    pub(crate) fn read(args: &[OsString]) -> Option<Self> {
        let mut wanted = Self { target: None, seconds: SECONDS };
        let mut args = args.iter().map(|arg| arg.to_str());
        while let Some(arg) = args.next() {
            match arg? {
                "--seconds" => wanted.seconds = args.next()??.parse().ok().filter(|seconds| *seconds > 0)?,
                name if !name.starts_with('-') && wanted.target.is_none() => wanted.target = Some(name.to_owned()),
                _ => return None,
            }
        }
        Some(wanted)
    }
}

/// Runs one target, or all, one after the other.
pub(crate) fn run(checkout: &Checkout, wanted: &Wanted) -> Result<(), FuzzError> {
    let fuzz = checkout.root().join("tests/fuzz");
    let targets = targets(&fuzz.join("libfuzzer/fuzz_targets"))?;
    let chosen: Vec<_> = targets.iter().filter(|name| wanted.target.as_ref().is_none_or(|w| w == *name)).collect();
    if chosen.is_empty() {
        let name = wanted.target.clone().unwrap_or_default();
        return Err(FuzzError::Unknown { name, known: targets.join(", ") });
    }
    let work = checkout.target_dir()?.join("fuzz");
    // Named, so that build scripts and macros, which run on this machine, are not instrumented with the rest.
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    build(checkout, wanted, &work, &triple)?;
    for target in chosen {
        let (corpus, found) = (work.join("corpus").join(target), work.join("found").join(target));
        for folder in [&corpus, &found] {
            let fault = |cause| FuzzError::Folder { folder: folder.clone(), cause };
            fs::create_dir_all(folder).map_err(fault)?;
        }
        let mut command = Command::new(work.join(&triple).join("debug").join(target));
        // The first folder is where it writes what is new.
        command.args([&corpus, &fuzz.join("seeds").join(target)]);
        command
            .arg(format!("-max_total_time={}", wanted.seconds))
            .arg(format!("-artifact_prefix={}/", found.display()));
        command.args(["-max_len=4096", "-timeout=10", "-rss_limit_mb=1024", "-print_final_stats=1", "-verbosity=0"]);
        program::announce(&command);
        program::run(&mut command).map_err(|cause| FuzzError::Found {
            target: target.clone(),
            folder: found,
            cause,
        })?;
    }
    Ok(())
}

fn build(checkout: &Checkout, wanted: &Wanted, work: &Path, triple: &str) -> Result<(), FuzzError> {
    let mut cargo = checkout.cargo();
    cargo.args(["build", "--locked", "--manifest-path", "tests/fuzz/libfuzzer/Cargo.toml", "--target", triple]);
    match &wanted.target {
        Some(target) => cargo.args(["--bin", target]),
        None => cargo.arg("--bins"),
    };
    // In place of whatever the caller has: other flags would build everything twice.
    cargo.env("RUSTFLAGS", COVERAGE).env_remove("CARGO_ENCODED_RUSTFLAGS").env("CARGO_TARGET_DIR", work);
    program::announce(&cargo);
    program::run(&mut cargo).map_err(FuzzError::Build)
}

/// The drivers' names, sorted.
fn targets(folder: &Path) -> Result<Vec<String>, FuzzError> {
    let fault = |cause| FuzzError::Folder { folder: folder.to_owned(), cause };
    let names = fs::read_dir(folder).map_err(fault)?.filter_map(|file| {
        let path = file.ok()?.path();
        (path.extension()? == "rs").then(|| path.file_stem()?.to_str().map(str::to_owned))?
    });
    let mut names: Vec<String> = names.collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_read() {
        let read = |words: &[&str]| Wanted::read(&words.iter().map(OsString::from).collect::<Vec<_>>());
        let some = |target: Option<&str>, seconds| Some(Wanted { target: target.map(str::to_owned), seconds });
        assert_eq!(read(&[]), some(None, SECONDS));
        assert_eq!(read(&["frame", "--seconds", "5"]), some(Some("frame"), 5));
        assert_eq!(read(&["--seconds", "5"]), some(None, 5));
        for bad in [&["--seconds"][..], &["--seconds", "0"], &["--seconds", "x"], &["a", "b"], &["--fast"]] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }
}
