//! The rule-fire test: every rule of every shipped filter, allowed as written and refused with each argument spoilt; every
//! other call refused; and for each claim a control without the filter. Made from the embedded table, so a rule that is
//! added to a policy file is tested without a line here.
//!
//! What is asked is only whether the kernel let the call through: the arguments are such that it can do no harm (null
//! pointers, lengths of 0), so most of them return an errno.

mod child;

use casemate_lockdown::policy::{Clause, Filter, Rule, Test, call_name, filter, filters};
use child::{Answer, End, call};
use nix::sys::signal::Signal;

/// Arguments that satisfy the rule, and apart from that are 0.
fn lawful(rule: &Rule) -> [u64; 6] {
    let mut arguments = harmless(rule.call);
    for clause in rule.clauses {
        let place = &mut arguments[usize::from(clause.index)];
        match clause.test {
            Test::Lacks(bits) => *place &= !bits,
            Test::Has(bits) => *place |= bits,
            Test::Equals(value) => *place = value,
            Test::In(values) => *place = values[0],
            Test::AtMost(most) => *place = most,
        }
    }
    arguments
}

/// Each way in which one clause alone can be broken, and in the values of a list each lawful one.
fn spoilt(rule: &Rule) -> Vec<[u64; 6]> {
    rule.clauses
        .iter()
        .flat_map(|clause| values(clause, lawful(rule)[usize::from(clause.index)]).map(|v| with(rule, clause, v)))
        .collect()
}

fn values(clause: &Clause, good: u64) -> impl Iterator<Item = u64> {
    let bits = |mask: u64| (0..64).map(|bit| 1_u64 << bit).filter(move |bit| mask & bit != 0);
    let width = if clause.wide { u64::MAX } else { u64::from(u32::MAX) };
    // One bit off at the bottom, at the top of the low half and, for a wide argument, just above it and at the very top.
    let near =
        move |value: u64| [0, 31, 32, 63].map(|bit| value ^ (1 << bit)).into_iter().filter(move |v| v & !width == 0);
    let list: Vec<u64> = match clause.test {
        Test::Lacks(mask) => bits(mask).map(|bit| good | bit).collect(),
        Test::Has(mask) => bits(mask).map(|bit| good & !bit).collect(),
        Test::Equals(value) => near(value).collect(),
        Test::In(values) => values.iter().flat_map(|value| near(*value).chain([value + 1])).collect(),
        Test::AtMost(most) => near(most).chain([most + 1]).filter(|v| *v > most).collect(),
    };
    list.into_iter()
}

fn with(rule: &Rule, clause: &Clause, value: u64) -> [u64; 6] {
    let mut arguments = lawful(rule);
    arguments[usize::from(clause.index)] = value;
    arguments
}

/// What a call needs so that it does nothing even if it is let through: a thread that the kernel refuses to start, a process
/// that is not there, a name that is too long, a list that is longer than a process may have descriptors.
fn harmless(call: &str) -> [u64; 6] {
    match call {
        "clone" => [(libc::CLONE_DETACHED | libc::CLONE_PIDFD) as u64, 0, 0, 0, 0, 0],
        "kill" => [NOBODY, 0, 0, 0, 0, 0],
        "sethostname" | "setdomainname" => [0, u64::MAX, 0, 0, 0, 0],
        "ppoll" | "poll" => [0, 1 << 30, 0, 0, 0, 0],
        _ => [0; 6],
    }
}

/// What a zygote may pass to `clone` for a new process, and two of its parts.
const BIRTH: u64 = 0x8000
    | 0x0020_0000
    | 0x0100_0000
    | USER
    | 0x2_0000
    | 0x2000_0000
    | NET
    | 0x0800_0000
    | 0x0400_0000
    | 0x0200_0000
    | 17;
const USER: u64 = 0x1000_0000;
const NET: u64 = 0x4000_0000;

/// Past the largest number that a process can have.
const NOBODY: u64 = 0x7fff_fff0;

fn listed(filter: &Filter, number: u32) -> bool {
    filter.rules.iter().any(|rule| rule.number == number) || filter.refusals.iter().any(|r| r.number == number)
}

fn name(number: u32) -> String {
    format!("{number} ({})", call_name(number).unwrap_or("no call"))
}

#[test]
fn every_rule_is_allowed_as_written() {
    for filter in filters() {
        for rule in filter.rules {
            let arguments = lawful(rule);
            let control = call(&[], rule.number.into(), arguments);
            assert_ne!(control, Answer::Killed, "{}: {} without a filter", filter.stage, rule.call);
            let answer = call(filter.programs(), rule.number.into(), arguments);
            assert_eq!(answer, control, "{}: {} {arguments:x?}", filter.stage, rule.call);
        }
    }
}

