//! Values of another type than the code gives them: libtorch itself does not look, which is why the gate does.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may")]

#[path = "../gate/tests/archive/mod.rs"]
mod archive;

use archive::{object, strict, text, with, zip};
use casemate_ipc::work::GateCode;
use casemate_worker::engine::shim::libtorch::Module;

const CLASSES: &str = "class A(Module):
  __parameters__ = []
  __buffers__ = []
  training : bool
  def forward(self: __torch__.A, x: Tensor, n: int) -> Tensor:
    return x
class B(Module):
  __parameters__ = []
  __buffers__ = []
  training : bool
  def forward(self: __torch__.B, x: Tensor) -> Tensor:
    return x
class I(ModuleInterface):
  def forward(self, x: Tensor) -> Tensor:
    pass
class Color(Enum):
  RED = 1
class Shape(Enum):
  ROUND = 1
class P(NamedTuple):
  n : int
  b : __torch__.B
";

fn model(kind: &str, value: &[u8]) -> Vec<u8> {
    let code = format!(
        "{CLASSES}class M(Module):\n  __parameters__ = []\n  __buffers__ = []\n  w : {kind}\n  \
         def forward(self: __torch__.M, x: Tensor) -> Tensor:\n    return x\n"
    );
    let mut parts = with(&code, &object(value));
    parts.retain(|part| part.name != "m/data/0");
    zip(&parts)
}

#[test]
fn libtorch_does_not_look_and_the_gate_does() {
    let of = |class: &str| [b"c__torch__\n", class.as_bytes(), b"\n)\x81}(", &text("training"), b"\x89ub"].concat();
    let member = |class: &str| format!("c__torch__\n{class}\nK\x01R").into_bytes();
    let p = |class: &str| [b"(K\x01", &of(class)[..], b"t"].concat();
    for (kind, right, wrong) in [
        ("__torch__.B", of("B"), of("A")),
        ("__torch__.I", of("B"), of("A")),
        ("__torch__.Color", member("Color"), member("Shape")),
        ("__torch__.P", p("B"), p("A")),
        ("Union[__torch__.B, int]", of("B"), of("A")),
    ] {
        let (right, wrong) = (model(kind, &right), model(kind, &wrong));
        strict(&right).unwrap();
        if let Err(fault) = Module::load(&right) {
            panic!("what is right is not as torch.jit.save writes it: {kind}: {fault}");
        }
        assert_eq!(strict(&wrong).unwrap_err().code, GateCode::PickleOpcode, "{kind}");
        match Module::load(&wrong) {
            Ok(_) => println!("{kind}: libtorch loads another"),
            Err(fault) => panic!("libtorch looks itself: {kind}: {fault}"),
        }
    }
}
