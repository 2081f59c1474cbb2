//! `casemate-bench-floor FOLDER ROWS THREADS refused|allowed`: the floor. The worker's own engine runs one model in this
//! process, without a cage and without a trip. Each line of its standard input is a number of milliseconds; so long it runs,
//! and answers with the number of runs, their whole time and their median, in nanoseconds.
//!
//! With the word `packets` at the end its standard input is a packet socket: every packet is one run, and one packet back. So
//! a model costs that is in another process than who asks it, and nothing else.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "it answers there")]

use std::error::Error;
use std::fs;
use std::io::stdin;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use casemate_ipc::launch::{Geometry, RunTimeCode};
use casemate_ipc::shm::arena::{self, Reader, Writer};
use casemate_ipc::shm::seal;
use casemate_ipc::tensor::{DType, ModelSignature, Shape, TensorSpec};
use casemate_ipc::work::Placed;
use casemate_manifest::Manifest;
use casemate_worker::engine;
use casemate_worker::engine::contract::{Answer, Batch, Engine};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

const SLOT: u64 = 64 << 20;

/// Most bytes of a packet.
const PACKET: usize = 256;

fn main() -> Result<(), Box<dyn Error>> {
    set_pdeathsig(Signal::SIGKILL)?;
    let words: Vec<String> = std::env::args().skip(1).collect();
    let ([folder, rows, threads, code, rest @ ..], true) = (words.as_slice(), words.len() < 6) else {
        return Err("FOLDER ROWS THREADS refused|allowed [packets]".into());
    };
    let code = if code == "allowed" { RunTimeCode::Allowed } else { RunTimeCode::Refused };
    let (folder, rows) = (Path::new(folder), rows.parse()?);
    let manifest = Manifest::parse(&fs::read_to_string(folder.join("model.toml"))?)?;
    let signature = manifest.signature()?;
    engine::warm_up(code)?;
    engine::start_threads(threads.parse()?)?;
    let model = fs::read(folder.join("model.pt"))?;
    let mut engine = engine::load_unjudged(manifest.format, &model, &signature)?;
    drop(model);

    // In and out of arenas, as a worker does.
    let geometry = Geometry { slots: 1, slot_bytes: SLOT };
    let (requests, requests_file) = arena::requests(geometry)?;
    let (_responses, responses_file) = arena::responses(geometry)?;
    let (reader, writer) =
        (Reader::open(seal::read_only(requests_file)?, geometry)?, Writer::open(responses_file, geometry)?);
    let mut slot = requests.slot(0)?;
    let mut placed = Vec::new();
    for spec in &signature.inputs {
        let (shape, bytes) = ones(spec, rows)?;
        placed.push(slot.place(spec.dtype, shape, &[&bytes])?);
    }
    println!("ready");
    if let [how] = rest {
        return match how.as_str() {
            "packets" => answer(&mut *engine, (&signature, &placed), (&reader, &writer)),
            _ => Err(format!("{how}: only `packets`").into()),
        };
    }
    for line in stdin().lines() {
        let lasts = Duration::from_millis(line?.trim().parse()?);
        let mut times = run(&mut *engine, (&signature, &placed), (&reader, &writer), lasts)?;
        times.sort_unstable();
        let whole: Duration = times.iter().sum();
        let median = times.get(times.len() / 2).copied().unwrap_or_default();
        println!("{} {} {}", times.len(), whole.as_nanos(), median.as_nanos());
    }
    Ok(())
}

/// One run for each packet, until whoever asks is gone.
fn answer(
    engine: &mut dyn Engine,
    (signature, placed): (&ModelSignature, &[Placed]),
    (reader, writer): (&Reader, &Writer),
) -> Result<(), Box<dyn Error>> {
    let socket = UnixDatagram::from(stdin().as_fd().try_clone_to_owned()?);
    let mut packet = [0; PACKET];
    while let Ok(length) = socket.recv(&mut packet) {
        let asked = packet.get(..length).filter(|asked| !asked.is_empty());
        let Some(asked) = asked else { break };
        once(engine, (signature, placed), (reader, writer))?;
        socket.send(asked)?;
    }
    Ok(())
}

fn once(
    engine: &mut dyn Engine,
    (signature, placed): (&ModelSignature, &[Placed]),
    (reader, writer): (&Reader, &Writer),
) -> Result<(), Box<dyn Error>> {
    let batch = Batch::new(signature, reader, 0, placed)?;
    let mut answer = Answer::new(signature, true, &batch, writer, 0, SLOT)?;
    engine.run(&batch, &mut answer)?;
    answer.finish()?;
    Ok(())
}

fn run(
    engine: &mut dyn Engine,
    (signature, placed): (&ModelSignature, &[Placed]),
    (reader, writer): (&Reader, &Writer),
    lasts: Duration,
) -> Result<Vec<Duration>, Box<dyn Error>> {
    let (end, mut times) = (Instant::now() + lasts, Vec::new());
    while Instant::now() < end {
        let begun = Instant::now();
        once(engine, (signature, placed), (reader, writer))?;
        times.push(begun.elapsed());
    }
    Ok(times)
}

/// A tensor of ones, as the bench sends it.
fn ones(spec: &TensorSpec, rows: u64) -> Result<(Shape, Vec<u8>), Box<dyn Error>> {
    let shape = Shape::new(spec.dims.iter().map(|dim| dim.unwrap_or(rows)).collect())?;
    let count = shape.elements()?;
    let bytes = match spec.dtype {
        DType::Fp32 => 1_f32.to_le_bytes().repeat(count),
        DType::Int64 => 1_i64.to_le_bytes().repeat(count),
        other => return Err(format!("a bench model with an input of {other}").into()),
    };
    Ok((shape, bytes))
}
