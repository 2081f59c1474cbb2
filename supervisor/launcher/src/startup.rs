//! From a command line to a launcher at work. Everything is checked before anything is opened to anybody.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use casemate_config::tenant::Spawn;
use casemate_config::{Config, ConfigError};
use casemate_ipc::id::ModelName;
use casemate_ipc::launch::RunTimeCode;
use casemate_ipc::shm::seal::{self, SealError};
use casemate_lockdown::LauncherError;
use nix::errno::Errno;
use nix::sched::sched_getaffinity;
use nix::sys::prctl::{set_dumpable, set_no_new_privs};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, chdir, setgroups};
use thiserror::Error;

use crate::front::FrontPlan;
use crate::host::{self, HostError};
use crate::inquiry::InquiryError;
use crate::library::{Library, LibraryError};
use crate::listen::{self, BindError};
use crate::log;
use crate::models::{Store, StoreError};
use crate::monitor::{Monitor, MonitorError};
use crate::owner::{Owner, OwnerError};
use crate::program::{Program, ProgramError};
use crate::spawn::Spawner;
use crate::sys::process::{clear_environment, close_from, default_signal};
use crate::trial::try_birth;

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arguments {
    /// The config file.
    pub config: PathBuf,
    /// What to do with it.
    pub task: Task,
}

/// What a launcher is started for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Serve.
    Serve,
    /// Check everything, start nothing.
    Check,
    /// Say what this host can give.
    Doctor,
    /// Say what a worker may do: of any model, or of that one.
    Explain(Option<ModelName>),
    /// Start a worker for each model of the store, ask it once, and say what came of it.
    Rehearse,
}

