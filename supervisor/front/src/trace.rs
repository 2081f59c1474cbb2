//! Where the time of one request goes: a mark at each stage of its trip, for the request that asks for it where the operator
//! lets it ask (`listen.trace`). Everybody else's requests carry nothing: how long things take is not for strangers.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The marks of one request, if it is traced; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Trace(Option<Arc<Marks>>);

#[derive(Debug)]
struct Marks {
    begun: Instant,
    /// Nanoseconds from the beginning to the end of each stage; 0 where it was not reached.
    ends: [AtomicU64; Stage::ALL.len()],
    /// Microseconds in the engine, as the worker says.
    run: AtomicU64,
}

/// A stage of a trip, named by what has been done when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The body is whole; the trip begins with the head in hand.
    Read,
    /// It is a request.
    Parse,
    /// It fits its model, and waits.
    Admit,
    /// Its batch leaves.
    Queue,
    /// Its tensors lie in the arena, and the worker has been told.
    Place,
    /// The worker's answer is here.
    Worker,
    /// Copied out, checked, cut into rows.
    Sanitise,
    /// The connection has it.
    Wake,
    /// It is bytes.
    Render,
}

impl Stage {
    /// All of them, in order.
    pub const ALL: [Self; 9] = [
        Self::Read,
        Self::Parse,
        Self::Admit,
        Self::Queue,
        Self::Place,
        Self::Worker,
        Self::Sanitise,
        Self::Wake,
        Self::Render,
    ];

    /// Its name in the header.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Parse => "parse",
            Self::Admit => "admit",
            Self::Queue => "queue",
            Self::Place => "place",
            Self::Worker => "worker",
            Self::Sanitise => "sanitise",
            Self::Wake => "wake",
            Self::Render => "render",
        }
    }
}

impl Trace {
    /// The trace of a request that is to be traced, from now on.
    pub fn begin() -> Self {
        Self(Some(Arc::new(Marks { begun: Instant::now(), ends: Default::default(), run: AtomicU64::new(0) })))
    }

    /// A stage has ended. The last word counts: who rode in a failed batch rides again.
    pub fn end(&self, stage: Stage) {
        if let Some(marks) = &self.0 {
            let passed = u64::try_from(marks.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
            if let Some(end) = marks.ends.get(stage as usize) {
                end.store(passed, Ordering::Relaxed);
            }
        }
    }

    /// The worker's answer is here, and says how long the engine took.
    pub fn ran(&self, run: Duration) {
        self.end(Stage::Worker);
        if let Some(marks) = &self.0 {
            marks.run.store(u64::try_from(run.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }

    /// What each stage took, as the value of a header `Server-Timing`: milliseconds. Nothing for who is not traced.
    pub fn header(&self) -> Option<String> {
        let marks = self.0.as_ref()?;
        let (mut text, mut last) = (String::with_capacity(256), 0);
        for (stage, end) in Stage::ALL.iter().zip(&marks.ends) {
            // A stage that was not reached took no time of its own.
            let end = end.load(Ordering::Relaxed).max(last);
            entry(&mut text, stage.name(), (end - last) / 1000);
            last = end;
            if *stage == Stage::Worker {
                entry(&mut text, "run", marks.run.load(Ordering::Relaxed));
            }
        }
        Some(text)
    }
}

fn entry(text: &mut String, name: &str, micros: u64) {
    let comma = if text.is_empty() { "" } else { ", " };
    // Writing into a String has no way to fail.
    let _ = write!(text, "{comma}{name};dur={}.{:03}", micros / 1000, micros % 1000);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_has_its_entry_and_strangers_have_none() {
        assert_eq!(Trace::default().header(), None);
        let trace = Trace::begin();
        trace.end(Stage::Read);
        trace.ran(Duration::from_micros(1234));
        let text = trace.header().unwrap();
        let names: Vec<&str> = text.split(", ").map(|entry| entry.split(';').next().unwrap()).collect();
        assert_eq!(names, ["read", "parse", "admit", "queue", "place", "worker", "run", "sanitise", "wake", "render"]);
        assert!(text.contains("run;dur=1.234"), "{text}");
        assert!(Stage::ALL.iter().enumerate().all(|(place, stage)| place == *stage as usize));
    }
}
