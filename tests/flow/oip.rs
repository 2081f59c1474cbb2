//! The Open Inference Protocol as a client sees it: metadata, JSON and binary tensors in both directions, every type.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "test code: what cannot be is a failure"
)]

use casemate_tests::casemate::{Casemate, Setup};
use casemate_tests::client::Answer;
use casemate_tests::models;
use serde_json::{Value, json};

const TYPES: [(&str, &str); 10] = [
    ("BOOL", "[true, false, true]"),
    ("UINT8", "[0, 7, 255]"),
    ("INT8", "[-128, 0, 127]"),
    ("INT16", "[-32768, 0, 32767]"),
    ("INT32", "[-2147483648, 0, 2147483647]"),
    ("INT64", "[-9223372036854775808, 0, 9223372036854775807]"),
    ("FP16", "[-1.5, 0.0, 2.5]"),
    ("BF16", "[-1.5, 0.0, 2.5]"),
    ("FP32", "[0.1, -3.4028235e38, 1e-45]"),
    ("FP64", "[0.1, -1.7976931348623157e308, 5e-324]"),
];

fn infer_binary(casemate: &Casemate, model: &str, header: &Value, tensors: &[&[u8]]) -> Answer {
    let header = header.to_string();
    let mut body = header.clone().into_bytes();
    tensors.iter().for_each(|t| body.extend_from_slice(t));
    let length = header.len().to_string();
    casemate.send("POST", &format!("/v2/models/{model}/infer"), &[("Inference-Header-Content-Length", &length)], &body)
}

