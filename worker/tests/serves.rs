//! What an honest model may expect: its numbers, in every type, in and out; and what a mistake in it costs.

#![allow(clippy::cloned_ref_to_slice_refs, reason = "a list of inputs reads as one")]

mod cell;

use casemate_ipc::launch::RunTimeCode;
use casemate_ipc::tensor::DType;
use casemate_ipc::work::{Failure, FromWorker, ToWorker};
use casemate_tests::forge::Forge;
use casemate_tests::models::{self, When};
use cell::{Birth, Value, f32s, i64s};

const ROWS: [f32; 8] = [1.0, 2.0, 3.0, 4.0, -1.0, 0.0, 5.0, 2.0];

#[test]
fn a_linear_model_computes_with_one_thread_and_with_two() {
    let expected: Vec<f32> = ROWS.chunks(4).flat_map(|row| models::linear_answer(row, 2)).collect();
    for threads in [1, 2] {
        let birth = Birth { threads, ..Birth::torch(models::linear(4, 2)).outputs(&["y:FP32[-1,2]"]) };
        let mut cell = birth.ready();
        println!("{threads} threads: exec to ready {:?}, {} resident", cell.age(), cell.status("VmRSS"));
        for _ in 0..3 {
            let y = cell.run(&[f32s(&[2, 4], &ROWS)]);
            assert_eq!((y[0].to_f32s(), &y[0].dims[..]), (expected.clone(), &[2, 2][..]));
        }
        assert_eq!(cell.drain(), Some(0));
    }
}

/// oneDNN's own: each of these runs in machine code that it writes, where it may, and in plain kernels where it may not. The
/// answers are the same, but for rounding.
#[test]
fn what_onednn_does_is_done_without_it() {
    let acts = [
        "torch.conv2d(x.reshape([1, 1, 2, 4]), torch.ones([1, 1, 2, 2])).sum()",
        "ops.aten.gelu(x).sum()",
        "(x.to(15) @ x.to(15).t()).sum().to(6)",
        "ops.aten.lstm(x.unsqueeze(0), [torch.zeros([1, 2, 8]), torch.zeros([1, 2, 8])], [torch.ones([32, 4]), torch.ones([32, 8]), torch.ones([32]), torch.ones([32])], True, 1, 0., False, False, False)[0].sum()",
    ];
    for act in acts {
        let model =
            Forge::new("M").forward(&format!("def forward(self, x: Tensor) -> Tensor:\n  return {act}")).bytes();
        let answers = [RunTimeCode::Refused, RunTimeCode::Allowed].map(|run_time_code| {
            let birth = Birth { run_time_code, ..Birth::torch(model.clone()) };
            let mut cell = birth.inputs(&["x:FP32[2,4]"]).outputs(&["y:FP32[]"]).ready();
            let answer = cell.run(&[f32s(&[2, 4], &ROWS)])[0].to_f32s()[0];
            let maps = std::fs::read_to_string(format!("/proc/{}/maps", cell.pid()));
            // They belong to root.
            if let Ok(maps) = maps {
                let made = |line: &str| line.contains("xp ") && line.contains(" 00:00 0") && !line.contains('[');
                assert_eq!(maps.lines().any(made), run_time_code == RunTimeCode::Allowed, "{act}\n{maps}");
                assert!(!maps.lines().any(|line| line.contains("rwx")), "{act}\n{maps}");
            }
            answer
        });
        assert!((answers[0] - answers[1]).abs() <= answers[0].abs() * 0.01 + 0.001, "{act}: {answers:?}");
    }
}

#[test]
fn every_type_comes_back_as_it_went() {
    for dtype in DType::ALL {
        let spec: &'static str = format!("x:{dtype}[-1]").leak();
        let mut cell = Birth::torch(models::identity()).inputs(&[spec]).outputs(&[spec]).ready();
        let bytes = (0..6 * dtype.size()).map(|i| if dtype == DType::Bool { (i % 2) as u8 } else { i as u8 }).collect();
        let x = Value { dtype, dims: vec![6], bytes };
        assert_eq!(cell.run(std::slice::from_ref(&x)), [x]);
    }
}

