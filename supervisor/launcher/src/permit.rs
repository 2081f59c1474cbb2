//! What a front may ask, when, and how often. Anything else is not an error to answer but the end of that front: an honest
//! one never asks it, so whoever does is broken or broken into.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use casemate_ipc::id::ModelId;
use casemate_ipc::launch::LaunchRequest;

/// What is decided about one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Do it.
    Allowed,
    /// Say no: a front could not know.
    NotNow(&'static str),
    /// End the front.
    Broken(&'static str),
}

/// The kinds of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Start a worker.
    Start,
    /// Kill one.
    Kill,
    /// Read the layers of one's cage.
    Attest,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Which request.
    pub kind: Kind,
    /// Descriptors that must ride along, neither more nor fewer.
    pub descriptors: usize,
    /// Whether also while the server is stopping.
    pub while_stopping: bool,
    /// Whether counted against `starts_per_minute`.
    pub counted: bool,
    /// Why.
    pub why: &'static str,
}

/// What is true about the things that a request names.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// Descriptors that came with it.
    pub descriptors: usize,
    /// The server is stopping.
    pub stopping: bool,
    /// The model is in the catalogue that this front was given.
    pub model_known: bool,
    /// Workers of that model that run now.
    pub workers: usize,
    /// Workers of that model that are to serve at once.
    pub serving: u32,
    /// The worker was given to this front; it may be gone by now.
    pub worker_given: bool,
}

/// Remembers how often.
#[derive(Debug)]
pub struct Permits {
    per_minute: usize,
    starts: BTreeMap<ModelId, VecDeque<Instant>>,
}

/// The table.
pub const TABLE: [Row; 3] = [
    Row {
        kind: Kind::Start,
        descriptors: 2,
        while_stopping: false,
        counted: true,
        why: "the two arenas; a start costs a process and a copy of the model, so a front cannot ask for them without end",
    },
    Row {
        kind: Kind::Kill,
        descriptors: 0,
        while_stopping: true,
        counted: false,
        why: "each worker can be killed once, so there are never more of these than of starts",
    },
    Row {
        kind: Kind::Attest,
        descriptors: 0,
        while_stopping: true,
        counted: false,
        why: "reads a few files of the kernel; the one who waits for it is the front",
    },
];

/// Workers of one model at once beside those that serve: one that takes over, and some that are about to be gone.
pub const BESIDE: usize = 7;

const MINUTE: Duration = Duration::from_secs(60);

impl Permits {
    /// Nothing asked yet.
    pub fn new(per_minute: u64) -> Self {
        Self { per_minute: usize::try_from(per_minute).unwrap_or(usize::MAX), starts: BTreeMap::new() }
    }

    /// Decides. A start that is allowed counts from here on, whatever becomes of it.
    pub fn judge(&mut self, request: &LaunchRequest, facts: Facts, now: Instant) -> Verdict {
        let (kind, known, unknown) = match request {
            LaunchRequest::Start { .. } => {
                (Kind::Start, facts.model_known, "it asks for a model that is not in its catalogue")
            }
            LaunchRequest::Kill { .. } => (Kind::Kill, facts.worker_given, "it names a worker that it was not given"),
            LaunchRequest::Attest { .. } => {
                (Kind::Attest, facts.worker_given, "it names a worker that it was not given")
            }
        };
        let Some(row) = TABLE.iter().find(|row| row.kind == kind) else {
            return Verdict::Broken("it asks for what the table does not know");
        };
        if facts.descriptors != row.descriptors {
            return Verdict::Broken("it sends another number of descriptors than the request takes");
        }
        if !known {
            return Verdict::Broken(unknown);
        }
        if facts.stopping && !row.while_stopping {
            return Verdict::NotNow("the server is stopping");
        }
        match request {
            LaunchRequest::Start { model } if row.counted => self.count(model, facts, now),
            _ => Verdict::Allowed,
        }
    }

    fn count(&mut self, model: &ModelId, facts: Facts, now: Instant) -> Verdict {
        if facts.workers >= usize::try_from(facts.serving).unwrap_or(usize::MAX).saturating_add(BESIDE) {
            return Verdict::NotNow("as many workers of this model as are allowed run already");
        }
        // One entry for each model of the catalogue, and in it never more than the limit.
        let starts = self.starts.entry(model.clone()).or_default();
        while starts.front().is_some_and(|start| now.duration_since(*start) >= MINUTE) {
            starts.pop_front();
        }
        if starts.len() >= self.per_minute {
            return Verdict::NotNow("this model was started limits.starts_per_minute times within the last minute");
        }
        starts.push_back(now);
        Verdict::Allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use casemate_ipc::id::WorkerId;

    const FINE: Facts =
        Facts { descriptors: 0, stopping: false, model_known: true, workers: 0, serving: 1, worker_given: true };

    fn start(name: &str) -> LaunchRequest {
        LaunchRequest::Start { model: ModelId { name: name.parse().unwrap(), version: "1".parse().unwrap() } }
    }

    #[test]
    fn every_row_by_every_fact() {
        let kill = LaunchRequest::Kill { worker: WorkerId(1) };
        let attest = LaunchRequest::Attest { worker: WorkerId(1) };
        for (request, row) in [start("a"), kill, attest].iter().zip(TABLE) {
            let mut permits = Permits::new(1000);
            let fine = Facts { descriptors: row.descriptors, ..FINE };
            let mut judge = |facts| permits.judge(request, facts, Instant::now());
            assert_eq!(judge(fine), Verdict::Allowed);
            for wrong in [0, 1, 2, 3].into_iter().filter(|n| *n != row.descriptors) {
                assert!(matches!(judge(Facts { descriptors: wrong, ..fine }), Verdict::Broken(_)), "{row:?} {wrong}");
            }
            let unknown = Facts { model_known: false, worker_given: false, ..fine };
            assert!(matches!(judge(unknown), Verdict::Broken(_)), "{row:?}");
            let stopping = judge(Facts { stopping: true, ..fine });
            assert_eq!(stopping == Verdict::Allowed, row.while_stopping, "{row:?}");
            assert!(!matches!(stopping, Verdict::Broken(_)), "a front may not know yet");
            assert!(row.why.len() > 20);
        }
    }

    #[test]
    fn a_model_is_started_so_often_a_minute() {
        let mut permits = Permits::new(2);
        let facts = Facts { descriptors: 2, ..FINE };
        let begin = Instant::now();
        let mut at = |name, seconds| permits.judge(&start(name), facts, begin + Duration::from_secs(seconds));
        assert_eq!([at("a", 0), at("a", 30)], [Verdict::Allowed; 2]);
        assert!(matches!(at("a", 59), Verdict::NotNow(_)));
        assert_eq!(at("b", 59), Verdict::Allowed, "models do not count against each other");
        assert_eq!(at("a", 60), Verdict::Allowed);
        assert!(matches!(at("a", 61), Verdict::NotNow(_)), "a refusal must not push the window on");
        assert_eq!(at("a", 90), Verdict::Allowed);
    }

    #[test]
    fn only_so_many_at_once() {
        let judge = |serving, workers| {
            let facts = Facts { descriptors: 2, serving, workers, ..FINE };
            Permits::new(9).judge(&start("a"), facts, Instant::now())
        };
        for serving in [1, 16] {
            let most = serving as usize + BESIDE;
            assert_eq!(judge(serving, most - 1), Verdict::Allowed);
            assert!(matches!(judge(serving, most), Verdict::NotNow(_)));
        }
    }
}
