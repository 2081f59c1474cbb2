//! The C functions of `thrift.cpp`, as safe ones.

/// Gives the heap's free pages back. What is freed from now on stays, for the next run.
pub fn let_go_of_heap() {
    // SAFETY: it takes nothing, and gives back memory that is free, under the allocator's own locks.
    unsafe { casemate_let_go_of_heap() }
}

/// Takes those pages of libtorch out of this process's map that nothing wrote to.
pub fn let_go_of_libraries() {
    // SAFETY: it takes nothing, and the kernel reads such a page again from where it came, whoever touches it.
    unsafe { casemate_let_go_of_libraries() }
}

unsafe extern "C" {
    fn casemate_let_go_of_heap();
    fn casemate_let_go_of_libraries();
}