/// Why the launcher does not start, or does not go on.
#[derive(Debug, Error)]
pub enum StartError {
    /// The command line.
    #[error("usage: casemate-launcher --config FILE [--check | --doctor | --explain [MODEL] | --rehearse]")]
    Usage,
    /// The launcher could not make itself safe.
    #[error("{step}: {errno}")]
    Own {
        /// Which call.
        step: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The config cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Somebody else could have written it.
    #[error(transparent)]
    Owner(#[from] OwnerError),
    /// The config says what it must not.
    #[error("{}: {source}", path.display())]
    Config {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: ConfigError,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A program of the house.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The worker's libraries.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// The host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A CPU that is named and cannot be had.
    #[error("models.{model}.cores names CPU {core}, which the launcher may not run on")]
    Core {
        /// Whose.
        model: ModelName,
        /// Which.
        core: u32,
    },
    /// The config's copy for the front.
    #[error("config: {0}")]
    Copy(#[from] SealError),
    /// The public socket.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The launcher's own filter.
    #[error("the launcher cannot be confined: {0}")]
    Confine(#[from] LauncherError),
    /// The loop.
    #[error(transparent)]
    Monitor(#[from] MonitorError),
    /// A question that cannot be answered.
    #[error(transparent)]
    Inquiry(#[from] InquiryError),
}

/// All that is checked before a socket is opened.
#[derive(Debug)]
pub struct Ready {
    pub(crate) config: Config,
    text: String,
    pub(crate) owner: Owner,
    front: Program,
    pub(crate) spawner: Spawner,
}

/// Bytes of a config file.
const CONFIG_MAX: u64 = 1 << 20;

/// Reads the command line.
pub fn arguments(words: impl Iterator<Item = OsString>) -> Result<Arguments, StartError> {
    let (mut config, mut task) = (None, Task::Serve);
    let mut words = words.skip(1).peekable();
    while let Some(word) = words.next() {
        match (word.to_str(), &task) {
            (Some("--config"), _) if config.is_none() => config = words.next().map(PathBuf::from),
            (Some("--check"), Task::Serve) => task = Task::Check,
            (Some("--doctor"), Task::Serve) => task = Task::Doctor,
            (Some("--rehearse"), Task::Serve) => task = Task::Rehearse,
            (Some("--explain"), Task::Serve) => {
                let named = words.next_if(|next| !next.as_encoded_bytes().starts_with(b"-"));
                let model = named.map(|name| name.to_str().and_then(|name| name.parse().ok()).ok_or(StartError::Usage));
                task = Task::Explain(model.transpose()?);
            }
            _ => return Err(StartError::Usage),
        }
    }
    let config = config.and_then(|path| std::path::absolute(path).ok()).ok_or(StartError::Usage)?;
    Ok(Arguments { config, task })
}

/// Makes this process one that nobody can look into and that inherits nothing. First thing in `main`.
pub fn harden() -> Result<(), StartError> {
    let own = |step| move |errno| StartError::Own { step, errno };
    close_from(3).map_err(own("closing descriptors"))?;
    clear_environment().map_err(own("clearing the environment"))?;
    umask(Mode::from_bits_truncate(0o022));
    chdir("/").map_err(own("chdir"))?;
    set_dumpable(false).map_err(own("non-dumpable"))?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(own("core limit"))?;
    // Ignored by whoever started it, it would let the kernel forget every child's end.
    default_signal(libc::SIGCHLD).map_err(own("children's ends"))?;
    // It changes users by capabilities that it has, and starts no program that is to have more. All children inherit it.
    set_no_new_privs().map_err(own("no_new_privs"))?;
    if Owner::current().is_root() {
        // A worker cannot drop a group inside its user namespace, so there must be none to begin with.
        setgroups(&[]).map_err(own("setgroups"))?;
    }
    Ok(())
}

/// Checks everything.
pub fn prepare(path: &Path, owner: Owner) -> Result<Ready, StartError> {
    let text = read_config(path, owner)?;
    let config = Config::parse(&text).map_err(|source| StartError::Config { path: path.to_path_buf(), source })?;
    check_cores(&config)?;
    let store = Store::open(&config, owner)?;
    let (program, front) = (Program::beside("casemate-worker", owner)?, Program::beside("casemate-front", owner)?);
    let library = Library::of(program.path(), owner)?;
    let host = host::probe(&config, owner, &library)?;
    // One is enough to know, since all zygotes need the same.
    let born = store.models().iter().find(|model| config.model(&model.name).spawn == Spawn::Zygote);
    if let Some(model) = born.map(|model| model.name.clone()) {
        try_birth(&config, owner, &library, &host).map_err(|why| HostError::Zygote { model, why })?;
    }
    for waiver in &host.missing {
        log::warn("layer-missing", &[("layer", waiver), ("accepted", &"sandbox.accept_missing")]);
    }
    for model in store.models() {
        // Not the end of the others: its own start says no, and the front tells who asks for it.
        if let Err(error) = store.check(model) {
            log::error("model-unusable", &[("model", model), ("error", &error)]);
        }
    }
    for model in store.models().iter().filter(|model| config.model(&model.name).run_time_code == RunTimeCode::Allowed) {
        let so = "pages that it writes may become executable; its last filter is worker-serve-code, and PR_SET_MDWE is not set";
        log::warn("run-time-code-allowed", &[("model", model), ("so", &so)]);
    }
    if store.models().is_empty() {
        log::warn("store-empty", &[("store", &config.store().display())]);
    }
    Ok(Ready { config, text, owner, front, spawner: Spawner { program, library, host, store } })
}

/// Whether every CPU that a model is kept to is one of ours.
fn check_cores(config: &Config) -> Result<(), StartError> {
    let ours = sched_getaffinity(Pid::from_raw(0)).map_err(|errno| StartError::Own { step: "its CPUs", errno })?;
    for (model, settings) in &config.models {
        let strange = |core: &&u32| !ours.is_set(**core as usize).unwrap_or(false);
        if let Some(core) = settings.cores.iter().find(strange) {
            return Err(StartError::Core { model: model.clone(), core: *core });
        }
    }
    Ok(())
}

impl Ready {
    /// Binds, starts the front, and works until told to stop.
    pub fn serve(self) -> Result<(), StartError> {
        let Self { config, text, owner, front, spawner } = self;
        let text = seal::freeze("casemate-config", text.as_bytes(), CONFIG_MAX)?;
        let listener = listen::bind_and_listen(config.inference)?;
        log::listening(listener.address);
        let plan = FrontPlan::new(front, listener, text, &config, owner.is_root());
        let monitor = Monitor::new(config, spawner, plan, owner.is_root())?;
        // No socket is made from here on; every front and every worker inherits this.
        let confined = casemate_lockdown::confine_launcher()?;
        Ok(monitor.run(&confined)?)
    }
}

impl StartError {
    /// The exit code, after `sysexits.h`.
    pub const fn code(&self) -> u8 {
        const USAGE: u8 = 64;
        const NO_INPUT: u8 = 66;
        const SOFTWARE: u8 = 70;
        const OS: u8 = 71;
        const CONFIG: u8 = 78;
        match self {
            Self::Usage => USAGE,
            Self::Inquiry(InquiryError::NoModel { .. }) => NO_INPUT,
            Self::Monitor(_) | Self::Inquiry(_) => SOFTWARE,
            Self::Own { .. } | Self::Copy(_) | Self::Bind(_) | Self::Confine(_) => OS,
            Self::Read { .. }
            | Self::Owner(_)
            | Self::Config { .. }
            | Self::Store(_)
            | Self::Program(_)
            | Self::Library(_)
            | Self::Core { .. }
            | Self::Host(_) => CONFIG,
        }
    }
}

pub(crate) fn read_config(path: &Path, owner: Owner) -> Result<String, StartError> {
    let read = |source| StartError::Read { path: path.to_path_buf(), source };
    let file = File::open(path).map_err(read)?;
    owner.check(path, &file)?;
    let mut text = String::new();
    file.take(CONFIG_MAX).read_to_string(&mut text).map_err(read)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Option<Arguments> {
        arguments(words.iter().map(OsString::from)).ok()
    }

    #[test]
    fn the_command_line_is_small() {
        let parsed = parse(&["l", "--config", "/a/b.toml", "--check"]).unwrap();
        assert_eq!(parsed, Arguments { config: "/a/b.toml".into(), task: Task::Check });
        let task = |words: &[&str]| parse(&[&["l", "--config", "/a"][..], words].concat()).map(|parsed| parsed.task);
        assert_eq!(task(&[]), Some(Task::Serve));
        assert_eq!(task(&["--doctor"]), Some(Task::Doctor));
        assert_eq!(task(&["--explain"]), Some(Task::Explain(None)));
        assert_eq!(task(&["--explain", "iris"]), Some(Task::Explain("iris".parse().ok())));
        for bad in [&["--config", "/b"][..], &["--check", "--doctor"], &["--explain", "../x"], &["--doctor", "iris"]] {
            assert_eq!(task(bad), None, "{bad:?}");
        }
        for bad in [&["l"][..], &["l", "--config"], &["l", "/a"]] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
