use bytes::Bytes;
use casemate_ipc::tensor::Shape;

use super::*;
use crate::admit::permit::Room;
use crate::batch::job::{Answer, Tensor};

fn job(deadline: Duration) -> (Job, Answer) {
    heavy(deadline, 0)
}

fn heavy(deadline: Duration, bytes: usize) -> (Job, Answer) {
    let shape = Shape::new(vec![bytes as u64]).unwrap();
    let tensor = Tensor { shape, data: Bytes::from(vec![0; bytes]) };
    Job::new(vec![tensor], None, Instant::now() + deadline, Room::new(9).take(1).unwrap())
}

fn queue(jobs: usize) -> Queue {
    Queue::new(Bounds { jobs, bytes: 100 })
}

const LONG: Duration = Duration::from_secs(9);
const RULE: Rule = Rule { max_rows: 1, delay: Duration::ZERO, max_bytes: 1000 };

#[test]
fn the_late_and_the_gone_fall_out() {
    let queue = queue(2);
    let (late, _a) = job(Duration::ZERO);
    let (gone, b) = job(LONG);
    let (kept, _c) = job(LONG);
    queue.push(late).unwrap();
    queue.push(gone).unwrap();
    drop(b);
    queue.push(kept).unwrap();
    assert_eq!(queue.len(), 1);
    assert!(matches!(queue.depart(RULE, Instant::now()), Next::Batch(batch) if batch.len() == 1));
    assert!(matches!(queue.depart(RULE, Instant::now()), Next::Empty));
}

#[test]
fn a_full_queue_refuses_at_once() {
    let queue = queue(1);
    let (first, _a) = job(LONG);
    let (second, _b) = job(LONG);
    queue.knock(None).unwrap();
    queue.push(first).unwrap();
    assert_eq!(queue.knock(None).unwrap_err().kind, Kind::Busy);
    let refusal = queue.push(second).unwrap_err();
    assert_eq!(refusal.kind, Kind::Busy);
    assert!(refusal.retry_after.is_some());
}

#[test]
fn bytes_are_bounded_too_and_always_given_back() {
    let queue = queue(10);
    let mut kept = Vec::new();
    let mut push = |bytes| {
        let (job, answer) = heavy(LONG, bytes);
        kept.push(answer);
        queue.push(job)
    };
    // Larger than the whole bound: taken where nobody waits, or it could never be served.
    push(150).unwrap();
    let refusal = push(1).unwrap_err();
    assert!(refusal.kind == Kind::Busy && refusal.message.contains("limits.queue_bytes"), "{refusal}");
    assert!(matches!(queue.depart(RULE, Instant::now()), Next::Batch(_)));
    push(60).unwrap();
    assert!(push(60).is_err());
    push(40).unwrap();
    // Whoever hangs up gives theirs back, as does one who is put back and leaves again.
    kept.truncate(1);
    let (next, _answer) = heavy(LONG, 100);
    queue.push(next).unwrap();
    let Next::Batch(batch) = queue.depart(RULE, Instant::now()) else { panic!("nobody left") };
    batch.into_iter().for_each(|job| queue.push_front(job));
    assert!(queue.push(heavy(LONG, 1).0).is_err());
    queue.refuse_all(&Refusal::invalid("end"));
    queue.push(heavy(LONG, 100).0).unwrap();
}

#[test]
fn nobody_is_taken_in_who_cannot_be_in_time() {
    let queue = queue(100);
    let mut answers = Vec::new();
    let mut push = |deadline| {
        let (job, answer) = job(deadline);
        answers.push(answer);
        queue.push(job)
    };
    for _ in 0..20 {
        push(LONG).unwrap();
    }
    let soon = Duration::from_millis(500);
    // Nothing has been seen yet, so nothing is known.
    push(soon).unwrap();
    let start = Instant::now();
    for n in 0..4 {
        assert!(matches!(queue.depart(RULE, start + n * Duration::from_millis(100)), Next::Batch(_)));
    }
    // 17 wait, one leaves each 100 ms.
    let refusal = push(soon).unwrap_err();
    assert_eq!(refusal.kind, Kind::Overload);
    assert_eq!(refusal.retry_after, Some(Duration::from_millis(1700)));
    assert!(queue.knock(Some(Instant::now() + soon)).is_err());
    push(LONG).unwrap();
    // An idle model never refuses, however slow it was.
    while !queue.is_empty() {
        queue.depart(RULE, start + soon);
    }
    push(Duration::from_millis(50)).unwrap();
}

#[test]
fn who_has_hung_up_makes_nobodys_wait_look_long() {
    let queue = queue(100);
    let mut answers = Vec::new();
    for _ in 0..40 {
        let (job, answer) = job(LONG);
        answers.push(answer);
        queue.push(job).unwrap();
    }
    let start = Instant::now();
    for n in 0..4 {
        assert!(matches!(queue.depart(RULE, start + n * Duration::from_millis(100)), Next::Batch(_)));
    }
    // 36 wait, one leaves each 100 ms; who can wait for a second cannot be served.
    let soon = || Some(Instant::now() + Duration::from_secs(1));
    assert_eq!(queue.knock(soon()).unwrap_err().kind, Kind::Overload);
    // All but two hang up. Their jobs lie there still.
    answers.drain(..38);
    assert_eq!(queue.len(), 36);
    queue.knock(soon()).unwrap();
    assert_eq!(queue.len(), 2);
    queue.push(job(Duration::from_secs(1)).0).unwrap();
}
