//! The lists of the gate against the operators that this libtorch has.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may")]

use casemate_gate::policy::Verdict;
use casemate_gate::{Level, Policy};
use casemate_worker::engine::shim::libtorch;

/// In the language, and so in graphs, but no registered operators.
const LANGUAGE: usize = 70;

#[test]
fn what_is_listed_exists_and_what_is_denied_is_never_listed() {
    let registered = libtorch::operators().unwrap();
    assert!(registered.len() > 1500, "{}", registered.len());
    let strict = Policy::new(Level::Strict, []).unwrap();
    let (mut allowed, mut denied, mut unlisted) = (0, 0, Vec::new());
    for name in &registered {
        match strict.operator(name) {
            Verdict::Allowed => allowed += 1,
            Verdict::Denied(_) => denied += 1,
            Verdict::Unlisted => unlisted.push(name.as_str()),
        }
    }
    println!("{allowed} allowed, {denied} denied, {} on no list:\n{}", unlisted.len(), unlisted.join(" "));
    assert!(allowed > 1000 && denied > 50);
    let absent = strict
        .listed()
        .filter(|name| !registered.contains(&format!("aten::{name}")))
        .filter(|name| !registered.contains(&format!("prim::{name}")));
    let absent: Vec<&str> = absent.collect();
    assert!(absent.len() <= LANGUAGE, "on the list, but not in libtorch: {absent:?}");
    for name in ["aten::save", "aten::from_file", "inductor::_reinterpret_tensor", "symm_mem::memset32_"] {
        assert!(registered.contains(name), "{name} is gone; the list is of another libtorch");
        assert!(matches!(strict.operator(name), Verdict::Denied(_)), "{name}");
    }
}
