//! One forged archive for each class of attack that an archive can carry, and the code that it is refused with.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod archive;

use std::time::{Duration, Instant};

use archive::{Part, body, code, int, model, object, open, part, pickled, refused, strict, tensor, text, with, zip};
use casemate_gate::{Level, Policy, judge};
use casemate_ipc::work::GateCode::{self, *};
use casemate_tests::models::{self, When};

fn changed(change: impl FnOnce(&mut Vec<Part>)) -> Vec<u8> {
    let mut parts = model();
    strict(&zip(&parts)).unwrap();
    change(&mut parts);
    zip(&parts)
}

#[test]
fn a_file_that_is_more_or_less_than_its_records_is_refused() {
    let whole = zip(&model());
    strict(&whole).unwrap();
    let cut = &whole[..whole.len() / 2];
    let polyglot = [b"#!/bin/sh\n", &whole[..]].concat();
    let trailed = [&whole[..], b"PK\x05\x06"].concat();
    let commented = {
        let mut bytes = [&whole[..], b"rm -rf /"].concat();
        let at = whole.len() - 2;
        bytes[at] = 8;
        bytes
    };
    for bytes in [&b""[..], b"no archive", b"\x80\x02}.", cut, &polyglot, &trailed, &commented] {
        refused(bytes, ArchiveStructure);
    }
    refused(&changed(|parts| parts[1].before = vec![0; 40]), ArchiveStructure);
    // Two names for one record's bytes.
    refused(&changed(|parts| parts[2].header = Some(0)), ArchiveStructure);
}

#[test]
fn a_directory_that_lies_about_a_record_is_refused() {
    refused(&changed(|parts| parts[2].listed = Some("m/data/1".into())), ArchiveStructure);
    refused(&changed(|parts| parts[2].size = Some(1 << 20)), ArchiveStructure);
    refused(&changed(|parts| parts[2].flags = 1), ArchiveStructure);
    refused(&changed(|parts| parts[2].method = 12), ArchiveStructure);
    refused(&changed(|parts| parts[2].external = 0xa1ff_0000), ArchiveStructure);
    refused(&changed(|parts| parts[2].external = 0x10), ArchiveStructure);
    refused(&changed(|parts| parts[2].crc = Some(7)), ArchiveChecksum);
    // Weights with a bit flipped, which libtorch loads.
    let mut bytes = zip(&model());
    let at = bytes.windows(16).position(|w| w == [0; 16]).unwrap();
    bytes[at + 3] ^= 0x40;
    refused(&bytes, ArchiveChecksum);
}

#[test]
fn names_that_climb_or_double_are_refused() {
    for name in [
        "m/../../etc/passwd",
        "/m/extra/a",
        "m//extra/a",
        "m/extra\\a",
        "m/extra/a\0b",
        "m/extra/\u{1b}[31m",
        "other/extra/a",
        "M/extra/a",
        "m",
        "m/extra/",
        "m/./extra/a",
        "m/data.pkl",
        "m/DATA.PKL",
        "m/Version",
    ] {
        refused(&changed(|parts| parts.push(part(name, "x"))), ArchiveStructure);
    }
    refused(&changed(|parts| parts.push(part(&format!("m/extra/{}", "n".repeat(300)), "x"))), ArchiveStructure);
}

#[test]
fn records_that_no_model_has_are_refused() {
    for name in [
        "m/model.json",
        "m/attributes.pkl",
        "m/bytecode.pkl",
        "m/handler.py",
        "m/code/lib.so",
        // libtorch would find classes there that nothing here looks at.
        "m/code/a.py",
        "m/requirements.txt",
        "m/data/00",
        "m/data/x",
        "m/.data/ts_code/0/data.pkl",
        "m/trust_remote_code",
    ] {
        refused(&changed(|parts| parts.push(part(name, "x"))), ArchiveRecord);
    }
    for program in [&b"\x7fELF\x02"[..], b"#!/bin/sh", b"PK\x03\x04", b"\x80\x04\x95"] {
        refused(&changed(|parts| parts.push(part("m/extra/file", program))), ArchiveRecord);
    }
    strict(&changed(|parts| parts.push(part("m/extra/labels.json", "[]")))).unwrap();
    for missing in 0..2 {
        refused(&changed(|parts| drop(parts.remove(missing))), ArchiveRecord);
    }
    refused(&changed(|parts| parts[4].bytes = b"99\n".to_vec()), ArchiveStructure);
    refused(&changed(|parts| parts[5].bytes = b"big".to_vec()), ArchiveStructure);
}

