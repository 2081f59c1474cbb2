//! Whether the cage that the launcher reads from outside and the one that the worker saw from inside are the same.
//!
//! The worker speaks before its model's bytes have been read by anything but SHA-256, so it is our program that speaks. It
//! proves nothing about a worker that could lie; it catches a launcher that looks at the wrong process, or a layer that one
//! of the two believes in and the kernel does not.

use casemate_ipc::layer::{Layer, Reading};
use casemate_ipc::work::Inside;

/// The first layer of which the two say different things, waived ones left out.
pub fn disagreement(outside: &[Reading], inside: &Inside, waived: impl Fn(Layer) -> bool) -> Option<Layer> {
    let differs = |reading: &&Reading| inside.says(reading.layer).is_some_and(|says| says != reading.in_force);
    outside.iter().filter(|reading| !waived(reading.layer)).find(differs).map(|reading| reading.layer)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INSIDE: Inside = Inside {
        no_new_privs: true,
        non_dumpable: true,
        seccomp_mode: 2,
        empty_root: true,
        no_capabilities: true,
        landlock_abi: Some(7),
        landlock_complete: true,
        no_exec_gain: true,
    };

    #[test]
    fn every_layer_that_both_see_is_compared() {
        let reading = |layer| Reading { layer, in_force: true, evidence: String::new() };
        let outside: Vec<Reading> = Layer::ALL.into_iter().map(reading).collect();
        let none = |_| false;
        assert_eq!(disagreement(&outside, &INSIDE, none), None);
        for (inside, layer) in [
            (Inside { no_new_privs: false, ..INSIDE }, Layer::NoNewPrivileges),
            (Inside { non_dumpable: false, ..INSIDE }, Layer::NonDumpable),
            (Inside { seccomp_mode: 0, ..INSIDE }, Layer::Seccomp),
            (Inside { empty_root: false, ..INSIDE }, Layer::EmptyRoot),
            (Inside { no_capabilities: false, ..INSIDE }, Layer::NoCapabilities),
            (Inside { landlock_abi: None, ..INSIDE }, Layer::Landlock),
        ] {
            assert_eq!(disagreement(&outside, &inside, none), Some(layer));
            assert_eq!(disagreement(&outside, &inside, |waived| waived == layer), None);
        }
        let bare: Vec<Reading> = outside.into_iter().map(|r| Reading { in_force: false, ..r }).collect();
        assert!(disagreement(&bare, &INSIDE, none).is_some());
    }
}
