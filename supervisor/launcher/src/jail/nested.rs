//! No namespaces inside a worker's user namespace: each one that it could make is another door to the kernel.

use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::wait::waitpid;
use nix::unistd::pipe2;

use crate::sys::process::{self, Forked};

/// Says how many of a kind a user namespace may hold, for the namespace of whoever looks.
const FOLDER: &str = "/proc/sys/user";

/// Lets the user namespace that this process is in hold no more namespaces than it has. Runs in the child, while it sees the
/// host's `/proc`; or, for one that a zygote bore, in a child of the launcher's that has gone there.
pub fn forbid() -> Result<(), Errno> {
    let kinds = kinds().map_err(errno)?;
    if kinds.is_empty() {
        return Err(Errno::ENOENT);
    }
    for kind in kinds {
        fs::write(file(&kind), "0").map_err(errno)?;
        if number(&kind).map_err(errno)? != 0 {
            return Err(Errno::EPERM);
        }
    }
    Ok(())
}

/// How many namespaces of each kind the user namespace of a process may hold. The kernel tells only who is in it, so a
/// child of the launcher goes there and looks.
pub fn read(pidfd: impl AsFd) -> io::Result<Vec<(String, u64)>> {
    let (answer, question) = pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    match process::fork(CloneFlags::empty(), None)? {
        Forked::Child => {
            drop(answer);
            let told = setns(&pidfd, CloneFlags::CLONE_NEWUSER).map_err(io::Error::from).and_then(|()| look());
            let told = told.unwrap_or_else(|error| format!("error {}\n", error.raw_os_error().unwrap_or(libc::EIO)));
            let _ = File::from(question).write_all(told.as_bytes());
            process::exit_now(0);
        }
        Forked::Parent { pid, .. } => {
            drop(question);
            let mut text = String::new();
            let read = File::from(answer).read_to_string(&mut text);
            let _ = waitpid(pid, None);
            read?;
            parse(&text)
        }
    }
}

fn look() -> io::Result<String> {
    let mut text = String::new();
    for kind in kinds()? {
        text += &format!("{kind} {}\n", number(&kind)?);
    }
    Ok(text)
}

fn parse(text: &str) -> io::Result<Vec<(String, u64)>> {
    let line = |line: &str| {
        let (kind, number) = line.split_once(' ')?;
        Some((kind.to_owned(), number.parse().ok()?))
    };
    let lines: Option<Vec<(String, u64)>> = text.lines().map(line).collect();
    match lines.as_deref() {
        None | Some([]) => Err(io::ErrorKind::InvalidData.into()),
        Some([(kind, number)]) if kind == "error" => {
            Err(io::Error::from_raw_os_error(i32::try_from(*number).unwrap_or(libc::EIO)))
        }
        _ => Ok(lines.unwrap_or_default()),
    }
}

/// The kinds that this kernel knows: `user`, `mnt`, `pid` and so on.
fn kinds() -> io::Result<Vec<String>> {
    let names = fs::read_dir(FOLDER)?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let kinds = names.filter_map(|name| Some(name.strip_prefix("max_")?.strip_suffix("_namespaces")?.to_owned()));
    let mut kinds: Vec<String> = kinds.collect();
    kinds.sort_unstable();
    Ok(kinds)
}

fn number(kind: &str) -> io::Result<u64> {
    fs::read_to_string(file(kind))?.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
}

fn file(kind: &str) -> String {
    format!("{FOLDER}/max_{kind}_namespaces")
}

fn errno(error: io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_child_tells_is_read() {
        let pairs = [("mnt".to_owned(), 0), ("user".to_owned(), 7)];
        assert_eq!(parse("mnt 0\nuser 7\n").unwrap(), pairs);
        assert_eq!(parse("error 1\n").unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert!(parse("").is_err() && parse("mnt\n").is_err() && parse("mnt x\n").is_err());
    }

    #[test]
    fn this_kernel_knows_user_namespaces() {
        let kinds = kinds().unwrap();
        assert!(kinds.iter().any(|kind| kind == "user") && kinds.iter().any(|kind| kind == "mnt"), "{kinds:?}");
    }
}