#[test]
fn bombs_are_refused_before_they_go_off() {
    let deflated = |name: &str, bytes: Vec<u8>| Part { method: 8, ..part(name, bytes) };
    // Small ones pass: code is often deflated.
    strict(&changed(|parts| parts[1].method = 8)).unwrap();
    let bomb = vec![b' '; 15 << 20];
    refused(&changed(|parts| parts.push(deflated("m/code/__torch__/b.py", bomb.clone()))), ArchiveSize);
    refused(&changed(|parts| parts.push(deflated("m/code/__torch__/b.py", vec![b'\n'; 20 << 20]))), ArchiveSize);
    refused(&changed(|parts| parts[2] = deflated("m/data/0", vec![0; 1 << 20])), ArchiveStructure);
    // It says less than it holds.
    refused(
        &changed(|parts| parts.push(Part { size: Some(10), ..deflated("m/code/__torch__/b.py", vec![b'\n'; 100]) })),
        ArchiveStructure,
    );
}

#[test]
fn pickles_of_python_are_refused() {
    for (value, code) in [
        (&b"cposix\nsystem\nX\x02\0\0\0id\x85R"[..], PickleGlobal),
        (b"cbuiltins\neval\nX\x01\0\0\0x\x85R", PickleGlobal),
        (b"c__torch__\nAbsent\n)\x81}b", PickleGlobal),
        (b"ctorch.distributed.rpc\nrref\n)R", PickleGlobal),
        (b"ctorch._utils\n_rebuild_sparse_tensor\n)R", PickleGlobal),
        (b"ctorch._tensor\n_rebuild_from_type_v2\n)R", PickleGlobal),
        (b"c__torch__.torch.classes._nnapi\nCompilation\n)\x81Nb", GraphUnlisted),
        (b"X\x02\0\0\0id\x93", PickleOpcode),
        (b"i__torch__\nM\n", PickleOpcode),
        (b"\x8c\x01a", PickleOpcode),
        (b"\x95\0\0\0\0\0\0\0\0", PickleOpcode),
        (b"I1\n", PickleOpcode),
    ] {
        refused(&pickled(value), code);
    }
}

#[test]
fn a_pickle_that_confuses_the_reader_is_refused() {
    let cases: [(&[u8], GateCode); 14] = [
        // A call of the function whose number is on the stack: an integer.
        (b"K\x00)R", PickleOpcode),
        // A mark above the stack's end: the reader subtracts.
        (b"(0t", PickleOpcode),
        (b"NN(\x86", PickleOpcode),
        (b"}(NNNu", PickleSize),
        (b"}(]Nu", PickleSize),
        (b"](}Nu", PickleOpcode),
        (b"Ne", PickleOpcode),
        (b"h\x07", PickleOpcode),
        (b"Nr\xff\xff\xff\x7f", PickleSize),
        // A list that holds itself, twice removed.
        (b"]q\0(h\0\x85e", PickleSize),
        (b"]q\0(h\0e", PickleSize),
        // A function as a value.
        (b"ccollections\nOrderedDict\n\x85", PickleSize),
        (b"\x8a\x09\0\0\0\0\0\0\0\0\0", PickleOpcode),
        (b"X\xff\xff\xff\xffa", PickleOpcode),
    ];
    for (value, code) in cases {
        refused(&pickled(value), code);
    }
    for data in [&b""[..], b"\x80\x04.", b"\x80\x02", b"\x80\x02N.", b"\x80\x02).N", b"\x80\x02NN.", b"\x80\x02("] {
        refused(&zip(&with(archive::CODE, data)), PickleOpcode);
    }
}

