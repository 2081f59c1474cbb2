//! Namespaces: no network, no mount, process, name or IPC object of anybody else; and who the child is in its own.

use std::fs;
use std::io;
use std::path::Path;

use casemate_ipc::zygote::FIRST_UNBORN;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;
use nix::unistd::{Pid, getegid, geteuid, sethostname};

use super::identity::{INNER, Identity};
use crate::sys::process::clear_domain_name;

/// What every kernel has. The network one holds a loopback interface that is down; the process one makes the worker its
/// process 1, whose end is the end of all that it might have started.
const ALWAYS: CloneFlags = CloneFlags::CLONE_NEWUSER
    .union(CloneFlags::CLONE_NEWNS)
    .union(CloneFlags::CLONE_NEWPID)
    .union(CloneFlags::CLONE_NEWNET)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS)
    .union(CloneFlags::CLONE_NEWCGROUP);

/// All that a zygote gets here: not a process namespace, since process 1 of one can bear no siblings.
pub fn of_zygote() -> CloneFlags {
    all() - CloneFlags::CLONE_NEWPID
}

/// All that a zygote can give a worker as it bears it; the one for clocks it makes before.
pub const fn of_newborn() -> CloneFlags {
    ALWAYS
}

/// All that a worker gets here.
pub fn all() -> CloneFlags {
    // A clock of its own, set like the host's: nobody has a name for the flag, since the older calls cannot take it.
    const CLONE_NEWTIME: i32 = 0x80;
    if has_time() { ALWAYS | CloneFlags::from_bits_retain(CLONE_NEWTIME) } else { ALWAYS }
}

/// Whether this kernel has namespaces for clocks.
pub fn has_time() -> bool {
    Path::new("/proc/self/ns/time").exists()
}

/// Says who a child is on the host: one uid and one gid, and no way to drop or gain a group. Of a zygote, who its workers
/// will be too, one after the other from [`FIRST_UNBORN`] on. Runs in the parent.
pub fn map(child: Pid, identity: Identity, unborn: &[u32]) -> io::Result<()> {
    let (uid, gid) = match identity {
        Identity::Own(id) => (id, id),
        Identity::Shared => (geteuid().as_raw(), getegid().as_raw()),
    };
    let more: String = unborn.iter().zip(FIRST_UNBORN..).map(|(id, inner)| format!("\n{inner} {id} 1")).collect();
    write_maps(child, &format!("{INNER} {gid} 1{more}"), &format!("{INNER} {uid} 1{more}"))
}

/// The same for a worker that a zygote bore, by the number that its zygote's user namespace has for it; nothing where it has
/// only its own. To be called inside of that namespace: the kernel lets nobody else map what lies below it.
pub fn map_newborn(child: Pid, unborn: Option<u32>) -> io::Result<()> {
    let whole = format!("{INNER} {} 1", unborn.unwrap_or(INNER));
    write_maps(child, &whole, &whole)
}

fn write_maps(child: Pid, groups: &str, users: &str) -> io::Result<()> {
    let write = |file: &str, text: &str| fs::write(format!("/proc/{child}/{file}"), text);
    // First: an ordinary user may map a group only where groups can no longer be dropped.
    write("setgroups", "deny")?;
    write("gid_map", groups)?;
    write("uid_map", users)
}

/// No mount of the host appears in here later, and none of ours out there.
pub fn keep_mounts_apart() -> Result<(), Errno> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
}

/// A name that says nothing.
pub fn name() -> Result<(), Errno> {
    sethostname("worker")?;
    clear_domain_name()
}
