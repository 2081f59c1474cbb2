//! Makes the allocator ask its last question before the last filter goes on.
//!
//! The first time that glibc gives memory of a thread's arena back, it opens `/proc/sys/vm/overcommit_memory` to learn how,
//! and remembers the answer, or that there was none. Under the serving filter that question would end the worker, at some
//! request long after its start. So it is provoked here: a thread fills one arena heap and lets go of it.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{io, thread};

/// Whether it has been asked; a process that is forked off has the answer too.
static ASKED: AtomicBool = AtomicBool::new(false);

/// Fills and frees a heap in a thread that ends, unless this was done before: it is hundreds of calls of the kernel. To be
/// called while there is one thread: then a new one gets an arena of its own, and not the main one, which shrinks without
/// asking.
pub(crate) fn prime() -> io::Result<()> {
    if ASKED.load(Ordering::Relaxed) {
        return Ok(());
    }
    let thread = thread::Builder::new().name("prime".into()).spawn(|| {
        // Reserved and never written, so that next to no memory is touched.
        let blocks: Vec<Vec<u8>> = (0..BLOCKS).map(|_| black_box(Vec::with_capacity(BLOCK))).collect();
        drop(black_box(blocks));
    })?;
    thread.join().map_err(|_| io::Error::other("the priming thread panicked"))?;
    ASKED.store(true, Ordering::Relaxed);
    Ok(())
}

/// Below the least size (128 KiB) that glibc maps by itself instead of taking it from an arena.
const BLOCK: usize = 100_000;

/// Just under the 64 MiB of one arena heap: the size from which glibc gives memory back grows with what the warm-up freed,
/// up to that.
const BLOCKS: usize = 660;
