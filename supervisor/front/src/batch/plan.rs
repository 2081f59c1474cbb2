//! Who rides together and when to leave: a pure rule over what waits.

use std::time::{Duration, Instant};

use smallvec::SmallVec;

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

/// Places in the queue.
pub type Riders = SmallVec<[usize; 8]>;

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Departure {
    /// Nobody waits.
    Empty,
    /// The first leaves with these others: places in the queue, in rising order, the first always 0.
    Now(Riders),
    /// Company may still come; ask again then.
    At(Instant),
}

/// Decides for the first in the queue. It always leaves with the first batch, whatever its size: it was admitted, so it
/// fits. Others join in their order if they stack, and nobody is overtaken by a later one of the same shape.
///
/// Nobody spends more than half of their time waiting for company, nor so much that two usual `run`s would not fit in what is
/// left.
pub fn plan<'a>(waiting: impl IntoIterator<Item = &'a Job>, rule: Rule, run: Duration, now: Instant) -> Departure {
    let mut waiting = waiting.into_iter().enumerate();
    let Some((_, first)) = waiting.next() else {
        return Departure::Empty;
    };
    let most = usize::try_from(rule.max_rows).unwrap_or(usize::MAX).max(1);
    let mut riders = Riders::with_capacity(waiting.size_hint().0.saturating_add(1).min(most));
    riders.push(0);
    let (Some(mut rows), true) = (first.rows(), rule.max_rows > 1) else {
        return Departure::Now(riders);
    };
    let mut bytes = first.bytes();
    let mut full = rows >= rule.max_rows;
    let mut soonest = patience(first, run);
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
        soonest = soonest.min(patience(job, run));
        full = rows == rule.max_rows;
    }
    let leave = (first.queued() + rule.delay).min(soonest);
    if full || now >= leave { Departure::Now(riders) } else { Departure::At(leave) }
}

/// Until when somebody waits for company at most.
fn patience(job: &Job, run: Duration) -> Instant {
    let time = job.deadline().saturating_duration_since(job.queued());
    job.queued() + time.saturating_sub(run.saturating_mul(2)).min(time / 2)
}

#[cfg(test)]
mod tests;
