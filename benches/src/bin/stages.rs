//! `casemate-bench-stages STAGE COUNT`: does one stage of the trip so often, at most [`MOST`] times. What it works on is made
//! before, and as many whatever the count, so the difference of two runs is the stage and nothing else.

#![forbid(unsafe_code)]

use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use casemate_front::admit::permit::Room;
use casemate_front::batch::job::{Job, Tensor};
use casemate_front::batch::plan::{Rule, plan};
use casemate_front::fleet::sanitise::sanitise;
use casemate_front::protocol::oip::json::{Envelope, parse};
use casemate_ipc::frame;
use casemate_ipc::id::BatchId;
use casemate_ipc::launch::Geometry;
use casemate_ipc::shm::arena::{self, Writer};
use casemate_ipc::tensor::{DType, ModelSignature, Shape, TensorSpec};
use casemate_ipc::work::{Declared, Placed, ToWorker};

const MOST: usize = 200;
const ROWS: usize = 64;
const GEOMETRY: Geometry = Geometry { slots: 2, slot_bytes: 1 << 20 };

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [stage, count] = words.as_slice() else { return Err("STAGE COUNT".into()) };
    let count = count.parse::<usize>()?.min(MOST);
    match stage.as_str() {
        "parse-json-1" => parsing(json(1), count),
        "parse-json-64" => parsing(json(ROWS), count),
        "parse-binary-1" => parsing(binary(1), count),
        "parse-binary-64" => parsing(binary(ROWS), count),
        "plan-64" => planning(count),
        "place-64" => placing(count),
        "encode" => encoding(count),
        "decode" => decoding(count),
        "sanitise-64" => sanitising(count),
        other => Err(format!("no stage is called {other}").into()),
    }
}

type Done = Result<(), Box<dyn Error>>;

/// A body and the length of its JSON, where tensors follow it.
type Body = (Bytes, Option<u64>);

fn json(rows: usize) -> Body {
    let numbers: Vec<String> = (0..rows * 16).map(|n| format!("{}.25", n % 97)).collect();
    let body = format!(
        r#"{{"inputs":[{{"name":"x","shape":[{rows},16],"datatype":"FP32","data":[{}]}}]}}"#,
        numbers.join(",")
    );
    (body.into(), None)
}

fn binary(rows: usize) -> Body {
    let size = rows * 64;
    let head = format!(
        r#"{{"inputs":[{{"name":"x","shape":[{rows},16],"datatype":"FP32","parameters":{{"binary_data_size":{size}}}}}]}}"#
    );
    let body = [head.as_bytes(), &vec![0; size]].concat();
    (body.into(), Some(head.len() as u64))
}

fn parsing((body, json_length): Body, count: usize) -> Done {
    let envelope = Envelope { model: "tiny".parse()?, version: None, json_length, most: 64 << 20 };
    let envelopes = vec![envelope; MOST];
    for envelope in envelopes.into_iter().take(count) {
        black_box(parse(envelope, &body).is_ok());
    }
    Ok(())
}

fn planning(count: usize) -> Done {
    let (room, deadline) = (Room::new(u64::MAX), Instant::now() + Duration::from_secs(600));
    let mut jobs = Vec::new();
    for _ in 0..ROWS {
        let tensor = Tensor { shape: Shape::new(vec![1, 16])?, data: vec![0; 64].into() };
        let permit = room.take(64).ok_or("no room")?;
        jobs.push(Job::new(vec![tensor], Some(1), deadline, permit).0);
    }
    let rule = Rule { max_rows: ROWS as u64, delay: Duration::ZERO, max_bytes: 1 << 20 };
    for _ in 0..count {
        black_box(plan(&jobs, rule, Duration::from_millis(1), deadline));
    }
    Ok(())
}

fn placing(count: usize) -> Done {
    let (writer, _file) = arena::requests(GEOMETRY)?;
    let row = [1; 64];
    let parts = vec![row.as_slice(); ROWS];
    let place = || writer.slot(0)?.place(DType::Fp32, Shape::new(vec![64, 16])?, &parts);
    // The pages are there before anything is counted.
    place()?;
    for _ in 0..count {
        black_box(place()?);
    }
    Ok(())
}

fn run() -> Result<ToWorker, Box<dyn Error>> {
    let inputs = vec![Placed { dtype: DType::Fp32, shape: Shape::new(vec![64, 16])?, offset: 0, bytes: 4096 }];
    Ok(ToWorker::Run { batch: BatchId(7), slot: 0, inputs })
}

fn encoding(count: usize) -> Done {
    let message = run()?;
    for _ in 0..count {
        black_box(frame::encode(&message)?);
    }
    Ok(())
}

fn decoding(count: usize) -> Done {
    let packet = frame::encode(&run()?)?;
    for _ in 0..count {
        black_box(frame::decode::<ToWorker>(&packet)?);
    }
    Ok(())
}

fn sanitising(count: usize) -> Done {
    let (reader, file) = arena::responses(GEOMETRY)?;
    let writer = Writer::open(&file, GEOMETRY)?;
    let bytes = 1_f32.to_le_bytes().repeat(ROWS * 4);
    let placed = [writer.slot(0)?.place(DType::Fp32, Shape::new(vec![64, 4])?, &[&bytes])?];
    let spec = |text: &str| text.parse::<TensorSpec>();
    let declared = Declared {
        signature: ModelSignature::new(vec![spec("x:f32[-1,16]")?], vec![spec("y:f32[-1,4]")?])?,
        non_finite: vec![false],
        max_batch_size: 64,
        max_batch_delay_us: 0,
        deadline_ms: 30_000,
        sha256: [7; 32],
        platform: "bench".to_owned(),
    };
    for _ in 0..count {
        black_box(sanitise(&reader, 0, &placed, &declared, Some(ROWS as u64)).is_ok());
    }
    Ok(())
}
