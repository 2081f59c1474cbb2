//! How long a jail takes: the real launcher, jail and worker, with this program as the front that asks for them.
//!
//! What is counted is the launcher's own figure, `spawn_us`: from a `Start` in its hand until the worker's program has been
//! executed. libtorch's start comes after that. A worker is killed as soon as it runs. By its name this program is the bench,
//! `casemate-front` in the launcher's folder, or `stage`, which makes a host with many mounts and becomes the launcher.

use std::error::Error;
use std::ffi::CString;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use casemate_load::Histogram;
use casemate_tests::casemate::program;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, Uid, execv, geteuid, setgroups, setresgid, setresuid};

use crate::figure::Figure;

mod front;

pub(crate) use front::main as front;

/// The ordinary user, where the bench is root.
const USER: u32 = 12_345;

/// Starts, one after the other; and as many by ten at once.
const STARTS: usize = 200;

/// Models of the store: the launcher runs no more than eight workers of one at once.
const AT_ONCE: usize = 10;

/// What a busy host has in its mount namespace.
const MOUNTS: u32 = 500;

pub(crate) fn run() -> Result<Vec<Figure>, Box<dyn Error>> {
    let mut figures = Vec::new();
    let root = geteuid().is_root();
    let hosts: &[u32] = if root { &[0, MOUNTS] } else { &[0] };
    for user in if root { vec![None, Some(USER)] } else { vec![None] } {
        for mounts in hosts {
            let whom = match (root, user) {
                (true, None) => "root",
                _ => "an ordinary user",
            };
            let more = if *mounts > 0 { format!(", {mounts} mounts more") } else { String::new() };
            for (how, times) in measure(user, *mounts)? {
                let mut starts = Histogram::default();
                times.into_iter().for_each(|time| starts.add(time));
                let title = |what: &str| format!("jail and exec as {whom}{more}, {how}: {what} of {STARTS}");
                let p50 = Figure::millis(title("p50"), starts.quantile(0.5));
                let alone = *mounts == 0 && how != at_once();
                figures.push(if alone { p50.at_most(5.0) } else { p50 });
                figures.push(Figure::millis(title("p99"), starts.quantile(0.99)));
            }
        }
    }
    Ok(figures)
}

/// What the front calls the second list.
fn at_once() -> String {
    format!("{AT_ONCE} at once")
}

/// How the starts were asked for, and how long each took.
type List = (String, Vec<Duration>);

/// The two lists that the scripted front reports.
fn measure(user: Option<u32>, mounts: u32) -> Result<Vec<List>, Box<dyn Error>> {
    let folder = tempfile::Builder::new().prefix("casemate-bench-").tempdir()?;
    lay_out(folder.path(), user)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg0("stage").arg(mounts.to_string()).arg(user.unwrap_or(0).to_string()).arg(folder.path());
    let mut launcher = command.stderr(Stdio::piped()).spawn()?;
    let lines = BufReader::new(launcher.stderr.take().ok_or("no stderr")?).lines();
    let (mut lists, mut said) = (Vec::new(), Vec::new());
    for line in lines.map_while(Result::ok) {
        let Some(list) = line.strip_prefix("bench: ") else {
            said.push(line);
            continue;
        };
        let (how, times) = list.split_once(": ").ok_or("a line of the front")?;
        let times: Result<Vec<u64>, _> = times.split(' ').map(str::parse).collect();
        lists.push((how.to_owned(), times?.into_iter().map(Duration::from_micros).collect()));
        if lists.len() == 2 {
            kill(Pid::from_raw(i32::try_from(launcher.id())?), Signal::SIGTERM)?;
        }
    }
    launcher.wait()?;
    if lists.len() == 2 { Ok(lists) } else { Err(said.join("\n").into()) }
}

/// Programs, config and store, all of the user's own.
fn lay_out(folder: &Path, user: Option<u32>) -> Result<(), Box<dyn Error>> {
    for name in ["casemate-launcher", "casemate-worker"] {
        fs::copy(program(name), folder.join(name))?;
    }
    fs::copy(std::env::current_exe()?, folder.join("casemate-front"))?;
    for model in 0..AT_ONCE {
        let version = folder.join(format!("store/m{model}/1"));
        fs::create_dir_all(&version)?;
        fs::write(version.join("model.pt"), "none")?;
        fs::write(version.join("model.toml"), "none")?;
    }
    let accept = if user.is_some() || !geteuid().is_root() { "\"own-identity\", \"cgroup\"" } else { "" };
    let limits = "request_bytes = 65536\nresponse_bytes = 65536\nstarts_per_minute = 100000\ndrain_ms = 1000";
    let store = folder.join("store");
    let config = format!(
        "store = {store:?}\n[listen]\ninference = \"127.0.0.1:0\"\n[sandbox]\naccept_missing = [{accept}]\n[limits]\n{limits}\n"
    );
    fs::write(folder.join("config.toml"), config)?;
    give(folder, user)?;
    Ok(())
}

fn give(path: &Path, user: Option<u32>) -> std::io::Result<()> {
    let mode = fs::metadata(path)?.permissions().mode();
    fs::set_permissions(path, Permissions::from_mode(mode & !0o022 | 0o055))?;
    chown(path, user, user)?;
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), user)?;
        }
    }
    Ok(())
}

/// `stage MOUNTS UID FOLDER`: never returns but with a failure.
pub(crate) fn stage() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [mounts, uid, folder] = words.as_slice() else { return Err("stage MOUNTS UID FOLDER".into()) };
    let (mounts, uid, folder) = (mounts.parse::<u32>()?, uid.parse::<u32>()?, Path::new(folder));
    if mounts > 0 {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
        let all = folder.join("mounts");
        fs::create_dir(&all)?;
        mount(Some("none"), &all, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
        for number in 1..mounts {
            let one = all.join(number.to_string());
            fs::create_dir(&one)?;
            mount(Some("none"), &one, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
        }
    }
    if uid != 0 {
        setgroups(&[])?;
        setresgid(Gid::from_raw(uid), Gid::from_raw(uid), Gid::from_raw(uid))?;
        setresuid(Uid::from_raw(uid), Uid::from_raw(uid), Uid::from_raw(uid))?;
    }
    let text = |path: &Path| CString::new(path.as_os_str().to_owned().into_vec());
    let launcher = text(&folder.join("casemate-launcher"))?;
    let arguments = [launcher.clone(), c"--config".into(), text(&folder.join("config.toml"))?];
    match execv(&launcher, &arguments)? {}
}