#[test]
fn every_value_of_a_list_is_allowed() {
    for filter in filters() {
        for rule in filter.rules {
            for clause in rule.clauses {
                let Test::In(values) = clause.test else { continue };
                for value in values {
                    let arguments = with(rule, clause, *value);
                    let answer = call(filter.programs(), rule.number.into(), arguments);
                    assert_ne!(answer, Answer::Killed, "{}: {} {}, {value}", filter.stage, rule.call, clause.text);
                }
            }
        }
    }
}

#[test]
fn every_rule_is_refused_with_each_argument_spoilt() {
    let mut tried = 0;
    for filter in filters() {
        for rule in filter.rules {
            for arguments in spoilt(rule) {
                if filter.allows(rule.number, &arguments) {
                    continue; // another value of the list, or an alternative rule for the same call
                }
                let control = call(&[], rule.number.into(), arguments);
                assert_ne!(control, Answer::Killed, "{}: {} {arguments:x?} without a filter", filter.stage, rule.call);
                let answer = call(filter.programs(), rule.number.into(), arguments);
                assert_eq!(answer, Answer::Killed, "{}: {} {arguments:x?}", filter.stage, rule.call);
                tried += 1;
            }
        }
        assert!(tried > 0, "{}: a filter without a condition", filter.stage);
    }
}

/// The table that the logs and the docs print says what the BPF does, over arguments that nobody picked by hand.
#[test]
fn the_table_and_the_filter_agree() {
    let mut dice = 0x9e37_79b9_7f4a_7c15_u64;
    let mut roll = || {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        dice
    };
    for filter in filters() {
        for rule in filter.rules.iter().filter(|rule| !rule.clauses.is_empty()) {
            for _ in 0..12 {
                let mut arguments = lawful(rule);
                for clause in rule.clauses {
                    let place = &mut arguments[usize::from(clause.index)];
                    // Few bits of a low half that is near the truth, so that either answer is likely; and a high half
                    // that an `int` must not be judged by.
                    *place ^= 1 << (roll() % 8);
                    *place ^= if roll() % 2 == 0 { 1 << (roll() % 32) } else { 0 };
                    *place |= if roll() % 3 == 0 { 1 << 40 } else { 0 };
                    *place |= harmless(rule.call)[usize::from(clause.index)];
                }
                let allowed = call(filter.programs(), rule.number.into(), arguments) != Answer::Killed;
                assert_eq!(
                    allowed,
                    filter.allows(rule.number, &arguments),
                    "{}: {} {arguments:x?}",
                    filter.stage,
                    rule.call
                );
            }
        }
    }
}

/// The table is what the tests above are made from, so a mistake in it (a width, a place) would be in both. These attempts
/// are written by hand.
#[test]
fn known_attempts_are_refused_while_serving() {
    let serve = filter("worker-serve").unwrap();
    let none = u64::MAX; // fd -1
    let (rw, rwx) =
        ((libc::PROT_READ | libc::PROT_WRITE) as u64, (libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC) as u64);
    let private = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
    let attempts = [
        ("mmap of code", libc::SYS_mmap, [0, 4096, rwx, private, none, 0], [0, 4096, rw, private, none, 0]),
        ("mmap of a file", libc::SYS_mmap, [0, 4096, rw, 2, 0, 0], [0, 4096, rw, private, none, 0]),
        ("mmap shared", libc::SYS_mmap, [0, 4096, rw, 0x21, none, 0], [0, 4096, rw, private, none, 0]),
        ("mprotect to code", libc::SYS_mprotect, [0, 0, 5, 0, 0, 0], [0, 0, 3, 0, 0, 0]),
        ("mremap to a place", libc::SYS_mremap, [0, 0, 0, 3, 0, 0], [0, 0, 0, 1, 0, 0]),
        ("madvise of another kind", libc::SYS_madvise, [0, 0, 9, 0, 0, 0], [0, 0, 4, 0, 0, 0]),
        ("futex with a requeue", libc::SYS_futex, [0, 0x83, 0, 0, 0, 0], [0, 0x81, 0, 0, 0, 0]),
        ("futex with an owner", libc::SYS_futex, [0, 0x86, 0, 0, 0, 0], [0, 0x81, 0, 0, 0, 0]),
        ("send to an address", libc::SYS_sendto, [3, 0, 0, 0, 0x1000, 0], [3, 0, 0, 0, 0, 0]),
        ("send to a high address", libc::SYS_sendto, [3, 0, 0, 0, 0x7fff_0000_0000, 0], [3, 0, 0, 0, 0, 0]),
        ("send elsewhere", libc::SYS_sendto, [4, 0, 0, 0, 0, 0], [3, 0, 0, 0, 0, 0]),
        ("receive elsewhere", libc::SYS_recvfrom, [4, 0, 0, 0, 0, 0], [3, 0, 0, 0, 0, 0]),
        ("write elsewhere", libc::SYS_write, [3, 0, 0, 0, 0, 0], [2, 0, 0, 0, 0, 0]),
    ];
    for (attempt, number, bad, good) in attempts {
        let number = number.cast_unsigned();
        assert_ne!(call(&[], number, bad), Answer::Killed, "{attempt}: the control without a filter");
        assert_ne!(call(serve.programs(), number, good), Answer::Killed, "{attempt}: the control that is lawful");
        assert_eq!(call(serve.programs(), number, bad), Answer::Killed, "{attempt}");
    }
}

