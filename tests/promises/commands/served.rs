//! `casemate serve`, to its first model that is ready, or to the moment in which it is clear that there will be none.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use casemate_tests::client;
use serde_json::Value;

/// What came of it.
#[derive(Debug)]
pub(crate) struct Served {
    /// It opened its port.
    pub(crate) listened: bool,
    /// Its model was ready.
    pub(crate) ready: bool,
    /// What it said.
    pub(crate) log: String,
}

/// Serves a config with the model `e` in its store.
pub(crate) fn serve(mut casemate: Command, config: &Path) -> Served {
    casemate.arg("serve").arg("--config").arg(config);
    let mut child =
        casemate.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("casemate");
    let log = Arc::new(Mutex::new(String::new()));
    let kept = Arc::clone(&log);
    let lines = BufReader::new(child.stderr.take().expect("a pipe"));
    let reader = thread::spawn(move || {
        for line in lines.lines().map_while(Result::ok) {
            let mut kept = kept.lock().expect("log");
            kept.push_str(&line);
            kept.push('\n');
        }
    });
    let (mut listened, mut ready) = (false, false);
    let until = Instant::now() + Duration::from_secs(90);
    while !ready && matches!(child.try_wait(), Ok(None)) {
        assert!(Instant::now() < until, "neither ready nor given up:\n{}", log.lock().expect("log"));
        thread::sleep(Duration::from_millis(20));
        let address = address(&log.lock().expect("log"));
        let Some(address) = address else { continue };
        listened = true;
        let status = client::send(address, "GET", "/casemate/v1/models/e/versions/1", &[], b"");
        let state = status.ok().and_then(|answer| serde_json::from_slice::<Value>(&answer.body).ok());
        match state.as_ref().and_then(|state| state["state"].as_str()) {
            Some("ready") => ready = true,
            Some("failed") => break,
            _ => {}
        }
    }
    // All that it started ends with it.
    let _ = child.kill();
    let _ = child.wait();
    let _ = reader.join();
    let log = log.lock().expect("log").clone();
    Served { listened, ready, log }
}

fn address(log: &str) -> Option<SocketAddr> {
    log.lines().find_map(|line| line.strip_prefix("casemate: listening on http://")?.trim().parse().ok())
}
