//! A whole front around one model: its reactor on the thread that asks for it, and threads of their own for the launcher and
//! the worker that it believes to speak with, and for its client. So what the reactor's thread counts is the front's alone.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use casemate_config::Config;
use casemate_front::admit::permit::Room;
use casemate_front::batch::queue::Bounds;
use casemate_front::desk::Desk;
use casemate_front::fleet::breaker::Rules;
use casemate_front::fleet::breakers::Breakers;
use casemate_front::fleet::handle::ModelHandle;
use casemate_front::fleet::launcher::Launcher;
use casemate_front::fleet::seat::Seat;
use casemate_front::fleet::supervise::{Terms, supervise};
use casemate_front::fleet::turn::Turns;
use casemate_front::metrics::Metrics;
use casemate_front::pipeline::{House, Pipeline};
use casemate_front::protocol::intake::Intake;
use casemate_front::protocol::slate::Slate;
use casemate_front::server::accept;
use casemate_front::server::routes::Routes;
use casemate_front::status::State;
use casemate_ipc::id::{ModelId, WorkerId};
use casemate_ipc::launch::{LaunchReply, LaunchRequest};
use casemate_ipc::layer::{Layer, Reading};
use casemate_ipc::seqpacket::{Channel, PacketBuffer, pair};
use casemate_ipc::shm::arena::{Reader, Writer};
use casemate_ipc::shm::seal;
use casemate_ipc::tensor::{DType, Shape};
use casemate_ipc::work::{FromWorker, Inside, ToWorker};
use tokio::sync::{oneshot, watch};

use super::{GEOMETRY, declared};

/// What the front of this model does while `count` requests are answered, all but the first of them on a connection that has
/// been used. `measure` is given what lets them go and returns when they are done.
pub(crate) fn ask(request: Vec<u8>, warm: usize, count: usize, measure: impl FnOnce(&mut dyn FnMut())) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (_stop, address) = runtime.block_on(open());
    let (begin, begun) = std::sync::mpsc::channel::<()>();
    let (ready, is_ready) = oneshot::channel();
    let (done, is_done) = oneshot::channel();
    let client = thread::spawn(move || {
        let mut client = Client::connect(address);
        (0..warm).for_each(|_| client.ask(&request));
        ready.send(()).unwrap();
        begun.recv().unwrap();
        (0..count).for_each(|_| client.ask(&request));
        done.send(()).unwrap();
    });
    runtime.block_on(is_ready).unwrap();
    let mut is_done = Some(is_done);
    measure(&mut || {
        begin.send(()).unwrap();
        runtime.block_on(is_done.take().unwrap()).unwrap();
    });
    client.join().unwrap();
}

/// Everything that `app::serve` wires, and the model ready.
async fn open() -> (watch::Sender<bool>, SocketAddr) {
    let config = Config::parse("store = \"/s\"").unwrap();
    let model = ModelId { name: "tiny".parse().unwrap(), version: "1".parse().unwrap() };
    let (metrics, settings) = (Metrics::new(), config.model(&model.name));
    let long = Duration::from_secs(60);
    let rules = Rules { deaths: 3, window: long, rest: long, longest: long };
    let bounds = Bounds { jobs: 64, bytes: 1 << 30 };
    let handle = ModelHandle::new(model.clone(), &settings, Vec::new(), bounds, Breakers::new(rules), metrics.clone());
    let (ours, theirs) = pair().unwrap();
    thread::spawn(move || launch(&theirs));
    let launcher = Launcher::new(ours).unwrap();
    let listening = launcher.clone();
    tokio::spawn(async move { listening.listen().await });
    let desk = Desk::open(1).unwrap();
    let terms = Terms {
        requests: GEOMETRY,
        responses: GEOMETRY,
        instances: 1,
        workers: 1,
        turns: Turns::new(2),
        load: long,
        ping: long,
        // The answer comes when it comes: how often it is looked for is not to be counted.
        vigil: Duration::ZERO,
        arena_rest: long,
        attempts: 1,
        desk: desk.clone(),
        log_bytes_per_second: 1024,
    };
    let (stop, stopped) = watch::channel(false);
    let seat = Seat::new(Arc::clone(&handle), 0);
    tokio::spawn(supervise(seat, launcher, terms, metrics.clone(), stopped.clone()));
    while handle.state() != State::Ready {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let pipeline = Pipeline::new(House {
        models: [(model.name, [(model.version, handle)].into())].into(),
        room: Room::new(1 << 30),
        request_bytes: 1 << 20,
        slot_bytes: GEOMETRY.slot_bytes,
        desk,
        stop: stopped.clone(),
    });
    let routes = Routes::new(Intake { pipeline, metrics, trace: false, body_time: long, slate: Slate::default() });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { accept::serve(listener, routes, &config.limits, stopped).await });
    (stop, address)
}

