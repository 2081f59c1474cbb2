//! SECURITY.md, "What a worker cannot do to the front": a worker that speaks the protocol wrongly on purpose, from inside
//! the cage. The front lives on unchanged, the liar is killed and named, the neighbour answers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "test code: what cannot be is a failure"
)]

use std::time::Duration;

use casemate_tests::casemate::{Casemate, Setup};
use casemate_tests::lag::Lag;
use casemate_tests::{models, process};

fn serve(script: &str) -> Casemate {
    // `after = 1`: the first request is honest, which is the control.
    Setup::new().echo("liar", script).simple("neighbour", &models::double()).limit("ping_ms", 1000).serve()
}

fn neighbour_answers(casemate: &Casemate) {
    let answer = Lag::within(Duration::from_secs(1), "the neighbour", || casemate.row("neighbour", [1.0; 4]));
    assert_eq!(answer.status, 200);
}

fn lie(word: &str, cause: &str, status: u16) {
    let casemate = serve(&format!("after = 1\nlie = \"{word}\""));
    let front = casemate.front();
    let descriptors = process::descriptors(front).len();
    let honest = casemate.row("liar", [1.0; 4]);
    assert_eq!(honest.status, 200, "{word}: {}", honest.text());
    let answer = casemate.row("liar", [1.0; 4]);
    assert_eq!(answer.status, status, "{word}: {}", answer.text());
    casemate.wait_until("the liar's end", Duration::from_secs(10), || {
        casemate.status("liar")["last_exit"]["cause"] == cause
    });
    neighbour_answers(&casemate);
    assert_eq!(casemate.front(), front, "{word}: the front was replaced");
    // The liar's successor is there, with the descriptors of its own.
    casemate.wait_until("a successor", Duration::from_secs(20), || casemate.status("liar")["state"] == "ready");
    let after = process::descriptors(front).len();
    assert!(after <= descriptors + 1, "{word}: {descriptors} descriptors became {after}");
}

#[test]
fn lies_about_shapes_lengths_and_places() {
    for word in ["shape", "length", "outside", "dtype", "count"] {
        lie(word, "protocol", 502);
    }
}

#[test]
fn answers_for_batches_that_were_never_sent() {
    lie("batch", "protocol", 502);
    lie("ready", "protocol", 502);
}

#[test]
fn packets_that_are_no_frames() {
    lie("garbage", "protocol", 502);
    lie("long", "protocol", 502);
    lie("detail", "protocol", 502);
}

#[test]
fn silence_is_ended_at_the_deadline() {
    lie("silence", "deadline", 504);
}

#[test]
fn descriptors_cannot_even_be_sent() {
    // The filter allows no sendmsg, so the attempt itself is the end.
    lie("fds", "syscall", 502);
}

#[test]
fn an_answer_that_comes_twice_or_without_end() {
    for word in ["twice", "flood"] {
        let casemate = serve(&format!("after = 1\nlie = \"{word}\""));
        let front = casemate.front();
        assert_eq!(casemate.row("liar", [1.0; 4]).status, 200);
        // The first of the two answers may be a good one.
        assert!([200, 502].contains(&casemate.row("liar", [1.0; 4]).status), "{word}");
        casemate.wait_until("the liar's end", Duration::from_secs(10), || {
            casemate.status("liar")["last_exit"]["cause"] == "protocol"
        });
        neighbour_answers(&casemate);
        assert_eq!(casemate.front(), front);
    }
}
