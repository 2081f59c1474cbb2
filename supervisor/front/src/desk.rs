//! Work that would keep the reactor's one thread for long is done at a desk: a few threads that start before the front is
//! sealed, and rest until somebody brings something.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::thread;

use tokio::sync::oneshot;

/// The way to the threads; cheap to clone.
#[derive(Debug, Clone)]
pub struct Desk {
    tasks: Sender<Task>,
}

type Task = Box<dyn FnOnce() + Send>;

impl Desk {
    /// Starts `threads` of them, and returns when each is at rest: from then on none of them makes a call that the front's
    /// filter forbids.
    pub fn open(threads: usize) -> io::Result<Self> {
        let (tasks, waiting) = channel();
        let waiting = Arc::new(Mutex::new(waiting));
        let at_rest = Arc::new(Barrier::new(threads + 1));
        for _ in 0..threads {
            let (waiting, at_rest) = (Arc::clone(&waiting), Arc::clone(&at_rest));
            thread::Builder::new().name("desk".to_owned()).spawn(move || {
                at_rest.wait();
                sit(&waiting);
            })?;
        }
        at_rest.wait();
        Ok(Self { tasks })
    }

    /// Has it done there if it is `long`, and here if not.
    pub async fn run_if<T: Send + 'static>(&self, long: bool, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        if long { self.run(work).await } else { Some(work()) }
    }

    /// Has something done there. Nothing comes back from work that panicked: it ends alone.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (done, result) = oneshot::channel();
        let task = Box::new(move || {
            // Who brought it may be gone, and may be before it begins.
            if !done.is_closed() {
                let _ = done.send(work());
            }
        });
        self.tasks.send(task).ok()?;
        result.await.ok()
    }
}

/// Does what comes until nobody can bring anything any more.
fn sit(waiting: &Mutex<Receiver<Task>>) {
    loop {
        // One of them waits for work, the others for the lock; neither is held while work is done.
        let task = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(task) = task else { return };
        // The panic has been logged by its hook. What the task held is dropped with it.
        let _ = catch_unwind(AssertUnwindSafe(task));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_reactor_goes_on_meanwhile() {
        let desk = Desk::open(1).unwrap();
        let (go, gone) = channel();
        let long = desk.run(move || gone.recv_timeout(Duration::from_secs(20)).is_ok());
        let other = async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            go.send(()).is_ok()
        };
        assert_eq!(tokio::join!(long, other), (Some(true), true));
    }

    #[tokio::test]
    async fn a_panic_ends_its_own_work_and_no_other() {
        let desk = Desk::open(1).unwrap();
        assert_eq!(
            desk.run(|| if true {
                panic!("on purpose")
            })
            .await,
            None
        );
        assert_eq!(desk.run(|| 7).await, Some(7));
    }
}
