//! Every file that a worker's program needs to start, asked once of the very loader that will load it.
//!
//! Asked without the host's library cache, since there is none in a worker's root: what the loader does not find like this,
//! it would not find there.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use thiserror::Error;

use crate::owner::{Owner, OwnerError};

/// What a worker's root holds.
#[derive(Debug)]
pub struct Library {
    program: PathBuf,
    files: Vec<Bound>,
    written: Vec<(PathBuf, Vec<u8>)>,
    bytes: u64,
}

/// One file of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// Where it is.
    pub source: PathBuf,
    /// Where the worker's loader will look for it; the same, without `..` on the way.
    pub target: PathBuf,
}

/// Why the files of a program are not known.
#[derive(Debug, Error)]
pub enum LibraryError {
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others could have written it.
    #[error(transparent)]
    Owner(#[from] OwnerError),
    /// Not a program that names its loader.
    #[error("{} is not a 64-bit ELF program that names its loader", .0.display())]
    NotElf(PathBuf),
    /// The loader did not answer.
    #[error("{} --list {}: {why}", loader.display(), program.display())]
    Loader {
        /// Which loader.
        loader: PathBuf,
        /// Which program it was asked about.
        program: PathBuf,
        /// What happened.
        why: String,
    },
    /// A library that the loader will not find in the jail.
    #[error(
        "{} needs {library}, which is neither in a folder that the program names (RUNPATH) nor in one of the system's own",
        program.display()
    )]
    Missing {
        /// Which program.
        program: PathBuf,
        /// Which library.
        library: String,
    },
}

impl Library {
    /// Asks the program's loader, and reads what is copied into each root.
    pub fn of(program: &Path, owner: Owner) -> Result<Self, LibraryError> {
        let loader = loader_of(program)?;
        let told = ask(&loader, program)?;
        let (mut files, mut bytes) = (BTreeMap::new(), 0);
        for source in [program.to_path_buf(), loader].into_iter().chain(parse(&told, program)?) {
            // Whoever can write a library can write the worker.
            let file =
                File::open(&source).map_err(|error| LibraryError::Read { path: source.clone(), source: error })?;
            owner.check(&source, &file)?;
            bytes += file.metadata().map_or(0, |metadata| metadata.len());
            files.insert(normal(&source), source);
        }
        let files = files.into_iter().map(|(target, source)| Bound { source, target }).collect();
        Ok(Self {
            program: normal(program),
            files,
            written: COPIED.iter().filter_map(|path| copy(path)).collect(),
            bytes,
        })
    }

    /// The program, by its path in a worker's root.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The files that are bound.
    pub fn files(&self) -> &[Bound] {
        &self.files
    }

    /// Bytes of all that are bound.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The files that are written, with their bytes.
    pub fn written(&self) -> &[(PathBuf, Vec<u8>)] {
        &self.written
    }
}

/// What libtorch reads to know the CPUs: the same for every worker, and nothing else of `/proc` and `/sys`.
const COPIED: [&str; 5] = [
    "/proc/cpuinfo",
    "/sys/devices/system/cpu/possible",
    "/sys/devices/system/cpu/present",
    "/sys/devices/system/cpu/online",
    "/sys/devices/system/cpu/kernel_max",
];

/// Of a machine with 512 CPUs it has about a megabyte.
const COPIED_MAX: u64 = 8 << 20;

/// Without one of them libtorch is slower, and not wrong.
fn copy(path: &str) -> Option<(PathBuf, Vec<u8>)> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(COPIED_MAX).read_to_end(&mut bytes).ok()?;
    Some((PathBuf::from(path), bytes))
}

fn ask(loader: &Path, program: &Path) -> Result<String, LibraryError> {
    let fault = |why: String| LibraryError::Loader { loader: loader.into(), program: program.into(), why };
    let mut command = Command::new(loader);
    command.env_clear().args(["--inhibit-cache", "--list"]).arg(program);
    let output = command.output().map_err(|error| fault(error.to_string()))?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    // "not found" is an answer too, with a failing status in some versions.
    if output.status.success() || told.contains(NOT_FOUND) {
        return Ok(told);
    }
    let complaint: String = String::from_utf8_lossy(&output.stderr).chars().take(300).collect();
    Err(fault(format!("{}: {}", output.status, complaint.trim())))
}

const NOT_FOUND: &str = "=> not found";

