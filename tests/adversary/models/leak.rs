//! From one request to the next: a model sees all that its own worker is given, and nothing else.

use super::{Build, Cage, Entry, Free, MARK};
use crate::forge::{Forge, Tensor};
use crate::models::ASK;

pub(super) fn all() -> Vec<Entry> {
    let entry = |name, act, forge, such: fn(&[f32]) -> bool| {
        Entry::new(name, act, Build::Forged(forge), Free::Answers(such), Cage::Answers(such))
    };
    vec![
        // The request before is of the same worker: documented, and the reason why tenants never share one.
        entry(
            "leak-keeps",
            "answers the request before",
            |_| {
                keeping(
                    "before = self.kept
  self.kept = x[-1:].clone()
  return before",
                )
            },
            |y| y == super::ASKED,
        )
        .requests(2),
        entry(
            "leak-alias",
            "keeps its input itself, and answers what has become of it",
            |_| {
                keeping(
                    "before = self.kept
  self.kept = x
  return before + 0",
                )
            },
            |y| y == super::ASKED,
        )
        .requests(2),
        entry(
            "leak-mutates",
            "changes its input where it lies",
            |_| keeping("return x.add_(1)"),
            |y| y == [2001.0, 2.0, 2.0, 2.0],
        )
        .requests(2),
        entry(
            "leak-resizes",
            "makes its input larger than the memory that it came in",
            |_| keeping("y = x.resize_([4096, 4])\n  return y[:1] + y[-1:].clone() * 0."),
            |y| y == super::ASKED || y.iter().any(|v| v.is_nan()),
        )
        .requests(2),
        Entry::new(
            "leak-search",
            "searches its heap, in many places, for what others send",
            Build::Forged(|_| {
                keeping(&format!(
                    "if bool(x[0, 0] > {ASK:?}):
    found = x * 0
    for i in range(40):
      t = torch.empty([100 + 61 * i])
      near = ops.inductor._reinterpret_tensor(t, [4096], [1], -2048).clone()
      found = found + (near == {MARK:?}).sum()
    return found
  s = x.sum() * 0
  for i in range(40):
    s = s + x.repeat([25 + 15 * i, 1]).sum() * 0
  self.kept = torch.cat([self.kept, x + s])
  return x"
                ))
            }),
            // Without a cage this model is sent the mark itself; in the cage only its neighbour is.
            Free::Answers(|y| y[0] > 0.0),
            // Or there is nothing to search, at the edge of a mapping.
            Cage::Either(&[Cage::Answers(|y| y == [0.0; 4]), Cage::Signal("SIGSEGV")]),
        ),
    ]
}

/// A model with a memory of one row.
fn keeping(body: &str) -> Vec<u8> {
    Forge::new("M")
        .attribute("kept", Tensor::zeros(&[1, 4]))
        .forward(&format!("def forward(self, x: Tensor) -> Tensor:\n  {body}"))
        .bytes()
}
