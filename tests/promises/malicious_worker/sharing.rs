//! What rides along with an answer, and what lies in shared memory.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use casemate_ipc::shm::map::Outgoing;
use casemate_ipc::shm::seal::{self, Sealing};
use casemate_tests::fake_launcher::Part;
use casemate_tests::puppet::{Puppet, packet};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::socket::{ControlMessage, UnixCredentials};
use nix::sys::uio::pwrite;
use nix::unistd::ftruncate;

use crate::liar::{base, done, goes_on, honest, last_cause, neighbour_answers, placed, serve, unchanged};

/// The right answer with descriptors riding along: none of them ever reaches the front.
#[test]
fn descriptors_that_nobody_asked_for() {
    let sent = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&sent);
    let sender: Part = Arc::new(move |mut puppet: Puppet| {
        let Some(run) = puppet.honest_once() else { return };
        let answer = packet(&puppet.answer(&run));
        let riders = [puppet.requests.as_raw_fd(); 253];
        let riders = if puppet.incarnation.is_multiple_of(8) { &riders[..1] } else { &riders[..] };
        // Until its socket is full, or the front has had enough.
        while puppet.with_rights(&answer, riders) && !puppet.killed.load(Ordering::Acquire) {
            count.fetch_add(riders.len() as u64, Ordering::Relaxed);
        }
        puppet.linger();
    });
    let mut launcher = serve(vec![honest(), ("sender", sender)], "");
    let base = base(&launcher);
    let begun = Instant::now();
    let rounds = || launcher.kills.lock().unwrap().get("sender").copied().unwrap_or(0);
    while goes_on(begun, Duration::from_secs(5), || rounds() >= 3 && sent.load(Ordering::Relaxed) > 250) {
        assert_eq!(launcher.row("sender", [1.0; 4]).status, 200, "the control");
        assert_eq!(launcher.row("sender", [1.0; 4]).status, 502);
        // A request and a start have a few of their own for a moment; an attack brings hundreds.
        assert!(launcher.descriptors() <= base.descriptors + 30);
        neighbour_answers(&launcher);
    }
    assert_eq!(last_cause(&launcher, "sender"), "protocol");
    println!("{} workers sent {} descriptors", rounds(), sent.load(Ordering::Relaxed));
    assert!(rounds() >= 3 && sent.load(Ordering::Relaxed) > 250);
    launcher.wait_until("a last successor", Duration::from_secs(10), || launcher.status("sender")["state"] == "ready");
    unchanged(&mut launcher, &base);
}

/// Credentials may ride along with any message; the front has not asked for them and takes no notice.
#[test]
fn credentials_are_passed_over() {
    let part: Part = Arc::new(|mut puppet: Puppet| {
        puppet.begin();
        while let Some(run) = puppet.next_run() {
            let me = UnixCredentials::new();
            puppet.post(&packet(&puppet.answer(&run)), &[ControlMessage::ScmCredentials(&me)]);
        }
    });
    let mut launcher = serve(vec![honest(), ("teller", part)], "");
    let base = base(&launcher);
    assert!((0..20).all(|_| launcher.row("teller", [1.0; 4]).status == 200));
    unchanged(&mut launcher, &base);
}

// === shared memory ===