#[test]
fn every_number_can_be_computed_with() {
    for dtype in DType::ALL.into_iter().filter(|dtype| *dtype != DType::Bool) {
        let spec: &'static str = format!("x:{dtype}[2]").leak();
        let mut cell = Birth::torch(models::double()).inputs(&[spec]).outputs(&[spec]).ready();
        let ones_and_twos: [Vec<u8>; 2] = match dtype {
            DType::Fp16 => [vec![0, 0x3c], vec![0, 0x40]],
            DType::Bf16 => [vec![0x80, 0x3f], vec![0, 0x40]],
            DType::Fp32 => [1f32, 2.0].map(|v| v.to_le_bytes().to_vec()),
            DType::Fp64 => [1f64, 2.0].map(|v| v.to_le_bytes().to_vec()),
            _ => [1u64, 2].map(|v| v.to_le_bytes()[..dtype.size()].to_vec()),
        };
        let [one, two] = ones_and_twos.map(|bytes| Value { dtype, dims: vec![2], bytes: bytes.repeat(2) });
        assert_eq!(cell.run(&[one]), [two]);
    }
}

#[test]
fn several_tensors_go_in_and_come_out() {
    let (a, b) = (f32s(&[1, 4], &ROWS[..4]), f32s(&[1, 4], &ROWS[4..]));
    let sum = f32s(&[1, 4], &[0.0, 2.0, 8.0, 6.0]);
    let difference = f32s(&[1, 4], &[2.0, 2.0, -2.0, 2.0]);
    let birth = Birth::torch(models::two_inputs_two_outputs());
    let birth = birth.inputs(&["a:FP32[-1,4]", "b:FP32[-1,4]"]).outputs(&["sum:FP32[-1,4]", "difference:FP32[-1,4]"]);
    assert_eq!(birth.ready().run(&[a.clone(), b]), [sum, difference]);

    let (double, half) = (f32s(&[1, 4], &[2.0, 4.0, 6.0, 8.0]), f32s(&[1, 4], &[0.5, 1.0, 1.5, 2.0]));
    let birth = Birth::torch(models::list_output()).outputs(&["first:FP32[-1,4]", "second:FP32[-1,4]"]);
    assert_eq!(birth.ready().run(&[a.clone()]), [double.clone(), half.clone()]);

    // A dictionary answers by name, whatever the order of the declaration, and may hold more.
    let birth = Birth::torch(models::dict_output()).outputs(&["half:FP32[-1,4]", "double:FP32[-1,4]"]);
    assert_eq!(birth.ready().run(&[a.clone()]), [half, double.clone()]);
    let birth = Birth::torch(models::dict_output()).outputs(&["double:FP32[-1,4]"]);
    assert_eq!(birth.ready().run(&[a]), [double]);
}

#[test]
fn the_demo_model_knows_its_digits() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/demo");
    let model = std::fs::read(format!("{folder}/store/digits/1/model.pt")).unwrap();
    let manifest = std::fs::read_to_string(format!("{folder}/store/digits/1/model.toml")).unwrap();
    let samples = std::fs::read_to_string(format!("{folder}/samples.json")).unwrap();
    let mut cell = Birth { manifest: Some(manifest), ..Birth::torch(model) }.ready();
    println!("digits: exec to ready {:?}", cell.age());
    let numbers = |text: &str| text.split(',').map(|n| n.trim().parse().unwrap()).collect::<Vec<f32>>();
    let (mut asked, mut right) = (0, 0);
    for sample in samples.split("{\"label\":").skip(1) {
        let label: i64 = sample.split(',').next().unwrap().parse().unwrap();
        let pixels = sample.split_once('[').unwrap().1.split_once(']').unwrap().0;
        let answer = cell.run(&[f32s(&[1, 64], &numbers(pixels))]);
        asked += 1;
        right += i32::from(answer[1] == i64s(&[1], &[label]));
    }
    assert!(asked > 0 && right * 10 >= asked * 9, "{right} of {asked}");
}

