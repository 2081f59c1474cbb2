//! Acts that no system call filter refuses: each is one that the filter lets pass, or no call at all.

use std::time::{Duration, Instant};

use libc as c;

use super::acts::{call, n, probe};
use super::{Act, Mechanism, Probe, Scene};
use crate::engine::script::Moment;
use crate::engine::shim::{self, Arg, ZERO};

pub(super) const ALL: &[Probe] = &[
    within("write-requests", Moment::Run, Mechanism::Mapping, |scene| poke(scene.requests)),
    within("unprotect-requests", Moment::Run, Mechanism::Seal, |scene| unprotect(scene.requests)),
    // Once it is loaded, the model's memory is gone.
    within("write-model", Moment::Load, Mechanism::Mapping, |scene| poke(scene.model)),
    within("unprotect-model", Moment::Load, Mechanism::Seal, |scene| unprotect(scene.model)),
    alone("map-beyond-limit", Mechanism::DataLimit, || reserve(c::PROT_READ | c::PROT_WRITE)),
    alone("unprotect-beyond-limit", Mechanism::DataLimit, || {
        let address = reserve(c::PROT_NONE);
        if address < 0 {
            return address;
        }
        let whole = [Arg::Number(address.cast_unsigned()), Arg::Number(HUGE), n(c::PROT_READ | c::PROT_WRITE)];
        call(c::SYS_mprotect, whole)
    }),
    Probe {
        prepare: Some(raise_stack),
        ..alone("deep-stack", Mechanism::StackLimit, || {
            shim::descend(DEPTH);
            0
        })
    },
    alone("spin", Mechanism::Deadline, || {
        let begun = Instant::now();
        while begun.elapsed() < SPIN {
            std::hint::spin_loop();
        }
        0
    }),
];

/// How a proof looks that does not hold: an act that the cage allows, one whose control never comes back, and one that is
/// stopped before it comes to its own call.
pub(super) const FAILING: &[Probe] = &[
    probe("allowed-sched-yield", c::SYS_sched_yield, || call(c::SYS_sched_yield, [])),
    Probe { prepare: Some(vanish), ..probe("control-vanishes", c::SYS_getpid, || call(c::SYS_getpid, [])) },
    probe("stopped-elsewhere", c::SYS_getpid, || call(c::SYS_getppid, [])),
];

/// More than any worker may have, and less than an address space.
const HUGE: u64 = 32 << 40;
/// Eight times the stack that a worker has.
const DEPTH: usize = 64 << 20;
/// Longer than the two seconds that the command gives an act.
const SPIN: Duration = Duration::from_secs(5);

const fn alone(name: &'static str, by: Mechanism, act: fn() -> i64) -> Probe {
    Probe { name, at: Moment::Run, by, stop: None, act: Act::Alone(act), prepare: None }
}

const fn within(name: &'static str, at: Moment, by: Mechanism, act: fn(&Scene) -> i64) -> Probe {
    Probe { name, at, by, stop: None, act: Act::Within(act), prepare: None }
}

/// Writes one byte.
fn poke(address: usize) -> i64 {
    if address == 0 {
        return -i64::from(c::ENODATA);
    }
    shim::poke(address);
    0
}

/// Asks for the right to write.
fn unprotect(address: usize) -> i64 {
    const PAGE: i32 = 4096;
    if address == 0 {
        return -i64::from(c::ENODATA);
    }
    call(c::SYS_mprotect, [Arg::Number(address as u64), n(PAGE), n(c::PROT_READ | c::PROT_WRITE)])
}

/// Address space for a great many bytes, of which none is touched.
fn reserve(protection: i32) -> i64 {
    let flags = c::MAP_PRIVATE | c::MAP_ANONYMOUS | c::MAP_NORESERVE;
    call(c::SYS_mmap, [ZERO, Arg::Number(HUGE), n(protection), n(flags), n(-1), n(0)])
}

/// Makes room for the stack, so that the act can succeed without a cage.
fn raise_stack() {
    const STACK: i32 = 3;
    const ROOM: u64 = 256 << 20;
    let unlimited = u64::MAX;
    let mut old = [0; 16];
    call(c::SYS_prlimit64, [n(0), n(STACK), ZERO, Arg::Room(&mut old)]);
    let hard = u64::from_le_bytes(old[8..].try_into().unwrap_or([0xff; 8])).min(unlimited);
    call(c::SYS_prlimit64, [n(0), n(STACK), Arg::Words(&[ROOM.min(hard), hard]), ZERO]);
}

/// Ends the process before the act.
fn vanish() {
    shim::exit(0);
}
