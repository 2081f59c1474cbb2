//! What must pass: the positive side of every refusal.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may")]

mod archive;

use std::time::Instant;

use archive::{body, code, model, strict, zip};
use casemate_tests::models::{self, When};

#[test]
fn models_that_pytorch_saved_pass() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    for path in ["packaging/demo/store/digits/1/model.pt", "worker/src/engine/torchscript/trusted.pt"] {
        let report = strict(&std::fs::read(format!("{root}/{path}")).unwrap()).unwrap();
        assert!(report.class.is_some() && report.tensors > 0 && report.unused.is_empty(), "{report:?}");
    }
}

#[test]
fn forged_models_pass() {
    strict(&zip(&model())).unwrap();
    let behaved = [
        models::linear(4, 2),
        models::double(),
        models::identity(),
        models::sum_int64(),
        models::batch_rows(),
        models::two_inputs_two_outputs(),
        models::dict_output(),
        models::list_output(),
        models::in_place(),
        models::keeps_state(),
        models::nan_output(When::Asked),
        models::raises(When::Asked, "no"),
        models::print_once(When::Asked, "yes"),
    ];
    for bytes in behaved {
        strict(&bytes).unwrap();
    }
}

/// As `torch.jit.save` prints submodules, module lists, branches and loops.
const PRINTED: &str = r#"class Block(Module):
  __parameters__ = ["weight", ]
  __buffers__ = []
  weight : Tensor
  training : bool
  def forward(self: __torch__.Block,
    x: Tensor) -> Tensor:
    weight = self.weight
    _0 = torch.layer_norm(x, [64], weight, None, 1.0000000000000001e-05)
    return torch.gelu(_0, approximate="none")
class Stack(Module):
  __parameters__ = []
  __buffers__ = []
  __annotations__ = []
  __annotations__["0"] = __torch__.Block
  __annotations__["1"] = __torch__.Block
  def forward(self: __torch__.Stack,
    x: Tensor) -> Tensor:
    _0 = getattr(self, "0")
    _1 = getattr(self, "1")
    return (_1).forward((_0).forward(x, ), )
class M(Module):
  __parameters__ = []
  __buffers__ = []
  stack : __torch__.Stack
  scale : Final[float] = 0.5
  def forward(self: __torch__.M,
    x: Tensor,
    mask: Optional[Tensor]=None) -> Tuple[Tensor, List[int]]:
    stack = self.stack
    y = (stack).forward(x, )
    sizes = annotate(List[int], [])
    for i in range(torch.len(torch.size(y))):
      _2 = torch.append(sizes, torch.size(y, i))
    if torch.__isnot__(mask, None):
      mask0 = unchecked_cast(Tensor, mask)
      z = torch.mul(y, mask0)
    else:
      z = torch.scaled_dot_product_attention(y, y, y, None, 0., False)
    _3 = ops.prim.dtype(z)
    a, b, = torch.unbind(torch.to(z, 6))
    return (torch.neg(a), sizes)
"#;

#[test]
fn printed_source_is_followed_and_passes() {
    let report = strict(&code(PRINTED)).unwrap();
    assert!(report.operators.contains("aten::layer_norm") && report.operators.contains("prim::dtype"));
    assert_eq!((report.classes, report.functions), (3, 3));
}

#[test]
fn what_is_large_but_honest_passes() {
    let numbers = vec!["1.5"; 20_000].join(", ");
    strict(&body(&format!("return torch.tensor([{numbers}])"))).unwrap();
    let lines = "x = torch.relu(x)\n    ".repeat(5000);
    strict(&body(&format!("{lines}return x"))).unwrap();
    strict(&body(&format!("return {}x{}", "torch.relu(".repeat(80), ")".repeat(80)))).unwrap();
    strict(&body(&format!("return x{}", " + x".repeat(400)))).unwrap();
}

#[test]
fn large_weights_cost_one_pass_over_them() {
    const FLOATS: usize = 25 << 20;
    let value = archive::tensor("FloatStorage", "0", "cpu", FLOATS as i64, 0, &[FLOATS as i64], &[1]);
    let mut parts = archive::with(archive::CODE, &archive::object(&value));
    parts[2].bytes = vec![1; FLOATS * 4];
    let bytes = zip(&parts);
    let begun = Instant::now();
    strict(&bytes).unwrap();
    println!("{} MiB in {:?}", bytes.len() >> 20, begun.elapsed());
}
