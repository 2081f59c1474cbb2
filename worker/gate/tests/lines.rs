//! Lines of classes and first lines of functions: what stands there runs while libtorch loads, or is taken without a look.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod archive;

use archive::{code, open, strict};
use casemate_gate::Refusal;
use casemate_ipc::work::GateCode::{self, CodeSize, CodeText};

const FORWARD: &str = "  def forward(self: __torch__.M, x: Tensor) -> Tensor:\n    return x\n";
const BEFORE: &str = "  def before(self: __torch__.M, x: Tuple[Tensor]) -> Tuple[Tensor]:\n    return x\n";
const AFTER: &str = "  def after(self: __torch__.M, x: Tuple[Tensor], y: Tensor) -> Tensor:\n    return y\n";

/// A module with these lines before its `forward`.
fn module(lines: &str) -> Vec<u8> {
    code(&format!("class M(Module):\n{lines}{FORWARD}"))
}

/// A module, and this beside it.
fn beside(text: &str) -> Vec<u8> {
    code(&format!("class M(Module):\n{FORWARD}{text}"))
}

/// All that are not refused so, at every level.
#[track_caller]
fn all_refused(cases: &[(String, Vec<u8>)], code: GateCode) {
    let says = |result: Result<_, Refusal>| result.map(drop).map_err(|refusal| refusal.code);
    let odd = cases.iter().filter(|(_, bytes)| {
        says(strict(bytes).map(|_| ())) != Err(code) || says(open(bytes).map(|_| ())) != Err(code)
    });
    let odd: Vec<_> = odd.map(|(text, bytes)| (text, says(open(bytes).map(|_| ())))).collect();
    assert!(odd.is_empty(), "{odd:#?}");
}

fn each(texts: &[&str], archive: impl Fn(&str) -> Vec<u8>) -> Vec<(String, Vec<u8>)> {
    texts.iter().map(|text| ((*text).to_owned(), archive(text))).collect()
}

/// Expressions that do something, or go on for long.
const ACTS: &[&str] = &[
    "torch.from_file(\"f\", False, 100)",
    "torch.ones([1000000000])",
    "__torch__.f()",
    "(__torch__.f)()",
    "[__torch__.f()]",
    "{\"a\": __torch__.f()}",
    "annotate(int, __torch__.f())",
    "__torch__.P(__torch__.f())",
    "[0] * 1000000000",
    "[i for i in range(1000000000)]",
    "fork(__torch__.f)",
    "CONSTANTS.c0.T",
];

/// What is made of the constants above but calls nothing.
const QUIET: &[&str] = &[
    "3",
    "-1",
    "0.5",
    "inf",
    "-inf",
    "1.+2.j",
    "None",
    "\"zeros\"",
    "(0, 0)",
    "[1, 2]",
    "{\"a\": [1.5]}",
    "annotate(List[int], [])",
    "torch.device(\"cpu\")",
    "__torch__.Color.RED",
    "__torch__.P(1)",
];

const OTHERS: &str = "def f() -> int:\n  return 1\nclass P(NamedTuple):\n  n : int\nclass Color(Enum):\n  RED = 1\n";

#[test]
fn what_a_constant_is_calls_nothing() {
    let constant = |value: &str| code(&format!("class M(Module):\n  k : Final[Any] = {value}\n{FORWARD}{OTHERS}"));
    all_refused(&each(ACTS, constant), CodeText);
    for value in QUIET {
        strict(&constant(value)).unwrap();
    }
    // A name that is a tuple's and a function's is the last one's to libtorch.
    let twins = [
        "class P(NamedTuple):\n  n : int\ndef P(n: int) -> int:\n  return n\n",
        "def P(n: int) -> int:\n  return n\nclass P(NamedTuple):\n  n : int\n",
    ];
    all_refused(
        &each(&twins, |twins| code(&format!("class M(Module):\n  k : Final[Any] = __torch__.P(1)\n{FORWARD}{twins}"))),
        CodeText,
    );
    let tuple = |kind: &str| beside(&format!("{OTHERS}class Q(NamedTuple):\n  n : {kind}\n"));
    let odd = ["torch.from_file(\"f\", False, 100) = Tensor", "__torch__.f() = int", "int = __torch__.f()", "3 = int"];
    all_refused(&each(&odd, tuple), CodeText);
    strict(&tuple("int")).unwrap();
}

#[test]
fn what_an_argument_is_unless_given_calls_nothing() {
    let method = |value: &str| {
        module(&format!("  def g(self: __torch__.M, a: int, b: Any={value}, c: int=1) -> int:\n    return 1\n"))
    };
    let with_others = |value: &str, last: &str| {
        beside(&format!("{OTHERS}def g(a: List[int]=[1, 2],\n    b: Any={value}{last}) -> int:\n  return 1\n"))
    };
    let inner = |value: &str| {
        beside(&format!("{OTHERS}def g(x: int) -> int:\n  def h(b: Any={value}) -> int:\n    return 1\n  return 1\n"))
    };
    let interface = |value: &str| {
        beside(&format!("{OTHERS}class I(Interface):\n  def g(self, b: Any={value}) -> int:\n    pass\n"))
    };
    let mut cases = each(ACTS, method);
    cases.extend(each(ACTS, |value| with_others(value, "")));
    cases.extend(each(ACTS, |value| with_others(value, ", *, c: int=1")));
    cases.extend(each(ACTS, inner));
    cases.extend(each(ACTS, interface));
    all_refused(&cases, CodeText);
    for value in QUIET {
        open(&with_others(value, ", c: int=-1")).unwrap();
        open(&interface(value)).unwrap();
    }
}

