use std::sync::mpsc;

use axum::body::Body;
use axum::http::Request;
use bytes::Bytes;
use casemate_config::Config;
use casemate_ipc::convolution::Convolution;
use casemate_ipc::tensor::{ModelSignature, Shape};
use casemate_ipc::work::Declared;
use smallvec::smallvec;

use super::*;
use crate::batch::plan::Rule;
use crate::batch::queue::{Bounds, Next};
use crate::desk::Errand;
use crate::fleet::breaker::Rules;
use crate::fleet::breakers::Breakers;
use crate::metrics::Metrics;
use crate::protocol::intake::{Intake, TIMEOUT};
use crate::protocol::oip;
use crate::protocol::slate::Slate;
use crate::request::Inputs;

const LONG: Duration = Duration::from_secs(20);

/// A house with one model, `m`, that takes truth values and has no worker; and its only desk.
struct Rig {
    pipeline: Pipeline,
    handle: Arc<ModelHandle>,
    metrics: Metrics,
    desk: Desk,
    _stop: watch::Sender<bool>,
}

impl Rig {
    fn new() -> Self {
        let model = ModelId { name: "m".parse().unwrap(), version: "1".parse().unwrap() };
        let settings = Config::parse("store = \"/s\"").unwrap().model(&model.name);
        let metrics = Metrics::new();
        let rules = Rules { deaths: 3, window: LONG, rest: LONG, longest: LONG };
        let bounds = Bounds { jobs: 9, bytes: u64::MAX };
        let handle =
            ModelHandle::new(model.clone(), &settings, Vec::new(), bounds, Breakers::new(rules), metrics.clone());
        let specs = |text: &str| vec![text.parse().unwrap()];
        handle.verified(Declared {
            signature: ModelSignature::new(specs("x:bool[-1]"), specs("y:f32[-1]")).unwrap(),
            non_finite: vec![false],
            max_batch_size: 1,
            max_batch_delay_us: 0,
            deadline_ms: 20_000,
            sha256: [0; 32],
            platform: String::new(),
        });
        let desk = Desk::open(1).unwrap();
        let (_stop, stop) = watch::channel(false);
        let pipeline = Pipeline::new(House {
            models: [(model.name, [(model.version, Arc::clone(&handle))].into())].into(),
            room: Room::new(1 << 30),
            request_bytes: 1 << 28,
            slot_bytes: 1 << 28,
            desk: desk.clone(),
            stop,
        });
        Self { pipeline, handle, metrics, desk, _stop }
    }

    /// Has the desk at work, until the other end is dropped.
    fn keep_busy(&self) -> (mpsc::Sender<()>, Errand<bool>) {
        let ((go, gone), (begin, begun)) = (mpsc::channel(), mpsc::channel());
        let errand = self.desk.bring(move || begin.send(()).is_ok() && gone.recv_timeout(LONG).is_ok());
        begun.recv_timeout(LONG).unwrap();
        (go, errand)
    }

    async fn infer(&self, data: Vec<u8>, patience: Duration) -> Refusal {
        let visitor = self.pipeline.enter(Some(data.len() as u64)).unwrap().within(Some(patience));
        let inputs = Inputs::Raw(Bytes::from(data));
        let request = InferRequest { model: "m".parse().unwrap(), version: None, id: None, inputs, outputs: None };
        let tell = async |_| Ok(());
        self.pipeline.infer(visitor, request, &Trace::default(), tell).await.unwrap_err()
    }

    async fn post(&self, text: String, patience_ms: u64) -> Result<u16, Refusal> {
        let pipeline = self.pipeline.clone();
        let (metrics, slate) = (self.metrics.clone(), Slate::default());
        let intake = Intake { pipeline, metrics, trace: false, body_time: LONG, slate };
        let target = oip::target(&axum::http::Method::POST, "/v2/models/m/infer").unwrap();
        let request = Request::post("/v2/models/m/infer").header(TIMEOUT, patience_ms.to_string());
        let request = request.body(Body::from(text)).unwrap();
        oip::run(&intake, target, request).await.map(|response| response.status().as_u16())
    }
}