#[test]
fn a_pickle_that_is_deep_or_endless_is_refused() {
    refused(&pickled(&[&b"N"[..], &[0x85; 2_000_000]].concat()), PickleSize);
    // Each tuple holds the one before twice: 2^40 values in 200 bytes.
    let doubling: Vec<u8> = (0..40u8).flat_map(|n| [b'q', n, b'h', n, 0x86]).collect();
    refused(&pickled(&[&b"N"[..], &doubling].concat()), PickleSize);
    refused(&pickled(&[&b"("[..], &vec![b'N'; 5_000_000], b"t"].concat()), PickleSize);
    strict(&pickled(&[&b"N"[..], &[0x85; 100]].concat())).unwrap();
}

#[test]
fn types_that_a_value_has_not_are_refused() {
    let tagged = |value: &[u8], tag: &str| {
        pickled(&[b"ctorch.jit._pickle\nrestore_type_tag\n(", value, &text(tag)[..], b"tR"].concat())
    };
    strict(&tagged(b"](K\x01e", "List[int]")).unwrap();
    strict(&tagged(b"}(X\x01\0\0\0a]u", "Dict[str, List[Tensor]]")).unwrap();
    refused(&tagged(b"](K\x01e", "List[Tensor]"), PickleOpcode);
    refused(&tagged(b"](Ne", "Dict[int, int]"), PickleOpcode);
    refused(&tagged(b"]", &format!("{}int{}", "List[".repeat(2000 / 5), "]".repeat(400))), PickleSize);
    refused(&tagged(b"]", "List[__torch__.torch.classes.c10d.ProcessGroup]"), GraphUnlisted);
    refused(&tagged(b"]", "List[posix]"), PickleGlobal);
    refused(&pickled(b"ctorch.jit._pickle\nbuild_tensorlist\n](K\x01e\x85R"), PickleOpcode);
}

#[test]
fn tensors_beyond_their_bytes_are_refused() {
    let forged = |kind: &str, key, count, offset, sizes: &[i64], strides: &[i64]| {
        pickled(&tensor(kind, key, "cpu", count, offset, sizes, strides))
    };
    strict(&forged("FloatStorage", "0", 4, 1, &[3], &[1])).unwrap();
    strict(&forged("LongStorage", "0", 2, 0, &[2, 1], &[1, 1])).unwrap();
    for bytes in [
        // The size passes the storage.
        forged("FloatStorage", "0", 4, 0, &[5], &[1]),
        forged("FloatStorage", "0", 4, -1, &[1], &[1]),
        forged("FloatStorage", "0", 4, 0, &[2], &[1 << 40]),
        forged("FloatStorage", "0", 4, 0, &[2], &[-1]),
        forged("FloatStorage", "0", 4, 0, &[1 << 62, 4], &[0, 0]),
        forged("FloatStorage", "0", 4, 1 << 62, &[1], &[1]),
        // The storage passes its record: what libtorch 2.13 still reads, and writes.
        forged("FloatStorage", "0", 5, 0, &[5], &[1]),
        forged("FloatStorage", "0", 1 << 20, 0, &[1 << 20], &[1]),
        forged("FloatStorage", "0", (1 << 62) + 4, 0, &[4], &[1]),
        forged("DoubleStorage", "0", 4, 0, &[4], &[1]),
        forged("FloatStorage", "0", 3, 0, &[3], &[1]),
        forged("FloatStorage", "9", 4, 0, &[4], &[1]),
        forged("FloatStorage", "0", -4, 0, &[], &[]),
    ] {
        refused(&bytes, TensorBounds);
    }
    refused(&forged("QInt32Storage", "0", 4, 0, &[4], &[1]), TensorBounds);
    refused(&forged("ObjectStorage", "0", 4, 0, &[4], &[1]), PickleGlobal);
    for device in ["cuda:0", "meta", "CPU", ""] {
        refused(&pickled(&tensor("FloatStorage", "0", device, 4, 0, &[4], &[1])), TensorDevice);
    }
    // The same bytes read twice into memory of its own.
    let one = tensor("FloatStorage", "0", "cpu", 4, 0, &[4], &[1]);
    refused(&pickled(&[b"(", &one[..], &one, b"t"].concat()), TensorBounds);
    let _ = (int(0), object(b"N"));
}

