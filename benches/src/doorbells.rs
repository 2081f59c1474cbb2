//! What it takes to wake somebody and be woken: two threads that ring each other, by each of the ways that a request could be
//! announced. Two processes pay a switch of address spaces more, by every one of them alike.

use std::error::Error;
use std::hint::spin_loop;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::figure::Figure;
use crate::measure::median;
use crate::usage;

const ROUNDS: usize = 5;
const TURN: Duration = Duration::from_millis(400);

/// As large as a frame that announces a request of one tensor.
const FRAME: [u8; 64] = [1; 64];

/// One end of a bell: it rings, and waits until it is rung.
trait Bell: Send + 'static {
    fn ring(&mut self) -> io::Result<()>;
    fn wait(&mut self) -> io::Result<()>;
}

type Pair = (Box<dyn Bell>, Box<dyn Bell>);

/// Name and both ends.
type Way = (&'static str, fn() -> Result<Pair, Box<dyn Error>>);

const WAYS: [Way; 5] = [
    ("a packet", || {
        let (ours, theirs) = UnixDatagram::pair()?;
        Ok((Box::new(Packet(ours)), Box::new(Packet(theirs))))
    }),
    ("a stream", || {
        let (ours, theirs) = UnixStream::pair()?;
        Ok((Box::new(Stream(ours)), Box::new(Stream(theirs))))
    }),
    ("an eventfd", || {
        let bell = || EventFd::from_flags(EfdFlags::EFD_CLOEXEC).map(Arc::new);
        let (here, there) = (bell()?, bell()?);
        Ok((Box::new(Event(Arc::clone(&here), Arc::clone(&there))), Box::new(Event(there, here))))
    }),
    ("a futex", || Ok(flags(false))),
    ("a flag that both look at all the time", || Ok(flags(true))),
];

pub(crate) fn run() -> Result<Vec<Figure>, Box<dyn Error>> {
    let mut turns = vec![(Vec::new(), Vec::new()); WAYS.len()];
    for _ in 0..ROUNDS {
        for ((_, make), (times, cpu)) in WAYS.iter().zip(&mut turns) {
            let (took, used) = turn(make()?)?;
            times.push(took.as_secs_f64() * 1e6);
            cpu.push(used.as_secs_f64() * 1e6);
        }
    }
    let figures = WAYS.iter().zip(turns).flat_map(|((name, _), (times, cpu))| {
        [
            Figure::new(format!("{name}, there and back: p50"), median(times), "us"),
            Figure::new(format!("{name}, there and back: CPU of both"), median(cpu), "us"),
        ]
    });
    Ok(figures.collect())
}

/// There and back for a while: the median, and the CPU time of both threads for each time.
fn turn((mut ours, mut theirs): Pair) -> Result<(Duration, Duration), Box<dyn Error>> {
    let over = Arc::new(AtomicBool::new(false));
    let last = Arc::clone(&over);
    let other = thread::spawn(move || {
        while !last.load(Ordering::Acquire) {
            theirs.wait()?;
            theirs.ring()?;
        }
        Ok::<_, io::Error>(())
    });
    let mut trip = || -> io::Result<Duration> {
        let begun = Instant::now();
        ours.ring()?;
        ours.wait()?;
        Ok(begun.elapsed())
    };
    trip()?;
    let own = [std::process::id()];
    let (before, end, mut times) = (usage::cpu(&own), Instant::now() + TURN, Vec::new());
    while Instant::now() < end {
        times.push(trip()?);
    }
    // Before the thread ends: what one took that has ended is not counted.
    let used = usage::cpu(&own).saturating_sub(before);
    over.store(true, Ordering::Release);
    // It may have seen that already, and be gone.
    let _ = ours.ring();
    other.join().map_err(|_| "the other thread panicked")??;
    times.sort_unstable();
    let middle = times.get(times.len() / 2).copied().ok_or("nobody rang")?;
    Ok((middle, used.div_f64(times.len() as f64)))
}

/// What the work channel is: a frame in a packet.
struct Packet(UnixDatagram);

impl Bell for Packet {
    fn ring(&mut self) -> io::Result<()> {
        self.0.send(&FRAME)?;
        Ok(())
    }

    fn wait(&mut self) -> io::Result<()> {
        self.0.recv(&mut FRAME.clone())?;
        Ok(())
    }
}

struct Stream(UnixStream);

impl Bell for Stream {
    fn ring(&mut self) -> io::Result<()> {
        self.0.write_all(&FRAME)
    }

    fn wait(&mut self) -> io::Result<()> {
        self.0.read_exact(&mut FRAME.clone())
    }
}

/// Its own, and the other's.
struct Event(Arc<EventFd>, Arc<EventFd>);

impl Bell for Event {
    fn ring(&mut self) -> io::Result<()> {
        self.1.write(1)?;
        Ok(())
    }

    fn wait(&mut self) -> io::Result<()> {
        self.0.read()?;
        Ok(())
    }
}

/// How often each side was rung, and who sleeps there.
#[derive(Default)]
struct Side {
    rung: AtomicU32,
    sleeper: std::sync::OnceLock<Thread>,
}

/// A number in memory; the standard library parks and unparks a thread by a futex.
struct Flag {
    own: Arc<Side>,
    other: Arc<Side>,
    seen: u32,
    looks: bool,
}

fn flags(looks: bool) -> Pair {
    let (here, there) = (Arc::<Side>::default(), Arc::<Side>::default());
    let end = |own: &Arc<Side>, other: &Arc<Side>| {
        Box::new(Flag { own: Arc::clone(own), other: Arc::clone(other), seen: 0, looks })
    };
    (end(&here, &there), end(&there, &here))
}

impl Bell for Flag {
    fn ring(&mut self) -> io::Result<()> {
        self.other.rung.fetch_add(1, Ordering::AcqRel);
        if let (false, Some(sleeper)) = (self.looks, self.other.sleeper.get()) {
            sleeper.unpark();
        }
        Ok(())
    }

    fn wait(&mut self) -> io::Result<()> {
        self.own.sleeper.get_or_init(thread::current);
        while self.own.rung.load(Ordering::Acquire) == self.seen {
            if self.looks { spin_loop() } else { thread::park_timeout(Duration::from_millis(50)) }
        }
        self.seen += 1;
        Ok(())
    }
}
