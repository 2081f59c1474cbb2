//! A jail without a launcher: a user and a mount namespace, and a root in which the host's folders lie beside `/empty`.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{chdir, getegid, geteuid, pivot_root};

/// Where the new root is made; under it lies nothing that a worker needs.
const PLACE: &str = "/sys";

/// Enters it. Runs in the child.
pub(crate) fn enter() -> io::Result<()> {
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
    for (file, line) in
        [("uid_map", format!("0 {uid} 1")), ("setgroups", "deny".into()), ("gid_map", format!("0 {gid} 1"))]
    {
        fs::write(format!("/proc/self/{file}"), line)?;
    }
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some("none"), PLACE, Some("tmpfs"), MsFlags::empty(), none)?;
    chdir(PLACE)?;
    for entry in fs::read_dir("/")? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type()?.is_symlink() {
            symlink(fs::read_link(entry.path())?, &name)?;
        } else if entry.file_type()?.is_dir() && entry.path().as_os_str() != PLACE {
            fs::create_dir(&name)?;
            mount(Some(entry.path().as_path()), name.as_os_str(), none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
        }
    }
    fs::create_dir_all("empty")?;
    mount(Some("none"), "empty", Some("tmpfs"), MsFlags::empty(), none)?;
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    Ok(chdir("/")?)
}
