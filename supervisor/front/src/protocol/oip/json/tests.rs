use casemate_ipc::id::ModelId;
use proptest::prelude::*;

use super::*;
use crate::response::OutputTensor;

const MOST: u64 = 1 << 20;

fn envelope(json_length: Option<u64>) -> Envelope {
    Envelope { model: "m".parse().unwrap(), version: None, json_length, most: MOST }
}

fn json(text: &str) -> Result<(InferRequest, Wanted), Refusal> {
    parse(envelope(None), &Bytes::copy_from_slice(text.as_bytes()))
}

/// A body of JSON and what follows it, with the right header unless another is given.
fn binary(text: &str, tail: &[u8], length: Option<u64>) -> Result<(InferRequest, Wanted), Refusal> {
    let body = [text.as_bytes(), tail].concat();
    parse(envelope(Some(length.unwrap_or(text.len() as u64))), &body.into())
}

fn inputs(request: &InferRequest) -> &[InputTensor] {
    match &request.inputs {
        Inputs::Named(inputs) => inputs,
        Inputs::Raw(_) => &[],
    }
}

#[test]
fn a_json_request_is_read() {
    let (request, wanted) = json(
        r#"{"id":"a\n1","unknown":{"deep":[[[{}]]]},"parameters":{"priority":3,"sequence_id":"x"},
            "inputs":[{"data":[[1,2],[3,4]],"name":"x","shape":[2,2],"datatype":"FP32","parameters":{"other":1}},
                      {"name":"y","shape":[],"datatype":"bool","data":[true]}],
            "outputs":[{"name":"p"},{"name":"q","parameters":{"binary_data":true,"unknown":[1]}}]}"#,
    )
    .unwrap();
    assert_eq!(request.id.as_deref(), Some("a\n1"));
    assert_eq!(request.outputs, Some(vec!["p".to_owned(), "q".to_owned()]));
    let [x, y] = inputs(&request) else { panic!("two inputs") };
    assert_eq!((x.name.as_str(), x.dtype, x.shape.dims()), ("x", DType::Fp32, &[2, 2][..]));
    assert_eq!(x.data, [1f32, 2.0, 3.0, 4.0].map(f32::to_le_bytes).concat());
    assert_eq!((y.dtype, &y.data[..]), (DType::Bool, &[1u8][..]));
    assert!(!wanted.is_binary("p") && wanted.is_binary("q") && !wanted.is_binary("r"));
}

#[test]
fn binary_and_json_inputs_mix_and_nothing_is_copied() {
    let text = r#"{"parameters":{"binary_data_output":true},"outputs":[],"inputs":[
        {"name":"a","shape":[2],"datatype":"INT16","parameters":{"binary_data_size":4}},
        {"name":"b","shape":[1],"datatype":"UINT8","data":[9]},
        {"name":"c","shape":[3],"datatype":"UINT8","parameters":{"binary_data_size":3}},
        {"name":"d","shape":[0],"datatype":"FP64","parameters":{"binary_data_size":0}}]}"#;
    let body = Bytes::from([text.as_bytes(), &[1, 0, 2, 0, 7, 8, 9]].concat());
    let (request, wanted) = parse(envelope(Some(text.len() as u64)), &body).unwrap();
    let data: Vec<&[u8]> = inputs(&request).iter().map(|i| &i.data[..]).collect();
    assert_eq!(data, [&[1u8, 0, 2, 0][..], &[9], &[7, 8, 9], &[]]);
    assert!(body.as_ptr_range().contains(&inputs(&request)[2].data.as_ptr()));
    assert_eq!(request.outputs, None);
    assert!(wanted.is_binary("anything"));
}

#[test]
fn a_body_without_json_is_one_raw_tensor() {
    let (request, wanted) = parse(envelope(Some(0)), &Bytes::from_static(b"\x01\x02")).unwrap();
    assert!(matches!(request.inputs, Inputs::Raw(data) if data == b"\x01\x02"[..]));
    assert!(wanted.is_binary("anything"));
}

