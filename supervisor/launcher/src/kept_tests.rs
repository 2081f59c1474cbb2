//! All but the counting itself, which needs a program of one thread: see `tests/cage/tests.rs`.

use std::fs;
use std::io::Read;

use super::*;
use crate::models::tests::{Temp, id};
use crate::origin::Images;

fn kept(mark: Mark, bytes: &[u8], used: Instant) -> Kept {
    let copy = seal::freeze("test", bytes, 1 << 20).unwrap();
    Kept { mark, copy, bytes: bytes.len() as u64, number: 1, sha256: Some([7; 32]), used }
}

fn heard(given: Given) -> (Vec<u8>, Option<[u8; 32]>) {
    let bytes = Frozen::map(&given.model).unwrap().bytes().to_vec();
    assert!(seal::check_read_only(&given.model).is_ok());
    let mut sha256 = [0; 32];
    let read = fs::File::from(given.digest).read(&mut sha256).unwrap();
    (bytes, (read == 32).then_some(sha256))
}

#[test]
fn the_same_file_is_not_read_and_another_one_is() {
    let temp = Temp::new();
    let file = temp.model("a/1").join("model.pt");
    let store = temp.open("").unwrap();
    let mut tracer = Tracer::new(Images::default());
    let mut keeper = Keeper::default();
    let mut give = |keeper: &mut Keeper| {
        let original = store.files(&id("a/1")).unwrap().model;
        heard(keeper.give(&id("a/1"), original, &mut tracer).unwrap())
    };
    let counted = |bytes: &[u8]| Some(<[u8; 32]>::from(Sha256::digest(bytes)));
    assert_eq!(give(&mut keeper), (b"weights".to_vec(), counted(b"weights")));
    assert!(keeper.kept.is_empty(), "what is small is not kept");
    // A copy that is told from the file, to see which of the two a worker is given.
    let mark = store.files(&id("a/1")).unwrap().model.mark();
    keeper.kept.insert(id("a/1"), kept(mark, b"kept", Instant::now()));
    for _ in 0..3 {
        assert_eq!(give(&mut keeper), (b"kept".to_vec(), Some([7; 32])));
    }
    std::thread::sleep(Duration::from_millis(50));
    fs::write(&file, b"WEIGHTS").unwrap();
    assert_eq!(give(&mut keeper), (b"WEIGHTS".to_vec(), counted(b"WEIGHTS")));
    assert!(keeper.kept.is_empty(), "the copy of what is not there any more");
}

#[test]
fn a_copy_goes_some_time_after_its_last_worker() {
    let temp = Temp::new();
    temp.model("a/1");
    let mark = temp.open("").unwrap().files(&id("a/1")).unwrap().model.mark();
    let begun = Instant::now();
    let mut keeper = Keeper::default();
    keeper.kept.insert(id("a/1"), kept(mark, b"a", begun));
    let later = begun + 10 * LINGER;
    keeper.sweep(later, |_| true);
    assert_eq!((keeper.kept.len(), keeper.due(later, |_| true)), (1, None));
    // Its last worker was seen just then.
    assert_eq!(keeper.due(later, |_| false), Some(later + SOON));
    assert_eq!(keeper.due(later + SOON, |_| false), Some(later + LINGER));
    keeper.sweep(later + LINGER / 2, |_| false);
    assert_eq!(keeper.kept.len(), 1);
    keeper.sweep(later + LINGER, |_| false);
    assert!(keeper.kept.is_empty());
    assert_eq!(keeper.due(later, |_| false), None);
}

#[test]
fn copies_without_workers_are_bounded_and_the_oldest_go() {
    let temp = Temp::new();
    temp.model("a/1");
    let mark = temp.open("").unwrap().files(&id("a/1")).unwrap().model.mark();
    let begun = Instant::now();
    let mut keeper = Keeper::default();
    for (at, name) in (0..).zip(["a/1", "b/1", "c/1", "d/1"]) {
        // As long as nobody copies so much.
        let large = Kept { bytes: IDLE_BYTES / 2, ..kept(mark, b"x", begun + Duration::from_secs(at)) };
        keeper.kept.insert(id(name), large);
    }
    let left = |keeper: &Keeper| keeper.kept.keys().map(ToString::to_string).collect::<Vec<String>>();
    let has = |model: &ModelId| *model == id("a/1");
    keeper.sweep(begun + SOON, has);
    assert_eq!(left(&keeper).len(), 4, "one that rests between two tries is not too large");
    keeper.sweep(begun + SOON + Duration::from_secs(5), has);
    assert_eq!(left(&keeper), ["a/1", "c/1", "d/1"], "what has a worker does not count, and stays");
    let counting = Kept { bytes: 2 * IDLE_BYTES, sha256: None, ..kept(mark, b"x", begun) };
    let too_large = Kept { bytes: 2 * IDLE_BYTES, ..kept(mark, b"x", begun + Duration::from_secs(4)) };
    keeper.kept.extend([(id("e/1"), counting), (id("f/1"), too_large)]);
    keeper.sweep(begun + SOON + Duration::from_secs(6), has);
    assert_eq!(left(&keeper), ["a/1", "c/1", "d/1", "e/1"], "what is counted stays; what does not fit goes alone");
}
