//! Other processes, other machines.

use super::{Build, Cage, Entry, Free};
use crate::forge::Forge;

pub(super) fn all() -> Vec<Entry> {
    let entry = |name, act, body, says| {
        Entry::new(name, act, Build::Asked(body), Free::Says(says), Cage::Refuses(500, "model_error"))
    };
    vec![
        // Only Python brings this operator; were it there, it would be met here.
        Entry::new(
            "remote-call",
            "calls a function in another process",
            Build::Crafted(|_| {
                Forge::new("M")
                    .forward(
                        "def forward(self, x: Tensor) -> Tensor:
  return ops.prim.rpc_sync(\"there\", \"torch.relu\", (x,))",
                    )
                    .bytes()
            }),
            Free::Says("Unknown builtin op"),
            Cage::Never("refused", "load"),
        ),
        entry(
            "remote-reduce",
            "adds a tensor up with other processes",
            "return ops._c10d_functional.wait_tensor(ops._c10d_functional.all_reduce(x, \"sum\", \"0\"))",
            "group",
        ),
        entry(
            "remote-gather",
            "collects tensors from other processes",
            "return ops._c10d_functional.wait_tensor(ops._c10d_functional.all_gather_into_tensor(x, 2, \"world\"))",
            "group",
        ),
        entry(
            "remote-send",
            "sends a tensor through a process group of its own making",
            "g = __torch__.torch.classes.c10d.ProcessGroup.__new__(__torch__.torch.classes.c10d.ProcessGroup)
  _0 = (g).__init__(0, 2)
  w = ops.c10d.send([x], g, 1, 0)
  _1 = (w).wait()
  return x",
            "ackend",
        ),
    ]
}
