//! Requests that ride together: everybody gets their own rows, and one bad request is one bad answer.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "test code: what cannot be is a failure"
)]

use casemate_tests::casemate::{Casemate, Setup};
use casemate_tests::models::{self, When};
use serde_json::json;

const TOGETHER: &str = "[batching]\nmax_batch_size = 8\nmax_batch_delay_us = 300000\n[limits]\ndeadline_ms = 10000";

fn at_once(casemate: &Casemate, model: &str, firsts: &[f32]) -> Vec<(u16, serde_json::Value)> {
    std::thread::scope(|scope| {
        let ask = |first: f32| {
            let answer = casemate.row(model, [first, 1.0, 1.0, 1.0]);
            (answer.status, answer.json()["outputs"][0]["data"].clone())
        };
        let asked: Vec<_> = firsts.iter().map(|first| scope.spawn(move || ask(*first))).collect();
        asked.into_iter().map(|a| a.join().unwrap()).collect()
    })
}

#[test]
fn rows_ride_together_and_come_apart_again() {
    let (x, y) = (&["x:FP32[-1,4]"], &["y:FP32[-1,4]"]);
    let casemate = Setup::new()
        .model("double", &models::double(), x, y, TOGETHER)
        .model("count", &models::batch_rows(), x, y, TOGETHER)
        .serve();
    let firsts = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    for ((status, data), first) in at_once(&casemate, "double", &firsts).iter().zip(firsts) {
        assert_eq!(*status, 200);
        assert_eq!(*data, json!([2.0 * first, 2.0, 2.0, 2.0]));
    }
    // Control: they did ride together.
    let counts = at_once(&casemate, "count", &firsts);
    let most = counts.iter().map(|(_, data)| data[0].as_f64().unwrap() as u32).max();
    assert!(most > Some(1), "{counts:?}");
    assert!(casemate.status("double")["worker"]["batches"].as_u64().unwrap() < 6);
}

#[test]
fn one_bad_request_is_one_bad_answer() {
    // Raises when the first number of the first row is above 1000, so it takes its whole batch along where it is first.
    let raises = models::raises(When::Asked, "no");
    let casemate = Setup::new().model("m", &raises, &["x:FP32[-1,4]"], &["y:FP32[-1,4]"], TOGETHER).serve();
    let answers = at_once(&casemate, "m", &[2000.0, 1.0, 2.0, 3.0]);
    let statuses: Vec<u16> = answers.iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses[1..], [200, 200, 200], "{answers:?}");
}
