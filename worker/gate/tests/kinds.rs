//! Values of another type than the code gives them, where libtorch would not look: each beside the one that it stands for.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod archive;

use archive::{object, refused, strict, text, with, zip};
use casemate_ipc::work::GateCode;

/// Classes to be confused with each other.
const CLASSES: &str = "class A(Module):
  far : Tensor
  training : bool
  def forward(self: __torch__.A, x: Tensor, n: int=1) -> Tensor:
    return x
class B(Module):
  training : bool
  def forward(self: __torch__.B, x: Tensor) -> Tensor:
    return x
class Bare(Module):
  training : bool
class Guessed(Module):
  training : bool
  def forward(self: __torch__.Guessed, x: Tensor):
    return 1
class I(ModuleInterface):
  def forward(self, y: Tensor) -> Tensor:
    pass
class Two(ModuleInterface):
  def forward(self, y: Tensor) -> Tensor:
    pass
  def other(self, y: Tensor) -> Tensor:
    pass
class Color(Enum):
  RED = 1
class Shape(Enum):
  ROUND = 1
class P(NamedTuple):
  n : int
  b : __torch__.B
class Q(NamedTuple):
  p : Optional[__torch__.P]
  q : Optional[__torch__.Q]
class Double(NamedTuple):
  n : int
  n : __torch__.B
";

/// A module that holds one value of that type.
fn model(kind: &str, value: &[u8]) -> Vec<u8> {
    let code = format!(
        "{CLASSES}class M(Module):\n  w : {kind}\n  def forward(self: __torch__.M, x: Tensor) -> Tensor:\n    return x\n"
    );
    let mut parts = with(&code, &object(value));
    parts.retain(|part| part.name != "m/data/0");
    zip(&parts)
}

fn of(class: &str) -> Vec<u8> {
    [b"c__torch__\n", class.as_bytes(), b"\n)\x81}(", &text("training"), b"\x89ub"].concat()
}

fn member(class: &str) -> Vec<u8> {
    format!("c__torch__\n{class}\nK\x01R").into_bytes()
}

fn tuple(parts: &[&[u8]]) -> Vec<u8> {
    [b"(", &parts.concat()[..], b"t"].concat()
}

fn listed(kind: &str, value: &[u8]) -> Vec<u8> {
    [&b"ctorch.jit._pickle\nrestore_type_tag\n]("[..], value, b"e", &text(&format!("List[{kind}]")), b"\x86R"].concat()
}

#[track_caller]
fn only(kind: &str, right: &[&[u8]], wrong: &[&[u8]]) {
    for value in right {
        strict(&model(kind, value)).unwrap();
    }
    for value in wrong {
        let why = refused(&model(kind, value), GateCode::PickleOpcode);
        assert!(why.contains("not of the type"), "{kind}: {why}");
    }
}

#[test]
fn only_a_member_of_its_enumeration_is_one() {
    let (color, shape, b) = (member("Color"), member("Shape"), of("B"));
    only("__torch__.Color", &[&color], &[&shape, b"K\x01", b"N", &b]);
    only("Optional[__torch__.Color]", &[&color, b"N"], &[&shape]);
    let (right, wrong) = (listed("__torch__.Color", &color), listed("__torch__.Shape", &shape));
    only("List[__torch__.Color]", &[&right], &[&wrong]);
    // The list's own tag.
    refused(&model("Any", &listed("__torch__.Color", &shape)), GateCode::PickleOpcode);
    only("Any", &[&shape, &b], &[]);
}

/// libtorch calls a method of an interface by name, with what the interface says that it takes.
#[test]
fn only_a_class_with_its_methods_stands_for_an_interface() {
    let [a, b, bare, guessed] = ["A", "B", "Bare", "Guessed"].map(of);
    only("__torch__.I", &[&b], &[&a, &bare, &guessed, b"N", b"K\x01", &member("Color")]);
    only("Dict[str, Optional[__torch__.I]]", &[&[b"}(", &text("k")[..], &b, b"u"].concat()], &[&b"K\x01"[..]]);
    only("List[__torch__.I]", &[&listed("__torch__.I", &b)], &[&listed("__torch__.A", &a)]);
    // One method is not both.
    only("__torch__.Two", &[], &[&b]);
}

#[test]
fn a_tuple_with_names_holds_what_its_class_lists() {
    let (a, b) = (of("A"), of("B"));
    let [right, wrong] = [&b, &a].map(|object| tuple(&[b"K\x01", object]));
    only("__torch__.P", &[&right], &[&wrong, &tuple(&[b"K\x01"])]);
    let nested = |p: &[u8]| tuple(&[p, &tuple(&[b"N", b"N"])]);
    only("__torch__.Q", &[&nested(&right), &nested(b"N")], &[&nested(&wrong)]);
    // What is written twice stands there twice.
    only("__torch__.Double", &[&right], &[&tuple(&[&b[..]]), &wrong]);
}

/// In the branch for the one that it is not, libtorch takes a value for the other without a look.
#[test]
fn an_alternative_is_one_of_those_that_are_listed() {
    let (a, b) = (of("A"), of("B"));
    only("Union[__torch__.B, int]", &[&b, b"K\x01"], &[&a, b"N", b"\x88"]);
    only("Union[__torch__.A, NoneType, __torch__.B]", &[&a, &b, b"N"], &[&of("Bare")]);
    only("Union[Tuple[int, int], Tuple[__torch__.B, int]]", &[&tuple(&[&b, b"K\x01"])], &[&tuple(&[&a, b"K\x01"])]);
    only("Union[number, __torch__.B]", &[&b, b"K\x01"], &[&a]);
    let deep = format!("{}__torch__.B{}", "Union[int, ".repeat(10), "]".repeat(10));
    refused(&model(&deep, &b), GateCode::PickleSize);
}

/// What this gate cannot read could mean anything to libtorch.
#[test]
fn a_type_that_cannot_be_read_is_refused() {
    let b = of("B");
    for kind in ["__torch__.B | int", "__torch__.Gone", "List[__torch__.B, ]", "Tuple[odd, int]"] {
        refused(&model(kind, &b), GateCode::PickleGlobal);
    }
    // Long, and honest.
    let many = ["Tensor"; 300].join(", ");
    strict(&model(&format!("Optional[Tuple[{many}]]"), b"N")).unwrap();
}
