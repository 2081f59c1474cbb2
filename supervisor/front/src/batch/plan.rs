//! Who rides together and when to leave: a pure rule over what waits.

use std::time::{Duration, Instant};

use super::job::Job;

/// The rule's numbers, from the model's manifest and the arena.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Most rows in one run; 1 where nobody rides together.
    pub max_rows: u64,
    /// How long the first may wait for company.
    pub delay: Duration,
    /// Most bytes of tensors in one run.
    pub max_bytes: u64,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Departure {
    /// Nobody waits.
    Empty,
    /// The first leaves with these others: places in the queue, in rising order, the first always 0.
    Now(Vec<usize>),
    /// Company may still come; ask again then.
    At(Instant),
}

/// Decides for the first in the queue. It always leaves with the first batch, whatever its size: it was admitted, so it
/// fits. Others join in their order if they stack, and nobody is overtaken by a later one of the same shape.
pub fn plan<'a>(waiting: impl IntoIterator<Item = &'a Job>, rule: Rule, now: Instant) -> Departure {
    let mut waiting = waiting.into_iter().enumerate();
    let Some((_, first)) = waiting.next() else {
        return Departure::Empty;
    };
    let mut riders = vec![0];
    let (Some(mut rows), true) = (first.rows(), rule.max_rows > 1) else {
        return Departure::Now(riders);
    };
    let mut bytes = first.bytes();
    let mut full = rows >= rule.max_rows;
    for (place, job) in waiting {
        if full {
            break;
        }
        if !job.stacks_with(first) {
            continue;
        }
        let joined = rows.saturating_add(job.rows().unwrap_or(u64::MAX));
        let heavier = bytes.saturating_add(job.bytes());
        if joined > rule.max_rows || heavier > rule.max_bytes {
            // Leaving it behind for a smaller one that comes later would starve it.
            full = true;
            break;
        }
        (rows, bytes) = (joined, heavier);
        riders.push(place);
        full = rows == rule.max_rows;
    }
    let leave = first.queued() + rule.delay;
    if full || now >= leave { Departure::Now(riders) } else { Departure::At(leave) }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use casemate_ipc::tensor::Shape;

    use super::super::job::Tensor;
    use super::*;
    use crate::admit::permit::Room;

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
        match plan(jobs, rule, Instant::now() + Duration::from_millis(1)) {
            Departure::Now(riders) => riders,
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
        let rule = Rule { delay: Duration::from_secs(1), ..at_once(2) };
        let one = [job(Some(1), 4)];
        let leave = one[0].queued() + rule.delay;
        assert_eq!(plan(&one, rule, leave - Duration::from_millis(1)), Departure::At(leave));
        assert_eq!(plan(&one, rule, leave), Departure::Now(vec![0]));
        let two = [job(Some(1), 4), job(Some(1), 4)];
        assert_eq!(plan(&two, rule, Instant::now()), Departure::Now(vec![0, 1]));
        assert_eq!(plan(&[], rule, Instant::now()), Departure::Empty);
    }
}
