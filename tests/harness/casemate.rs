//! A whole Casemate: its store, its config, its launcher, its log.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::client::{self, Answer};
use crate::inherited::Inherited;
use crate::lack::Lack;
use crate::stage;
use crate::witness::Witness;

/// What a test wants served, before it runs.
#[derive(Debug)]
pub struct Setup {
    folder: tempfile::TempDir,
    config: String,
    limits: String,
    sandbox: String,
    user: Option<u32>,
    waived: Vec<&'static str>,
    lacks: Vec<Lack>,
    inherited: Option<Inherited>,
    witness: Option<Witness>,
    programs: Option<PathBuf>,
}

/// A running Casemate; ended when dropped.
#[derive(Debug)]
pub struct Casemate {
    launcher: Child,
    /// Where it listens.
    pub address: SocketAddr,
    log: Arc<Mutex<String>>,
    _folder: tempfile::TempDir,
}

/// The ordinary user that tests run as where they are root.
pub const ORDINARY: u32 = 54_321;

/// What an ordinary user goes without where nobody delegates a control group.
pub const ORDINARY_WAIVERS: [&str; 2] = ["own-identity", "cgroup"];

/// Whether this test run is root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A program of this build.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    // Tests lie in target/PROFILE/deps, programs one folder above.
    let found = test.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|program| program.exists());
    found.unwrap_or_else(|| panic!("{name} is missing; run the tests by `cargo xtask test`"))
}

impl Default for Setup {
    fn default() -> Self {
        Self::new()
    }
}

