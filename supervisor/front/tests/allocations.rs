//! How often our own stages of the trip take memory, for a request with a binary tensor and an answer of the same kind.
//! hyper's and the runtime's are in the last test alone. A number that grows here is paid by every request.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

#[path = "allocations/house.rs"]
mod house;

use std::sync::Arc;
use std::time::{Duration, Instant};

use allocation_counter::measure;
use bytes::Bytes;
use casemate_front::admit::permit::Room;
use casemate_front::admit::{body, head};
use casemate_front::batch::job::{Answer, Job};
use casemate_front::batch::plan::Rule;
use casemate_front::batch::queue::{Bounds, Next, Queue};
use casemate_front::batch::split::split;
use casemate_front::fleet::sanitise::sanitise;
use casemate_front::protocol::oip::json::{Envelope, Wanted, parse, render};
use casemate_front::response::{InferResponse, OutputTensor};
use casemate_ipc::id::ModelId;
use casemate_ipc::launch::Geometry;
use casemate_ipc::shm::arena::{self, Writer};
use casemate_ipc::tensor::{DType, ModelSignature, Shape};
use casemate_ipc::work::Declared;

const GEOMETRY: Geometry = Geometry { slots: 1, slot_bytes: 1 << 16 };
const RIDERS: u64 = 64;

fn declared() -> Declared {
    let spec = |text: &str| text.parse().unwrap();
    Declared {
        signature: ModelSignature::new(vec![spec("x:f32[-1,16]")], vec![spec("y:f32[-1,4]")]).unwrap(),
        non_finite: vec![false],
        max_batch_size: 64,
        max_batch_delay_us: 0,
        deadline_ms: 30_000,
        sha256: [7; 32],
        platform: String::new(),
    }
}

fn request() -> (Envelope, Bytes) {
    let head = r#"{"inputs":[{"name":"x","shape":[1,16],"datatype":"FP32","parameters":{"binary_data_size":64}}],"parameters":{"binary_data_output":true}}"#;
    let envelope =
        Envelope { model: "tiny".parse().unwrap(), version: None, json_length: Some(head.len() as u64), most: 1 << 20 };
    (envelope, [head.as_bytes(), &[0; 64]].concat().into())
}

/// Does it, and says how often that took memory.
fn count<T>(work: impl FnOnce() -> T) -> (u64, T) {
    let mut done = None;
    let info = measure(|| done = Some(work()));
    (info.count_total, done.unwrap())
}

/// One request through everything that is done for each alone, up to the queue.
fn arrive(room: &Arc<Room>, queue: &Queue, declared: &Declared) -> ([u64; 3], Wanted, Answer) {
    let (envelope, body) = request();
    let (parsing, (request, wanted)) = count(|| parse(envelope, &body).unwrap());
    let visitor = head::admit(room, 1 << 20, Some(body.len() as u64), Instant::now()).unwrap();
    let (admitting, (job, _, answer)) = count(|| body::admit(visitor, request, declared, 1 << 16).unwrap());
    let (pushing, ()) = count(|| queue.push(job).unwrap());
    ([parsing, admitting, pushing], wanted, answer)
}

fn leave(queue: &Queue) -> (u64, Vec<Job>) {
    let rule = Rule { max_rows: RIDERS, delay: Duration::ZERO, max_bytes: 1 << 20 };
    let (departing, next) = count(|| queue.depart(rule, Instant::now()));
    let Next::Batch(jobs) = next else { panic!("they leave at once") };
    (departing, jobs)
}

