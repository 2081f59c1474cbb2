//! Death without a fault in memory.

use super::{Build, Cage, Entry, Free};
use crate::forge::Forge;

const FPE: i32 = 8;

pub(super) fn all() -> Vec<Entry> {
    let entry = |name, act, body, free, cage| Entry::new(name, act, Build::Asked(body), free, cage);
    let dies = |name, act, body| entry(name, act, body, Free::Dies(FPE), Cage::Signal("SIGFPE"));
    vec![
        dies("death-modulo-zero", "5 % 0", "return x + 5 % (int(x[0, 0]) * 0)"),
        dies(
            "death-divide",
            "the smallest integer // -1",
            "return x + (-9223372036854775807 - 1) // (int(x[0, 0]) * 0 - 1)",
        ),
        dies(
            "death-modulo",
            "the smallest integer % -1",
            "return x + (-9223372036854775807 - 1) % (int(x[0, 0]) * 0 - 1)",
        ),
        dies(
            "death-truncate",
            "a division of tensors that truncates",
            "m = torch.full([1], -9223372036854775807 - 1, dtype=4)
  return x + torch.div(m, torch.full([1], int(x[0, 0]) * 0 - 1, dtype=4), rounding_mode=\"trunc\")",
        ),
        entry(
            "death-not-text",
            "raises a text that is not UTF-8",
            "ops.prim.RaiseException(\"\\377\\376 not text\", \"builtins.RuntimeError\")\n  return x",
            Free::Says("not text"),
            Cage::Refuses(500, "model_error"),
        ),
        Entry::new(
            "death-lost-fork",
            "an exception in a fork that nobody waits for",
            Build::Forged(|_| {
                Forge::new("M")
                    .function("def bad(x: Tensor) -> Tensor:\n  ops.prim.RaiseException(\"lost\", \"builtins.RuntimeError\")\n  return x")
                    .forward(
                        "def forward(self, x: Tensor) -> Tensor:
  if bool(x[0, 0] > 1000):
    f = fork(__torch__.bad, x)
    x = x + 1
  return x",
                    )
                    .bytes()
            }),
            Free::Answers(|y| y == [2001.0, 2.0, 2.0, 2.0]),
            Cage::Answers(|y| y == [2001.0, 2.0, 2.0, 2.0]),
        ),
        Entry::new(
            "death-uninitialized",
            "answers a value that was never made",
            Build::Forged(|_| {
                Forge::new("M")
                    .forward("def forward(self, x: Tensor) -> Tensor:\n  if bool(x[0, 0] > 1000):\n    return uninitialized(Tensor)\n  return x")
                    .bytes()
            }),
            Free::Says("Uninitialized"),
            Cage::Refuses(502, "bad_output"),
        ),
    ]
}
