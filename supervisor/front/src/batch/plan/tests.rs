use bytes::Bytes;
use casemate_ipc::tensor::Shape;
use smallvec::smallvec;

use super::*;
use crate::admit::permit::Room;
use crate::batch::job::Tensor;

fn job(rows: Option<u64>, width: u64) -> Job {
    let dims = rows.map_or(vec![width], |r| vec![r, width]);
    let bytes: u64 = dims.iter().product();
    let tensor = Tensor { shape: Shape::new(dims).unwrap(), data: Bytes::from(vec![0; bytes as usize]) };
    let permit = Room::new(u64::MAX).take(1).unwrap();
    Job::new(vec![tensor], rows, Instant::now() + Duration::from_secs(9), permit).0
}

fn at_once(max_rows: u64) -> Rule {
    Rule { max_rows, delay: Duration::ZERO, max_bytes: 1000 }
}

fn riders(jobs: &[Job], rule: Rule) -> Vec<usize> {
    match plan(jobs, rule, Duration::ZERO, Instant::now() + Duration::from_millis(1)) {
        Departure::Now(riders) => riders.into_vec(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn rows_fill_up_in_order_and_shapes_do_not_mix() {
    let jobs = [job(Some(2), 4), job(Some(1), 5), job(Some(3), 4), job(Some(4), 4), job(Some(1), 4)];
    assert_eq!(riders(&jobs, at_once(8)), [0, 2]);
    assert_eq!(riders(&jobs, at_once(9)), [0, 2, 3]);
    assert_eq!(riders(&jobs, at_once(10)), [0, 2, 3, 4]);
    assert_eq!(riders(&jobs, at_once(1)), [0]);
    assert_eq!(riders(&[job(None, 4), job(None, 4)], at_once(8)), [0]);
    assert_eq!(riders(&[job(Some(100), 4), job(Some(1), 4)], at_once(8)), [0]);
}

#[test]
fn bytes_bound_a_batch() {
    let jobs = [job(Some(1), 600), job(Some(1), 600)];
    assert_eq!(riders(&jobs, at_once(8)), [0]);
}

#[test]
fn company_is_waited_for_as_long_as_the_manifest_says() {
    const ZERO: Duration = Duration::ZERO;
    let rule = Rule { delay: Duration::from_secs(1), ..at_once(2) };
    let one = [job(Some(1), 4)];
    let leave = one[0].queued() + rule.delay;
    assert_eq!(plan(&one, rule, ZERO, leave - Duration::from_millis(1)), Departure::At(leave));
    assert_eq!(plan(&one, rule, ZERO, leave), Departure::Now(smallvec![0]));
    let two = [job(Some(1), 4), job(Some(1), 4)];
    assert_eq!(plan(&two, rule, ZERO, Instant::now()), Departure::Now(smallvec![0, 1]));
    assert_eq!(plan(&[], rule, ZERO, Instant::now()), Departure::Empty);
}

#[test]
fn nobody_waits_for_company_beyond_what_their_deadline_allows() {
    let rule = Rule { delay: Duration::from_secs(60), ..at_once(8) };
    // Deadlines of about 9 s; of two who ride, the sooner one's.
    let jobs = [job(Some(1), 4), job(Some(1), 4)];
    for (run, left) in [(3, 6), (0, 4)] {
        let run = Duration::from_secs(run);
        let Departure::At(leave) = plan(&jobs, rule, run, jobs[0].queued()) else { panic!("nobody waits") };
        let left = (jobs[0].deadline() - leave).as_secs_f64() - f64::from(left);
        assert!((0.0..0.6).contains(&left), "{left}");
        assert_eq!(plan(&jobs, rule, run, leave), Departure::Now(smallvec![0, 1]));
    }
    let endless = Duration::from_secs(1 << 40);
    assert_eq!(plan(&jobs, rule, endless, Instant::now()), Departure::Now(smallvec![0, 1]));
}
