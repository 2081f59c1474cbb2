//! The floor: the worker's own engine, called in this process, without a cage and without a trip.

use std::error::Error;
use std::time::Instant;

use casemate_ipc::launch::{Geometry, RunTimeCode};
use casemate_ipc::shm::arena::{self, Reader, Writer};
use casemate_ipc::shm::seal;
use casemate_ipc::tensor::Shape;
use casemate_manifest::Manifest;
use casemate_worker::engine;
use casemate_worker::engine::contract::{Answer, Batch};

use crate::load::Load;

/// Runs one row again and again, in and out of arenas as a worker does.
pub(crate) fn run(model: &[u8], manifest: &Manifest, row: &[u8], count: usize) -> Result<Load, Box<dyn Error>> {
    let signature = manifest.signature()?;
    engine::warm_up(RunTimeCode::Refused)?;
    engine::start_threads(1)?;
    let mut engine = engine::load_unjudged(manifest.format, model, &signature)?;
    let geometry = Geometry { slots: 1, slot_bytes: 1 << 20 };
    let (requests, requests_file) = arena::requests(geometry)?;
    let (_responses, responses_file) = arena::responses(geometry)?;
    let (reader, writer) = (Reader::open(seal::read_only(requests_file)?, geometry)?, Writer::open(responses_file, geometry)?);
    let spec = signature.inputs.first().ok_or("a model without inputs")?;
    let shape: Shape = spec.smallest();
    let placed = [requests.slot(0)?.place(spec.dtype, shape, &[row])?];
    let mut times = Vec::with_capacity(count);
    for turn in 0..count + count / 10 {
        let start = Instant::now();
        let batch = Batch::new(&signature, &reader, 0, &placed)?;
        let mut answer = Answer::new(&signature, true, &batch, &writer, 0, geometry.slot_bytes)?;
        engine.run(&batch, &mut answer)?;
        answer.finish()?;
        if turn >= count / 10 {
            times.push(start.elapsed());
        }
    }
    Ok(Load::of(times))
}
