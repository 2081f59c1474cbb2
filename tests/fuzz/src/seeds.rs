//! Where every run starts: bytes that the real encoders make, and texts as people write them. They are committed under
//! `seeds/`, where libFuzzer finds them; a test holds the files to this list.

use crate::target::pack;
use casemate_ipc::frame::{self, Message};
use casemate_ipc::id::{BatchId, ModelId, WorkerId};
use casemate_ipc::launch::{
    Caller, Denied, ExitCause, Geometry, Grant, GraphPolicy, LaunchReply, LaunchRequest, RunTimeCode,
};
use casemate_ipc::layer::{Layer, Reading, Waiver};
use casemate_ipc::tensor::{DType, ModelSignature, Shape};
use casemate_ipc::work::{Declared, Failure, FromWorker, GateCode, Inside, Placed, Step, ToWorker};

/// One seed.
#[derive(Debug, Clone)]
pub struct Seed {
    /// Whose.
    pub target: &'static str,
    /// Its file's name.
    pub name: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Every seed.
pub fn all() -> Vec<Seed> {
    let mut seeds = Vec::new();
    archives(&mut seeds);
    contract(&mut seeds);
    outputs(&mut seeds);
    requests(&mut seeds);
    texts(&mut seeds);
    seeds
}

/// The seeds of one target.
pub fn of(target: &str) -> Vec<Vec<u8>> {
    all().into_iter().filter(|seed| seed.target == target).map(|seed| seed.bytes).collect()
}

/// One of each message that a worker can say.
pub fn from_worker() -> Vec<FromWorker> {
    let detail = "a reason".to_owned();
    vec![
        FromWorker::Verified { declared: declared("x:f32[-1,4]", "y:f32[-1,4]"), inside: inside() },
        FromWorker::Ready { load_us: 1234 },
        FromWorker::Refused { step: Step::Load, detail: detail.clone() },
        FromWorker::Gated { code: GateCode::TensorBounds, detail: detail.clone() },
        FromWorker::Done { batch: BatchId(1), outputs: vec![placed(&[2, 4], 32)], run_us: 55 },
        FromWorker::Failed { batch: BatchId(2), failure: Failure::Memory, detail },
        FromWorker::Pong { token: 7 },
        FromWorker::Met { convolutions: vec!["conv 8 3 64 1 0 0 224,7,2,3,1 224,7,2,3,1".parse().unwrap()] },
    ]
}

fn inside() -> Inside {
    Inside {
        no_new_privs: true,
        non_dumpable: true,
        seccomp_mode: 2,
        empty_root: true,
        no_capabilities: true,
        landlock_abi: Some(6),
        landlock_complete: true,
        no_exec_gain: true,
    }
}

/// A `data.pkl` with a tensor, a list with its type, a number and a text; a `constants.pkl`; code with most of the language.
fn archives(seeds: &mut Vec<Seed>) {
    const CODE: &str = "class M(Module):\n  w : Tensor\n  l : List[int]\n  f : Final[float] = 0.5\n  __annotations__[\"0\"] = str\n\
                        \x20 def forward(self: __torch__.M, x: Tensor) -> Tensor:\n    y = torch.add(x, self.w, alpha=1)\n\
                        \x20   for i in range(torch.len(self.l)):\n      if bool(torch.gt(y, 1.5e-2)):\n        y = (self).g(y, )\n\
                        \x20   s = getattr(self, \"0\")\n    _0 = annotate(Dict[str, Tensor], {\"a\": CONSTANTS.c0})\n    return ops.prim.data(y[0])\n\
                        \x20 def g(self: __torch__.M, x: Tensor) -> Tensor:\n    return __torch__.f(torch.neg(x))\n\
                        def f(x: Tensor) -> Tensor:\n  # a remark\n  return x\n";
    let tensor =
        b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu\
                   K\x10tQK\0(K\x02K\x04t(K\x04K\x01t\x89ccollections\nOrderedDict\n)RtR";
    let data = [
        &b"\x80\x02c__torch__\nM\nq\0)\x81}(X\x01\0\0\0wq\x01"[..],
        tensor,
        b"q\x02X\x01\0\0\0lctorch.jit._pickle\nbuild_intlist\n](K\x01M\x01\x02J\xff\xff\xff\xffe\x85R",
        b"X\x01\0\0\0fG?\xe0\0\0\0\0\0\0X\x01\0\0\x000X\x02\0\0\0hiub.",
    ]
    .concat();
    let constants = [&b"\x80\x02"[..], tensor, b"\x85."].concat();
    add(seeds, "archive_gate", "parts", [b"\0", &data[..], b"\n\0", b"\x80\x02).", b"\n\0", CODE.as_bytes()].concat());
    add(seeds, "archive_gate", "constants", [b"\0", &data[..], b"\n\0", &constants, b"\n\0", CODE.as_bytes()].concat());
    // A value of each kind that libtorch would take for another without a look.
    const KINDS: &str = "class B:\n  n : int\n  def f(self: __torch__.B, x: Tensor, n: int=1) -> Tensor:\n    return x\n\
                         class I(Interface):\n  def f(self, x: Tensor, n: int) -> Tensor:\n    pass\n\
                         class E(Enum):\n  A = 1\nclass P(NamedTuple):\n  n : int\n  b : Optional[__torch__.B]\n\
                         class M(Module):\n  i : __torch__.I\n  e : List[__torch__.E]\n  p : __torch__.P\n\
                         \x20 u : Union[Tuple[int, int], __torch__.B]\n\
                         \x20 def forward(self: __torch__.M, x: Tensor) -> Tensor:\n    for i in range(10):\n\
                         \x20     x = (self.i).f(x, i)\n    return x\n";
    let b = b"c__torch__\nB\n)\x81}(X\x01\0\0\0nK\x01ub";
    let data = [
        &b"\x80\x02c__torch__\nM\n)\x81}(X\x01\0\0\0i"[..],
        b,
        b"X\x01\0\0\0ectorch.jit._pickle\nrestore_type_tag\n](c__torch__\nE\nK\x01ReX\x11\0\0\0List[__torch__.E]\x86R",
        b"X\x01\0\0\0pK\x02",
        b,
        b"\x86X\x01\0\0\0uK\x01K\x02\x86ub.",
    ]
    .concat();
    add(seeds, "archive_gate", "kinds", [b"\0", &data[..], b"\n\0", b"\x80\x02).", b"\n\0", KINDS.as_bytes()].concat());
    let small = b"class M(Module):\n  def forward(self: __torch__.M, x: Tensor) -> Tensor:\n    return x\n";
    let archive = pack(b"\x80\x02c__torch__\nM\n)\x81}b.", b"\x80\x02).", small);
    add(seeds, "archive_gate", "whole", [&b"\x01"[..], &archive].concat());
}

fn contract(seeds: &mut Vec<Seed>) {
    let to_worker = [
        ToWorker::Run { batch: BatchId(1), slot: 1, inputs: vec![placed(&[2, 4], 32), placed(&[], 4)] },
        ToWorker::Ping { token: 7 },
        ToWorker::Drain,
    ];
    to_worker.iter().enumerate().for_each(|(i, message)| packet(seeds, "work", &format!("to-{i}"), message));
    from_worker().iter().enumerate().for_each(|(i, message)| packet(seeds, "work", &format!("from-{i}"), message));
    let model = ModelId { name: "digits".parse().unwrap(), version: "1.2".parse().unwrap() };
    let worker = WorkerId(3);
    let asked = [
        LaunchRequest::Start { model: model.clone() },
        LaunchRequest::Kill { worker },
        LaunchRequest::Attest { worker },
    ];
    asked.iter().enumerate().for_each(|(i, message)| packet(seeds, "launch", &format!("request-{i}"), message));
    let caller = Caller { thread: 99, name: "worker".to_owned(), origin: "libc.so.6+0x11b2a".to_owned() };
    let denied = Denied { number: 257, args: [1, 2, 3, 4, 5, 6], instruction: 0xabc, caller: Some(caller) };
    let readings = vec![Reading { layer: Layer::Seccomp, in_force: true, evidence: "mode 2".to_owned() }];
    let answered = [
        LaunchReply::Model { model: model.clone() },
        LaunchReply::Catalogue { models: 1, waived: vec![Waiver::Landlock] },
        LaunchReply::Started {
            model: model.clone(),
            worker,
            pid: 99,
            uid: Some(1000),
            spawn_us: 1000,
            shapes_left_aside: true,
        },
        LaunchReply::Refused { model: model.clone(), reason: "no".to_owned(), retry: true },
        LaunchReply::Exited { worker, cause: ExitCause::Syscall(denied) },
        LaunchReply::Exited { worker, cause: ExitCause::Exited(73) },
        LaunchReply::Attested { worker, readings },
    ];
    answered.iter().enumerate().for_each(|(i, message)| packet(seeds, "launch", &format!("reply-{i}"), message));
    let geometry = Geometry { slots: 2, slot_bytes: 8192 };
    let grant = Grant {
        model,
        worker,
        threads: 2,
        instances: 3,
        cores: vec![0, 300],
        requests: geometry,
        responses: geometry,
        waived: vec![Waiver::Landlock],
        run_time_code: RunTimeCode::Refused,
        graph: GraphPolicy { open: true, extra_ops: vec!["aten::bincount".to_owned()] },
        shapes: b"sha256 00\nconv 8 3 64 1 0 0 224,7,2,3,1 224,7,2,3,1\n".to_vec(),
    };
    packet(seeds, "launch", "grant", &grant);
    let pong = frame::encode(&FromWorker::Pong { token: 1 }).unwrap();
    for (count, how) in [(0, 0), (1, 0), (253, 0), (0, 1), (9, 1), (0, 2), (2, 2), (3, 2), (253, 2)] {
        add(seeds, "channel", &format!("{count}-{how}"), [&[count, how], &pong[..]].concat());
    }
}

fn outputs(seeds: &mut Vec<Seed>) {
    let done =
        |outputs| frame::encode(&FromWorker::Done { batch: BatchId(0), outputs, run_us: 1 }).expect("a small frame");
    let content = 1.5f32.to_le_bytes().repeat(64);
    let pairs = [
        ("one", declared("x:f32[-1,4]", "y:f32[-1,4]"), vec![placed(&[2, 4], 32)], 2),
        ("scalar", declared("x:f32[4]", "y:f32[]"), vec![placed(&[], 4)], 0),
        ("wrong-rows", declared("x:f32[-1]", "y:f32[-1]"), vec![placed(&[3], 12)], 2),
        ("overlapping", two(), vec![placed(&[2], 8), placed(&[2], 8)], 2),
        ("too-few", declared("x:f32[-1]", "y:f32[-1]"), vec![], 2),
    ];
    for (name, declared, outputs, rows) in pairs {
        let verified = frame::encode(&FromWorker::Verified { declared, inside: inside() }).unwrap();
        let mut bytes = Vec::new();
        for packet in [verified, done(outputs)] {
            bytes.extend(u16::try_from(packet.len()).unwrap().to_le_bytes());
            bytes.extend(packet);
        }
        bytes.push(rows);
        bytes.extend(&content);
        add(seeds, "sanitise", name, bytes);
    }
    add(seeds, "lifecycle", "mixed", vec![3, 2, 2, 0, 3, 3, 1, 3, 2, 2, 2, 4]);
    add(seeds, "lifecycle", "deaths", [vec![5], vec![3; 40]].concat());
}

fn requests(seeds: &mut Vec<Seed>) {
    let plain = r#"{"id":"a","inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[[1,2.5],[-3e2,"NaN"]]}]}"#;
    let all = r#"{"parameters":{"binary_data_output":true},"inputs":[{"name":"x","shape":[3],"datatype":"BOOL",
        "data":[true,0,1]},{"data":[1,-2],"name":"z","shape":[2],"datatype":"INT64","parameters":{}}],
        "outputs":[{"name":"y","parameters":{"binary_data":false}}]}"#;
    for (name, text) in [("plain", plain), ("all", all), ("empty", r#"{"inputs":[]}"#)] {
        add(seeds, "oip_json", name, text.into());
        add(seeds, "oip_binary", &format!("json-{name}"), format!("{}\n{text}", text.len()).into());
    }
    let head = r#"{"inputs":[{"name":"x","shape":[2],"datatype":"FP32","parameters":{"binary_data_size":8}}]}"#;
    add(seeds, "oip_binary", "binary", format!("{}\n{head}\0\0\0\0\0\0\0\0", head.len()).into());
    add(seeds, "oip_binary", "raw", "0\n\0\0\0\0".into());
    let numbers = [
        (8, &[2, 2][..], "[[1, 2.5], [-3e2, \"Infinity\"]]"),
        (5, &[4], "[1,-2,9223372036854775807,0]"),
        (0, &[3], "[true,0,false]"),
        (6, &[1], "[65504]"),
        (9, &[], "1e-300"),
        (1, &[0, 2], "[]"),
    ];
    for (i, (dtype, dims, text)) in numbers.into_iter().enumerate() {
        let rank = u8::try_from(dims.len()).unwrap();
        add(seeds, "numbers", &i.to_string(), [&[dtype, rank], dims, text.as_bytes()].concat());
    }
}

