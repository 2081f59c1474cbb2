//! The gate's column of the zoo: what it says of each hostile model, and what is left of that where the owner allows
//! everything that may be allowed.

#![allow(clippy::unwrap_used, reason = "a test may")]

use casemate_gate::{Level, Policy, judge};
use casemate_tests::zoo::{self, Gate, OPEN, Place};

#[test]
fn the_gate_says_of_each_model_what_the_zoo_says() {
    let strict = Policy::new(Level::Strict, []).unwrap();
    let open = Policy::new(Level::Open, OPEN.iter().map(|&name| name.to_owned())).unwrap();
    let place = Place::new();
    let mut faults = Vec::new();
    for entry in zoo::all() {
        let bytes = entry.archive(&place);
        let says = |policy| judge(&bytes, policy).map_or_else(|refusal| refusal.code.name(), |_| "passes");
        let expected = match entry.gate {
            Gate::Passes => ("passes", "passes"),
            Gate::Refuses(code) => (code, "passes"),
            Gate::Always(code) => (code, code),
        };
        let seen = (says(&strict), says(&open));
        if seen != expected {
            faults.push(format!("{}: {expected:?} was expected: {seen:?}", entry.name));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