#[test]
fn code_that_would_overflow_the_parser_is_refused() {
    let deep = |open: &str, close: &str, n: usize| body(&format!("return {}x{}", open.repeat(n), close.repeat(n)));
    for bytes in [
        deep("(", ")", 20_000),
        deep("-", "", 20_000),
        deep("not ", "", 20_000),
        deep("[", "]", 500),
        body(&format!("return x{}", ".t".repeat(20_000))),
        body(&format!("return x{}", "[0]".repeat(20_000))),
        body(&format!("return x{}", "()".repeat(20_000))),
        body(&format!("return x{}", " + x".repeat(20_000))),
        body(&format!("return x{}", " ** x".repeat(20_000))),
        body(&format!("return {}x", "x if x else ".repeat(20_000))),
        body(&format!("y : {}int{} = x\n    return x", "List[".repeat(5_000), "]".repeat(5_000))),
        body(&format!("if x:\n      pass\n{}    return x", "    elif x:\n      pass\n".repeat(20_000))),
        body(&(0..500).map(|n| format!("if x:\n    {}", " ".repeat(n + 1))).collect::<String>()),
        body(&format!("{}x", "y = ".repeat(20_000))),
    ] {
        refused(&bytes, CodeDepth);
    }
    refused(&body(&format!("return x # type: {}", "List[".repeat(20_000))), CodeText);
    for text in ["return \"open", "return (x", "return x)", "return é", "return x\u{b}", "return x\0"] {
        refused(&body(text), CodeText);
    }
    // libtorch 2.13 reads beyond the end of these.
    for text in ["return x[]", "return (x + x)[]", "y : Tuple[] = x\n    return x", "return [x][]"] {
        refused(&body(text), CodeText);
    }
    strict(&body("y = [[], []]\n    return x")).unwrap();
    let mut parts = model();
    parts[1].bytes = b"\xff\xfe".to_vec();
    refused(&zip(&parts), CodeText);
}

/// `f0` is two lines; each further one calls the one before twice.
fn inlining_bomb(depth: usize) -> String {
    let mut source = "def f0(x: Tensor) -> Tensor:\n  return torch.neg(x)\n".to_owned();
    for n in 1..=depth {
        let before = n - 1;
        source +=
            &format!("def f{n}(x: Tensor) -> Tensor:\n  y = __torch__.f{before}(x)\n  return __torch__.f{before}(y)\n");
    }
    source
        + &format!(
            "class M(Module):\n  def forward(self: __torch__.M, x: Tensor) -> Tensor:\n    return __torch__.f{depth}(x)\n"
        )
}

#[test]
fn calls_that_multiply_are_refused() {
    refused(&code(&inlining_bomb(19)), CodeSize);
    strict(&code(&inlining_bomb(8))).unwrap();
    // The same through methods, by `self`, by a submodule, and by a name that nothing is known of.
    let methods = |call: &str| {
        let mut source =
            "class M(Module):\n  sub : __torch__.M\n  def m0(self: __torch__.M, x: Tensor) -> Tensor:\n    return x\n"
                .to_owned();
        for n in 1..=24 {
            let called = call.replace("NAME", &format!("m{}", n - 1));
            source += &format!("  def m{n}(self: __torch__.M, x: Tensor) -> Tensor:\n    return {called} + {called}\n");
        }
        code(&source)
    };
    for call in ["self.NAME(x)", "(self).NAME(x)", "self.sub.NAME(x)", "(x[0]).NAME(x)", "getattr(self, \"NAME\")(x)"] {
        refused(&methods(call), CodeSize);
    }
    let lap =
        "def a(x: Tensor) -> Tensor:\n  return __torch__.b(x)\ndef b(x: Tensor) -> Tensor:\n  return __torch__.a(x)\n";
    refused(&code(&format!("{lap}{}", archive::CODE)), CodeSize);
}