/// As a client would write it, and longer than what is read without a desk.
fn text(values: usize) -> String {
    let values = vec!["true"; values];
    let data = values.join(",");
    format!(r#"{{"inputs":[{{"name":"x","shape":[{}],"datatype":"BOOL","data":[{data}]}}]}}"#, values.len())
}

#[tokio::test]
async fn large_truth_values_are_looked_at_by_a_desk() {
    let rig = Rig::new();
    let (go, at_work) = rig.keep_busy();
    let soon = Duration::from_millis(50);
    // The control: small ones need no desk, and wait for a worker.
    assert_eq!((rig.infer(vec![1; 1000], soon).await.kind, rig.handle.queue.len()), (Kind::Deadline, 1));
    assert_eq!(rig.infer(vec![2; 1000], soon).await.kind, Kind::Invalid);
    // Large ones are not read by the thread that this test runs on, and get no further.
    for value in [1, 2] {
        assert_eq!((rig.infer(vec![value; 2 << 20], soon).await.kind, rig.handle.queue.len()), (Kind::Deadline, 1));
    }
    go.send(()).unwrap();
    assert_eq!(at_work.await, Ok(true));
    assert_eq!(rig.infer(vec![2; 2 << 20], LONG).await.kind, Kind::Invalid);
}

#[tokio::test]
async fn who_waits_for_a_desk_beyond_its_time_is_told_and_its_room_is_free() {
    let rig = Rig::new();
    let (go, at_work) = rig.keep_busy();
    let refusal = rig.post(text(100_000), 50).await.unwrap_err();
    assert_eq!((refusal.kind, refusal.message.contains("50 ms")), (Kind::Deadline, true), "{refusal}");
    assert_eq!(rig.pipeline.house.room.taken(), 0, "its body is held though nobody will read it");
    // One that is read but hangs up before there is a desk for it.
    let gone = tokio::time::timeout(Duration::from_millis(50), rig.post(text(100_000), 20_000)).await;
    assert!(gone.is_err() && rig.pipeline.house.room.taken() == 0);
    go.send(()).unwrap();
    assert_eq!(at_work.await, Ok(true));
    // The control: with a desk it gets as far as the queue.
    assert_eq!((rig.post(text(100_000), 2000).await.unwrap_err().kind, rig.handle.queue.len()), (Kind::Deadline, 1));
}

#[tokio::test]
async fn an_answer_that_is_told_too_late_is_counted_as_late() {
    let rig = Rig::new();
    let rule = Rule { max_rows: 1, delay: Duration::ZERO, max_bytes: 1 << 20 };
    // Its text is longer than what is written without a desk.
    let answer = || smallvec![Tensor { shape: Shape::new(vec![30_000]).unwrap(), data: vec![0; 120_000].into() }];
    let work = async || loop {
        match rig.handle.queue.depart(rule, Instant::now()) {
            Next::Batch(jobs) => return jobs.into_iter().for_each(|job| job.answer(Ok(answer()))),
            _ => rig.handle.queue.arrival().await,
        }
    };
    let count = |outcome: &str| {
        let line = format!("casemate_requests_total{{model=\"m\",version=\"1\",outcome=\"{outcome}\"}} ");
        rig.metrics.encode().lines().find_map(|text| text.strip_prefix(&line)?.parse().ok()).unwrap_or(0)
    };
    let (go, at_work) = rig.keep_busy();
    let (told, ()) = tokio::join!(rig.post(text(4), 300), work());
    assert_eq!((told.unwrap_err().kind, count("deadline"), count("ok")), (Kind::Deadline, 1, 0));
    go.send(()).unwrap();
    assert_eq!(at_work.await, Ok(true));
    // The control: with a desk it is told in time.
    let (told, ()) = tokio::join!(rig.post(text(4), 20_000), work());
    assert_eq!((told.unwrap(), count("deadline"), count("ok")), (200, 1, 1));
    assert!(
        !rig.metrics.encode().contains("casemate_refused_total{"),
        "neither was refused before its model was known"
    );
}

#[tokio::test]
async fn a_status_shares_the_list_of_convolutions() {
    let rig = Rig::new();
    let one: Convolution = "conv 1 3 64 1 0 0 224,7,2,3,1 224,7,2,3,1".parse().unwrap();
    rig.handle.met(vec![one.clone()]);
    let (a, b) = (rig.handle.status(), rig.handle.status());
    assert!(Arc::ptr_eq(&a.convolutions, &b.convolutions));
    // What was read stays as it was.
    rig.handle.met(vec![Convolution { rows: 8, ..one }]);
    let now = rig.handle.status();
    assert_eq!((a.convolutions[0].rows, now.convolutions[0].rows, now.convolutions.len()), (1, 8, 1));
}
