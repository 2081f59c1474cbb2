//! The number of a call on a CPU, out of seccompiler's own tables.
//!
//! Those tables are private to its JSON front end, and a table of our own would be one more thing to get wrong. So a
//! filter with that one call is compiled, and the number read from its first comparison.

use seccompiler::{TargetArch, compile_from_json};

/// The number of `call` on `cpu`, or nothing where it has no such call.
pub fn of(call: &str, cpu: TargetArch) -> Option<u32> {
    let plain = call.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if !plain {
        return None;
    }
    let filter = format!(
        r#"{{ "one": {{ "mismatch_action": "kill_process", "match_action": "allow", "filter": [{{ "syscall": "{call}" }}] }} }}"#
    );
    let mut compiled = compile_from_json(filter.as_bytes(), cpu).ok()?;
    let program = compiled.remove("one")?;
    let load = program.iter().position(|step| step.code == LOAD_WORD && step.k == NUMBER_OFFSET)?;
    program.get(load + 1).filter(|step| step.code == JUMP_IF_EQUAL).map(|step| step.k)
}

/// `BPF_LD | BPF_W | BPF_ABS`.
const LOAD_WORD: u16 = 0x20;
/// `BPF_JMP | BPF_JEQ | BPF_K`.
const JUMP_IF_EQUAL: u16 = 0x15;
/// Where `struct seccomp_data` has the call's number.
const NUMBER_OFFSET: u32 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_target() {
        assert_eq!(of("mmap", TargetArch::x86_64), Some(9));
        assert_eq!(of("mmap", TargetArch::aarch64), Some(222));
        assert_eq!(of("readlink", TargetArch::aarch64), None);
        assert_eq!(of("no\"such", TargetArch::x86_64), None);
    }

    #[test]
    fn numbers_are_those_of_libc() {
        let here = TargetArch::try_from(std::env::consts::ARCH).unwrap();
        for (call, number) in [("futex", libc::SYS_futex), ("clone3", libc::SYS_clone3), ("read", libc::SYS_read)] {
            assert_eq!(of(call, here).map(i64::from), Some(number), "{call}");
        }
    }
}
