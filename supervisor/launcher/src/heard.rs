//! The signals that the launcher hears, by a descriptor.

use std::fs;

use nix::sys::signal::{SigSet, Signal};

/// The ends of children, and what asks it to stop. A blocked signal is heard even where it was ignored, and who starts a program
/// by `nohup` wants it to outlive the terminal: so what was ignored stays so.
pub fn signals() -> SigSet {
    let ignored = ignored(&fs::read_to_string("/proc/self/status").unwrap_or_default());
    let asks = [Signal::SIGINT, Signal::SIGHUP].into_iter().filter(|signal| ignored & 1 << (*signal as i32 - 1) == 0);
    [Signal::SIGCHLD, Signal::SIGTERM].into_iter().chain(asks).collect()
}

/// One bit for each signal that whoever started this process had it ignore; none where the kernel does not say.
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_ignored_is_one_bit_for_each() {
        assert_eq!(ignored("Name:\tx\nSigIgn:\t0000000000000003\nSigCgt:\t0\n"), 3);
        assert_eq!((ignored(""), ignored("SigIgn:\tno number\n")), (0, 0));
        assert!(signals().contains(Signal::SIGCHLD) && signals().contains(Signal::SIGTERM));
    }
}