/// The JSON and the bytes behind it.
fn split(answer: &Answer) -> (Value, Vec<u8>) {
    let length: usize = answer.headers["inference-header-content-length"].parse().unwrap();
    (serde_json::from_slice(&answer.body[..length]).unwrap(), answer.body[length..].to_vec())
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

#[test]
fn the_server_and_its_models_introduce_themselves() {
    let setup =
        Setup::new().version("m", "2", "torchscript", &models::double(), &["x:FP32[-1,4]"], &["y:FP32[-1,4]"], "");
    let casemate = setup.simple("m", &models::double()).config("[models.m]\nversions = \"all\"").serve();
    let server = casemate.get("/v2").json();
    assert_eq!(server["name"], "casemate");
    assert_eq!(server["extensions"], json!(["binary_tensor_data"]));
    assert_eq!(casemate.get("/v2/health/live").json()["live"], true);
    assert_eq!(casemate.get("/v2/health/ready").json()["ready"], true);
    let model = casemate.get("/v2/models/m").json();
    assert_eq!(model["name"], "m");
    assert_eq!(model["versions"], json!(["1", "2"]));
    assert_eq!(model["inputs"], json!([{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]));
    assert!(model["platform"].as_str().unwrap().contains("torch"), "{model}");
    assert_eq!(casemate.get("/v2/models/m/versions/2/ready").status, 200);
    assert_eq!(casemate.get("/v2/models/m/ready").status, 200);
    assert_eq!(casemate.get("/v2/models/m/versions/3").status, 404);
    assert_eq!(casemate.get("/v2/models/n/ready").status, 404);
    assert_eq!(casemate.get("/ping").json()["status"], "Healthy");
    assert!(
        casemate.get("/metrics").text().contains("casemate_model_state{model=\"m\",version=\"2\",state=\"ready\"} 1")
    );
    let body =
        json!({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}).to_string();
    let answer = casemate.send("POST", "/v2/models/m/versions/2/infer", &[], body.as_bytes()).json();
    assert_eq!(answer["model_version"], "2");
}

#[test]
fn json_in_and_out() {
    let casemate = Setup::new()
        .model("linear", &models::linear(16, 4), &["x:FP32[-1,16]"], &["y:FP32[-1,4]"], "")
        .model(
            "two",
            &models::two_inputs_two_outputs(),
            &["a:FP32[-1,4]", "b:FP32[-1,4]"],
            &["sum:FP32[-1,4]", "difference:FP32[-1,4]"],
            "",
        )
        .serve();
    let row: Vec<f32> = (0..16).map(|i| i as f32 / 8.0 - 1.0).collect();
    let tensor = json!({"name": "x", "shape": [1, 16], "datatype": "FP32", "data": row});
    let answer = casemate.infer("linear", &json!({"id": "forty-two", "inputs": [tensor]})).json();
    assert_eq!((answer["model_name"].as_str(), answer["id"].as_str()), (Some("linear"), Some("forty-two")));
    let output = &answer["outputs"][0];
    assert_eq!((output["name"].as_str(), output["shape"].clone()), (Some("y"), json!([1, 4])));
    for (got, want) in output["data"].as_array().unwrap().iter().zip(models::linear_answer(&row, 4)) {
        assert!((got.as_f64().unwrap() - f64::from(want)).abs() < 1e-5, "{got} is not {want}");
    }
    // Two rows, nested; the second input stands first; one output is asked for.
    let a = json!({"name": "a", "shape": [2, 4], "datatype": "FP32", "data": [[1, 2, 3, 4], [5, 6, 7, 8]]});
    let b = json!({"name": "b", "shape": [2, 4], "datatype": "FP32", "data": [1, 1, 1, 1, 2, 2, 2, 2]});
    let answer = casemate.infer("two", &json!({"inputs": [b, a], "outputs": [{"name": "difference"}]})).json();
    assert_eq!(answer["outputs"].as_array().unwrap().len(), 1);
    assert_eq!(answer["outputs"][0]["name"], "difference");
    assert_eq!(answer["outputs"][0]["data"], json!([0.0, 1.0, 2.0, 3.0, 3.0, 4.0, 5.0, 6.0]));
}

#[test]
fn every_type_goes_through_unchanged() {
    let identity = models::identity();
    let setup = TYPES.iter().fold(Setup::new(), |setup, (dtype, _)| {
        let (x, y) = (format!("x:{dtype}[-1]"), format!("y:{dtype}[-1]"));
        setup.model(dtype, &identity, &[&x], &[&y], "")
    });
    let casemate = setup.serve();
    for (dtype, data) in TYPES {
        let data: Value = serde_json::from_str(data).unwrap();
        let answer =
            casemate.infer(dtype, &json!({"inputs": [{"name": "x", "shape": [3], "datatype": dtype, "data": data}]}));
        assert_eq!(answer.status, 200, "{dtype}: {}", answer.text());
        assert_eq!(answer.json()["outputs"][0]["data"], data, "{dtype}");
        // The same bytes, through the binary extension.
        let size: usize = 3 * usize::from(match dtype {
            "BOOL" | "UINT8" | "INT8" => 1u8,
            "INT16" | "FP16" | "BF16" => 2,
            "INT32" | "FP32" => 4,
            _ => 8,
        });
        let bytes: Vec<u8> =
            (0..size).map(|i| u8::from(i % 2 == 0 && dtype == "BOOL") + u8::from(dtype != "BOOL") * i as u8).collect();
        let header = json!({
            "inputs": [{"name": "x", "shape": [3], "datatype": dtype, "parameters": {"binary_data_size": size}}],
            "parameters": {"binary_data_output": true},
        });
        let answer = infer_binary(&casemate, dtype, &header, &[&bytes]);
        assert_eq!(answer.status, 200, "{dtype}: {}", answer.text());
        assert_eq!(split(&answer).1, bytes, "{dtype}");
    }
}

#[test]
fn binary_and_json_mix_in_both_directions() {
    let (inputs, outputs) = (["a:FP32[-1,4]", "b:FP32[-1,4]"], ["sum:FP32[-1,4]", "difference:FP32[-1,4]"]);
    let casemate = Setup::new()
        .model("two", &models::two_inputs_two_outputs(), &inputs, &outputs, "")
        .simple("double", &models::double())
        .serve();
    let header = json!({
        "inputs": [
            {"name": "a", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}},
            {"name": "b", "shape": [1, 4], "datatype": "FP32", "data": [1, 1, 1, 1]},
        ],
        "outputs": [{"name": "sum", "parameters": {"binary_data": true}}, {"name": "difference"}],
    });
    let answer = infer_binary(&casemate, "two", &header, &[&floats(&[1.0, 2.0, 3.0, 4.0])]);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let (json, bytes) = split(&answer);
    assert_eq!(bytes, floats(&[2.0, 3.0, 4.0, 5.0]));
    assert_eq!(json["outputs"][0]["parameters"]["binary_data_size"], 16);
    assert_eq!(json["outputs"][1]["data"], json!([0.0, 1.0, 2.0, 3.0]));
    // A raw body: no JSON at all.
    let raw = floats(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    let path = "/v2/models/double/infer";
    let answer = casemate.send("POST", path, &[("Inference-Header-Content-Length", "0")], &raw);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let sixteen = floats(&[2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0]);
    let whole = answer.headers.contains_key("inference-header-content-length");
    let got = if whole { split(&answer).1 } else { floats(&as_floats(&answer.json()["outputs"][0]["data"])) };
    assert_eq!(got, sixteen);
}

#[test]
fn models_may_answer_with_a_dict_or_a_list_and_change_their_inputs() {
    let outputs = ["double:FP32[-1,4]", "half:FP32[-1,4]"];
    let swapped = ["half:FP32[-1,4]", "double:FP32[-1,4]"];
    let casemate = Setup::new()
        .model("dict", &models::dict_output(), &["x:FP32[-1,4]"], &swapped, "")
        .model("list", &models::list_output(), &["x:FP32[-1,4]"], &outputs, "")
        .simple("in-place", &models::in_place())
        .model("ints", &models::sum_int64(), &["x:INT64[-1,4]"], &["y:INT64[-1]"], "")
        .serve();
    let dict = casemate.row("dict", [2.0, 4.0, 6.0, 8.0]).json();
    assert_eq!(dict["outputs"][0]["name"], "half");
    assert_eq!(dict["outputs"][0]["data"], json!([1.0, 2.0, 3.0, 4.0]), "a dict's outputs are found by name");
    assert_eq!(casemate.row("list", [2.0; 4]).status, 200);
    for _ in 0..3 {
        assert_eq!(casemate.row("in-place", [1.0; 4]).json()["outputs"][0]["data"], json!([2.0, 2.0, 2.0, 2.0]));
    }
    let ints = casemate
        .infer("ints", &json!({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "INT64", "data": [1, 2, 3, 4]}]}));
    assert_eq!(ints.status, 200, "{}", ints.text());
}

#[test]
fn a_large_tensor_goes_through_shared_memory() {
    let casemate = Setup::new().model("m", &models::identity(), &["x:FP32[-1]"], &["y:FP32[-1]"], "").serve();
    let values: Vec<f32> = (0..4_000_000).map(|i| i as f32).collect();
    let bytes = floats(&values);
    let header = json!({
        "inputs": [{"name": "x", "shape": [values.len()], "datatype": "FP32", "parameters": {"binary_data_size": bytes.len()}}],
        "parameters": {"binary_data_output": true},
    });
    let answer = infer_binary(&casemate, "m", &header, &[&bytes]);
    assert_eq!(answer.status, 200);
    assert!(split(&answer).1 == bytes, "16 MB came back changed");
}

fn as_floats(data: &Value) -> Vec<f32> {
    data.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}
