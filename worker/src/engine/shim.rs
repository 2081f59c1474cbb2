//! All unsafe code of the worker: how it ends, raw system calls for the probes, and ([`libtorch`]) the C++ beneath the
//! engine.
//!
//! The raw calls are compiled always: the scripted engine and the probes must be able to do what a model that has taken
//! over the process would do. They are no way around the cage, since the cage does not rest on what the worker's own
//! code refrains from.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

pub mod birth;
#[cfg(feature = "torch")]
pub mod convolution;
#[cfg(feature = "torch")]
pub mod libtorch;
#[cfg(feature = "torch")]
pub mod thrift;

/// One argument of a raw system call. A pointer comes from something that is borrowed, so it outlives the call.
#[derive(Debug)]
pub enum Arg<'a> {
    /// A number, an address of the caller's making included.
    Number(u64),
    /// A text that the kernel reads.
    Text(&'a CStr),
    /// Bytes that the kernel reads.
    Bytes(&'a [u8]),
    /// Bytes that the kernel writes.
    Room(&'a mut [u8]),
    /// Addresses that the kernel reads: `argv`, an `iovec`.
    Words(&'a [u64]),
}

/// A way to end at once by the processor's or the kernel's hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// Reads where nothing is mapped.
    Segv,
    /// Divides by zero.
    Fpe,
    /// An instruction that does not exist.
    Ill,
    /// `abort()`.
    Abort,
    /// Calls itself until the stack is full.
    Stack,
}

/// Whether a descriptor of this number is open.
pub fn is_open(fd: i32) -> bool {
    // SAFETY: F_GETFD reads a flag of the descriptor table; an fd that is not open is an error and nothing else.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

/// Writes to one of the two log pipes. They do not block: what does not fit is lost.
pub fn log(fd: i32, bytes: &[u8]) {
    // SAFETY: the kernel reads `bytes.len()` bytes of a live slice.
    let _ = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
}

/// Sends bytes as they are on a socket, for the engine that lies.
pub fn send_raw(fd: BorrowedFd<'_>, bytes: &[u8]) -> i64 {
    let socket = u64::from(fd.as_raw_fd().cast_unsigned());
    let flags = Arg::Number(libc::MSG_NOSIGNAL as u64);
    let length = Arg::Number(bytes.len() as u64);
    call(libc::SYS_sendto, [Arg::Number(socket), Arg::Bytes(bytes), length, flags, ZERO, ZERO])
}

/// Does something in a process of its own, and waits for its end. For `casemate-probe`, which is one thread.
pub fn apart(act: impl FnOnce()) {
    // SAFETY: the process has one thread, so its copy has whole locks and a whole heap; the copy ends right after the act.
    let child = unsafe { libc::fork() };
    if child == 0 {
        act();
        exit(0);
    }
    // SAFETY: a null status is not written to; a child that could not be made is an error and nothing else.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
}

/// Ends the process without running what libtorch and libc would still run at exit: none of it has a purpose in a process
/// that holds nothing, and all of it could hang.
pub fn exit(code: i32) -> ! {
    // SAFETY: `_exit` takes a number and does not return; no destructor is relied upon for anything outside the process.
    unsafe { libc::_exit(code) }
}

/// A zero, for the arguments that a call does not have.
pub const ZERO: Arg<'static> = Arg::Number(0);

/// A system call by its number; the kernel's own answer, which is `-errno` on failure.
///
/// Not safe for every number: who passes an address as a number, or unmaps memory, gets what a hostile model would get.
/// Only [`crate::probe`] and the scripted engine call this.
pub fn call(number: i64, arguments: [Arg<'_>; 6]) -> i64 {
    let [a, b, c, d, e, f] = arguments.map(|argument| argument.word());
    // SAFETY: a pointer among the arguments comes from a borrow that is alive (`Arg`), with its true length beside it where
    // the call asks for one; the probes keep to calls that touch no other memory of this process.
    let answer = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if answer == -1 { -i64::from(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)) } else { answer }
}

/// A system call that makes a new process or thread, should it be allowed. The child ends in its next instruction, before
/// it has touched the stack that it may share.
pub fn birth(number: i64, arguments: [Arg<'_>; 6]) -> i64 {
    let [a, b, c, d, e, _] = arguments.map(|argument| argument.word());
    let answer: i64;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the call itself touches no memory but what its arguments say, which `Arg` keeps alive. In a child, `rax` is
    // zero, and it calls exit before anything else: neither our stack nor our code is used by it.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "mov edi, 0",
            "mov eax, 60",
            "syscall",
            "2:",
            inlateout("rax") number => answer,
            inlateout("rdi") a => _, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e,
            lateout("rcx") _, lateout("r11") _,
        )
    };
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above; in a child `x0` is zero and it calls exit at once.
    unsafe {
        std::arch::asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x8, 93",
            "svc 0",
            "2:",
            inlateout("x0") a => answer,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e, inlateout("x8") number => _,
        )
    };
    answer
}

/// `getpid` through the door of 32-bit programs.
#[cfg(target_arch = "x86_64")]
pub fn int80_getpid() -> i64 {
    let answer: i64;
    // SAFETY: number 20 is getpid in the 32-bit table: no arguments, no memory.
    unsafe {
        std::arch::asm!("int 0x80", inlateout("rax") 20_i64 => answer, lateout("r8") _, lateout("r9") _, lateout("r10") _,
            lateout("r11") _)
    };
    answer
}

/// Ends the process the hard way.
pub fn crash(how: Crash) {
    match how {
        Crash::Segv => {
            // SAFETY: none; the first page is never mapped, so this read ends the process, which is its purpose.
            let byte = unsafe { std::ptr::without_provenance::<u8>(8).read_volatile() };
            std::hint::black_box(byte);
        }
        Crash::Fpe => trap(true),
        Crash::Ill => trap(false),
        // SAFETY: `abort` may be called at any time and does not return.
        Crash::Abort => unsafe { libc::abort() },
        Crash::Stack => {
            std::hint::black_box(deeper(0));
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn trap(arithmetic: bool) {
    if arithmetic {
        // SAFETY: a division by zero raises SIGFPE and changes nothing.
        unsafe {
            std::arch::asm!("xor ecx, ecx", "xor edx, edx", "mov eax, 1", "idiv ecx", out("eax") _, out("ecx") _, out("edx") _)
        };
    } else {
        // SAFETY: an undefined instruction raises SIGILL and changes nothing.
        unsafe { std::arch::asm!("ud2") };
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn trap(_arithmetic: bool) {
    // SAFETY: `abort` may be called at any time and does not return.
    unsafe { libc::abort() }
}

/// Writes one byte at an address, wherever that is: what a model that has taken over the process could do.
///
/// As [`call`], not safe for every number. Only [`crate::probe`] calls this, with the addresses of memory that holds
/// nothing of the worker's own.
pub fn poke(address: usize) {
    let place = std::ptr::with_exposed_provenance_mut::<u8>(address);
    // SAFETY: the probes give the address of a mapping that is either shared memory without any reference to it, where one
    // more byte means nothing, or not writable, where the process ends here, which is the purpose.
    unsafe { place.write_volatile(1) };
}

/// Calls itself until it has used that many bytes of the stack.
pub fn descend(bytes: usize) -> u64 {
    const FRAME: usize = 4096;
    let frame = std::hint::black_box([1_u8; FRAME]);
    let below = if bytes > FRAME { descend(bytes - FRAME) } else { 0 };
    below + u64::from(frame[0])
}

#[expect(unconditional_recursion, reason = "overflowing the stack is what it is for")]
fn deeper(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 64]);
    deeper(depth + 1) + frame[0]
}

impl Arg<'_> {
    fn word(&self) -> u64 {
        match self {
            Self::Number(number) => *number,
            Self::Text(text) => text.as_ptr() as u64,
            Self::Bytes(bytes) => bytes.as_ptr() as u64,
            Self::Room(room) => room.as_ptr() as u64,
            Self::Words(words) => words.as_ptr() as u64,
        }
    }
}
