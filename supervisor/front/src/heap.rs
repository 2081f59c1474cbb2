//! What the allocator keeps of memory that nobody uses. **Unsafe** lives here.

use nix::libc;

/// Gives every page of the heap that is free back to the system. Takes as long as there is much to give, some milliseconds
/// for a hundred MiB, and whoever allocates meanwhile waits.
pub(crate) fn give_back() {
    // SAFETY: it takes a number, and touches memory that the allocator has and nobody uses, under the allocator's own locks.
    unsafe { libc::malloc_trim(0) };
}
