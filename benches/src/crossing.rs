//! The model in another process that has no cage, asked by one packet each time: `casemate-bench-floor … packets`.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use casemate_tests::casemate::program;

use crate::model::Model;

/// As many bytes as a frame of the work channel has for a request of one tensor.
const FRAME: [u8; 64] = [1; 64];

/// That process, and the way to it.
#[derive(Debug)]
pub(crate) struct Crossing {
    child: Child,
    socket: UnixDatagram,
}

impl Crossing {
    /// One row, one thread, no run-time code: as a worker runs it.
    pub(crate) fn start(model: &Model) -> Result<Self, Box<dyn Error>> {
        let (socket, theirs) = UnixDatagram::pair()?;
        let mut command = Command::new(program("casemate-bench-floor"));
        command.arg(&model.folder).args(["1", "1", "refused", "packets"]);
        let mut child = command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no stdout")?).read_line(&mut line)?;
        let crossing = Self { child, socket };
        if line.trim() == "ready" { Ok(crossing) } else { Err("the model in another process did not start".into()) }
    }

    /// The median of a packet there and back, with the run in between, over so long.
    pub(crate) fn turn(&self, lasts: Duration) -> Result<Duration, Box<dyn Error>> {
        let (end, mut times, mut answer) = (Instant::now() + lasts, Vec::new(), FRAME);
        while Instant::now() < end {
            let begun = Instant::now();
            self.socket.send(&FRAME)?;
            self.socket.recv(&mut answer)?;
            times.push(begun.elapsed());
        }
        times.sort_unstable();
        times.get(times.len() / 2).copied().ok_or_else(|| "no packet came back".into())
    }
}

impl Drop for Crossing {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