#[test]
fn operators_that_reach_out_are_refused_and_the_owner_may_allow_them() {
    for (text, name) in [
        ("torch.save(x, \"/tmp/a\")", "aten::save"),
        ("torch.autograd.save(x, \"/tmp/a\")", "aten::save"),
        ("ops.aten.save(x, \"/tmp/a\")", "aten::save"),
        ("ops.aten.autograd.save(x, \"/tmp/a\")", "aten::save"),
        ("x.save(\"/tmp/a\")", "aten::save"),
        ("getattr(x, \"save\")(\"/tmp/a\")", "aten::save"),
        ("torch.from_file(\"/etc/passwd\")", "aten::from_file"),
        ("ops.inductor._reinterpret_tensor(x, [1], [1], 9)", "inductor::_reinterpret_tensor"),
        ("ops.inductor._alloc_from_pool(x, 9, 6, [1], [1])", "inductor::*"),
        ("torch._reshape_alias(x, [9], [9])", "aten::_reshape_alias"),
        ("ops.c10d.allreduce_(x)", "c10d::*"),
        ("ops.symm_mem.memset32_(x)", "symm_mem::memset32_"),
        ("ops.profiler._record_function_enter(\"a\")", "profiler::_record_function_enter"),
        ("rpc_async(\"a\", x)", "prim::rpc_async"),
        ("id(self)", "prim::id"),
        ("__torch__.torch.classes._nnapi.Compilation()", "torch.classes._nnapi.Compilation"),
    ] {
        let bytes = body(&format!("y = {text}\n    return x"));
        assert!(refused(&bytes, GraphDenied).contains("code/__torch__.py"), "{text}");
        assert_eq!(open(&bytes).unwrap_err().code, GraphDenied, "{text}");
        let extra = Policy::new(Level::Open, [name.to_owned()]).unwrap();
        judge(&bytes, &extra).unwrap();
    }
}

#[test]
fn operators_that_nobody_knows_are_refused_unless_open() {
    for text in [
        "torch.set_(x, x)",
        "x.set_(x)",
        "x.resize_([9])",
        "ops.mine.op(x)",
        "ops.quantized.linear(x)",
        "torch._foreach_add_([x], 1)",
        "torch.nobody_knows(x)",
    ] {
        let bytes = body(&format!("y = {text}\n    return x"));
        refused(&bytes, GraphUnlisted);
        open(&bytes).unwrap();
    }
    let quantized = body("y = __torch__.torch.classes.quantized.LinearPackedParamsBase\n    return x");
    refused(&quantized, GraphUnlisted);
    assert_eq!(open(&quantized).unwrap_err().code, GraphUnlisted);
    let extra = Policy::new(Level::Strict, ["torch.classes.quantized.*".to_owned()]).unwrap();
    judge(&quantized, &extra).unwrap();
}

