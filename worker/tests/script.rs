//! The scripted engine does and says what its script wants: the tests of everything around a worker rest on that.

mod cell;

use std::time::{Duration, Instant};

use casemate_ipc::frame::MAX_FRAME;
use casemate_ipc::launch::exit_code;
use casemate_ipc::seqpacket::ChannelError;
use casemate_ipc::work::{Failure, FromWorker, MAX_DETAIL, Step};
use cell::{Birth, Cell, Value, f32s};

fn x() -> Value {
    f32s(&[2, 4], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
}

fn sent(script: &str) -> Cell {
    let mut cell = Birth::echo(script).ready();
    cell.send(&[x()]);
    cell
}

#[test]
fn an_empty_script_is_an_honest_echo() {
    let mut cell = Birth::echo("").outputs(&["y:FP32[-1,4]", "z:INT64[-1,2]"]).ready();
    let answer = cell.run(&[x()]);
    assert_eq!(answer[0], x());
    assert_eq!((&answer[1].dims[..], &answer[1].bytes[..]), (&[2, 2][..], &[0; 32][..]));
}

#[test]
fn it_acts_when_it_should() {
    for death in ["segv", "fpe", "ill", "abort", "stack"] {
        let signal = match death {
            "segv" | "stack" => libc::SIGSEGV,
            "fpe" => libc::SIGFPE,
            "ill" => libc::SIGILL,
            // abort() blocks signals first, which is a call that the filter does not allow.
            _ => libc::SIGSYS,
        };
        sent(&format!("crash = \"{death}\"")).dies_of(signal);
    }
    sent("syscall = 41").dies_of(libc::SIGSYS);
    let mut cell = Birth::echo("after = 1\nexit_code = 9").ready();
    cell.run(&[x()]);
    cell.send(&[x()]);
    assert_eq!(cell.wait().code(), Some(9));
    let (mut cell, step, detail) = Birth::echo("at = \"trial\"\nfail = \"not today\"").refused();
    assert_eq!((step, &detail[..], cell.wait().code()), (Step::Trial, "not today", Some(exit_code::TRIAL)));
    let (_, step, _) = Birth::echo("at = \"load\"\nfail = \"never\"").refused();
    assert_eq!(step, Step::Load);
    let (_, step, _) = Birth::echo("lie = \"the truth\"").refused();
    assert_eq!(step, Step::Load);

    let mut cell = Birth::echo("sleep_ms = 300").ready();
    let begun = Instant::now();
    cell.run(&[x()]);
    assert!(begun.elapsed() >= Duration::from_millis(300));
    let mut cell = Birth::echo("allocate = 4611686018427387904").ready();
    assert_eq!(cell.fails(&[x()]).0, Failure::Memory);
    let mut cell = Birth::echo("print = \"hello\"\nprint_lines = 3").ready();
    cell.run(&[x()]);
    assert!(cell.log().ends_with("hello\nhello\nhello\n"));
}

#[test]
fn it_lies_as_it_should() {
    let honest = |cell: &mut Cell, message: FromWorker| match message {
        FromWorker::Done { outputs, .. } => cell.responses.take(0, &outputs[0]).is_ok(),
        _ => false,
    };
    for lie in ["shape", "length", "outside"] {
        let mut cell = sent(&format!("lie = \"{lie}\""));
        let told = cell.hear();
        assert!(matches!(told, FromWorker::Done { .. }) && !honest(&mut cell, told), "{lie}");
    }
    let mut cell = sent("lie = \"twice\"");
    let (first, second) = (cell.hear(), cell.hear());
    assert_eq!(first, second);
    assert!(honest(&mut cell, second));
    assert!(matches!(sent("lie = \"batch\"").hear(), FromWorker::Done { batch, .. } if batch.0 > 1000));
    assert!(matches!(sent("lie = \"count\"").hear(), FromWorker::Done { outputs, .. } if outputs.is_empty()));
    let other = |m| matches!(m, FromWorker::Done { outputs, .. } if outputs[0].dtype != x().dtype);
    assert!(other(sent("lie = \"dtype\"").hear()));
    assert!(matches!(sent("lie = \"ready\"").hear(), FromWorker::Ready { .. }));
    let long = |m| matches!(m, FromWorker::Failed { detail, .. } if detail.len() > MAX_DETAIL);
    assert!(long(sent("lie = \"detail\"").hear()));
    let mut cell = sent("lie = \"flood\"");
    for _ in 0..1000 {
        assert!(matches!(cell.hear(), FromWorker::Pong { .. }));
    }
    // A message with descriptors needs sendmsg, which the filter does not allow.
    sent("lie = \"fds\"").dies_of(libc::SIGSYS);
    for lie in ["garbage", "long"] {
        let cell = sent(&format!("lie = \"{lie}\""));
        let heard = cell.front.receive(&mut casemate_ipc::seqpacket::PacketBuffer::default());
        assert!(matches!(heard, Err(ChannelError::Frame(_))), "{lie}, of at most {MAX_FRAME} bytes");
    }
}
