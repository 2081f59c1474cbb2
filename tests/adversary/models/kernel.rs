//! Operators that the default policy lets every model use, and what they do to arguments that nobody checked. There will
//! always be more of these: that is what the cage is for.

use super::{Build, Cage, Entry, Free};
use crate::forge::{Forge, Value};

const SEGV: i32 = 11;
const FPE: i32 = 8;

pub(super) fn all() -> Vec<Entry> {
    let mut all = dying();
    all.extend(long());
    all.extend(refused());
    all
}

fn dying() -> Vec<Entry> {
    let entry = |name, act, body, signal| {
        let word = if signal == SEGV { "SIGSEGV" } else { "SIGFPE" };
        Entry::new(name, act, Build::Asked(body), Free::Dies(signal), Cage::Signal(word))
    };
    vec![
        entry(
            "memory-norms",
            "norms of a million rows, written to the room of one",
            "a, b = torch._weight_norm_interface(torch.ones([4194304, 4]), torch.ones([1, 1]), 0)
  return a.sum() + x",
            SEGV,
        ),
        entry("memory-type", "an element type of a number that no type has", "return x.to(999)", SEGV),
        entry(
            "death-heads",
            "attention with no heads",
            "w = torch.ones([12, 4])
  y = x.unsqueeze(0)
  o, a = torch._native_multi_head_attention(y, y, y, 4, 0, w, torch.ones([12]), torch.ones([4, 4]), torch.ones([4]))
  return o.sum() + x",
            FPE,
        ),
        entry(
            "death-both",
            "the smallest integer divided by -1, quotient and rest at once",
            "a, b = divmod(-9223372036854775807 - 1, int(x[0, 0]) * 0 - 1)\n  return x + a",
            FPE,
        ),
        entry(
            "death-common",
            "the greatest common divisor of the smallest integer and -1",
            "return x + ops.aten.gcd(-9223372036854775807 - 1, int(x[0, 0]) * 0 - 1)",
            FPE,
        ),
        entry(
            "death-nested",
            "200,000 lists in one another, let go of",
            "t : List[Any] = []
  for i in range(int(x[0, 0]) * 100):
    l : List[Any] = []
    l.append(t)
    t = l
  return x",
            SEGV,
        ),
        entry(
            "death-itself",
            "the text of a list that holds itself",
            "t : List[Any] = []\n  t.append(t)\n  return x + len(str(t))",
            SEGV,
        ),
    ]
}

/// One call of an operator that does not come back.
fn long() -> Vec<Entry> {
    let entry = |name, act, body| Entry::new(name, act, Build::Asked(body), Free::Burns, Cage::Deadline).late();
    vec![
        entry(
            "exhaust-polynomial",
            "a polynomial of degree 9 · 10^15",
            "return torch.special_legendre_polynomial_p(x * 0 + 0.5, torch.full([1, 4], 9e15)) + x",
        ),
        entry(
            "exhaust-keys",
            "a dictionary whose keys all fall into one place",
            "d : Dict[int, int] = {}
  i = 0
  while i >= 0:
    d[(i % 100000) << 40] = i
    i = i + 1
  return x + len(d)",
        ),
        Entry::new(
            "exhaust-nan-keys",
            "a dictionary with one key without end, since NaN is never the same",
            Build::Asked("d : Dict[float, int] = {}\n  while len(d) >= 0:\n    d[nan] = 1\n  return x + len(d)"),
            Free::Grows(600),
            Cage::Either(&[Cage::Refuses(500, "model_memory"), Cage::Deadline]),
        ),
    ]
}

fn refused() -> Vec<Entry> {
    let error = Cage::Refuses(500, "model_error");
    let bad = Cage::Refuses(502, "bad_output");
    vec![
        // LAPACK's library looks for its words in a file when it first complains. It has done so before the door is shut.
        Entry::new(
            "death-complaint",
            "least squares of what is no number: LAPACK complains",
            Build::Asked(
                "z = (torch.eye(8) * 3. + torch.ones([8, 8])) * (x[0, 0] * nan)
  return torch.nan_to_num(x + torch.linalg_lstsq(z, z, None, driver=\"gelsd\")[0].sum())",
            ),
            Free::Says("lstsq"),
            error,
        ),
        Entry::new(
            "memory-cast",
            "a number that is said to be a tensor",
            Build::Asked("n : Any = int(x[0, 0])\n  return unchecked_cast(Tensor, n) + 1"),
            Free::Says("ensor"),
            error,
        ),
        Entry::new(
            "output-itself",
            "a list that holds itself",
            Build::Typed("Any", "t : List[Any] = []\n  t.append(t)\n  return t"),
            Free::Says("tensors"),
            bad,
        ),
        Entry::new(
            "output-future",
            "an answer that is not there yet, and never will be",
            Build::Forged(|_| {
                Forge::new("M")
                    .function("def work(x: Tensor) -> Tensor:\n  while True:\n    x = x + 1\n  return x")
                    .forward(
                        "def forward(self, x: Tensor) -> Any:
  if bool(x[0, 0] > 1000.0):
    return fork(__torch__.work, x)
  return x",
                    )
                    .bytes()
            }),
            Free::Says("Future"),
            bad,
        ),
        Entry::new(
            "output-turns",
            "answers well five times, and with a row too many ever after",
            Build::Forged(|_| {
                Forge::new("M")
                    .attribute("n", Value::Int(0))
                    .forward(
                        "def forward(self, x: Tensor) -> Tensor:
  self.n = self.n + 1
  if self.n > 5:
    return torch.cat([x, x])
  return x",
                    )
                    .bytes()
            }),
            Free::Answers(|y| y.len() == 8),
            bad,
        )
        .requests(8),
    ]
}