fn texts(seeds: &mut Vec<Seed>) {
    let digest = "ab".repeat(32);
    let manifest = format!(
        "format = \"torchscript\"\nsha256 = \"{digest}\"\n[[input]]\nname = \"x\"\ndtype = \"FP32\"\nshape = [-1, 16]\n\
         [[output]]\nname = \"y\"\ndtype = \"f32\"\nshape = [-1, 4]\nnon_finite = true\n\
         [batching]\nmax_batch_size = 8\nmax_batch_delay_us = 500\n[limits]\ndeadline_ms = 1000\n"
    );
    add(seeds, "manifest", "whole", manifest.into());
    let config = "store = \"/srv/models\"\nonly_listed = true\n[listen]\ninference = \"127.0.0.1:8080\"\n[sandbox]\n\
                  accept_missing = [\"landlock\"]\nfront_uid = 2000\nworker_uid_first = 3000\nworker_uid_count = 9\n\
                  [limits]\nqueue = 5\nrequest_bytes = 4096\n[models.a]\nversions = [\"1\"]\nthreads = 2\n\
                  memory_mib = 128\n[models.b]\nversions = \"all\"\n";
    add(seeds, "config", "whole", config.into());
    add(seeds, "config", "least", "store = \"/s\"".into());
    add(seeds, "names", "versions", "1.10\n1.9\n1.0a\n01\n1\nv2_rc-1".into());
    add(seeds, "names", "bad", "../x\na/b\n-a\n\nall-MiniLM.v2_x".into());
    add(seeds, "escape", "terminal", "a\nERROR b\r\u{1b}[31m \u{202e}cod\u{200b} é € 模".into());
    add(seeds, "escape", "long", "\u{7f}é".repeat(400).into());
}

