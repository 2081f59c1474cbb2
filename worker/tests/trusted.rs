//! The module that a worker loads before its lock, as source. `src/engine/torchscript/trusted.pt` is this, forged.

use casemate_tests::forge::{Forge, Tensor};

/// Runs what a loader and an interpreter do: parameters, a submodule's worth of operations, a free function, a loop, a
/// branch, a list, a dictionary, a tuple; and it fails on rows of another length than 4.
fn trusted() -> Vec<u8> {
    let weights: Vec<f32> = (0..16).map(|i| i as f32 / 16.0).collect();
    Forge::new("Trusted")
        .parameter("w", Tensor::new(&[4, 4], weights))
        .buffer("b", Tensor::zeros(&[4]))
        .function("def twice(x: Tensor, times: int) -> Tensor:\n  for i in range(times):\n    x = x + x\n  return x")
        .forward(
            "def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:
  y = torch.relu(torch.matmul(x, self.w) + self.b)
  parts = [y, __torch__.twice(y, 2)]
  if bool(y[0, 0] > 1):
    parts.append(y)
  named = {\"sum\": parts[0] + parts[1]}
  return (torch.softmax(named[\"sum\"], -1), torch.argmax(named[\"sum\"], -1))",
        )
        .bytes()
}

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/engine/torchscript/trusted.pt");

#[test]
fn the_embedded_archive_is_this_source() {
    if std::env::var_os("CASEMATE_WRITE_TRUSTED").is_some() {
        std::fs::write(FILE, trusted()).unwrap();
    }
    let same = std::fs::read(FILE).unwrap() == trusted();
    assert!(
        same,
        "{FILE} is not what the forge makes; run this test with CASEMATE_WRITE_TRUSTED=1 and look at the change"
    );
}