#[test]
fn names_that_hide_what_they_mean_are_refused() {
    for text in [
        "t = torch\n    t.save(x, \"a\")",
        "t = torch.autograd\n    t.save(x, \"a\")",
        "o = ops\n    y = x",
        "o = ops.aten\n    y = x",
        "g = getattr\n    y = x",
        "y = getattr(x, \"\\163ave\")",
        "y = getattr(x, n)",
        "n = __torch__\n    y = x",
        "n = __torch__.torch\n    y = n.classes",
        "n = __torch__.nowhere.f(x)",
    ] {
        let bytes = body(&format!("{text}\n    return x"));
        let refusal = open(&bytes).unwrap_err();
        assert!(matches!(refusal.code, GraphUnclear | GraphDenied), "{text}: {refusal}");
    }
    // A denied name is denied whatever the text makes of its owner: here `self` is a tensor.
    let shadowed = "class M(Module):\n  save : int\n  def forward(self: __torch__.M, x: Tensor) -> Tensor:\n    for self in [x]:\n      self.save(\"a\")\n    return x\n";
    assert_eq!(open(&code(shadowed)).unwrap_err().code, GraphDenied);
    let attribute = "class M(Module):\n  p : Optional[__torch__.torch.classes.c10d.ProcessGroup]\n  def forward(self: __torch__.M, x: Tensor) -> Tensor:\n    return x\n";
    assert_eq!(open(&code(attribute)).unwrap_err().code, GraphDenied);
    // As a keyword they are only a name.
    open(&body("return self.f(torch=x)")).unwrap();
}

#[test]
fn hooks_at_load_are_refused_unless_open() {
    let calm = "class M(Module):\n  def __setstate__(self: __torch__.M, n: int) -> NoneType:\n    return None\n  def forward(self: __torch__.M, x: Tensor) -> Tensor:\n    return x\n";
    refused(&code(calm), GraphHook);
    open(&code(calm)).unwrap();
    for model in [
        models::save_file(When::Load, "/tmp/a"),
        models::from_file_read(When::Load, "/tmp/a"),
        models::from_file_create(When::Load, "/tmp/a"),
    ] {
        refused(&model, GraphDenied);
        assert_eq!(open(&model).unwrap_err().code, GraphDenied);
    }
}

#[test]
fn every_hostile_model_of_the_harness_that_can_be_told_is() {
    for (model, code) in [
        (models::save_file(When::Asked, "/tmp/a"), GraphDenied),
        (models::from_file_read(When::Always, "/etc/passwd"), GraphDenied),
        (models::from_file_create(When::Asked, "/tmp/a"), GraphDenied),
        (models::crash_sigsegv(When::Asked), GraphDenied),
        (models::deep_parentheses(), CodeDepth),
    ] {
        refused(&model, code);
    }
}

#[test]
fn a_refusal_shows_nothing_that_a_terminal_acts_on() {
    let said = refused(&changed(|parts| parts.push(part("m/\u{9b}31m\u{202e}", "x"))), ArchiveStructure);
    assert!(said.is_ascii(), "{said}");
    assert!(said.len() < 1000);
}

/// libtorch's lexer ends a number where C does; what follows is a method of it.
#[test]
fn a_number_hides_no_method() {
    for text in ["1.0.save(\"f\")", "1..save(\"f\")", "1e5.save(\"f\")", "0x1.save(\"f\")", "1_0", "1e", "1.5f"] {
        refused(&body(&format!("return {text}")), GateCode::CodeText);
    }
    for number in ["1", "2.", "0.5", "1e-05", "1.5E+3", "0.j", "1.e5"] {
        strict(&body(&format!("return torch.add(x, {number})"))).unwrap();
    }
}

/// Looked at again for each place, each of these would take hours.
#[test]
fn what_is_named_often_is_looked_at_once() {
    const MANY: usize = 20_000;
    let begun = Instant::now();
    let head = "class M(Module):\n  def forward(self: __torch__.M, x: Tensor) -> Tensor:\n";
    let lines = |line: fn(usize) -> String| (0..MANY).map(line).collect::<String>();
    let function = |n| format!("def f{n}(x: Tensor) -> Tensor:\n  return x\n");
    let calls = lines(|n| format!("    _{n} = __torch__.f{n}(x)\n"));
    strict(&code(&format!("{head}{calls}    return x\n{}", lines(function)))).unwrap();
    let class = |n| {
        format!(
            "class C{n}(Module):\n  a{n} : int\n  def m(self: __torch__.C{n}, x: Tensor) -> Tensor:\n    return x\n"
        )
    };
    let member = |n| format!("def f{n}(x: Tensor) -> Tensor:\n  return (x).m((x).a{n})\n");
    strict(&code(&format!("{head}    return x\n{}{}", lines(class), lines(member)))).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(120), "it took {:?}", begun.elapsed());
}

