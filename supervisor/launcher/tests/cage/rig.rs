//! A launcher in a folder of its own, with this program as its front and its worker.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

pub(crate) struct Rig {
    pub(crate) folder: PathBuf,
    pub(crate) user: Option<u32>,
}

pub(crate) struct Running {
    pub(crate) child: Child,
    lines: Receiver<String>,
    pub(crate) seen: Vec<String>,
}

pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) lines: Vec<String>,
}

/// Who the launcher is run as, beside root.
pub(crate) const USER: u32 = 12_345;

impl Rig {
    /// Models by name; each name is also the order for its worker.
    pub(crate) fn new(models: &[&str], user: Option<u32>) -> Self {
        let name =
            format!("casemate-cage-{}-{:?}", std::process::id(), Instant::now()).replace([' ', '{', '}', ':', ','], "");
        let folder = std::env::temp_dir().join(name);
        let own = PathBuf::from(env!("CARGO_BIN_EXE_casemate-launcher"));
        fs::create_dir_all(&folder).unwrap();
        fs::copy(own, folder.join("casemate-launcher")).unwrap();
        for program in ["casemate-front", "casemate-worker"] {
            fs::copy(std::env::current_exe().unwrap(), folder.join(program)).unwrap();
        }
        for model in models {
            let version = folder.join("store").join(model).join("1");
            fs::create_dir_all(&version).unwrap();
            fs::write(version.join("model.pt"), model).unwrap();
            fs::write(version.join("model.toml"), "manifest").unwrap();
        }
        fs::create_dir_all(folder.join("store")).unwrap();
        let rig = Self { folder, user };
        rig.give_away(rig.folder.clone());
        rig
    }

    /// Everything to the user that the launcher runs as, and writable by nobody else.
    fn give_away(&self, path: PathBuf) {
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        fs::set_permissions(&path, Permissions::from_mode(mode & !0o022 | 0o055)).unwrap();
        chown(&path, self.user, self.user).unwrap();
        if path.is_dir() {
            for entry in fs::read_dir(path).unwrap() {
                self.give_away(entry.unwrap().path());
            }
        }
    }

    pub(crate) fn start(&self, more: &str) -> Running {
        let mut command = Command::new(self.folder.join("casemate-launcher"));
        if let Some(user) = self.user.filter(|_| geteuid().is_root()) {
            command.uid(user).gid(user);
        }
        self.launch(command, more, &[])
    }

    pub(crate) fn check(&self, more: &str) -> Outcome {
        let mut command = Command::new(self.folder.join("casemate-launcher"));
        if let Some(user) = self.user.filter(|_| geteuid().is_root()) {
            command.uid(user).gid(user);
        }
        self.launch(command, more, &["--check"]).end()
    }

    /// On a host that lacks something.
    pub(crate) fn start_without(&self, what: &str, more: &str) -> Running {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg0("stage").arg(what).arg(self.user.unwrap_or(0).to_string());
        command.arg(self.folder.join("casemate-launcher"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut running = self.launch(command, more, &[]);
        if what == "no-namespaces" {
            running.child.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
            for map in ["uid_map", "gid_map"] {
                fs::write(format!("/proc/{}/{map}", running.child.id()), "0 0 4294967295").unwrap();
            }
            running.child.stdin.as_mut().unwrap().write_all(b"!").unwrap();
        }
        running
    }

    fn launch(&self, mut command: Command, more: &str, arguments: &[&str]) -> Running {
        let config = self.folder.join("config.toml");
        let store = self.folder.join("store");
        let limits =
            "[limits]\nrequest_bytes = 65536\nresponse_bytes = 65536\nworker_memory_mib = 128\ndrain_ms = 1000";
        let text = format!("store = {store:?}\n[listen]\ninference = \"127.0.0.1:0\"\n{limits}\n{more}\n");
        fs::write(&config, text).unwrap();
        chown(&config, self.user, self.user).unwrap();
        command.arg("--config").arg(&config).args(arguments).env("CASEMATE_TEST", "x");
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Running { child, lines, seen: Vec::new() }
    }

    /// The same as `play`, on a host that lacks something.
    pub(crate) fn play_without(&self, what: &str, more: &str) -> Outcome {
        let mut running = self.start_without(what, more);
        running.wait_for("front: done");
        running.stop()
    }

    /// Runs until the front has played all models, then stops it.
    pub(crate) fn play(&self, more: &str) -> Outcome {
        let mut running = self.start(more);
        running.wait_for("front: done");
        running.stop()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Running {
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(error) => {
                    let _ = self.child.kill();
                    panic!("{text:?} was not said ({error}):\n{}", self.seen.join("\n"));
                }
            }
        }
    }

    /// The launcher's open descriptors, and its own memory in KiB.
    pub(crate) fn holds(&self) -> (usize, u64) {
        let own = PathBuf::from(format!("/proc/{}", self.child.id()));
        let status = fs::read_to_string(own.join("status")).unwrap();
        let memory = status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.split_whitespace().next());
        (fs::read_dir(own.join("fd")).unwrap().count(), memory.unwrap().parse().unwrap())
    }

    pub(crate) fn stop(self) -> Outcome {
        self.signal();
        self.end()
    }

    pub(crate) fn signal(&self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
    }

    pub(crate) fn end(mut self) -> Outcome {
        let until = Instant::now() + Duration::from_secs(60);
        while self.child.try_wait().unwrap().is_none() {
            if Instant::now() > until {
                let _ = self.child.kill();
                panic!("it does not end:\n{}", self.seen.join("\n"));
            }
            thread::sleep(Duration::from_millis(5));
        }
        let code = self.child.wait().unwrap().code();
        while let Ok(line) = self.lines.recv_timeout(Duration::from_secs(5)) {
            self.seen.push(line);
        }
        Outcome { code, lines: self.seen }
    }
}

impl Outcome {
    pub(crate) fn all(&self) -> String {
        self.lines.join("\n")
    }

    /// Something was said, or all that was said is shown.
    #[track_caller]
    pub(crate) fn says(&self, text: &str) {
        assert!(self.lines.iter().any(|line| line.contains(text)), "{text:?} was not said:\n{}", self.all());
    }

    #[track_caller]
    pub(crate) fn says_not(&self, text: &str) {
        assert!(!self.lines.iter().any(|line| line.contains(text)), "{text:?} was said:\n{}", self.all());
    }
}