/// The lines of `--list`: `NAME => PATH (ADDRESS)`, or `PATH (ADDRESS)`, or a name without a file for what the kernel
/// itself brings.
fn parse(told: &str, program: &Path) -> Result<Vec<PathBuf>, LibraryError> {
    let mut paths = Vec::new();
    for line in told.lines().map(str::trim) {
        if let Some(library) = line.strip_suffix(NOT_FOUND) {
            return Err(LibraryError::Missing { program: program.into(), library: library.trim().to_owned() });
        }
        let right = line.split_once(" => ").map_or(line, |(_, path)| path);
        let path = right.rsplit_once(" (0x").map_or(right, |(path, _)| path).trim();
        if path.starts_with('/') {
            paths.push(PathBuf::from(path));
        }
    }
    Ok(paths)
}

/// Without `.` and `..`: in a worker's root every folder is a real one, so the kernel reads it the same.
fn normal(path: &Path) -> PathBuf {
    let mut whole = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => whole.push(name),
            Component::ParentDir => drop(whole.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    whole
}

/// The loader that a program names: the text of its `PT_INTERP` segment.
fn loader_of(program: &Path) -> Result<PathBuf, LibraryError> {
    let read = |source| LibraryError::Read { path: program.into(), source };
    let none = || LibraryError::NotElf(program.into());
    let file = File::open(program).map_err(read)?;
    let at = |offset: u64, length: usize| {
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, offset).map(|()| bytes)
    };
    let header = at(0, 64).map_err(|_| none())?;
    // 64 bits, little-endian: both kinds of CPU that Casemate runs on.
    if header.get(..6) != Some(b"\x7fELF\x02\x01") {
        return Err(none());
    }
    let table = number(&header, 32, 8).ok_or_else(none)?;
    let (size, count) = (number(&header, 54, 2).ok_or_else(none)?, number(&header, 56, 2).ok_or_else(none)?);
    for row in 0..count {
        const PT_INTERP: u64 = 3;
        let offset = table.checked_add(row * size).ok_or_else(none)?;
        let segment = at(offset, 56).map_err(|_| none())?;
        if number(&segment, 0, 4) != Some(PT_INTERP) {
            continue;
        }
        let (from, length) = (number(&segment, 8, 8).ok_or_else(none)?, number(&segment, 32, 8).ok_or_else(none)?);
        let length = usize::try_from(length).ok().filter(|length| (2..4096).contains(length)).ok_or_else(none)?;
        let text = at(from, length).map_err(|_| none())?;
        let path = PathBuf::from(OsStr::from_bytes(text.strip_suffix(b"\0").unwrap_or(&text)));
        return if path.is_absolute() && fs::metadata(&path).is_ok() { Ok(path) } else { Err(none()) };
    }
    Err(none())
}

fn number(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let part = bytes.get(at..at.checked_add(length)?)?;
    Some(part.iter().rev().fold(0, |whole, byte| whole << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loader_s_answer_is_read() {
        let told = "\tlinux-vdso.so.1 (0x00007ffd1)\n\
            \tlibtorch_cpu.so => /opt/casemate/bin/../lib/libtorch_cpu.so (0x00007f0)\n\
            \tlibodd.so => /opt/a (0x1)/libodd.so (0x00007f1)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f2)\n";
        let expected =
            ["/opt/casemate/bin/../lib/libtorch_cpu.so", "/opt/a (0x1)/libodd.so", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(parse(told, Path::new("/w")).unwrap(), expected.map(PathBuf::from));
        assert_eq!(normal(Path::new(expected[0])), Path::new("/opt/casemate/lib/libtorch_cpu.so"));
    }

    #[test]
    fn a_missing_library_is_named() {
        let error = parse("\tlibtorch_cpu.so => not found\n", Path::new("/w")).unwrap_err();
        assert!(error.to_string().contains("libtorch_cpu.so"), "{error}");
    }

    #[test]
    fn this_test_s_own_files_are_found() {
        let own = std::env::current_exe().unwrap();
        let library = Library::of(&own, Owner::current()).unwrap();
        let targets: Vec<_> = library.files().iter().map(|bound| bound.target.clone()).collect();
        assert!(targets.contains(&own));
        assert!(targets.iter().any(|path| path.to_string_lossy().contains("libc.so")), "{targets:?}");
        assert!(library.files().iter().all(|bound| bound.source.exists()));
        assert!(library.written().iter().any(|(path, bytes)| path.ends_with("cpuinfo") && !bytes.is_empty()));
    }

    #[test]
    fn what_is_no_program_is_refused() {
        for path in ["/proc/cpuinfo", "/dev/null", "/nonexistent"] {
            assert!(Library::of(Path::new(path), Owner::current()).is_err(), "{path}");
        }
    }
}
