//! Questions to an idle worker, whether it is alive.

use std::time::{Duration, Instant};

use super::link::Link;
use crate::alarm::Alarm;
use casemate_ipc::work::ToWorker;

/// What was asked, and when the next question is due.
#[derive(Debug)]
pub struct Pings {
    pause: Duration,
    next: Instant,
    alarm: Alarm,
    asked: Option<u64>,
    token: u64,
    missed: u32,
}

impl Pings {
    /// The first question comes after one pause.
    pub fn new(pause: Duration) -> Self {
        Self { pause, next: Instant::now() + pause, alarm: Alarm::new(), asked: None, token: 0, missed: 0 }
    }

    /// Waits until the next question is due.
    pub async fn due(&mut self) {
        self.alarm.ring(Some(self.next)).await;
    }

    /// Asks again; false once two questions went unanswered.
    pub fn ask(&mut self, link: &Link) -> bool {
        self.next = Instant::now() + self.pause;
        if self.asked.is_some() {
            self.missed += 1;
            return self.missed < 2;
        }
        self.token += 1;
        self.asked = Some(self.token);
        // A worker whose socket is full has stopped reading; the next round ends it.
        let _ = link.send(&ToWorker::Ping { token: self.token });
        true
    }

    /// An answer; false if nobody asked.
    pub fn answered(&mut self, token: u64) -> bool {
        self.missed = 0;
        self.asked.take() == Some(token)
    }
}
