//! The models of `benches/models`, end to end in the full cage: with run-time code refused, which is the default, and allowed.
//!
//! The two are served by one server, and asked in turns, so that whatever else the machine does happens to both. Beside the
//! time that a client waits stands the CPU time of the worker, which does not grow with the machine's other work.

use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use casemate_ipc::tensor::{DType, TensorSpec};
use casemate_manifest::Manifest;
use casemate_tests::casemate::{Casemate, Setup};

use crate::figure::Figure;
use crate::load::{Load, Request};

/// Name, and requests that are counted for each figure.
const MODELS: [(&str, usize); 3] = [("tiny", 2000), ("minilm", 200), ("resnet18", 50)];

/// The counted requests come in so many turns.
const TURNS: usize = 10;

/// Where `make.py` wrote them.
fn folder() -> PathBuf {
    let given = std::env::var_os("CASEMATE_BENCH_MODELS").map(PathBuf::from);
    given.unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../target/models").into())
}

/// Every model, for one row and for eight.
pub(crate) fn run() -> Result<Vec<Figure>, Box<dyn Error>> {
    let mut figures = Vec::new();
    for (name, count) in MODELS {
        let folder = folder().join(name).join("1");
        if !folder.is_dir() {
            eprintln!("skipped: {} is not there; benches/models/make.py writes it", folder.display());
            continue;
        }
        figures.extend(both(name, count, &folder)?);
    }
    Ok(figures)
}

fn both(name: &str, count: usize, folder: &Path) -> Result<Vec<Figure>, Box<dyn Error>> {
    let manifest = Manifest::parse(&fs::read_to_string(folder.join("model.toml"))?)?;
    let casemate = serve(folder)?;
    let mut figures = Vec::new();
    for rows in [1, 8] {
        let request = |served: &str| request(served, &manifest.inputs, rows);
        let (refused, allowed) = (request("refused")?, request("allowed")?);
        let (mut slow, mut fast) = (Side::of(&casemate, "refused", refused), Side::of(&casemate, "allowed", allowed));
        for _ in 0..TURNS {
            slow.turn(count / TURNS)?;
            fast.turn(count / TURNS)?;
        }
        let of = "run-time code allowed";
        let title = |what: &str| format!("{name}, {rows} rows, run-time code refused: {what}");
        figures.push(Figure::against(title("CPU time of the worker"), slow.cpu(), fast.cpu(), of));
        let (slow, fast) = (Load::of(slow.times), Load::of(fast.times));
        figures.push(Figure::against(title("p50"), slow.p50, fast.p50, of));
        figures.push(Figure::against(title("p99"), slow.p99, fast.p99, of));
    }
    for served in ["refused", "allowed"] {
        let us = casemate.status(served)["worker"]["ready_us"].as_u64().ok_or("no ready_us in the status")?;
        figures.push(Figure::alone(
            format!("{name}, start until ready, run-time code {served}"),
            Duration::from_micros(us),
        ));
    }
    Ok(figures)
}

/// One of the two.
struct Side {
    address: SocketAddr,
    worker: u32,
    request: Request,
    times: Vec<Duration>,
    cpu: Vec<Duration>,
}

impl Side {
    fn of(casemate: &Casemate, served: &str, request: Request) -> Self {
        let worker = casemate.worker(served);
        Self { address: casemate.address, worker, request, times: Vec::new(), cpu: Vec::new() }
    }

    fn turn(&mut self, count: usize) -> Result<(), Box<dyn Error>> {
        // So that none of the counted requests is the first of its shape.
        Load::times(self.address, &self.request, 1)?;
        let before = on_cpu(self.worker)?;
        let times = Load::times(self.address, &self.request, count)?;
        let after = on_cpu(self.worker)?;
        self.cpu.push((after - before) / u32::try_from(count + count / 10)?);
        self.times.extend(times);
        Ok(())
    }

    /// A request's, by the median of the turns.
    fn cpu(&self) -> Duration {
        let mut turns = self.cpu.clone();
        turns.sort();
        turns.get(turns.len() / 2).copied().unwrap_or_default()
    }
}

/// How long a process's first thread has run: the one that serves, and all of them where a model has one thread.
fn on_cpu(pid: u32) -> Result<Duration, Box<dyn Error>> {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
    Ok(Duration::from_nanos(text.split(' ').next().ok_or("an empty schedstat")?.parse()?))
}

/// One model under two names.
fn serve(folder: &Path) -> Result<Casemate, Box<dyn Error>> {
    let setup = Setup::new().config("[models.allowed]\nrun_time_code = \"allowed\"");
    for served in ["refused", "allowed"] {
        let version = setup.store().join(served).join("1");
        fs::create_dir_all(&version)?;
        for file in ["model.pt", "model.toml"] {
            fs::copy(folder.join(file), version.join(file))?;
        }
    }
    Ok(setup.serve())
}

/// A request of so many rows of ones; the free dimensions of a bench model are its rows and nothing else.
fn request(served: &str, inputs: &[TensorSpec], rows: u64) -> Result<Request, Box<dyn Error>> {
    let (mut heads, mut body) = (Vec::new(), Vec::new());
    for spec in inputs {
        let dims: Vec<u64> = spec.dims.iter().map(|dim| dim.unwrap_or(rows)).collect();
        let count = usize::try_from(dims.iter().product::<u64>())?;
        let one: &[u8] = match spec.dtype {
            DType::Fp32 => &1_f32.to_le_bytes(),
            DType::Int64 => &1_i64.to_le_bytes(),
            other => return Err(format!("a bench model with an input of {other}").into()),
        };
        body.extend(one.repeat(count));
        let (name, dtype, bytes) = (&spec.name, spec.dtype, count * one.len());
        heads.push(format!(
            r#"{{"name":"{name}","datatype":"{dtype}","shape":{dims:?},"parameters":{{"binary_data_size":{bytes}}}}}"#
        ));
    }
    // The answer in bytes too, so that it is not the printing of numbers that is measured.
    let head = format!(r#"{{"inputs":[{}],"parameters":{{"binary_data_output":true}}}}"#, heads.join(","));
    Ok(Request::binary(&format!("/v2/models/{served}/infer"), &head, &body))
}