/// The same for the two that no model meets.
#[test]
fn known_attempts_of_the_front_and_the_launcher_are_refused() {
    let (rw, rwx) = ((libc::PROT_READ | libc::PROT_WRITE) as u64, 7);
    let (private, none) = ((libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64, u64::MAX);
    let accept = (libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) as u64;
    let (unix, inet, netlink) = (libc::AF_UNIX as u64, libc::AF_INET as u64, libc::AF_NETLINK as u64);
    let attempts = [
        ("front", "mmap of code", libc::SYS_mmap, [0, 4096, rwx, private, none, 0], [0, 4096, rw, private, none, 0]),
        ("front", "mprotect to code", libc::SYS_mprotect, [0, 0, 5, 0, 0, 0], [0, 0, 3, 0, 0, 0]),
        ("front", "accept elsewhere", libc::SYS_accept4, [9, 0, 0, accept, 0, 0], [4, 0, 0, accept, 0, 0]),
        ("front", "accept for programs", libc::SYS_accept4, [4, 0, 0, 0, 0, 0], [4, 0, 0, accept, 0, 0]),
        ("front", "send to an address", libc::SYS_sendto, [3, 0, 0, 0x4000, 0x1000, 0], [3, 0, 0, 0x4000, 0, 0]),
        ("front", "send with other flags", libc::SYS_sendmsg, [3, 0, 1, 0, 0, 0], [3, 0, 0x4000, 0, 0, 0]),
        ("front", "a handler's owner", libc::SYS_fcntl, [0, 8, 0, 0, 0, 0], [0, 3, 0, 0, 0, 0]),
        ("front", "memory that can run", libc::SYS_memfd_create, [0, 0x13, 0, 0, 0, 0], [0, 0xb, 0, 0, 0, 0]),
        ("launcher", "a pair of inet", libc::SYS_socketpair, [inet, 1, 0, 0, 0, 0], [unix, 1, 0, 0, 0, 0]),
        ("launcher", "a pair of netlink", libc::SYS_socketpair, [netlink, 3, 0, 0, 0, 0], [unix, 1, 0, 0, 0, 0]),
        ("launcher", "attach", libc::SYS_ptrace, [16, 0, 0, 0, 0, 0], [0x4206, 0, 0, 0, 0, 0]),
        ("launcher", "write memory", libc::SYS_ptrace, [5, 0, 0, 0, 0, 0], [7, 0, 0, 0, 0, 0]),
        ("launcher", "ask a process to end", libc::SYS_kill, [NOBODY, 15, 0, 0, 0, 0], [NOBODY, 9, 0, 0, 0, 0]),
        ("launcher", "limit a stranger", libc::SYS_prlimit64, [NOBODY, 7, 0x1000, 0, 0, 0], [NOBODY, 7, 0, 0, 0, 0]),
        ("launcher", "a namespace of its own", libc::SYS_unshare, [0x2_0000, 0, 0, 0, 0, 0], [0x1_0000, 0, 0, 0, 0, 0]),
        ("launcher", "remove a file", libc::SYS_unlinkat, [9, 0, 0, 0, 0, 0], [9, 0, 0x200, 0, 0, 0]),
        ("zygote", "a child that is its own", libc::SYS_clone, [17, 0, 0, 0, 0, 0], [BIRTH, 0, 0, 0, 0, 0]),
        ("zygote", "a child in its network", libc::SYS_clone, [BIRTH & !NET, 0, 0, 0, 0, 0], [BIRTH, 0, 0, 0, 0, 0]),
        ("zygote", "a child in its users", libc::SYS_clone, [BIRTH & !USER, 0, 0, 0, 0, 0], [BIRTH, 0, 0, 0, 0, 0]),
        (
            "zygote",
            "a child that nobody traces",
            libc::SYS_clone,
            [BIRTH | 0x80_0000, 0, 0, 0, 0, 0],
            [BIRTH, 0, 0, 0, 0, 0],
        ),
        ("zygote", "a namespace of its own", libc::SYS_unshare, [NET, 0, 0, 0, 0, 0], [0x80, 0, 0, 0, 0, 0]),
        ("zygote", "a mount to write to", libc::SYS_mount, [0, 0, 0, 14, 0, 0], [0, 0, 0, 15, 0, 0]),
        ("zygote", "a bind mount", libc::SYS_mount, [0, 0, 0, 0x1000, 0, 0], [0, 0, 0, 15, 0, 0]),
        ("zygote", "write a file", libc::SYS_openat, [9, 0, 1, 0, 0, 0], [9, 0, 0, 0, 0, 0]),
        ("zygote", "limit a stranger", libc::SYS_prlimit64, [NOBODY, 7, 0, 0, 0, 0], [0, 7, 0, 0, 0, 0]),
    ];
    for (stage, attempt, number, bad, good) in attempts {
        let (filter, number) = (filter(stage).unwrap(), number.cast_unsigned());
        assert_ne!(call(&[], number, bad), Answer::Killed, "{stage}: {attempt}: the control without a filter");
        assert_ne!(call(filter.programs(), number, good), Answer::Killed, "{stage}: {attempt}: the lawful control");
        assert_eq!(call(filter.programs(), number, bad), Answer::Killed, "{stage}: {attempt}");
    }
}

#[test]
fn a_refused_call_returns_its_errno() {
    for filter in filters() {
        for refusal in filter.refusals {
            let control = call(&[], refusal.number.into(), [0; 6]);
            let answer = call(filter.programs(), refusal.number.into(), [0; 6]);
            assert_eq!(answer, Answer::Returned(refusal.answer.cast_signed()), "{}: {}", filter.stage, refusal.call);
            assert_ne!(answer, control, "{}: {} answers so without a filter too", filter.stage, refusal.call);
        }
    }
}

#[test]
fn every_other_call_kills() {
    assert_eq!(call(&[], libc::SYS_getppid.cast_unsigned(), [0; 6]), Answer::Returned(0), "the control");
    for filter in filters() {
        for number in (0..=LAST_NUMBER).filter(|number| !listed(filter, *number)) {
            let answer = call(filter.programs(), number.into(), [0; 6]);
            let idle = answer == Answer::Crashed(Signal::SIGILL) || answer == Answer::Returned(libc::ENXIO);
            assert!(
                answer == Answer::Killed || idle && UNFILTERED.contains(&number),
                "{}: {}: {answer:?}",
                filter.stage,
                name(number)
            );
        }
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn every_call_of_the_x32_abi_kills() {
    const X32: u64 = 0x4000_0000;
    assert_ne!(call(&[], X32 | libc::SYS_getppid.cast_unsigned(), [0; 6]), Answer::Killed, "the control");
    for filter in filters() {
        for number in 0..=LAST_NUMBER {
            let answer = call(filter.programs(), X32 | u64::from(number), [0; 6]);
            assert_eq!(answer, Answer::Killed, "{}: x32 {}", filter.stage, name(number));
        }
    }
}

/// On the 32-bit gate number 4 is `write`, on the 64-bit one `stat`: a filter that forgets to look at the ABI allows one for
/// the other. Number 20 is `getpid` there.
#[test]
#[cfg(target_arch = "x86_64")]
fn the_32_bit_gate_kills() {
    let gate = |programs: &[&[u8]]| {
        let filters: Vec<Vec<seccompiler::sock_filter>> = programs.iter().map(|p| child::steps(p)).collect();
        child::run(move || {
            for filter in &filters {
                seccompiler::apply_filter(filter).map_err(|error| error.to_string())?;
            }
            // SAFETY: the 32-bit `getpid` takes nothing and touches no memory; the registers that the gate clobbers are
            // named. A kernel without that gate raises SIGSEGV, which ends the child.
            unsafe {
                std::arch::asm!("int 0x80", inout("eax") 20 => _, out("r8") _, out("r9") _, out("r10") _, out("r11") _)
            };
            child::leave(0)
        })
    };
    let control = gate(&[]);
    if control == End::Killed(Signal::SIGSEGV) {
        eprintln!("skipped: this kernel has no 32-bit gate");
        return;
    }
    assert_eq!(control, End::Exit(0));
    for filter in filters() {
        assert_eq!(gate(filter.programs()), End::Killed(Signal::SIGSYS), "{}", filter.stage);
    }
}

/// Past the last call of Linux 6.18 (468), with room for the next years.
const LAST_NUMBER: u32 = 500;

/// `uretprobe` and `uprobe`: newer kernels never show them to a filter. Outside a probe's own trampoline the one raises
/// SIGILL and the other returns ENXIO; neither takes anything from the caller.
const UNFILTERED: &[u32] = if cfg!(target_arch = "x86_64") { &[335, 336] } else { &[] };