#[test]
fn a_model_may_change_its_input_and_keep_it() {
    let x = f32s(&[1, 4], &ROWS[..4]);
    let mut cell = Birth::torch(models::in_place()).ready();
    for _ in 0..2 {
        assert_eq!(cell.run(&[x.clone()])[0].to_f32s(), [2.0, 3.0, 4.0, 5.0]);
    }
    let mut cell = Birth::torch(models::keeps_state()).ready();
    cell.run(&[x.clone()]);
    assert_eq!(cell.run(&[f32s(&[1, 4], &[9.0; 4])])[0], x);
}

#[test]
fn odd_tensors_come_out_dense() {
    let forward = |body: &str| {
        Forge::new("M").forward(&format!("def forward(self, x: Tensor) -> Tensor:\n  return {body}")).bytes()
    };
    let x = f32s(&[2, 4], &ROWS);
    let out = |body: &str, spec: &'static str| Birth::torch(forward(body)).outputs(&[spec]).ready().run(&[x.clone()]);
    let transposed = [1.0, -1.0, 2.0, 0.0, 3.0, 5.0, 4.0, 2.0];
    assert_eq!(out("x.t()", "y:FP32[4,-1]"), [f32s(&[4, 2], &transposed)]);
    assert_eq!(out("x[0, 0]", "y:FP32[]"), [f32s(&[], &[1.0])]);
    assert_eq!(out("x[:0]", "y:FP32[-1,4]"), [f32s(&[0, 4], &[])]);
    assert_eq!(out("x[0, 0].expand([2, 3])", "y:FP32[2,3]"), [f32s(&[2, 3], &[1.0; 6])]);
    let negated: Vec<f32> = ROWS.iter().map(|v| -v).collect();
    let view = "torch.imag(torch.conj(torch.complex(x, x)))";
    assert_eq!(out(view, "y:FP32[-1,4]"), [f32s(&[2, 4], &negated)]);
}

#[test]
fn a_model_that_fails_goes_on() {
    let mut cell = Birth::torch(models::raises(When::Asked, "no \"such\" day")).ready();
    let calm = f32s(&[1, 4], &ROWS[..4]);
    let asked = f32s(&[1, 4], &[5000.0; 4]);
    for _ in 0..2 {
        let (failure, detail) = cell.fails(&[asked.clone()]);
        assert_eq!(failure, Failure::Model);
        assert!(detail.contains("no \"such\" day"), "{detail}");
        assert_eq!(cell.run(&[calm.clone()]), [calm.clone()]);
    }
    cell.front.send(&ToWorker::Ping { token: 77 }).unwrap();
    assert_eq!(cell.hear(), FromWorker::Pong { token: 77 });
}

#[test]
fn too_much_memory_is_a_failure_and_not_the_end() {
    // 2⁵⁰ bytes: more than any address space has.
    let mut cell = Birth::torch(models::memory_bomb(When::Asked, 1 << 50)).ready();
    let (failure, detail) = cell.fails(&[f32s(&[1, 4], &[5000.0; 4])]);
    assert_eq!(failure, Failure::Memory, "{detail}");
    cell.run(&[f32s(&[1, 4], &ROWS[..4])]);
}

#[test]
fn an_output_that_is_not_as_declared_is_refused() {
    let asked = f32s(&[1, 4], &[5000.0; 4]);
    for model in [
        models::wrong_shape_output(When::Asked),
        models::wrong_dtype_output(When::Asked),
        models::expanded_output(When::Asked),
    ] {
        let (failure, detail) = Birth::torch(model).ready().fails(&[asked.clone()]);
        assert_eq!(failure, Failure::Output, "{detail}");
    }
    // Rows must agree only where requests ride together.
    let birth = Birth { max_batch_size: 8, ..Birth::torch(models::mutates_rows(When::Asked)) };
    assert_eq!(birth.ready().fails(&[asked.clone()]).0, Failure::Output);
    assert_eq!(Birth::torch(models::mutates_rows(When::Asked)).ready().run(&[asked.clone()])[0].dims, [2, 4]);
    // The shape is admissible here, but 4 TiB are not; nothing of it is made.
    let birth = Birth::torch(models::expanded_output(When::Asked)).outputs(&["y:FP32[-1,-1]"]);
    assert_eq!(birth.ready().fails(&[asked]).0, Failure::TooLarge);
}

