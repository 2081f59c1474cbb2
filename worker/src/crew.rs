//! The threads of a worker's further instances: started before the last filter, which allows no new one, and at rest until
//! there is a model to run. The first instance is the thread that the worker was born with.

use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use thiserror::Error;

use crate::engine::contract::RunError;

/// Threads at rest, each ready to run a model.
#[derive(Debug)]
pub struct Crew {
    posts: Vec<Sender<Duty>>,
}

/// What one of them does, to the end of the worker.
pub type Duty = Box<dyn FnOnce() + Send>;

/// Why there is no crew.
#[derive(Debug, Error)]
pub enum CrewError {
    /// The kernel gives no thread.
    #[error("instance {0}: no thread: {1}")]
    Thread(u32, std::io::Error),
    /// It cannot be made ready.
    #[error("instance {0}: {1}")]
    Ready(u32, RunError),
    /// It ended before it said anything.
    #[error("instance {0}: its thread ended")]
    Ended(u32),
}

/// As much as the first thread has; a deep model needs as much on every thread.
const STACK: usize = 8 << 20;

impl Crew {
    /// Starts one thread for each number, one after the other; each has made itself ready by `ready`, and rests, when this
    /// returns.
    pub fn muster(
        numbers: impl IntoIterator<Item = u32>,
        ready: impl Fn(u32) -> Result<(), RunError> + Clone + Send + 'static,
    ) -> Result<Self, CrewError> {
        let mut posts = Vec::new();
        for number in numbers {
            let (post, duties) = mpsc::channel();
            let (said, hear) = mpsc::channel();
            let ready = ready.clone();
            let stand = move || {
                let readied = ready(number);
                // Nobody listens only where the worker is about to end.
                let _ = said.send(readied);
                rest(&duties);
            };
            let builder = thread::Builder::new().name(format!("instance-{number}")).stack_size(STACK);
            builder.spawn(stand).map_err(|error| CrewError::Thread(number, error))?;
            let readied = hear.recv().map_err(|_| CrewError::Ended(number))?;
            readied.map_err(|error| CrewError::Ready(number, error))?;
            posts.push(post);
        }
        Ok(Self { posts })
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.posts.len()
    }

    /// Whether the first thread is alone.
    pub fn is_empty(&self) -> bool {
        self.posts.is_empty()
    }

    /// Gives each of them its duty, in the order of their numbers.
    pub fn assign(&self, duties: impl IntoIterator<Item = Duty>) {
        for (post, duty) in self.posts.iter().zip(duties) {
            // None has ended: a thread that ends would end the worker.
            let _ = post.send(duty);
        }
    }
}

/// No thread ends before its process does: ending is a call that the last filter does not allow.
fn rest(duties: &Receiver<Duty>) {
    loop {
        match duties.recv() {
            Ok(duty) => duty(),
            Err(_) => thread::park(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn each_is_ready_in_turn_and_does_its_own_duty() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&order);
        let crew = Crew::muster(1..4, move |number| {
            seen.lock().unwrap().push(number);
            Ok(())
        });
        let crew = crew.unwrap();
        assert_eq!((crew.len(), crew.is_empty()), (3, false));
        assert_eq!(*order.lock().unwrap(), [1, 2, 3]);
        let (done, hear) = mpsc::channel();
        crew.assign((1..4).map(|number| {
            let done = done.clone();
            Box::new(move || done.send((number, thread::current().name().map(str::to_owned))).unwrap()) as Duty
        }));
        let mut heard: Vec<_> = hear.into_iter().take(3).collect();
        heard.sort();
        assert_eq!(heard, [1, 2, 3].map(|number| (number, Some(format!("instance-{number}")))));
    }

    #[test]
    fn one_that_cannot_be_made_ready_is_told_by_its_number() {
        let failed = |number| if number == 2 { Err(RunError::Model("no".into())) } else { Ok(()) };
        let error = Crew::muster(1..4, failed).unwrap_err();
        assert_eq!(error.to_string(), "instance 2: no");
        assert!(Crew::muster(1..1, failed).unwrap().is_empty());
    }
}
