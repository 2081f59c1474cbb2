//! The newer mount calls: a mount that is made, restricted, and only then put where it can be reached.

use std::ffi::{CStr, c_int};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// What a mount refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refuses(u64);

impl Refuses {
    /// Writing.
    pub const WRITING: Self = Self(libc::MOUNT_ATTR_RDONLY);
    /// Set-uid programs and device nodes.
    pub const PRIVILEGE: Self = Self(libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV);
    /// Running or mapping code.
    pub const CODE: Self = Self(libc::MOUNT_ATTR_NOEXEC);

    /// Both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// `struct mount_attr` of the kernel.
#[repr(C)]
struct Attributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// A mount of a single file that is attached nowhere yet.
pub fn clone_file(path: &CStr) -> nix::Result<OwnedFd> {
    const OPEN_TREE_CLONE: u32 = 1;
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC.cast_unsigned();
    // SAFETY: the kernel reads `path` up to its end and writes nothing.
    let answer = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    let fd = i32::try_from(Errno::result(answer)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just opened it for this call, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts a mount where it can be reached.
pub fn attach(mount: impl AsFd, at: &CStr) -> nix::Result<()> {
    const MOVE_MOUNT_F_EMPTY_PATH: u32 = 4;
    let (fd, empty) = (mount.as_fd().as_raw_fd(), c"".as_ptr());
    // SAFETY: the kernel reads both paths up to their ends and writes nothing.
    let answer =
        unsafe { libc::syscall(libc::SYS_move_mount, fd, empty, libc::AT_FDCWD, at.as_ptr(), MOVE_MOUNT_F_EMPTY_PATH) };
    Errno::result(answer).map(drop)
}

/// Restricts a mount that is not attached yet.
pub fn restrict(mount: impl AsFd, refuses: Refuses) -> nix::Result<()> {
    set(mount.as_fd().as_raw_fd(), c"", libc::AT_EMPTY_PATH, refuses)
}

/// Restricts the mount at a path.
pub fn restrict_at(path: &CStr, refuses: Refuses) -> nix::Result<()> {
    set(libc::AT_FDCWD, path, 0, refuses)
}

fn set(fd: c_int, path: &CStr, flags: c_int, refuses: Refuses) -> nix::Result<()> {
    let attributes = Attributes { set: refuses.0, clear: 0, propagation: 0, user_namespace: 0 };
    let size = size_of::<Attributes>();
    // SAFETY: the kernel reads `path` up to its end and `attributes` up to the size it is told, and writes nothing.
    let answer =
        unsafe { libc::syscall(libc::SYS_mount_setattr, fd, path.as_ptr(), flags, &raw const attributes, size) };
    Errno::result(answer).map(drop)
}