#[test]
fn a_value_that_cannot_be_sent_is_refused() {
    let returns = |kind: &str, body: &str| {
        let source = format!("def forward(self, x: Tensor) -> {kind}:\n  {body}");
        Birth::torch(Forge::new("M").forward(&source).bytes())
    };
    let tensors = [
        ("x.to_sparse()", "sparse"),
        ("torch.complex(x, x)", "complex"),
        ("torch.quantize_per_tensor(x, 1.0, 0, 13)", "quantized"),
        ("torch.empty([2, 4], device=\"meta\")", "CPU"),
        ("x.to(23)", "Float8"),
        ("torch.zeros([1] * 20)", "16 dimensions"),
        ("torch._efficientzerotensor([1, 4])", "storage"),
        ("ops.inductor._reinterpret_tensor(x, [1, 4], [4, 1], 1000000)", "beyond its storage"),
    ];
    let mut refused: Vec<_> = Vec::new();
    for (body, why) in tensors {
        refused.push((returns("Tensor", &format!("return {body}")), why));
    }
    refused.push((returns("Tuple[Tensor, Tensor]", "return (x, x)"), "more tensors"));
    refused.push((returns("List[Tensor]", "return [x for i in range(300000)]"), "more tensors"));
    refused.push((returns("List[Tensor]", "l : List[Tensor] = []\n  return l"), "fewer tensors"));
    refused.push((returns("Dict[str, Tensor]", "return {\"z\": x}"), "Dict"));
    refused.push((returns("str", "return \"y\""), "String"));
    refused.push((returns("Optional[Tensor]", "return None"), "None"));
    for (birth, why) in refused {
        let birth = birth.past_the_gate(&["inductor::_reinterpret_tensor"]);
        let (mut cell, step, detail) = birth.refused();
        assert_eq!(step, casemate_ipc::work::Step::Trial, "{detail}");
        assert!(detail.contains(why), "{why}: {detail}");
        assert_eq!(cell.wait().code(), Some(casemate_ipc::launch::exit_code::TRIAL));
    }
}

#[test]
fn a_trial_finds_a_size_that_does() {
    // A kernel of 5 × 5 cannot run on a picture of one pixel.
    let source = "def forward(self, x: Tensor) -> Tensor:\n  return torch.conv2d(x, torch.ones([1, 1, 5, 5]))";
    let birth = Birth::torch(Forge::new("M").forward(source).bytes());
    let mut cell = birth.inputs(&["x:FP32[-1,1,-1,-1]"]).outputs(&["y:FP32[-1,1,-1,-1]"]).ready();
    assert_eq!(cell.run(&[f32s(&[1, 1, 5, 5], &[1.0; 25])]), [f32s(&[1, 1, 1, 1], &[25.0])]);
}

#[test]
fn print_and_warnings_go_into_the_log_in_measure() {
    let mut cell = Birth::torch(models::print_flood(When::Asked, 100_000)).ready();
    cell.log();
    cell.run(&[f32s(&[1, 4], &[5000.0; 4])]);
    // The pipe was full long before; the model did not wait.
    let log = cell.log();
    assert!(log.starts_with("~~~") && log.len() <= 1 << 17, "{} bytes", log.len());
    let source = "def forward(self, x: Tensor) -> Tensor:\n  return torch.std(x, dim=[0], correction=5) * 0 + x";
    let mut cell = Birth::torch(Forge::new("M").forward(source).bytes()).ready();
    cell.run(&[f32s(&[1, 4], &ROWS[..4])]);
    assert!(cell.log().contains("warning: "));
}
