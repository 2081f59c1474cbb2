//! What the first run on zeros already pays for, with nothing in the file that looks dear.

use super::{Build, Cage, Entry, Free};
use crate::forge::{Claim, Forge, Tensor};

/// They act at load.
pub(super) fn all() -> Vec<Entry> {
    let entry = |name, act, forge, free, cage| Entry::new(name, act, Build::Crafted(forge), free, cage);
    let (late, refused) = (Cage::Never("deadline", "load"), Cage::Never("refused", "trial"));
    vec![
        entry(
            "load-broad",
            "sixteen bytes that are 32 GiB by their shape, added up",
            |_| {
                let claim = Claim { sizes: Some(vec![1 << 33]), strides: Some(vec![0]), ..Default::default() };
                Forge::new("M")
                    .attribute("w", Tensor::new(&[4], [1.0; 4]).claiming(claim))
                    .forward(
                        "def forward(self, x: Tensor) -> Tensor:
  while True:
    x = x + self.w.sum()
  return x",
                    )
                    .bytes()
            },
            Free::Burns,
            late,
        ),
        entry(
            "load-wait",
            "waits for a fork that never ends",
            |_| {
                Forge::new("M")
                    .function("def work(x: Tensor) -> Tensor:\n  while True:\n    x = x + 1\n  return x")
                    .forward(
                        "def forward(self, x: Tensor) -> Tensor:
  f = fork(__torch__.work, x)
  return ops.aten.wait(f)",
                    )
                    .bytes()
            },
            Free::Burns,
            late,
        ),
        entry(
            "load-text",
            "a text that doubles in the first run",
            |_| forward("s = \"aaaaaaaa\"\n  while len(s) > 0:\n    s = s + s\n  return x + len(s)"),
            Free::Grows(600),
            Cage::Either(&[Cage::Never("refused", "trial"), Cage::Never("deadline", "load")]),
        ),
        entry(
            "load-vast",
            "a square of 4 TB of zeros, of which one is used",
            |_| forward("return x + torch.zeros([1000000, 1000000])[0, 0]"),
            Free::Says("memory"),
            refused,
        ),
    ]
}

fn forward(body: &str) -> Vec<u8> {
    Forge::new("M").forward(&format!("def forward(self, x: Tensor) -> Tensor:\n  {body}")).bytes()
}
