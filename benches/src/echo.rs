//! What the server is measured against: an axum server that reads a body and answers as many bytes as the model would, in a
//! process of its own, so that its CPU time is its own too.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use axum::Router;
use axum::body::Bytes;
use axum::routing::any;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

/// Threads of its runtime: one for each CPU of the machine that the bounds were set on.
const THREADS: usize = 2;

/// A running echo; ended when dropped.
#[derive(Debug)]
pub(crate) struct Echo {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Echo {
    /// Starts this program under another name.
    pub(crate) fn start(answer: usize) -> Result<Self, Box<dyn Error>> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut child = command.arg0("echo").arg(answer.to_string()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no stdout")?).read_line(&mut line)?;
        Ok(Self { child, address: line.trim().parse()? })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `echo BYTES`: says where it listens, and serves until it is killed.
pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    set_pdeathsig(Signal::SIGKILL)?;
    let bytes: usize = std::env::args().nth(1).ok_or("echo BYTES")?.parse()?;
    let answer = Bytes::from(vec![0; bytes]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        let router = Router::new().fallback(any(move |body: Bytes| {
            let answer = answer.clone();
            async move {
                drop(body);
                answer
            }
        }));
        Ok(axum::serve(listener, router).await?)
    })
}