/// A frame for the target that takes whole frames, and its body for the one that frames bodies itself.
fn packet<M: Message>(seeds: &mut Vec<Seed>, target: &'static str, name: &str, message: &M) {
    let packet = frame::encode(message).unwrap();
    add(seeds, target, name, packet[8..].to_vec());
    add(seeds, "frame", &format!("{target}-{name}"), packet);
}

fn add(seeds: &mut Vec<Seed>, target: &'static str, name: &str, bytes: Vec<u8>) {
    seeds.push(Seed { target, name: name.to_owned(), bytes });
}

fn declared(input: &str, output: &str) -> Declared {
    Declared {
        signature: ModelSignature::new(vec![input.parse().unwrap()], vec![output.parse().unwrap()]).unwrap(),
        non_finite: vec![false],
        max_batch_size: 1,
        max_batch_delay_us: 0,
        deadline_ms: 1000,
        sha256: [7; 32],
        platform: "echo".to_owned(),
    }
}

fn two() -> Declared {
    let mut declared = declared("x:f32[-1]", "y:f32[-1]");
    declared.signature.outputs.push("z:f32[-1]".parse().unwrap());
    declared.non_finite.push(true);
    declared
}

fn placed(dims: &[u64], bytes: u64) -> Placed {
    Placed { dtype: DType::Fp32, shape: Shape::new(dims.to_vec()).unwrap(), offset: 0, bytes }
}
