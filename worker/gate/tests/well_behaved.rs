//! What must pass: the positive side of every refusal.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may")]

mod archive;

use std::time::Instant;

use archive::{body, code, model, part, strict, zip};
use casemate_ipc::work::GateCode;
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

/// What `torch.jit.save` of libtorch 2.13 writes beside the rest, each met in a model that somebody saved.
#[test]
fn records_of_traced_and_of_newer_models_pass() {
    let mut traced = model();
    traced.extend([part("m/traced_inputs/0", []), part("m/traced_inputs.pkl", *b"\x80\x02}.")]);
    let report = strict(&zip(&traced)).unwrap();
    assert!(report.unused.is_empty(), "{report:?}");
    // Where an operator came with version 6 or later, as `gelu` and `layer_norm` did.
    let mut newer = model();
    newer.retain(|part| part.name != "m/version");
    newer.extend([part("m/.data/version", *b"10\n"), part("m/.data/serialization_id", [b'1'; 40])]);
    strict(&zip(&newer)).unwrap();
    newer.push(part("m/version", *b"3\n"));
    assert_eq!(strict(&zip(&newer)).unwrap_err().code, GateCode::ArchiveRecord);
    traced[6].bytes = vec![0];
    assert_eq!(strict(&zip(&traced)).unwrap_err().code, GateCode::ArchiveSize);
}

#[test]
fn members_of_enumerations_pass() {
    let code = |kind: &str| {
        format!(
            "class M(Module):\n  w : {kind}\n  def forward(self: __torch__.M, x: Tensor) -> Tensor:
    w = self.w\n    if torch.eq(w, __torch__.Color.RED):\n      x = torch.add(x, (w).value)\n    return x
class Color(Enum):\n  RED = 1\n  GREEN = 2\nclass Plain:\n  n : int\n"
        )
    };
    let held = |kind: &str, value: &[u8]| {
        let mut parts = archive::with(&code(kind), &archive::object(value));
        parts.retain(|part| part.name != "m/data/0");
        strict(&zip(&parts))
    };
    held("__torch__.Color", b"c__torch__\nColor\nK\x01R").unwrap();
    held(
        "List[__torch__.Color]",
        b"ctorch.jit._pickle\nrestore_type_tag\n](c__torch__\nColor\nK\x01ReX\x15\0\0\0List[__torch__.Color]\x86R",
    )
    .unwrap();
    // No other class is made so, and no enumeration otherwise.
    for odd in [&b"c__torch__\nPlain\nK\x01R"[..], b"c__torch__\nColor\nK\x01\x85R", b"c__torch__\nColor\n)\x81}b"] {
        assert_eq!(held("Any", odd).unwrap_err().code, GateCode::PickleOpcode);
    }
}

/// Names that `torch.nn` writes into every model that uses it: attention, encoders, `no_grad`, autocast, traced constants.
#[test]
fn what_torch_nn_names_is_on_the_list() {
    for name in [
        "is_autocast_enabled()",
        "is_autocast_cpu_enabled()",
        "get_autocast_dtype(\"cpu\")",
        "set_grad_enabled(False)",
        "_nested_tensor_from_mask_left_aligned(x, x)",
        "_nested_tensor_from_mask(x, x, True)",
        "_transformer_encoder_layer_fwd(x)",
        "_native_multi_head_attention(x)",
        "scaled_dot_product_attention(x, x, x)",
        "lift_fresh(x)",
        "lift_fresh_copy(x)",
        "requires_grad_(x, False)",
        "_convolution(x)",
        "_weight_norm(x, x, 0)",
        "_pack_padded_sequence(x, x, True)",
        "_pad_packed_sequence(x, x, True, 0., 3)",
        "_upsample_bilinear2d_aa(x)",
    ] {
        strict(&body(&format!("_0 = torch.{name}\n    return x"))).unwrap();
    }
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
