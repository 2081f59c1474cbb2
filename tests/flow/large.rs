//! Large and many: large tensors pass and their memory comes back; many connections on which nobody speaks cost little.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "test code: what cannot be is a failure"
)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use casemate_tests::casemate::{Casemate, Setup};
use casemate_tests::process;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

const MIB: u64 = 1 << 20;

fn echo(setup: Setup) -> Casemate {
    let manifest = "[limits]\ndeadline_ms = 60000";
    setup.version("m", "1", "echo", b"", &["x:FP32[-1,4]"], &["y:FP32[-1,4]"], manifest).serve()
}

/// A field of `/proc/PID/status`, in bytes.
fn memory(pid: u32, field: &str) -> u64 {
    process::status(pid)[field].split(' ').next().unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn a_large_request_passes_and_its_memory_is_given_back() {
    const SIZE: u64 = 96 * MIB;
    let setup = Setup::new().limit("request_bytes", 128 * MIB).limit("response_bytes", 128 * MIB);
    let casemate = echo(setup.limit("arena_rest_ms", 300));
    let (front, worker) = (casemate.front(), casemate.worker("m"));
    let before = memory(front, "VmRSS");
    let sent: Vec<u8> = (0..u32::try_from(SIZE / 4).unwrap()).flat_map(|n| (n as f32).to_le_bytes()).collect();
    let raw = [("inference-header-content-length", "0")];
    let ask = || {
        let answer = casemate.send("POST", "/v2/models/m/infer", &raw, &sent);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let json: usize = answer.headers["inference-header-content-length"].parse().unwrap();
        assert!(answer.body[json..] == sent[..], "other numbers came back");
    };
    ask();
    let told = |when: &str| {
        let [anon, shared, peak] = ["RssAnon", "RssShmem", "VmHWM"].map(|field| memory(front, field) / MIB);
        println!("{when}: the front has {anon} MiB of its own, {shared} MiB in arenas, {peak} MiB at its peak");
    };
    told("just after");
    // Control: it had them.
    assert!(memory(front, "VmHWM") > before + 2 * SIZE);
    let given_back = || {
        memory(front, "RssShmem") < 8 * MIB
            && memory(worker, "RssShmem") < 8 * MIB
            && memory(front, "RssAnon") < 64 * MIB
    };
    casemate.wait_until("given back", Duration::from_secs(20), given_back);
    told("given back");
    // And it can be had again.
    ask();
    casemate.wait_until("given back again", Duration::from_secs(20), given_back);
    assert_eq!(casemate.worker("m"), worker);
}

#[test]
fn a_tensor_beyond_the_bounds_is_refused_and_one_of_their_size_is_not() {
    let casemate = echo(Setup::new().limit("request_bytes", MIB).limit("response_bytes", 2 * MIB));
    let raw = [("inference-header-content-length", "0")];
    let ask = |bytes: u64| casemate.send("POST", "/v2/models/m/infer", &raw, &vec![0; usize::try_from(bytes).unwrap()]);
    assert_eq!(ask(MIB).status, 200);
    assert_eq!(ask(MIB + 16).status, 413);
}

#[test]
fn connections_on_which_nobody_speaks_cost_little() {
    const EACH: u64 = 100 * MIB / 10_000;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    // The front has as many as this test, and some for itself.
    let count = hard.saturating_sub(1200).min(10_000);
    let setup = Setup::new().limit("connections", count + 10).limit("idle_ms", 600_000).limit("header_ms", 600_000);
    let casemate = echo(setup);
    let front = casemate.front();
    casemate.get("/v2/health/live");
    let before = memory(front, "VmRSS");
    let mut silent: Vec<TcpStream> = (0..count).map(|_| TcpStream::connect(casemate.address).unwrap()).collect();
    let ask = |stream: &mut TcpStream| {
        stream.write_all(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    };
    let hear = |stream: &mut TcpStream| {
        let (mut said, mut buffer) = (Vec::new(), [0; 1024]);
        while !said.ends_with(b"}") {
            let read = stream.read(&mut buffer).unwrap();
            assert!(read > 0, "{}", String::from_utf8_lossy(&said));
            said.extend_from_slice(&buffer[..read]);
        }
        assert!(said.starts_with(b"HTTP/1.1 200 "));
    };
    let speak = |stream: &mut TcpStream| {
        ask(stream);
        hear(stream);
    };
    // They are taken in their order, so all are there once the last is answered.
    speak(silent.last_mut().unwrap());
    let cost = |when: &str| {
        let cost = memory(front, "VmRSS").saturating_sub(before);
        println!("{when}: {count} connections cost {} KiB, {} bytes each", cost / 1024, cost / count);
        cost
    };
    assert!(cost("nobody has spoken") < count * EACH);
    // All in one moment: each has a parser, until its answer is a second old, and the allocator would keep what that takes.
    silent.iter_mut().for_each(ask);
    silent.iter_mut().for_each(hear);
    cost("each has just spoken");
    let peak = memory(front, "VmHWM");
    println!("at its peak the front had {} MiB", peak / MIB);
    // Control: with many connections there was more than may stay.
    assert!(count < 5000 || peak - before > count * EACH / 2);
    casemate.wait_until("given back", Duration::from_secs(30), || cost("later") < count * EACH * 8 / 10);
    // They are alive all the same, and nobody else is kept out.
    assert_eq!(casemate.get("/v2/health/live").status, 200);
    silent.iter_mut().step_by(97).for_each(speak);
}
