//! The lists of the gate against the operators that this libtorch has.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may")]

use casemate_gate::policy::Verdict;
use casemate_gate::{Level, Policy, judge};
use casemate_tests::forge::Forge;
use casemate_worker::engine::shim::libtorch;

/// Source that the gate lets through, however spoilt, libtorch takes or refuses, and lives.
#[test]
fn what_passes_the_gate_does_not_end_libtorch() {
    // Half of what a worker's main thread has; a test's own thread has a quarter.
    std::thread::Builder::new().stack_size(4 << 20).spawn(load_what_passes).unwrap().join().unwrap();
}

fn load_what_passes() {
    const SOURCE: &str = "def forward(self, x: Tensor) -> Tensor:
  y = torch.relu(x) + (x * 2)[0]
  for i in range(3):
    if bool(y.sum() > 0):
      y = torch.cat([y, x], 0)
  z = {\"a\": [x, y], \"b\": annotate(List[Tensor], [])}
  return z[\"a\"][0] if len(z) > 1 else -y";
    const PIECES: [&str; 16] =
        ["(", ")", "[", "]", "-", "not ", ".", ",", ":", "\"", "\n  ", "x", "torch.relu", " if x else ", "**", "List["];
    let policy = Policy::new(Level::Open, []).unwrap();
    let (mut seed, mut passed, mut loaded) = (12345u64, 0, 0);
    let mut dice = |sides: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % sides
    };
    for _ in 0..600 {
        let mut source = SOURCE.to_owned();
        for _ in 0..=dice(2) {
            let (at, piece, times) = (dice(source.len()), PIECES[dice(16)], [1, 1, 1, 90, 900][dice(5)]);
            if dice(2) == 0 {
                source.remove(at);
            } else {
                source.insert_str(at, &piece.repeat(times));
            }
        }
        let bytes = Forge::new("M").forward(&source).bytes();
        if judge(&bytes, &policy).is_ok() {
            passed += 1;
            loaded += usize::from(libtorch::Module::load(&bytes).is_ok());
        }
    }
    println!("{passed} of 600 pass the gate, {loaded} of them load");
    assert!(passed > 20 && loaded > 0);
    // At the edge of what the gate allows.
    for (open, close, times) in
        [("(", ")", 98), ("-", "", 490), ("", ".t()", 240), ("", " + x", 490), ("", " ** x", 490), ("", "[0]", 490)]
    {
        let source =
            format!("def forward(self, x: Tensor) -> Tensor:\n  return {}x{}", open.repeat(times), close.repeat(times));
        let bytes = Forge::new("M").forward(&source).bytes();
        judge(&bytes, &policy).unwrap();
        libtorch::Module::load(&bytes).unwrap();
    }
}

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
