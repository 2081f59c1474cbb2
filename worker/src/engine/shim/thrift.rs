//! The C function of `thrift.cpp`, as a safe one.

/// Gives back what only the start needed: free pages of the heap, and pages of libraries that nothing wrote to.
pub fn let_go() {
    // SAFETY: it takes nothing, and gives back memory that is free, or that the kernel reads again from where it came.
    unsafe { casemate_let_go() }
}

unsafe extern "C" {
    fn casemate_let_go();
}