/// libtorch decides at each method whether it is a hook, and later takes what it is said to have found.
#[test]
fn a_hook_is_listed_before_it_is_defined() {
    let listed = |lines: &str| module(&format!("  training : bool\n{lines}{BEFORE}{AFTER}"));
    let pre = "  __forward_pre_hooks__ = [\"before\", ]\n";
    let post = "  __forward_hooks__ = [\"after\", ]\n";
    for lines in [format!("{pre}{post}"), "  __forward_pre_hooks__ = []\n".to_owned(), pre.replace(", ", "")] {
        strict(&listed(&lines)).unwrap();
    }
    let late = [format!("{BEFORE}{pre}"), format!("{AFTER}{post}"), format!("{pre}{BEFORE}{pre}")];
    let late = late.map(|lines| (lines.clone(), module(&lines)));
    all_refused(&late, CodeText);
    let odd = [
        "__forward_pre_hooks__ = [\"be\" \"fore\", ]",
        "__forward_pre_hooks__ = [\"before\" \"\", ]",
        "(__forward_pre_hooks__) = [\"gone\", ]",
        "((__forward_hooks__)) = [\"gone\", ]",
        "(__forward_hooks__) : List[str] = [\"gone\", ]",
        "__forward_hooks__ : List[str] = [\"after\", ]",
        "__forward_hooks__ = ([\"after\", ])",
        "__forward_hooks__ = [\"after\", ] + [\"gone\"]",
        "__forward_hooks__ = (\"after\", )",
        "__forward_hooks__ = [before]",
        "__forward_hooks__",
        "__forward_hooks__ : List[str]",
        "__forward_hooks__ = k = [\"after\", ]",
        "__forward_hooks__, k = [\"after\", ]",
        "__forward_hooks__ = [, ]",
    ];
    // Two texts side by side are one to libtorch, whatever each of them names.
    let halves = ["be", "fore"].map(|name| BEFORE.replace("before", name)).concat();
    let joined = |list: &str| module(&format!("  __forward_pre_hooks__ = [{list}]\n{halves}"));
    strict(&joined("\"be\", \"fore\", ")).unwrap();
    all_refused(&each(&["\"be\" \"fore\", ", "\"fore\", \"be\" \"be\""], joined), CodeText);
    all_refused(&each(&odd, |line| listed(&format!("  {line}\n"))), CodeText);
}

#[test]
fn a_line_of_a_class_has_a_shape_that_is_printed() {
    let line = |line: &str| module(&format!("  {line}\n"));
    for good in [
        "__parameters__ = [\"w\", ]\n  __buffers__ = []\n  w : Tensor",
        "__annotations__ = []\n  __annotations__[\"0\"] = __torch__.M",
        "a : Optional[Dict[str, Tuple[()]]]",
        "a : Final[str] = \"b\"",
        "pass",
    ] {
        strict(&line(good)).unwrap();
    }
    let odd = [
        "__parameters__ : List[str]",
        "__parameters__ = 3",
        "__parameters__ = [3]",
        "__buffers__ = w",
        "__annotations__ = {\"a\": __torch__.f()}",
        "__annotations__[\"a\" \"b\"] = int",
        "(__annotations__)[\"a\"] = int",
        "__annotations__[\"a\"] : int = int",
        "__annotations__[\"a\"] = int = int",
        "(a) : int",
        "a, b : int",
        "a = 3",
        "a : int = 3 = 4",
        "a : f(b=1)",
        "a : int =",
        "a :",
        "a",
        "\"text\"",
        "f()",
        "a += 1",
        "if True:\n    a : int",
    ];
    all_refused(&each(&odd, line), CodeText);
}

#[test]
fn a_class_is_of_a_kind_that_is_printed() {
    let class = |head: &str| beside(&format!("class E{head}\n  RED = 1\n"));
    strict(&class("(Enum):")).unwrap();
    let odd =
        ["(((Enum))):", "((Enum)):", "(Enum, ):", "(Enum,):", "(enum.Enum):", "():", "(Enum)(Enum):", "(Other):", ""];
    all_refused(&each(&odd, class), CodeText);
    let member = |line: &str| beside(&format!("class E(Enum):\n  {line}\n"));
    for good in ["RED = -1", "RED = 0.5", "RED = \"red\""] {
        strict(&member(good)).unwrap();
    }
    let odd = ["RED : f(x=1)", "RED : int", "RED : int = 1", "RED =", "RED", "(RED) = 1", "RED = f()", "RED = B = 1"];
    all_refused(&each(&odd, member), CodeText);
    let field = |line: &str| beside(&format!("class P(NamedTuple):\n  {line}\n"));
    strict(&field("x : Optional[int]")).unwrap();
    let odd = ["x = 3", "x", "(x) : int", "x : f(y=1)", "__annotations__ = []", "__annotations__[\"x\"] = int", "pass"];
    all_refused(&each(&odd, field), CodeText);
}

/// A class's name is kept for each of its lines.
#[test]
fn a_name_is_of_a_length_that_may_be_kept_often() {
    let named = |length: usize| beside(&format!("class {}(Module):\n  training : bool\n", "N".repeat(length)));
    strict(&named(4 << 10)).unwrap();
    all_refused(&[("long".to_owned(), named((4 << 10) + 1))], CodeSize);
}
