//! The lists of the gate against the operators that this libtorch has.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may")]

use std::collections::BTreeSet;

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

/// The file with the rules, and the list that is made of them.
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/gate/operators/torch-2.13.toml");

#[test]
fn the_list_is_what_the_rules_make_of_the_registry() {
    let registered = libtorch::operators().unwrap();
    assert!(registered.len() > 1500, "{}", registered.len());
    // Not `strict`: what is on the list now must not matter.
    let rules = Policy::new(Level::Open, []).unwrap();
    let fits = |name: &&str| rules.operator(name).is_allowed() && rules.left_out(name).is_none();
    let names: BTreeSet<&str> = registered.iter().map(String::as_str).filter(fits).chain(rules.language()).collect();
    let mut made = String::new();
    for space in ["aten", "prim"] {
        let own = names.iter().filter_map(|name| name.strip_prefix(space)?.strip_prefix("::"));
        made += &format!("{space} = [\n{}]\n", folded(own));
    }
    let text = std::fs::read_to_string(FILE).unwrap();
    let (people, list) = text.split_once("[allow]\n").unwrap();
    if std::env::var_os("CASEMATE_WRITE_DOCUMENTS").is_some() {
        std::fs::write(FILE, format!("{people}[allow]\n{made}")).unwrap();
    } else {
        assert!(list == made, "run this test with CASEMATE_WRITE_DOCUMENTS=1, and read the difference");
    }
}

/// Quoted, with commas, in lines of at most 120 characters.
fn folded<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let (mut text, mut line) = (String::new(), "   ".to_owned());
    for name in names {
        let word = format!(" \"{name}\",");
        if line.len() + word.len() > 120 {
            text += &format!("{line}\n");
            line = "   ".to_owned();
        }
        line += &word;
    }
    format!("{text}{line}\n")
}

#[test]
fn what_is_listed_exists_and_what_is_denied_is_never_listed() {
    let registered = libtorch::operators().unwrap();
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
    // Whoever leaves something out says why; what is in neither namespace is nobody's to list.
    let unsaid = unlisted.iter().filter(|name| name.starts_with("aten::") || name.starts_with("prim::"));
    let unsaid: Vec<&&str> = unsaid.filter(|name| strict.left_out(name).is_none()).collect();
    assert!(unsaid.is_empty(), "left out without a reason: {unsaid:?}");
    for name in strict.language() {
        assert!(!registered.contains(name), "{name} is registered, and needs no word of its own");
        assert!(strict.operator(name).is_allowed(), "{name}");
    }
    for name in ["aten::save", "aten::from_file", "inductor::_reinterpret_tensor", "symm_mem::memset32_"] {
        assert!(registered.contains(name), "{name} is gone; the list is of another libtorch");
        assert!(matches!(strict.operator(name), Verdict::Denied(_)), "{name}");
    }
}

/// What nobody who reads the list should meet in it.
#[test]
fn the_list_has_nothing_that_a_served_model_has_no_business_with() {
    let strict = Policy::new(Level::Strict, []).unwrap();
    for name in [
        "aten::from_file",
        "aten::save",
        "aten::load",
        "aten::set_",
        "aten::resize_",
        "aten::set_data",
        "aten::sparse_coo_tensor",
        "aten::_indices",
        "aten::_coalesced_",
        "aten::_cummax_helper",
        "aten::_sobol_engine_draw",
        "aten::_embedding_bag",
        "aten::_reshape_alias",
        "aten::_convert_indices_from_coo_to_csr",
        "aten::segment_reduce",
        "aten::lu_solve",
        "aten::manual_seed",
        "aten::convolution_backward",
        "aten::mkldnn_linear",
        "aten::quantized_lstm",
        "prim::PythonOp",
        "prim::rpc_async",
        "prim::BailOut",
        "prim::TypeCheck",
        "prim::id",
        "quantized::linear",
        "profiler::_record_function_enter",
        "mkldnn::data_ptr",
        "static_runtime::create_owned_ref",
    ] {
        assert!(!strict.operator(name).is_allowed(), "{name}");
    }
}