#[test]
fn a_request_takes_memory_so_often() {
    let (room, queue) = (Room::new(1 << 30), Queue::new(Bounds { jobs: 1024, bytes: 1 << 30 }));
    let declared = declared();
    let (requests, _file) = arena::requests(GEOMETRY).unwrap();
    let (reader, file) = arena::responses(GEOMETRY).unwrap();
    let answers = Writer::open(&file, GEOMETRY).unwrap();
    let model: ModelId = ModelId { name: "tiny".parse().unwrap(), version: "1".parse().unwrap() };
    // The first ones fill what stays: the queue's own memory, and the runtime's.
    let first: Vec<_> = (0..RIDERS).map(|_| arrive(&room, &queue, &declared)).collect();
    drop((leave(&queue), first));

    let arrived: Vec<_> = (0..RIDERS).map(|_| arrive(&room, &queue, &declared)).collect();
    let ([parsing, admitting, pushing], ..) = arrived[0];
    assert!(arrived.iter().all(|(counts, ..)| *counts == [parsing, admitting, pushing]), "one costs what another does");
    let (departing, jobs) = leave(&queue);
    assert_eq!(jobs.len() as u64, RIDERS);
    let (placing, placed) = count(|| {
        let parts: Vec<&[u8]> = jobs.iter().map(|job| &job.inputs()[0].data[..]).collect();
        let shape = jobs[0].inputs()[0].shape.with_rows(RIDERS);
        requests.slot(0).unwrap().place(DType::Fp32, shape, &parts).unwrap()
    });
    assert_eq!(placed.bytes, RIDERS * 64);
    let bytes = 1f32.to_le_bytes().repeat(RIDERS as usize * 4);
    let shape = Shape::new(vec![RIDERS, 4]).unwrap();
    let placed = [answers.slot(0).unwrap().place(DType::Fp32, shape, &[&bytes]).unwrap()];
    let (sanitising, outputs) = count(|| sanitise(&reader, 0, &placed, &declared, Some(RIDERS)).unwrap());
    let (splitting, parts) = count(|| split(&jobs, outputs).unwrap());
    let (answering, ()) = count(|| jobs.into_iter().zip(parts).for_each(|(job, part)| job.answer(Ok(part))));
    let mut rendering = 0;
    for (_, wanted, mut answer) in arrived {
        let outputs = answer.try_recv().unwrap().unwrap();
        let outputs = outputs.into_iter().map(|tensor| OutputTensor {
            name: "y".to_owned(),
            dtype: DType::Fp32,
            shape: tensor.shape,
            data: tensor.data,
        });
        let response = InferResponse { model: model.clone(), id: None, outputs: outputs.collect() };
        let (took, rendered) = count(|| render(&response, &wanted));
        assert_eq!(rendered.body.len() - rendered.json_length.unwrap(), 16);
        rendering = took;
    }
    let each = [("parse", parsing), ("admit", admitting), ("push", pushing), ("render", rendering)];
    let batch = [
        ("depart", departing),
        ("place", placing),
        ("sanitise", sanitising),
        ("split", splitting),
        ("answer", answering),
    ];
    // The name, and the body's first slice. The channel for the answer. The body of the answer, and its owner.
    assert_eq!(each, [("parse", 2), ("admit", 1), ("push", 0), ("render", 2)]);
    // Lists of so many riders, and where the answer of all of them lies; for each of them nothing.
    assert_eq!(batch, [("depart", 2), ("place", 1), ("sanitise", 1), ("split", 2), ("answer", 0)]);
}

// === a whole request ===

const HEAD: &str = r#"{"inputs":[{"name":"x","shape":[1,16],"datatype":"FP32","#;

/// As a client of the binary extension sends it.
fn binary() -> Vec<u8> {
    let json =
        format!(r#"{HEAD}"parameters":{{"binary_data_size":64}}}}],"parameters":{{"binary_data_output":true}}}}"#);
    let length = format!("inference-header-content-length: {}\r\n", json.len());
    post(&length, &[json.as_bytes(), &1.5f32.to_le_bytes().repeat(16)].concat())
}

/// The same in JSON alone.
fn json() -> Vec<u8> {
    post("", format!(r#"{HEAD}"data":[{}]}}]}}"#, ["1.5"; 16].join(",")).as_bytes())
}

fn post(headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head =
        format!("POST /v2/models/tiny/infer HTTP/1.1\r\nhost: here\r\n{headers}content-length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// How often the front's reactor takes memory for each of many requests over one connection, hyper's and the runtime's share
/// with it. Now and then something grows or a timer is set, in none of them more than another.
fn whole(request: Vec<u8>) -> u64 {
    const COUNT: usize = 1000;
    let mut info = None;
    house::ask(request, 50, COUNT, |go| info = Some(measure(go)));
    info.unwrap().count_total / COUNT as u64
}

#[test]
fn a_whole_request_takes_memory_so_often() {
    assert_eq!((whole(binary()), whole(json())), (11, 11));
}
