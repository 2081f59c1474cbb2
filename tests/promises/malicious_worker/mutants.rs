//! Everything else: frames that are right but for some bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use casemate_fuzz::mutate::{Dice, mutate};
use casemate_tests::fake_launcher::Part;
use casemate_tests::puppet::{Puppet, packet};

use crate::liar::{base, goes_on, honest, neighbour_answers, serve, unchanged};

/// Mutated frames to a running front: each worker answers honestly, then sends a frame that is the right one but for some
/// bytes. Four models at once, for ten seconds.
#[test]
fn mutated_frames() {
    const TEN: Duration = Duration::from_secs(10);
    const FOUND_OUT: u32 = 20;
    let sent = Arc::new(AtomicU64::new(0));
    let mutant = |seed: u64| -> Part {
        let count = Arc::clone(&sent);
        Arc::new(move |mut puppet: Puppet| {
            let mut dice = Dice::new(seed.wrapping_mul(1_000_003) + u64::from(puppet.incarnation));
            let others: Vec<Vec<u8>> = casemate_fuzz::seeds::from_worker().iter().map(packet).collect();
            puppet.begin();
            while let Some(run) = puppet.next_run() {
                let right = puppet.answer(&run);
                puppet.say(&right);
                let Some(run) = puppet.next_run() else { return };
                let right = packet(&puppet.answer(&run));
                // One that happens to be good is an answer, and ends the round; others follow until one is found out.
                for _ in 0..64 {
                    let mut bytes = right.clone();
                    mutate(&mut bytes, &others[dice.below(others.len())], &mut dice, 4096);
                    if dice.below(2) == 0 && bytes.len() > 8 {
                        let body = u32::try_from(bytes.len() - 8).unwrap();
                        bytes[4..8].copy_from_slice(&body.to_le_bytes());
                    }
                    if !puppet.raw(&bytes) {
                        break;
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        })
    };
    let names = ["mutant-0", "mutant-1", "mutant-2", "mutant-3"];
    let parts = names.iter().zip(1..).map(|(name, seed)| (*name, mutant(seed))).chain([honest()]).collect();
    let mut launcher = serve(parts, "");
    let base = base(&launcher);
    let begun = Instant::now();
    let kills = || launcher.kills.lock().unwrap().values().sum::<u32>();
    let answers: Vec<u64> = std::thread::scope(|scope| {
        let (launcher, kills) = (&launcher, &kills);
        let client = |name| {
            let hammer = move || {
                let mut answers = 0;
                while goes_on(begun, TEN, || kills() >= FOUND_OUT && answers > 0) {
                    let status = launcher.row(name, [1.0; 4]).status;
                    assert!([200, 502, 503, 504].contains(&status), "{name}: {status}");
                    answers += u64::from(status == 200);
                }
                answers
            };
            scope.spawn(hammer)
        };
        let clients: Vec<_> = names.map(client).into_iter().collect();
        while goes_on(begun, TEN, || clients.iter().all(|client| client.is_finished())) {
            neighbour_answers(launcher);
            std::thread::sleep(Duration::from_millis(20));
        }
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    println!("{} mutated frames, {} workers killed, {answers:?} answers", sent.load(Ordering::Relaxed), kills());
    assert!(kills() >= FOUND_OUT, "only {} were found out", kills());
    assert!(answers.iter().all(|count| *count > 0));
    launcher.wait_until("successors", Duration::from_secs(20), || {
        names.iter().all(|name| launcher.status(name)["state"] == "ready")
    });
    unchanged(&mut launcher, &base);
}