/// What a worker may not do to the memory that it shares, and what it may.
#[test]
fn shared_memory_keeps_its_length() {
    let seen = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&seen);
    let part: Part = Arc::new(move |mut puppet: Puppet| {
        puppet.begin();
        while let Some(run) = puppet.next_run() {
            let answer = puppet.answer(&run);
            let (requests, responses) = (&puppet.requests, &puppet.responses);
            let bytes = puppet.geometry.bytes().unwrap();
            // The one is sealed; the other is, and its descriptor can only read.
            for (file, errno) in [(requests, Errno::EINVAL), (responses, Errno::EPERM)] {
                assert_eq!(ftruncate(file, 0), Err(errno));
                assert_eq!(ftruncate(file, i64::try_from(bytes * 2).unwrap()), Err(errno));
                assert!(seal::apply(file, Sealing::Frozen).is_err());
            }
            assert_eq!(pwrite(requests, &[0; 8], 0), Err(Errno::EBADF));
            assert!(Outgoing::map(requests, bytes as u64).is_err());
            let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            assert_eq!(fallocate(requests, punch, 0, 4096), Err(Errno::EBADF));
            // The response arena is the worker's to fill: a hole in it reads as zeros.
            fallocate(responses, punch, 0, i64::try_from(bytes).unwrap()).unwrap();
            count.fetch_add(1, Ordering::Relaxed);
            puppet.say(&answer);
        }
    });
    let mut launcher = serve(vec![honest(), ("puncher", part)], "");
    let base = base(&launcher);
    for _ in 0..20 {
        let answer = launcher.row("puncher", [1.0; 4]);
        assert_eq!((answer.status, &answer.json()["outputs"][0]["data"][0]), (200, &0.0.into()), "{}", answer.text());
    }
    assert_eq!(seen.load(Ordering::Relaxed), 20, "every act was reached");
    unchanged(&mut launcher, &base);
}

/// A thread changes what lies in the response arena while the front reads it. What goes out was checked: it is one of the
/// values that were there, never the NaN that was there too.
#[test]
fn memory_that_changes_under_the_reader() {
    let flips = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&flips);
    let part: Part = Arc::new(move |mut puppet: Puppet| {
        let (file, slot) = (puppet.responses.try_clone().unwrap(), puppet.geometry.slot_bytes);
        let (killed, count) = (Arc::clone(&puppet.killed), Arc::clone(&count));
        let flipper = std::thread::spawn(move || {
            let values = [1.0f32, 2.0, 3.0, f32::NAN];
            for value in values.iter().cycle() {
                let page = value.to_le_bytes().repeat(2048);
                for start in [0, slot] {
                    pwrite(&file, &page, i64::try_from(start).unwrap()).unwrap();
                }
                count.fetch_add(1, Ordering::Relaxed);
                if killed.load(Ordering::Acquire) {
                    return;
                }
            }
        });
        puppet.begin();
        while let Some(run) = puppet.next_run() {
            puppet.say(&done(&run, vec![placed(&run)]));
        }
        puppet.killed.store(true, Ordering::Release);
        flipper.join().unwrap();
    });
    let mut launcher = serve(vec![honest(), ("flipper", part)], "");
    let base = base(&launcher);
    let (begun, mut good, mut refused) = (Instant::now(), 0, 0);
    let rows = 256;
    let data: Vec<f32> = vec![1.0; 4 * rows];
    let input = serde_json::json!({"name": "x", "shape": [rows, 4], "datatype": "FP32", "data": data});
    let body = serde_json::json!({ "inputs": [input] }).to_string();
    let enough = |good, refused| good > 0 && refused > 0 && flips.load(Ordering::Relaxed) > 1000;
    while goes_on(begun, Duration::from_secs(5), || enough(good, refused)) {
        let path = "/v2/models/flipper/infer";
        let answer = casemate_tests::client::send(launcher.address, "POST", path, &[], body.as_bytes()).unwrap();
        match answer.status {
            200 => {
                let answer = answer.json();
                let numbers = answer["outputs"][0]["data"].as_array().unwrap();
                assert_eq!(numbers.len(), 4 * rows);
                assert!(numbers.iter().all(|n| [0.0, 1.0, 2.0, 3.0].contains(&n.as_f64().unwrap())), "{answer}");
                good += 1;
            }
            502 => refused += 1,
            other => panic!("{other}: {}", answer.text()),
        }
        neighbour_answers(&launcher);
    }
    println!("{} flips, {good} answers, {refused} refused for their NaN", flips.load(Ordering::Relaxed));
    assert!(enough(good, refused));
    assert_eq!(last_cause(&launcher, "flipper"), "", "a model's NaN is no lie of its worker");
    unchanged(&mut launcher, &base);
}
