//! Anything at all: nothing that is read can make the gate panic, hang or take much memory.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may")]

mod archive;

use archive::{model, open, strict, zip};

/// A small generator, so that a failure can be repeated from its seed.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }
}

#[test]
fn a_changed_file_is_refused_or_reported() {
    let demo = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/demo/store/digits/1/model.pt"));
    let small = zip(&model());
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let mut passed = 0;
    for whole in [demo.unwrap(), small] {
        for _ in 0..2000 {
            let mut bytes = whole.clone();
            for _ in 0..=dice.throw(4) {
                let at = dice.throw(bytes.len().max(1));
                if bytes.is_empty() {
                    break;
                }
                match dice.throw(4) {
                    0 => bytes[at] ^= 1 << dice.throw(8),
                    1 => bytes[at] = 0xff,
                    2 => drop(bytes.remove(at)),
                    _ => bytes.truncate(at.max(1)),
                }
            }
            passed += usize::from(open(&bytes).is_ok());
        }
    }
    println!("{passed} of 4000 changed files pass");
}

#[test]
fn changed_records_are_refused_or_reported() {
    let mut dice = Dice(77);
    let mut passed = 0;
    for _ in 0..4000 {
        let mut parts = model();
        let which = dice.throw(4).min(3);
        let part = &mut parts[which];
        for _ in 0..=dice.throw(3) {
            let at = dice.throw(part.bytes.len());
            let byte =
                [b'(', b')', b't', b'q', b'.', b'[', b'-', b'u', b'R', b'\n', b'"', 0xff, 0, 0x85][dice.throw(14)];
            if dice.throw(2) == 0 { part.bytes[at] = byte } else { part.bytes.insert(at, byte) }
        }
        passed += usize::from(strict(&zip(&parts)).is_ok());
    }
    println!("{passed} of 4000 models with changed records pass");
}