#[test]
fn a_type_is_given_only_so_often() {
    let list = [&b"]q\x00("[..], &b"K\x01".repeat(10_000), b"e("].concat();
    let given = b"ctorch.jit._pickle\nbuild_intlist\nh\x00\x85R";
    let typed = |times| pickled(&[&list[..], &given.repeat(times), b"t\x86"].concat());
    strict(&typed(10)).unwrap();
    let why = refused(&typed(2_000), GateCode::PickleSize);
    assert!(why.contains("given a type"), "{why}");
}

#[test]
fn loops_that_count_too_far_are_refused() {
    let within = |outer: &str, inner: &str| {
        body(&format!(
            "for i in range({outer}):\n      for j in range({inner}):\n        x = torch.relu(x)\n    return x"
        ))
    };
    for (outer, inner) in [("1000", "1000000"), ("torch.len(x)", "1000000000"), ("0, 10, 2", "int(torch.len(x))")] {
        strict(&within(outer, inner)).unwrap();
    }
    for (outer, inner) in
        [("1000", "1000001"), ("1000000001", "1"), ("0, 9223372036854775807", "1"), ("10", "99999999999999999999")]
    {
        let why = refused(&within(outer, inner), CodeSize);
        assert!(why.contains("rounds"), "{why}");
    }
    // One after the other they are not one in the other; in a list they count too.
    let after = "for i in range(1000000):\n      x = torch.relu(x)\n    ".repeat(3);
    strict(&body(&format!("{after}return x"))).unwrap();
    refused(&body("y = [x for i in range(2000000000)]\n    return x"), CodeSize);
}

/// By name alone, each could be the other.
#[test]
fn two_methods_that_call_their_own_name_are_a_circle() {
    let class =
        |n| format!("class C{n}(Module):\n  def m(self: __torch__.C{n}, x: Tensor) -> Tensor:\n    return (x).m(x)\n");
    let head = "class M(Module):\n  def forward(self: __torch__.M, x: Tensor) -> Tensor:\n    return x\n";
    strict(&code(&format!("{head}{}", class(1)))).unwrap();
    refused(&code(&format!("{head}{}{}", class(1), class(2))), GateCode::CodeSize);
}

/// libtorch finds an object's attributes by the places that the declared class gives them, and unpacks as many values as a
/// tuple has: it looks at neither.
#[test]
fn attributes_that_are_not_of_their_class_are_refused() {
    let head = "class A(Module):\n  training : bool\n  far : Tensor\nclass B(Module):\n  training : bool\n\
                class P(NamedTuple):\n  x : int\n  y : int\n";
    let class = |kind: &str| {
        format!(
            "{head}class M(Module):\n  w : {kind}\n  def forward(self: __torch__.M, x: Tensor) -> Tensor:\n    return x\n"
        )
    };
    let of = |name: &[u8]| [&b"c__torch__\n"[..], name, b"\n)\x81}(", &text("training"), b"\x89ub"].concat();
    let model = |kind: &str, value: &[u8]| {
        let mut parts = with(&class(kind), &object(value));
        parts.retain(|part| part.name != "m/data/0");
        zip(&parts)
    };
    let listed = |value: &[u8]| {
        let tag = text("List[__torch__.A]");
        [&b"ctorch.jit._pickle\nrestore_type_tag\n]("[..], value, b"e", &tag, b"\x86R"].concat()
    };
    let (of_a, of_b, one, two) = (of(b"A"), of(b"B"), b"K\x01\x85".to_vec(), b"K\x01K\x02\x86".to_vec());
    for (kind, right, wrong) in [
        ("__torch__.A", &of_a, &of_b),
        ("Optional[__torch__.A]", &b"N".to_vec(), &of_b),
        ("Tuple[int, int]", &two, &one),
        ("Tuple[int, __torch__.A]", &[b"K\x01", &of_a[..], b"\x86"].concat(), &[b"K\x01", &of_b[..], b"\x86"].concat()),
        ("List[__torch__.A]", &listed(&of_a), &listed(&of_b)),
        ("__torch__.P", &two, &one),
        ("Tuple[int]", &one, &b")".to_vec()),
    ] {
        strict(&model(kind, right)).unwrap();
        let why = refused(&model(kind, wrong), GateCode::PickleOpcode);
        assert!(why.contains("not of the type"), "{kind}: {why}");
    }
}

