//! The probing worker: does what its model's bytes say, and prints what it finds.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use casemate_ipc::frame;
use casemate_ipc::launch::{Grant, fd};
use casemate_ipc::layer::Waiver;
use casemate_ipc::seqpacket::{Channel, PacketBuffer};
use casemate_ipc::shm::arena::{Reader, Writer};
use casemate_ipc::shm::map::Frozen;
use casemate_ipc::work::{FromWorker, ToWorker};
use casemate_launcher::sys::process::{Forked, exit_now, fork};
use casemate_lockdown::{Requirements, confine, lock, seal};
use nix::sched::CloneFlags;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statvfs::{FsFlags, statvfs};

use crate::born::Born;

pub(crate) fn main() -> ! {
    let mut born = Born::look();
    let channel = Channel::<FromWorker, ToWorker>::new(born.take(fd::WORKER_CHANNEL));
    let grant = Frozen::map(born.take(fd::WORKER_GRANT)).unwrap();
    let grant: Grant = frame::decode(grant.bytes()).unwrap();
    Reader::open(born.take(fd::WORKER_REQUESTS), grant.requests).unwrap();
    Writer::open(born.take(fd::WORKER_RESPONSES), grant.responses).unwrap();
    let order = Frozen::map(born.take(fd::WORKER_MODEL)).unwrap();
    let promised = File::from(born.take(fd::WORKER_DIGEST));
    let manifest = Frozen::map(born.take(fd::WORKER_MANIFEST)).unwrap();
    assert_eq!(manifest.bytes(), b"manifest");
    // What is large is filled up with zeros.
    match order.bytes().split(|byte| *byte == 0).next().unwrap_or_default() {
        kept if kept.starts_with(b"kept") => println!("{} is {}", String::from_utf8_lossy(kept), digest(promised)),
        b"report" => {
            // As a worker does before its lock.
            drop(promised);
            report(&grant, &born.numbers, &channel);
        }
        b"denied" => {
            cage(&grant, || {});
            refused();
        }
        b"thread" => thread_refused(&grant),
        b"exit" => exit_now(3),
        b"print" => print_a_lot(),
        b"mount" => escape(),
        b"nest" => nest(),
        b"many" => {}
        b"hang" => loop {
            thread::sleep(Duration::from_secs(1));
        },
        other => panic!("{other:?}"),
    }
    exit_now(0)
}

/// The SHA-256 of its model, as its launcher says it.
fn digest(mut promised: File) -> String {
    let mut sha256 = [0; 33];
    match promised.read(&mut sha256).unwrap() {
        0 => "unknown".to_owned(),
        length => casemate_ipc::digest::write(sha256[..length].try_into().unwrap()),
    }
}

/// What the jail looks like before the worker adds to it, then from outside under the whole cage.
fn report(grant: &Grant, open: &[i32], channel: &Channel<FromWorker, ToWorker>) {
    println!("fds={open:?} env={} pid={}", std::env::vars_os().count(), std::process::id());
    println!("uid={} gid={} grant={}", nix::unistd::getuid(), nix::unistd::getgid(), grant.model);
    println!("host={:?}", nix::sys::utsname::uname().unwrap().nodename());
    println!("nnp={}", nix::sys::prctl::get_no_new_privs().unwrap());
    for set in [caps::CapSet::Effective, caps::CapSet::Permitted, caps::CapSet::Bounding, caps::CapSet::Ambient] {
        let mut held: Vec<_> = caps::read(None, set).unwrap().iter().map(ToString::to_string).collect();
        held.sort();
        println!("{set:?}={held:?}");
    }
    for (name, limit) in [
        ("nofile", Resource::RLIMIT_NOFILE),
        ("core", Resource::RLIMIT_CORE),
        ("fsize", Resource::RLIMIT_FSIZE),
        ("nproc", Resource::RLIMIT_NPROC),
        ("data", Resource::RLIMIT_DATA),
    ] {
        println!("{name}={:?}", getrlimit(limit).unwrap());
    }
    let mut files = Vec::new();
    if !grant.waived.contains(&Waiver::Namespaces) {
        walk(Path::new("/"), &mut files);
    }
    println!("files={}", files.join(" "));
    let libraries: Vec<_> = files.iter().filter(|f| f.contains(".so") || f.ends_with("/casemate-worker")).collect();
    let open = libraries.iter().filter(|file| !is_held(Path::new(file))).count();
    println!("libraries={} open={open}", libraries.len());
    println!("exe={:?}", fs::read_link("/proc/self/exe"));
    println!("write={:?}", fs::write("/dev/x", b"").map_err(|e| e.raw_os_error()));
    let library = files.iter().find(|f| f.contains("libc.so")).cloned().unwrap_or_default();
    println!(
        "open-for-writing={:?}",
        fs::File::options().write(true).open(library).map_err(|e| e.raw_os_error()).is_err()
    );
    cage(grant, || {});
    channel.send(&FromWorker::Pong { token: 1 }).unwrap();
    // Until the front lets go.
    let mut buffer = PacketBuffer::default();
    assert!(channel.receive_plain(&mut buffer).unwrap().is_none());
}