// === whom it speaks with ===

/// Starts what it is asked for, and finds every cage in order.
fn launch(front: &Channel<LaunchReply, LaunchRequest>) {
    let mut buffer = PacketBuffer::default();
    let worker = WorkerId(1);
    while let Ok(Some((request, files))) = front.receive_with::<2>(&mut buffer) {
        match request {
            LaunchRequest::Start { model } => {
                let [requests, responses] = <[OwnedFd; 2]>::try_from(files).unwrap();
                let (theirs, ours) = pair::<ToWorker, FromWorker>().unwrap();
                thread::spawn(move || work(&ours, &requests, &responses));
                let (output, _) = std::io::pipe().unwrap();
                let started =
                    LaunchReply::Started { model, worker, pid: 1, uid: None, spawn_us: 1, shapes_left_aside: false };
                front.send_with(&started, &[theirs.as_fd(), output.as_fd()]).unwrap();
            }
            LaunchRequest::Attest { .. } => {
                let reading = |layer| Reading { layer, in_force: true, evidence: String::new() };
                let readings = Layer::ALL.into_iter().map(reading).collect();
                front.send(&LaunchReply::Attested { worker, readings }).unwrap();
            }
            LaunchRequest::Kill { .. } => return,
        }
    }
}

/// Answers every run with as many rows of four ones.
fn work(front: &Channel<FromWorker, ToWorker>, requests: &OwnedFd, responses: &OwnedFd) {
    let reader = Reader::open(seal::read_only(requests).unwrap(), GEOMETRY).unwrap();
    let writer = Writer::open(responses, GEOMETRY).unwrap();
    let inside = Inside {
        no_new_privs: true,
        non_dumpable: true,
        seccomp_mode: 2,
        empty_root: true,
        no_capabilities: true,
        landlock_abi: Some(7),
        landlock_complete: true,
        no_exec_gain: true,
    };
    front.send(&FromWorker::Verified { declared: declared(), inside }).unwrap();
    front.send(&FromWorker::Ready { load_us: 1 }).unwrap();
    let mut buffer = PacketBuffer::default();
    while let Ok(Some(ToWorker::Run { batch, slot, inputs })) = front.receive_plain(&mut buffer) {
        let rows = inputs[0].shape.dims()[0];
        let sum: f32 = floats(&reader.take(slot, &inputs[0]).unwrap()).sum();
        assert_eq!(sum, 24.0 * rows as f32, "what the client wrote lies in the arena");
        let ones = 1f32.to_le_bytes().repeat(4 * rows as usize);
        let place = writer.slot(slot).unwrap().place(DType::Fp32, Shape::new(vec![rows, 4]).unwrap(), &[&ones]);
        front.send(&FromWorker::Done { batch, outputs: vec![place.unwrap()], run_us: 1 }).unwrap();
    }
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes))
}

struct Client {
    stream: TcpStream,
    /// What was read, as far as it is full.
    answer: Vec<u8>,
}

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, answer: vec![0; 1 << 16] }
    }

    /// Waits for the whole answer, so that nothing but the first byte of the next request wakes the front.
    fn ask(&mut self, request: &[u8]) {
        self.stream.write_all(request).unwrap();
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.answer[filled..]).unwrap();
            assert!(read > 0, "the front has hung up");
            filled += read;
            let text = &self.answer[..filled];
            let Some(head) = text.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let text_of_head = std::str::from_utf8(&text[..head]).unwrap();
            assert!(text_of_head.starts_with("HTTP/1.1 200 OK"), "{}", String::from_utf8_lossy(text));
            let length = text_of_head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            if filled == head + 4 + length.parse::<usize>().unwrap() {
                return;
            }
        }
    }
}