impl Setup {
    /// An empty store.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("casemate-test-").tempdir().expect("a temporary folder");
        // 0755: the workers of a root launcher are other users, and must not need more than the launcher opens for them.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        fs::create_dir(folder.path().join("store")).expect("mkdir");
        let waived = if is_root() { vec![] } else { ORDINARY_WAIVERS.to_vec() };
        let (config, limits, sandbox) = (String::new(), String::new(), String::new());
        let (inherited, witness, programs) = (None, None, None);
        Self { folder, config, limits, sandbox, user: None, waived, lacks: Vec::new(), inherited, witness, programs }
    }

    /// Runs as an ordinary user, with the waivers that this takes.
    pub fn as_user(mut self) -> Self {
        if is_root() {
            self.user = Some(ORDINARY);
        }
        self.waived = ORDINARY_WAIVERS.to_vec();
        self
    }

    /// Names the layers to go without.
    pub fn waive(mut self, waived: &[&'static str]) -> Self {
        self.waived = waived.to_vec();
        self
    }

    /// Runs it on a host that lacks something; may be said more than once.
    pub fn lacking(mut self, lack: Lack) -> Self {
        self.lacks.push(lack);
        self
    }

    /// Runs it by somebody who ignores and blocks these signals.
    pub fn inheriting(mut self, inherited: Inherited) -> Self {
        self.inherited = Some(inherited);
        self
    }

    /// Has every system call of it seen.
    pub fn seen_by(mut self, witness: &Witness) -> Self {
        self.witness = Some(witness.clone());
        self
    }

    /// Runs the launcher of that folder, and so the front and the worker beside it.
    pub fn programs(mut self, folder: &Path) -> Self {
        self.programs = Some(folder.to_owned());
        self
    }

    /// Lines for the config: tables of their own.
    pub fn config(mut self, lines: &str) -> Self {
        self.config += lines;
        self.config += "\n";
        self
    }

    /// Lines for the config's table about the cage.
    pub fn sandbox(mut self, lines: &str) -> Self {
        self.sandbox += lines;
        self
    }

    /// Lets a model use these operators, whatever the gate's lists say: the cage is to be met, not the gate.
    pub fn past_the_gate(self, name: &str, extra_ops: &[&str]) -> Self {
        self.config(&format!("[models.{name}.graph]\npolicy = \"open\"\nextra_ops = {extra_ops:?}"))
    }

    /// One limit.
    pub fn limit(mut self, name: &str, value: u64) -> Self {
        self.limits += &format!("{name} = {value}\n");
        self
    }

    /// Puts a model in the store: a file, and a manifest from declarations like `x:f32[-1,4]`; `extra` ends it.
    pub fn model(self, name: &str, bytes: &[u8], inputs: &[&str], outputs: &[&str], extra: &str) -> Self {
        self.version(name, "1", "torchscript", bytes, inputs, outputs, extra)
    }

    /// The usual shape of the test models: `x:f32[-1,4]` to `y:f32[-1,4]`, two seconds to answer.
    pub fn simple(self, name: &str, bytes: &[u8]) -> Self {
        self.model(name, bytes, &["x:FP32[-1,4]"], &["y:FP32[-1,4]"], "[limits]\ndeadline_ms = 5000")
    }

    /// A worker without libtorch that does what a script says.
    pub fn echo(self, name: &str, script: &str) -> Self {
        let (input, output) = (&["x:FP32[-1,4]"], &["y:FP32[-1,4]"]);
        self.version(name, "1", "echo", script.as_bytes(), input, output, "[limits]\ndeadline_ms = 2000")
    }

    /// The long form.
    #[expect(clippy::too_many_arguments, reason = "the fields of one manifest, written where a test reads them")]
    pub fn version(
        self,
        name: &str,
        version: &str,
        format: &str,
        bytes: &[u8],
        inputs: &[&str],
        outputs: &[&str],
        extra: &str,
    ) -> Self {
        let folder = self.store().join(name).join(version);
        fs::create_dir_all(&folder).expect("mkdir");
        let digest: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
        let mut manifest = format!("format = \"{format}\"\nsha256 = \"{digest}\"\n");
        for (table, specs) in [("input", inputs), ("output", outputs)] {
            for spec in specs {
                let (name, rest) = spec.split_once(':').expect("NAME:DTYPE[DIMS]");
                let (dtype, shape) = rest.split_at(rest.find('[').expect("dims"));
                manifest += &format!("[[{table}]]\nname = \"{name}\"\ndtype = \"{dtype}\"\nshape = {shape}\n");
            }
        }
        manifest += extra;
        fs::write(folder.join("model.pt"), bytes).expect("write");
        fs::write(folder.join("model.toml"), manifest).expect("write");
        self
    }

    /// The store's folder.
    pub fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// The folder that store and config lie in.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes the config; its path.
    pub fn write_config(&self) -> PathBuf {
        let store = self.store();
        let waived: Vec<String> = self.waived.iter().map(|w| format!("\"{w}\"")).collect();
        let text = format!(
            "store = \"{}\"\n{}\n[listen]\ninference = \"127.0.0.1:0\"\n[sandbox]\naccept_missing = [{}]\n{}\n[limits]\n{}\n",
            store.display(),
            "",
            waived.join(", "),
            self.sandbox,
            self.limits
        );
        let path = self.folder.path().join("casemate.toml");
        fs::write(&path, text + &self.config).expect("write");
        if let Some(user) = self.user {
            give(self.folder.path(), user);
        }
        path
    }

    fn command(&self, config: &Path) -> Command {
        let launcher = "casemate-launcher";
        let launcher = match &self.programs {
            Some(folder) => folder.join(launcher),
            None if self.user.is_some() => stage::reachable(launcher),
            None => program(launcher),
        };
        let mut command = Command::new(launcher);
        command.arg("--config").arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        if let Some(inherited) = self.inherited {
            inherited.around(&mut command);
        }
        for lack in &self.lacks {
            lack.around(&mut command);
        }
        if let Some(witness) = &self.witness {
            witness.around(&mut command);
        }
        command
    }

    /// Starts it and waits until it listens.
    pub fn start(self) -> Casemate {
        let config = self.write_config();
        let mut launcher = self.command(&config).spawn().expect("casemate-launcher starts");
        let log = Arc::new(Mutex::new(String::new()));
        let (sender, receiver) = std::sync::mpsc::channel();
        let lines = BufReader::new(launcher.stderr.take().expect("stderr is a pipe"));
        let kept = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                if let Some(address) = line.strip_prefix("casemate: listening on http://") {
                    let _ = sender.send(address.trim().parse::<SocketAddr>());
                }
                let mut kept = kept.lock().expect("no test panics while it holds the log");
                kept.push_str(&line);
                kept.push('\n');
            }
        });
        let address = match receiver.recv_timeout(Duration::from_secs(30)) {
            Ok(Ok(address)) => address,
            other => {
                let _ = launcher.kill();
                panic!("no listening line: {other:?}\n{}", log.lock().expect("log"));
            }
        };
        Casemate { launcher, address, log, _folder: self.folder }
    }

    /// Starts it and waits until every model is ready or given up.
    pub fn serve(self) -> Casemate {
        let casemate = self.start();
        casemate.wait_until("ready", Duration::from_secs(90), || {
            client::send(casemate.address, "GET", "/v2/health/ready", &[], b"").is_ok_and(|a| a.status == 200)
        });
        casemate
    }

    /// Runs a launcher that is expected to refuse; its exit code and what it says.
    pub fn refused(self) -> (Option<i32>, String) {
        let config = self.write_config();
        let mut launcher = self.command(&config).spawn().expect("casemate-launcher starts");
        let mut stderr = launcher.stderr.take().expect("stderr is a pipe");
        let reader = std::thread::spawn(move || {
            let mut says = Vec::new();
            stderr.read_to_end(&mut says).map(|_| String::from_utf8_lossy(&says).into_owned())
        });
        let start = Instant::now();
        while matches!(launcher.try_wait(), Ok(None)) {
            if start.elapsed() > Duration::from_secs(60) {
                // It did not refuse; its end has no code.
                let _ = launcher.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let code = launcher.wait().expect("it has ended").code();
        (code, reader.join().expect("no panic").expect("stderr can be read"))
    }
}

impl Casemate {
    /// One request.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        client::send(self.address, method, path, headers, body).unwrap_or_else(|e| panic!("{e}\n{}", self.log()))
    }

    /// `GET`.
    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], b"")
    }

    /// An inference as JSON.
    pub fn infer(&self, model: &str, body: &Value) -> Answer {
        let body = body.to_string();
        self.send(
            "POST",
            &format!("/v2/models/{model}/infer"),
            &[("content-type", "application/json")],
            body.as_bytes(),
        )
    }

    /// One row of the usual shape.
    pub fn row(&self, model: &str, row: [f32; 4]) -> Answer {
        self.infer(model, &json!({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": row}]}))
    }

    /// A model's status.
    pub fn status(&self, model: &str) -> Value {
        self.get(&format!("/casemate/v1/models/{model}/versions/1")).json()
    }

    /// The process id of a model's worker.
    pub fn worker(&self, model: &str) -> u32 {
        let pid = self.status(model)["worker"]["pid"].as_u64();
        let pid = pid.unwrap_or_else(|| panic!("{model} has no worker\n{}", self.log()));
        u32::try_from(pid).expect("a process id")
    }

    /// The process id of the launcher.
    pub fn launcher(&self) -> u32 {
        self.launcher.id()
    }

    /// The process id of the front.
    pub fn front(&self) -> u32 {
        let children = crate::process::children(self.launcher());
        *children.iter().find(|c| crate::process::name(**c).starts_with("casemate-front")).expect("a front")
    }

    /// The value of a metric's line that begins like this; 0 where there is none.
    pub fn metric(&self, begins: &str) -> f64 {
        let text = self.get("/metrics").text();
        let lines = text.lines().filter(|line| line.starts_with(begins));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Waits for something, for at most so long.
    pub fn wait_until(&self, what: &str, limit: Duration, mut done: impl FnMut() -> bool) {
        let start = Instant::now();
        while !done() {
            assert!(start.elapsed() < limit, "{what}: not within {limit:?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Everything that it has logged.
    pub fn log(&self) -> String {
        self.log.lock().expect("no test panics while it holds the log").clone()
    }

    /// Sends SIGTERM and waits for the end; its exit code.
    pub fn stop(&mut self) -> Option<i32> {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        let start = Instant::now();
        loop {
            if let Ok(Some(status)) = self.launcher.try_wait() {
                return status.code();
            }
            assert!(start.elapsed() < Duration::from_secs(60), "it does not stop\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends a signal to the launcher.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        kill(self.launcher(), signal);
    }
}

impl Drop for Casemate {
    fn drop(&mut self) {
        if matches!(self.launcher.try_wait(), Ok(None)) {
            self.signal(nix::sys::signal::Signal::SIGTERM);
            let start = Instant::now();
            while matches!(self.launcher.try_wait(), Ok(None)) && start.elapsed() < Duration::from_secs(10) {
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = self.launcher.kill();
            let _ = self.launcher.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- its log ---\n{}", self.log());
        }
    }
}

/// Sends a signal to a process.
pub fn kill(pid: u32, signal: nix::sys::signal::Signal) {
    let pid = i32::try_from(pid).expect("a process id");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("kill");
}

fn give(path: &Path, user: u32) {
    chown(path, Some(user), Some(user)).expect("chown");
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("readdir").flatten() {
            give(&entry.path(), user);
        }
    }
}
