//! A root that holds the worker, its libraries, and a handful of files that say how many CPUs there are.
//!
//! Every library is a mount of one file, read-only, at the path where it has always been. The rest is written into the
//! root itself, which is then closed for writing.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use casemate_lockdown::EMPTY_FOLDER;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, pivot_root};

use crate::library::Library;
use crate::sys::mount::{Refuses, attach, clone_file, restrict, restrict_at};

/// Where the new root stands until it is one. Every host has this folder, and none keeps a library in it.
const SITE: &str = "/proc";

/// Takes hold of each library, read-only. While the child is still who its parent was: a folder on the way may be closed
/// to others.
pub fn take_hold(library: &Library) -> Result<Vec<OwnedFd>, Errno> {
    let hold = |file: &PathBuf| {
        let mount = clone_file(&text(file)?)?;
        restrict(&mount, Refuses::WRITING.and(Refuses::PRIVILEGE))?;
        Ok(mount)
    };
    library.files().iter().map(|bound| hold(&bound.source)).collect()
}

/// Builds the new root, with the libraries in the order in which they were taken hold of.
pub fn build(library: &Library, files: &[OwnedFd], bears: bool) -> Result<(), Errno> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("worker"), SITE, Some("tmpfs"), flags, Some("mode=0755,size=16m,nr_inodes=4096"))?;
    chdir(SITE)?;
    for (bound, mount) in library.files().iter().zip(files) {
        let target = inside(&bound.target);
        put(&target, b"").map_err(errno)?;
        attach(mount, &text(&target)?)?;
    }
    for (path, bytes) in library.written() {
        put(&inside(path), bytes).map_err(errno)?;
    }
    put(Path::new("dev/urandom"), &random().map_err(errno)?).map_err(errno)?;
    // Where a program looks for the folder that it was started from; libraries are found relative to it.
    fs::create_dir_all("proc/self").map_err(errno)?;
    symlink(library.program(), "proc/self/exe").map_err(errno)?;
    if bears {
        threshold()?
    } else {
        empty_folder()?
    }
    restrict_at(c".", Refuses::WRITING)
}

/// Makes it the root. The old one is gone from here on.
pub fn enter() -> Result<(), Errno> {
    chdir(SITE)?;
    // With "." twice the old root is stacked upon the new one, so no folder is needed to hold it.
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")
}

/// The mount that the worker swaps its root for: room for no entry at all.
fn empty_folder() -> Result<(), Errno> {
    let folder = inside(Path::new(EMPTY_FOLDER));
    fs::create_dir(&folder).map_err(errno)?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("empty"), &folder, Some("tmpfs"), flags, Some("mode=0555,size=4k,nr_inodes=1"))
}

/// The mount that a zygote swaps its root for: one folder, where each of its workers mounts its own.
fn threshold() -> Result<(), Errno> {
    let folder = inside(Path::new(EMPTY_FOLDER));
    fs::create_dir(&folder).map_err(errno)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("threshold"), &folder, Some("tmpfs"), flags, Some("mode=0555,size=4k,nr_inodes=2"))?;
    fs::create_dir(folder.join(inside(Path::new(EMPTY_FOLDER)))).map_err(errno)?;
    restrict_at(&text(&folder)?, Refuses::WRITING)
}

/// Random bytes of this worker's own, in the place of the device.
fn random() -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    // Through the kernel's own device: it is not hidden by the new root.
    File::open("/dev/urandom")?.take(4096).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, bytes)
}

/// A path from the root as one from the new root, which is the current folder.
fn inside(path: &Path) -> PathBuf {
    path.strip_prefix("/").unwrap_or(path).to_path_buf()
}

fn text(path: &Path) -> Result<CString, Errno> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)
}

fn errno(error: io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}