#[test]
fn bad_json_is_refused_and_the_place_is_named() {
    let one = |input: &str| format!(r#"{{"inputs":[{input}]}}"#);
    let long = "x".repeat(129);
    let cases: Vec<(String, &str)> = vec![
        ("".into(), "not an inference request"),
        ("{".into(), "not an inference request"),
        ("[]".into(), "it must be an object, {\"inputs\""),
        (" [[1, 2]]".into(), "it must be an object"),
        ("7".into(), "it must be an object"),
        ("{}".into(), "missing field `inputs`"),
        (r#"{"inputs":[]}"#.into(), "'inputs' is empty"),
        (r#"{"inputs":{}}"#.into(), "'inputs', an array"),
        (r#"{"inputs":[1]} x"#.into(), "inputs[0]"),
        (
            one(r#"{"name":"x","shape":[1],"datatype":"FP32","data":[1]},{"shape":[1]}"#),
            "inputs[1]: missing field `name`",
        ),
        (one(r#"{"name":"x","shape":[1],"datatype":"FP32","data":[1"#), "EOF"),
        (one(r#"{"name":"x","shape":[1,2.5],"datatype":"FP32","data":[1]}"#), "inputs[0]: shape[1]"),
        (one(r#"{"name":"x","shape":[-1],"datatype":"FP32","data":[1]}"#), "'x': shape[0] is -1"),
        (one(r#"{"name":"x","shape":[99999999999999999999],"datatype":"FP32","data":[1]}"#), "shape[0]"),
        (one(r#"{"name":"x","shape":[9223372036854775807,9],"datatype":"FP32","data":[1]}"#), "larger than any memory"),
        (
            one(&format!(r#"{{"name":"x","shape":[{}1],"datatype":"FP32","data":[1]}}"#, "1,".repeat(16))),
            "more than 16",
        ),
        (one(r#"{"name":"x","shape":[1],"datatype":"BYTES","data":["a"]}"#), "datatype BYTES is for texts"),
        (one(r#"{"name":"x","shape":[1],"datatype":"UINT32","data":[1]}"#), "unknown dtype"),
        (one(r#"{"name":"x","shape":[1],"datatype":"UINT8","data":[300]}"#), "inputs[0] 'x': data[0] is 300"),
        (one(r#"{"name":"x","shape":[1],"datatype":"FP32","data":[NaN]}"#), "expected value"),
        (one(r#"{"name":"x","shape":[1],"datatype":"FP32","data":[1e400]}"#), "data[0] is 1e400"),
        (one(r#"{"name":"x","shape":[2],"datatype":"FP32","data":[1]}"#), "'data' has 1 numbers; shape [2] wants 2"),
        (one(r#"{"name":"x","shape":[1],"datatype":"FP32"}"#), "neither 'data' nor"),
        (one(r#"{"name":"x","shape":[1],"datatype":"FP32","data":null}"#), "neither 'data' nor"),
        (one(r#"{"name":"","shape":[1],"datatype":"FP32","data":[1]}"#), "inputs[0]: 'name' must"),
        (one(&format!(r#"{{"name":"{long}","shape":[1],"datatype":"FP32","data":[1]}}"#)), "inputs[0]: 'name' must"),
        (one(r#"{"name":"a\u0000","shape":[1],"datatype":"FP32","data":[1]}"#), "inputs[0]: 'name' must"),
        (one(r#"{"name":"x","name":"y","shape":[1],"datatype":"FP32","data":[1]}"#), "duplicate field"),
        (one(&[r#"{"name":"x","shape":[1],"datatype":"FP32","data":[1]}"#; 2].join(",")), "inputs[1]: 'x' comes twice"),
        (
            one(r#"{"name":"x","shape":[1],"datatype":"FP32","parameters":{"shared_memory_region":"r"}}"#),
            "shares no memory",
        ),
        (one(r#"{"name":"x","shape":[1],"datatype":"FP32","parameters":{"binary_data_size":4}}"#), "no header"),
        (
            one(r#"{"name":"x","shape":[1],"datatype":"FP32","data":[1],"parameters":{"binary_data_size":4}}"#),
            "has both",
        ),
        (one(r#"{"name":"x","shape":[1048576],"datatype":"FP32","data":[1]}"#), "the limit"),
        (one(&vec![r#"{"name":"x","shape":[1],"datatype":"FP32"}"#; 65].join(",")), "more than 64"),
        (r#"{"inputs":[],"outputs":[{"name":"y"},{"name":"y"}]}"#.into(), "outputs[1] 'y': comes twice"),
        (r#"{"inputs":[],"outputs":[{"name":"y","parameters":{"classification":2}}]}"#.into(), "classification"),
        (
            r#"{"inputs":[],"outputs":[{"name":"y","parameters":{"shared_memory_region":"r"}}]}"#.into(),
            "shares no memory",
        ),
        (format!(r#"{{"id":"{}","inputs":[]}}"#, "x".repeat(257)), "'id' has 257 bytes"),
        (format!(r#"{{"id":{}"{}","inputs":[]}}"#, "", "\u{1}".repeat(3)), "control character"),
    ];
    for (body, part) in cases {
        let refusal = json(&body).err().unwrap_or_else(|| panic!("{body} passed"));
        let kind = if part == "the limit" { Kind::TooLarge } else { Kind::Invalid };
        assert_eq!(refusal.kind, kind, "{body}");
        assert!(refusal.message.contains(part), "{body}\nsays {:?}, not {part:?}", refusal.message);
        assert!(refusal.message.len() < 1000, "{} bytes", refusal.message.len());
    }
}

#[test]
fn lies_about_binary_sizes_are_refused() {
    let of = |size: &str| {
        format!(
            r#"{{"inputs":[{{"name":"x","shape":[2],"datatype":"FP32","parameters":{{"binary_data_size":{size}}}}}]}}"#
        )
    };
    assert!(binary(&of("8"), &[0; 8], None).is_ok());
    let eight = of("8").len() as u64;
    let cases: Vec<(Result<_, Refusal>, &str)> = vec![
        (binary(&of("-1"), &[0; 8], None), "expected u64"),
        (binary(&of("8.0"), &[0; 8], None), "expected u64"),
        (binary(&of("18446744073709551616"), &[0; 8], None), "expected u64"),
        (binary(&of("18446744073709551615"), &[0; 8], None), "has 8 bytes"),
        (binary(&of("7"), &[0; 8], None), "has 8 bytes"),
        (binary(&of("8"), &[0; 7], None), "only 7 bytes"),
        (binary(&of("8"), &[], None), "only 0 bytes"),
        (binary(&of("8"), &[0; 9], None), "1 bytes are left"),
        (binary(&of("8"), &[0; 8], Some(eight + 9)), "but the body has"),
        (binary(&of("8"), &[0; 8], Some(u64::MAX)), "but the body has"),
        (binary(&of("8"), &[0; 8], Some(eight + 1)), "trailing characters"),
        (binary(&of("8"), &[0; 8], Some(eight - 1)), "EOF"),
        (binary(&of("8"), &[0; 8], Some(1)), "EOF"),
    ];
    for (i, (result, part)) in cases.into_iter().enumerate() {
        let refusal = result.err().unwrap_or_else(|| panic!("case {i} passed"));
        assert!(refusal.message.contains(part), "case {i} says {:?}, not {part:?}", refusal.message);
    }
    let twice = r#"{"inputs":[{"name":"x","shape":[4],"datatype":"UINT8","parameters":{"binary_data_size":4}},
        {"name":"y","shape":[4],"datatype":"UINT8","parameters":{"binary_data_size":4}}]}"#;
    assert!(binary(twice, &[0; 7], None).unwrap_err().message.contains("inputs[1] 'y'"));
    let truth = r#"{"inputs":[{"name":"x","shape":[2],"datatype":"BOOL","parameters":{"binary_data_size":2}}]}"#;
    assert!(binary(truth, &[1, 2], None).unwrap_err().message.contains("byte 1 is 2"));
    assert!(binary(truth, &[1, 0], None).is_ok());
}

#[test]
fn the_length_header_is_digits_and_comes_once() {
    use axum::http::HeaderMap;
    let read = |values: &[&'static str]| {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(binary::JSON_LENGTH, value.parse().unwrap());
        }
        binary::json_length(&headers)
    };
    assert_eq!(read(&[]).unwrap(), None);
    assert_eq!(read(&["120"]).unwrap(), Some(120));
    for bad in [&["+1"][..], &["-1"], &[""], &["1.0"], &["99999999999999999999999"], &["1", "1"], &["1,1"]] {
        assert!(read(bad).is_err(), "{bad:?} passed");
    }
}

#[test]
fn deep_nesting_is_refused_without_recursion() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for body in [
        format!(r#"{{"inputs":[{{"name":"x","shape":[1],"datatype":"FP32","data":{deep}}}]}}"#),
        format!(r#"{{"inputs":{deep}}}"#),
        format!(r#"{{"ignored":{deep},"inputs":[]}}"#),
        deep,
    ] {
        assert!(json(&body).is_err());
    }
}

fn answer(outputs: Vec<OutputTensor>) -> InferResponse {
    let model = ModelId { name: "m".parse().unwrap(), version: "3".parse().unwrap() };
    InferResponse { model, id: Some("q\"".into()), outputs: outputs.into() }
}

fn output(name: &str, dtype: DType, dims: &[u64], data: &[u8]) -> OutputTensor {
    let shape = Shape::new(dims.to_vec()).unwrap();
    OutputTensor { name: name.into(), dtype, shape, data: Bytes::copy_from_slice(data) }
}

#[test]
fn answers_are_written_in_either_form() {
    let response = answer(vec![
        output("a", DType::Uint8, &[1, 2], &[1, 2]),
        output("b", DType::Fp32, &[1], &0.1f32.to_le_bytes()),
        output("c", DType::Uint8, &[2], &[3, 4]),
    ]);
    let plain = render(&response, &Wanted::default());
    assert_eq!(plain.json_length, None);
    assert_eq!(
        plain.body,
        r#"{"model_name":"m","model_version":"3","id":"q\"","outputs":[{"name":"a","datatype":"UINT8","shape":[1,2],"data":[1,2]},{"name":"b","datatype":"FP32","shape":[1],"data":[0.1]},{"name":"c","datatype":"UINT8","shape":[2],"data":[3,4]}]}"#
    );
    let mixed = render(&response, &Wanted { others: true, named: vec![("b".into(), false)] });
    let (json, tail) = mixed.body.split_at(mixed.json_length.unwrap());
    assert_eq!(tail, [1, 2, 3, 4]);
    let json: serde_json::Value = serde_json::from_slice(json).unwrap();
    assert_eq!(json["outputs"][0]["parameters"]["binary_data_size"], 2);
    assert_eq!(json["outputs"][1]["data"][0], 0.1);
    assert!(json["outputs"][2].get("data").is_none());
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..200), length in prop::option::of(0u64..250)) {
        let _ = parse(envelope(length), &body.into());
    }

    /// Closer to the grammar: a good request with some bytes changed, cut or added.
    #[test]
    fn no_spoilt_request_makes_it_panic(at in 0usize..300, byte in any::<u8>(), cut in 0usize..300, length in 0u64..300) {
        let mut body = br#"{"id":"1","inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[[1.5,-2e3]]},{"name":"y","shape":[4],"datatype":"BOOL","parameters":{"binary_data_size":4}}],"outputs":[{"name":"z","parameters":{"binary_data":true}}]}"#.to_vec();
        let json = body.len();
        body.extend([0, 1, 0, 1]);
        prop_assert!(parse(envelope(Some(json as u64)), &body.clone().into()).is_ok());
        let place = at % body.len();
        body[place] = byte;
        let _ = parse(envelope(Some(json as u64)), &body.clone().into());
        let _ = parse(envelope(Some(length)), &body.clone().into());
        body.truncate(cut);
        let _ = parse(envelope(None), &body.clone().into());
        let _ = parse(envelope(Some(length)), &body.into());
    }

    /// Long arrays go another way, to the same end.
    #[test]
    fn lifting_changes_nothing(numbers in prop::collection::vec(-1e6f64..1e6, 300), spoilt in prop::option::of((any::<usize>(), r#"[\[\],0-9eE.{}":tfn +é😀-]{0,3}"#)),
        which in 0..DType::ALL.len(), flat in any::<bool>(), digits in 0usize..19) {
        let list: Vec<String> = numbers.iter().map(|n| format!("{n:.digits$}")).collect();
        let rows: Vec<String> = list.chunks(100).map(|row| format!("[{}]", row.join(", "))).collect();
        let data = if flat { list.join(",") } else { rows.join(",") };
        let dtype = DType::ALL[which];
        let mut text = format!(r#"{{"inputs":[{{"name":"x","shape":[3,100],"datatype":"{dtype}","data":[{data}]}},{{"name":"y","datatype":"UINT8","shape":[1],"data":[1]}}]}}"#);
        if let Some((at, what)) = spoilt {
            let at = at % text.len();
            text.replace_range(at..at + 1, &what);
        }
        let plain = read(text.as_bytes(), None, binary::split(None, &Bytes::new()).unwrap().1, MOST);
        match (json(&text), plain) {
            (Ok((request, _)), Ok(plain)) => {
                let bytes = |inputs: &[InputTensor]| inputs.iter().map(|i| (i.name.clone(), i.data.clone())).collect::<Vec<_>>();
                prop_assert_eq!(bytes(inputs(&request)), bytes(&plain.inputs));
            }
            (Err(refusal), Err(plain)) => prop_assert_eq!(refusal.message, plain.message),
            (lifted, plain) => prop_assert!(false, "{:?} and {:?}\n{}", lifted.map(drop), plain.map(drop), text),
        }
    }

    /// Wherever a list called `data` stands, the whole text must be JSON.
    #[test]
    fn a_list_that_is_no_inputs_is_looked_at_too(numbers in prop::collection::vec(0u8..9, 200), inner in any::<bool>()) {
        let list = numbers.iter().map(u8::to_string).collect::<Vec<_>>().join(",");
        let text = |other: &str| {
            let other = format!(r#""data":[{other}]"#);
            let (inner, outer) = if inner { (format!(r#","parameters":{{{other}}}"#), String::new()) } else { (String::new(), format!(r#","x":{{{other}}}"#)) };
            format!(r#"{{"inputs":[{{"name":"x","shape":[200],"datatype":"UINT8","data":[{list}]{inner}}}]{outer}}}"#)
        };
        let parses = |text: &str| json(text).is_ok();
        prop_assert!(parses(&text(&list)));
        prop_assert!(!parses(&text(&list.replace(',', ",,"))));
    }

    #[test]
    fn what_is_rendered_can_be_sent_back(which in 0..DType::ALL.len(), rows in 0u64..4, as_bytes in any::<bool>(), seed in any::<u64>()) {
        let dtype = DType::ALL[which];
        let bytes = Shape::new(vec![rows, 3]).unwrap().bytes(dtype).unwrap();
        // Bytes whose every grouping is a finite float.
        let data: Vec<u8> = (0..bytes).map(|i| (seed.rotate_left(i as u32 * 7) as u8) & if dtype == DType::Bool { 1 } else { 0x3f }).collect();
        let response = answer(vec![output("x", dtype, &[rows, 3], &data)]);
        let rendered = render(&response, &Wanted { others: as_bytes, named: vec![] });
        let split = rendered.json_length.unwrap_or(rendered.body.len());
        let head = String::from_utf8(rendered.body[..split].to_vec()).unwrap().replace("outputs", "inputs");
        let body = [head.as_bytes(), &rendered.body[split..]].concat();
        let length = as_bytes.then_some(head.len() as u64);
        let (request, _) = parse(envelope(length), &body.into()).unwrap();
        prop_assert_eq!(&inputs(&request)[0].data[..], &data[..]);
    }
}