/// libtorch may know an attribute that is spelt in a way nobody reads here; its value would be of no type that was looked at.
#[test]
fn an_attribute_that_its_class_does_not_declare_is_refused() {
    let model = |line: &str| {
        let class =
            format!("class M(Module):\n{line}  def forward(self: __torch__.M, x: Tensor) -> Tensor:\n    return x\n");
        let mut parts = with(&class, &object(b"K\x01"));
        parts.retain(|part| part.name != "m/data/0");
        zip(&parts)
    };
    strict(&model("  w : int\n")).unwrap();
    let why = refused(&model("  __annotations__[\"\\167\"] = int\n"), GateCode::PickleOpcode);
    assert!(why.contains("does not declare"), "{why}");
}

/// What no key of the config can bring here is not said to be a key's business.
#[test]
fn an_operator_of_another_library_is_told_as_one() {
    let said = refused(&body("return ops.torchvision.nms(x, x, 0.5)"), GraphUnlisted);
    assert!(said.contains("torchvision, which this server does not have") && !said.contains("extra_ops"), "{said}");
    let said = refused(&body("return ops.quantized.no_such(x)"), GraphUnlisted);
    assert!(said.contains("graph.extra_ops = [\"quantized::no_such\"]"), "{said}");
}

/// libtorch takes each of these for what it should be, without a look: a hook that is no method, a member without a value.
#[test]
fn what_a_class_lists_is_there() {
    const METHODS: &str = "  training : bool
  def forward(self: __torch__.M, x: Tensor) -> Tensor:
    return x
  def before(self: __torch__.M, x: Tuple[Tensor]) -> Tuple[Tensor]:
    return x
  def after(self: __torch__.M, x: Tuple[Tensor], y: Tensor) -> Tensor:
    return y
";
    let class = |lines: &str| {
        let mut parts = with(&format!("class M(Module):\n{lines}{METHODS}"), &object(b"K\x01"));
        parts.retain(|part| part.name != "m/data/0");
        zip(&parts)
    };
    let lists = |before: &str, after: &str| {
        class(&format!("  __forward_pre_hooks__ = [{before}]\n  __forward_hooks__ = [{after}]\n"))
    };
    let says = |archive: &[u8]| refused(archive, CodeText);
    for odd in ["\"gone\", ", "\"forward\", ", "\"after\", ", "\"before\", \"gone\", ", "\"bef\\157re\", "] {
        assert!(says(&lists(odd, "")).contains("no method that a hook can be"), "{odd}");
    }
    for odd in ["\"gone\", ", "\"forward\", ", "\"before\", "] {
        assert!(says(&lists("", odd)).contains("no method that a hook can be"), "{odd}");
    }
    let good = strict(&lists("\"before\", ", "\"after\", "));
    assert!(good.as_ref().err().is_none_or(|refusal| refusal.code != CodeText), "{good:?}");
    let colour = |member: &str| class(&format!("  training : bool\nclass E(Enum):\n  {member}\nclass N(Module):\n"));
    assert!(says(&colour("RED : int")).contains("without a value"));
    assert!(says(&colour("RED")).contains("without a value"));
}
