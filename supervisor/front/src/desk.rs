//! Work that would keep the reactor's one thread for long is done at a desk: a few threads that start before the front is
//! sealed, and rest until somebody brings something.

use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::thread;
use std::time::Instant;

use thiserror::Error;
use tokio::sync::oneshot;
use tokio::time::timeout_at;

/// The way to the threads; cheap to clone.
#[derive(Debug, Clone)]
pub struct Desk {
    waiting: Sender<Arc<Place>>,
}

/// Something that was brought to a desk: its result comes here. Dropped before it has begun, it is never done, and what it
/// held is let go at once, however long the others before it take.
#[derive(Debug)]
pub struct Errand<T> {
    place: Arc<Place>,
    result: oneshot::Receiver<T>,
}

/// Why nothing came back from a desk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Undone {
    /// Its time was over; it was not begun, or nobody waits for its end.
    #[error("its time was over before it was done")]
    Late,
    /// It panicked, and ended alone.
    #[error("it panicked")]
    Panicked,
}

type Task = Box<dyn FnOnce() + Send>;

/// In the row: what is to be done, until somebody begins it or it is taken back.
struct Place(Mutex<Option<Task>>);

impl Desk {
    /// Starts `threads` of them, and returns when each is at rest: from then on none of them makes a call that the front's
    /// filter forbids.
    pub fn open(threads: usize) -> io::Result<Self> {
        let (sender, waiting) = channel();
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
        Ok(Self { waiting: sender })
    }

    /// Has it done there if it is `long`, and here if not. Whoever waits does so until then; work that goes on longer ends
    /// unheard.
    pub async fn run_if<T: Send + 'static>(
        &self,
        long: bool,
        until: Instant,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Undone> {
        if !long {
            return Ok(work());
        }
        timeout_at(until.into(), self.bring(work)).await.unwrap_or(Err(Undone::Late))
    }

    /// The same for work on what others use too: it is never left while it is being done. What has not begun by then is not.
    pub async fn finish_if<T: Send + 'static>(
        &self,
        long: bool,
        until: Option<Instant>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Undone> {
        if !long {
            return Ok(work());
        }
        let mut errand = self.bring(work);
        if let Some(until) = until {
            match timeout_at(until.into(), &mut errand).await {
                Ok(result) => return result,
                Err(_) if errand.withdraw() => return Err(Undone::Late),
                Err(_) => {}
            }
        }
        errand.await
    }

    /// Has something done there.
    pub fn bring<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Errand<T> {
        let (done, result) = oneshot::channel();
        let task: Task = Box::new(move || drop(done.send(work())));
        let place = Arc::new(Place(Mutex::new(Some(task))));
        // The desks outlive whoever can bring something; without them the task falls, and the errand says so.
        let _ = self.waiting.send(Arc::clone(&place));
        Errand { place, result }
    }
}

/// Does what comes until nobody can bring anything any more.
fn sit(waiting: &Mutex<Receiver<Arc<Place>>>) {
    loop {
        // One of them waits for work, the others for the lock; neither is held while work is done.
        let place = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(place) = place else { return };
        let Some(task) = place.take() else { continue };
        // The panic has been logged by its hook. What the task held is dropped with it.
        let _ = catch_unwind(AssertUnwindSafe(task));
    }
}

// === impl Place ===

impl Place {
    /// Whoever has it does it, or drops it.
    fn take(&self) -> Option<Task> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place").finish_non_exhaustive()
    }
}

// === impl Errand ===

impl<T> Errand<T> {
    /// Takes it back, and says whether it had not begun: then it never will. What it held is dropped.
    pub fn withdraw(&self) -> bool {
        self.place.take().is_some()
    }
}

impl<T> Future for Errand<T> {
    type Output = Result<T, Undone>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.result).poll(cx).map_err(|_| Undone::Panicked)
    }
}

impl<T> Drop for Errand<T> {
    fn drop(&mut self) {
        self.withdraw();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A desk of one thread, at work until the other end says so or is dropped.
    fn busy() -> (Desk, Sender<()>, Errand<bool>) {
        let desk = Desk::open(1).unwrap();
        let ((go, gone), (begin, begun)) = (channel(), channel());
        let errand = desk.bring(move || begin.send(()).is_ok() && gone.recv_timeout(Duration::from_secs(20)).is_ok());
        begun.recv_timeout(Duration::from_secs(20)).unwrap();
        (desk, go, errand)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(5)
    }

    #[tokio::test]
    async fn the_reactor_goes_on_meanwhile() {
        let (_desk, go, long) = busy();
        let other = async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            go.send(()).is_ok()
        };
        assert_eq!(tokio::join!(long, other), (Ok(true), true));
    }

    #[tokio::test]
    async fn a_panic_ends_its_own_work_and_no_other() {
        let desk = Desk::open(1).unwrap();
        let panics = || {
            if true {
                panic!("on purpose")
            }
        };
        assert_eq!(desk.bring(panics).await, Err(Undone::Panicked));
        assert_eq!(desk.bring(|| 7).await, Ok(7));
    }

    #[tokio::test]
    async fn who_waits_too_long_for_a_desk_is_told_and_leaves_nothing_there() {
        let (desk, go, long) = busy();
        let held = Arc::new(());
        let hold = || {
            let held = Arc::clone(&held);
            move || drop(held)
        };
        assert_eq!(desk.run_if(true, soon(), hold()).await, Err(Undone::Late));
        assert_eq!(Arc::strong_count(&held), 1, "let go while the desk is still at work");
        assert_eq!(desk.finish_if(true, Some(soon()), hold()).await, Err(Undone::Late));
        assert_eq!(Arc::strong_count(&held), 1);
        // A client that hangs up.
        let errand = desk.bring(hold());
        assert_eq!(Arc::strong_count(&held), 2, "the control: it waits there");
        drop(errand);
        assert_eq!(Arc::strong_count(&held), 1);
        // What is short needs no desk, and no time.
        assert_eq!(desk.run_if(false, Instant::now(), || 7).await, Ok(7));
        go.send(()).unwrap();
        assert_eq!(long.await, Ok(true));
        assert_eq!(desk.run_if(true, Instant::now() + Duration::from_secs(20), || 7).await, Ok(7));
    }

    #[tokio::test]
    async fn what_has_begun_is_waited_for_where_others_use_it_too() {
        let desk = Desk::open(1).unwrap();
        let ((go, gone), (begin, begun)) = (channel(), channel());
        let work = move || begin.send(()).is_ok() && gone.recv_timeout(Duration::from_secs(20)).is_ok();
        let other = async {
            // Polled second, so its time is not over before it has begun.
            begun.recv_timeout(Duration::from_secs(20)).unwrap();
            tokio::time::sleep(Duration::from_millis(300)).await;
            go.send(()).unwrap();
        };
        let until = Instant::now() + Duration::from_millis(200);
        assert_eq!(tokio::join!(desk.finish_if(true, Some(until), work), other), (Ok(true), ()));
        let errand = desk.bring(|| 7);
        while !errand.place.0.lock().unwrap().is_none() {
            thread::yield_now();
        }
        assert!(!errand.withdraw(), "it has begun");
    }
}