/// Whether the mount that a file lies on can be written to by nobody and gives no privilege and no device.
pub(crate) fn is_held(file: &Path) -> bool {
    let flags = FsFlags::ST_RDONLY | FsFlags::ST_NOSUID | FsFlags::ST_NODEV;
    statvfs(file).unwrap().flags().contains(flags)
}

/// The real door, as the real worker goes through it.
fn cage(grant: &Grant, pools: impl FnOnce()) {
    let namespaces = !grant.waived.contains(&Waiver::Namespaces);
    let landlock = !grant.waived.contains(&Waiver::Landlock);
    let requirements = Requirements { empty_root: namespaces, capabilities: namespaces, landlock };
    let confined = confine().unwrap();
    let (locked, _) = lock(confined, &requirements).unwrap();
    pools();
    let _ = seal(locked).unwrap();
}

fn refused() {
    println!("calling");
    println!("came back with {}", nix::unistd::getppid());
}

/// One of several threads does it, and not the first one.
fn thread_refused(grant: &Grant) {
    let (go, gone) = mpsc::channel::<()>();
    cage(grant, || {
        let (here, begun) = mpsc::channel();
        for _ in 0..3 {
            let here = here.clone();
            thread::spawn(move || {
                let _ = here.send(());
                loop {
                    thread::park();
                }
            });
        }
        thread::spawn(move || {
            let _ = here.send(());
            let _ = gone.recv();
            refused();
        });
        // Threads must have begun before the last filter: that takes other calls, and waiting for each other does not.
        (0..4).for_each(|_| begun.recv().unwrap());
    });
    go.send(()).unwrap();
    loop {
        thread::park();
    }
}

/// Namespaces inside its own, with the capabilities that it has left until the lock, and by the one call for it that the
/// launcher's filter cannot look into.
fn nest() {
    let made_in = |namespaces| match fork(namespaces, None) {
        Ok(Forked::Child) => exit_now(0),
        Ok(Forked::Parent { .. }) => Ok(()),
        Err(errno) => Err(errno),
    };
    let (user, mnt) = (made_in(CloneFlags::CLONE_NEWUSER), made_in(CloneFlags::CLONE_NEWNS));
    println!("user={user:?} mnt={mnt:?}");
}

/// Nobody reads: it must not hang.
fn print_a_lot() {
    let block = vec![b'x'; 1 << 20];
    let mut refused = 0;
    for _ in 0..16 {
        refused += usize::from(nix::unistd::write(std::io::stdout(), &block).is_err());
    }
    exit_now(if refused > 0 { 0 } else { 9 });
}

/// What the two capabilities that are left until the lock could be used for.
fn escape() {
    println!("setuid0={:?}", become_root());
    println!("host-proc={:?}", fs::read_dir("/proc/1").map(drop).map_err(|e| e.raw_os_error()));
}

/// By the call that the launcher's filter allows.
fn become_root() -> nix::Result<()> {
    let root = nix::unistd::Uid::from_raw(0);
    nix::unistd::setresuid(root, root, root)
}

fn walk(folder: &Path, files: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => {
                let before = files.len();
                walk(&entry.path(), files);
                if files.len() == before {
                    files.push(format!("{}/", entry.path().display()));
                }
            }
            _ => files.push(entry.path().display().to_string()),
        }
    }
}
