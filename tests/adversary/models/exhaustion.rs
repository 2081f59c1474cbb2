//! Processors, memory and the log, without end.

use super::{Build, Cage, Entry, Free};
use crate::forge::{Forge, Tensor};
use crate::models::ASK;

const MEMORY: Cage = Cage::Refuses(500, "model_memory");

pub(super) fn all() -> Vec<Entry> {
    let mut all = processors();
    all.extend(memory());
    all.extend(talk());
    all
}

fn processors() -> Vec<Entry> {
    let entry = |name, act, build| Entry::new(name, act, build, Free::Burns, Cage::Deadline).late();
    vec![
        entry("exhaust-loop", "a loop in the interpreter", Build::Asked("while True:\n    x = x + 1\n  return x")),
        entry(
            "exhaust-kernel",
            "one operation of 2^42 additions",
            Build::Asked("return x + (x[0, 0] * 0).expand([4398046511104]).sum()"),
        ),
        entry(
            "exhaust-team",
            "products on two threads, for ever",
            Build::Asked(
                "a = torch.ones([512, 512]) * x[0, 1]
  while True:
    a = torch.mm(a, a) * 0. + 1.
  return x + a[0, 0]",
            ),
        )
        .threads(2),
        entry(
            "exhaust-fork-products",
            "a thousand forks of products, waited for",
            Build::Forged(|_| {
                forking("for i in range(600):\n    x = torch.mm(torch.ones([512, 512]), torch.ones([512, 512]))[:1, :4] * 0. + x\n  return x", 1000)
            }),
        )
        .threads(2),
        entry(
            "exhaust-strings",
            "looks for a letter in a string of 64 MiB, again and again",
            Build::Asked(
                "s = \"aaaa\"
  for i in range(24):
    s = s + s
  n = int(x[0, 0])
  while n >= 0:
    n = n + s.count(\"b\")
  return x + n",
            ),
        ),
    ]
}

fn memory() -> Vec<Entry> {
    let entry = |name, act, body, cage| Entry::new(name, act, Build::Asked(body), Free::Grows(600), cage);
    vec![
        entry("exhaust-cat", "a tensor that doubles", "while True:\n    x = torch.cat([x, x])\n  return x", MEMORY),
        entry(
            "exhaust-list",
            "a list that grows",
            "l : List[Tensor] = []\n  while True:\n    l.append(torch.ones([1048576]) * x[0, 1])\n  return l[0][:4].unsqueeze(0)",
            MEMORY,
        ),
        entry(
            "exhaust-sparse-pages",
            "large tensors of which one element in a thousand is touched",
            "l : List[Tensor] = []
  while True:
    t = torch.empty([268435456 + int(x[0, 0]) * 0], dtype=0)
    l.append(t[::4096].fill_(1))
  return l[0][:4].unsqueeze(0)",
            MEMORY,
        ),
        entry(
            "exhaust-string",
            "a string that doubles",
            "s = \"aaaaaaaaaaaaaaaa\"\n  while len(s) > 0:\n    s = s + s\n  return x + len(s)",
            MEMORY,
        ),
        Entry::new(
            "exhaust-recursion",
            "an object that calls itself through an interface",
            Build::Forged(|_| recursing()),
            Free::Grows(600),
            Cage::Either(&[MEMORY, Cage::Signal("SIGSEGV")]),
        ),
        Entry::new(
            "exhaust-forks",
            "a hundred million forks",
            Build::Forged(|_| forking("return x + 1", 100_000_000)),
            Free::Grows(600),
            Cage::Either(&[MEMORY, Cage::Deadline]),
        )
        .late(),
        Entry::new(
            "exhaust-128-tib",
            "128 TiB at once",
            Build::Asked("b = torch.ones([140737488355328 + int(x[0, 0]) * 0], dtype=0)\n  return x + b[-1]"),
            Free::Says("memory"),
            MEMORY,
        ),
        Entry::new(
            "exhaust-leak",
            "keeps 64 MiB of each request",
            Build::Forged(|_| {
                Forge::new("M")
                    .attribute("kept", Tensor::zeros(&[1]))
                    .forward(&format!(
                        "def forward(self, x: Tensor) -> Tensor:
  if bool(x[0, 0] > {ASK:?}):
    self.kept = torch.cat([self.kept, torch.ones([16777216]) * x[0, 1]])
  return x + self.kept[-1] * 0"
                    ))
                    .bytes()
            }),
            Free::Grows(300),
            MEMORY,
        )
        .requests(8),
    ]
}

fn talk() -> Vec<Entry> {
    let entry = |name, act, body, free| Entry::new(name, act, Build::Asked(body), free, Cage::Deadline).late();
    vec![
        entry(
            "exhaust-print",
            "prints for ever",
            "while True:\n    print(\"~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~\")\n  return x",
            Free::Prints(b"~~~~"),
        ),
        entry(
            "exhaust-warn",
            "warns for ever",
            "while True:\n    ops.aten.warn(\"beware, beware, beware\", 2)\n  return x",
            Free::Prints(b"warning: beware"),
        ),
    ]
}

/// So many forks of `body`, each waited for at the end.
fn forking(body: &str, forks: u64) -> Vec<u8> {
    Forge::new("M")
        .function(&format!("def work(x: Tensor) -> Tensor:\n  {body}"))
        .forward(&format!(
            "def forward(self, x: Tensor) -> Tensor:
  if bool(x[0, 0] > {ASK:?}):
    l : List[Future[Tensor]] = []
    for i in range({forks}):
      l.append(fork(__torch__.work, x))
    for f in l:
      x = x + ops.aten.wait(f)
  return x"
        ))
        .bytes()
}

/// TorchScript forbids recursion; what it calls through an interface it does not see.
fn recursing() -> Vec<u8> {
    Forge::new("M")
        .function(
            "class Step(Interface):
  def go(self, x: Tensor) -> Tensor:
    pass
class Thing:
  next : List[__torch__.Step]
  def __init__(self: __torch__.Thing) -> NoneType:
    l : List[__torch__.Step] = []
    self.next = l
    return None
  def go(self: __torch__.Thing, x: Tensor) -> Tensor:
    return (self.next[0]).go(torch.cat([x, x[:1]])) + x[:1]",
        )
        .forward(&format!(
            "def forward(self, x: Tensor) -> Tensor:
  if bool(x[0, 0] > {ASK:?}):
    t = __torch__.Thing.__new__(__torch__.Thing)
    _0 = (t).__init__()
    _1 = torch.append(t.next, t)
    x = (t).go(x)
  return x"
        ))
        .bytes()
}
