use std::time::Instant;

use casemate_ipc::tensor::DType;

use super::*;
use crate::admit::{head, permit::Room};

fn declared(inputs: &[&str], outputs: &[&str]) -> Declared {
    let specs = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect::<Vec<_>>();
    Declared {
        signature: ModelSignature::new(specs(inputs), specs(outputs)).unwrap(),
        non_finite: outputs.iter().map(|_| false).collect(),
        max_batch_size: 8,
        max_batch_delay_us: 0,
        deadline_ms: 1000,
        sha256: [0; 32],
        platform: String::new(),
    }
}

fn tensor(name: &str, dtype: DType, dims: &[u64]) -> InputTensor {
    let shape = Shape::new(dims.to_vec()).unwrap();
    let data = Bytes::from(vec![0; shape.bytes(dtype).unwrap()]);
    InputTensor { name: name.to_owned(), dtype, shape, data }
}

fn run(declared: &Declared, inputs: Inputs, outputs: Option<Vec<String>>) -> Result<(Job, Wanted), Refusal> {
    let visitor = head::admit(&Room::new(1 << 20), 1 << 20, Some(100), Instant::now())?;
    let request = InferRequest { model: "m".parse().unwrap(), version: None, id: None, inputs, outputs };
    admit(visitor, request, declared, 4096).map(|(job, wanted, _)| (job, wanted))
}

#[test]
fn inputs_are_put_into_the_order_of_the_declaration() {
    let declared = declared(&["a:f32[-1,2]", "b:i64[-1]"], &["y:f32[-1]", "z:f32[-1]"]);
    let inputs = vec![tensor("b", DType::Int64, &[3]), tensor("a", DType::Fp32, &[3, 2])];
    let (job, wanted) = run(&declared, Inputs::Named(inputs.into()), Some(vec!["z".into()])).unwrap();
    assert_eq!(job.inputs()[0].shape.dims(), [3, 2]);
    assert_eq!((job.rows(), wanted), (Some(3), Some(vec![1])));
}

#[test]
fn everything_that_does_not_fit_is_refused_with_a_reason() {
    let declared = declared(&["a:f32[-1,2]", "b:i64[-1]"], &["y:f32[-1]"]);
    let a = || tensor("a", DType::Fp32, &[3, 2]);
    let b = || tensor("b", DType::Int64, &[3]);
    let short = || InputTensor { data: Bytes::from_static(&[0; 23]), ..a() };
    let cases: Vec<(Vec<InputTensor>, &str)> = vec![
        (vec![a()], "input missing: b:INT64[-1]"),
        (vec![], "input missing: a:FP32[-1,2], b:INT64[-1]"),
        (vec![a(), b(), tensor("c", DType::Fp32, &[1])], "no input \"c\""),
        (vec![a(), b(), b()], "given twice"),
        (vec![a(), tensor("b", DType::Int32, &[3])], "\"b\" is INT32"),
        (vec![a(), tensor("b", DType::Int64, &[3, 1])], "does not fit"),
        (vec![tensor("a", DType::Fp32, &[3, 3]), b()], "does not fit"),
        (vec![a(), tensor("b", DType::Int64, &[4])], "has 4 rows"),
        (vec![tensor("a", DType::Fp32, &[0, 2]), tensor("b", DType::Int64, &[0])], "0 rows"),
        (vec![short(), b()], "has 23 bytes"),
        (vec![tensor("a", DType::Fp32, &[600, 2]), tensor("b", DType::Int64, &[600])], "at most 4096"),
    ];
    for (inputs, expected) in cases {
        let refusal = run(&declared, Inputs::Named(inputs.into()), None).unwrap_err();
        assert!(refusal.message.contains(expected), "{:?} lacks {expected:?}", refusal.message);
    }
    let refusal = run(&declared, Inputs::Named(vec![a(), b()].into()), Some(vec!["q".into()])).unwrap_err();
    assert!(refusal.message.contains("no output \"q\""));
}

#[test]
fn a_raw_body_finds_its_shape() {
    let one = declared(&["x:f32[-1,4]"], &["y:f32[-1]"]);
    let raw = |declared: &Declared, n: usize| run(declared, Inputs::Raw(Bytes::from(vec![0; n])), None);
    assert_eq!(raw(&one, 48).unwrap().0.inputs()[0].shape.dims(), [3, 4]);
    assert!(raw(&one, 47).is_err());
    assert!(raw(&one, 0).is_err());
    assert!(raw(&declared(&["x:f32[4]"], &["y:f32[1]"]), 16).is_ok());
    assert!(raw(&declared(&["x:f32[4]"], &["y:f32[1]"]), 32).is_err());
    let truth = |byte| run(&declared(&["x:bool[2]"], &["y:f32[1]"]), Inputs::Raw(Bytes::from(vec![1, byte])), None);
    assert!(truth(0).is_ok() && truth(1).is_ok() && truth(2).is_err());
    // Wherever it stands in a large one.
    let large = |at: Option<usize>| {
        let mut data = vec![1; 3 * 4096 + 7];
        at.into_iter().for_each(|at| data[at] = 2);
        is_truth(&data)
    };
    assert!(large(None) && is_truth(&[]));
    assert!(![0, 4095, 4096, 3 * 4096 + 6].map(|at| large(Some(at))).contains(&true));
    assert!(raw(&declared(&["x:f32[-1,-1]"], &["y:f32[1]"]), 16).is_err());
    assert!(raw(&declared(&["x:f32[4]", "z:f32[4]"], &["y:f32[1]"]), 16).is_err());
}
