//! Memory that is not the tensor's: read, written, learned about. In the cage it is the worker's own, and holds nothing of
//! anybody else's; what is left is a crash.

use super::{Build, Cage, Entry, Free, Place};
use crate::forge::{Claim, Forge, Tensor};
use crate::models::ASK;

/// Whether something was found where nothing was given.
fn found(y: &[f32]) -> bool {
    y.first().is_some_and(|count| *count > 0.0)
}

/// What lies around a tensor of its own; or nothing does, where that ends at the edge of a mapping.
const OWN: Cage = Cage::Either(&[Cage::Answers(found), Cage::Signal("SIGSEGV")]);

const SEGV: i32 = 11;
const ABRT: i32 = 6;

/// Counts what is not zero in 64 KiB, 16 bytes of its own left out.
const COUNT: &str = "  return (r[4:] != 0).sum().to(6) + x * 0";

pub(super) fn all() -> Vec<Entry> {
    let mut all = by_operator();
    all.extend(by_description());
    all
}

fn by_operator() -> Vec<Entry> {
    let entry = |name, act, body, free, cage| Entry::new(name, act, Build::Asked(body), free, cage);
    vec![
        entry(
            "memory-reinterpret-read",
            "reads the heap behind its input by an unchecked view",
            "r = ops.inductor._reinterpret_tensor(x, [16384], [1], 0).clone()
  return (r[4:] != 0).sum().to(6) + x * 0",
            Free::Answers(found),
            OWN,
        ),
        entry(
            "memory-reinterpret-back",
            "reads the heap before its input",
            "r = ops.inductor._reinterpret_tensor(x, [4096], [1], -4096).clone()
  return (r != 0).sum().to(6) + x * 0",
            Free::Answers(found),
            OWN,
        ),
        entry(
            "memory-reinterpret-write",
            "finds another tensor in the heap and changes it from afar",
            // Of so many, those in the middle lie side by side.
            "v = 31337. + float(x[0, 0]) * 0.
  l : List[Tensor] = []
  for i in range(256):
    l.append(torch.full([64], v))
  a = l[128]
  r = ops.inductor._reinterpret_tensor(a, [4096], [1], 0).clone()
  place = int(torch.nonzero(r[64:] == v)[0, 0]) + 64
  s = ops.inductor._reinterpret_tensor(a, [64], [1], place).fill_(7.)
  return (torch.stack(l) == 7.).sum().to(6) + x * 0 + s.sum() * 0",
            Free::Answers(found),
            Cage::Answers(found),
        ),
        entry(
            "memory-pool",
            "reads the heap by inductor::_alloc_from_pool",
            "r = ops.inductor._alloc_from_pool(x, 0, 6, [16384], [1]).clone()
  return (r[4:] != 0).sum().to(6) + x * 0",
            Free::Answers(found),
            OWN,
        ),
        entry(
            "memory-wild-read",
            "reads 4 TiB away",
            "return x + ops.inductor._reinterpret_tensor(x, [1], [1], 1099511627776).clone()",
            Free::Dies(SEGV),
            Cage::Signal("SIGSEGV"),
        ),
        entry(
            "memory-wild-write",
            "writes 4 TiB away",
            "return x + ops.inductor._reinterpret_tensor(x, [1], [1], 1099511627776).fill_(1.)",
            Free::Dies(SEGV),
            Cage::Signal("SIGSEGV"),
        ),
        entry(
            "memory-corrupt",
            "spoils the allocator's book-keeping, which then calls abort",
            "n = int(x[0, 0]) * 0 + 100
  a = torch.ones([n])
  w = ops.inductor._reinterpret_tensor(a, [4], [1], -4).fill_(-1.)
  s = a.sum() + w.sum()
  a = x
  w = x
  return x + s",
            Free::Dies(ABRT),
            // glibc says what it found before it aborts, and is stopped at the saying.
            Cage::Either(&[Cage::Syscall("writev"), Cage::Syscall("abort")]),
        ),
        entry(
            "memory-stale",
            "finds in a fresh tensor what lay in a freed one",
            // Of many sizes, since where the allocator puts one of them is luck.
            "s = x * 0
  n = s
  for i in range(400):
    k = 500 + 61 * i
    s = s + (torch.ones([k]) * 4242.).sum() * 0
    n = n + (torch.empty([k]) == 4242.).sum()
    n = n + (torch.empty([k // 2]) == 4242.).sum()
  return n",
            Free::Answers(found),
            Cage::Answers(found),
        ),
        Entry::new(
            "memory-address",
            "learns where the heap is from id(object)",
            Build::Forged(|_| {
                Forge::new("M")
                    .function(
                        "class Thing:
  n : int
  def __init__(self: __torch__.Thing) -> NoneType:
    self.n = 1
    return None",
                    )
                    .forward(
                        "def forward(self, x: Tensor) -> Tensor:
  t = __torch__.Thing.__new__(__torch__.Thing)
  _0 = (t).__init__()
  return x * 0 + float(id(t))",
                    )
                    .bytes()
            }),
            Free::Answers(|y| y[0] > 65536.0),
            Cage::Answers(|y| y[0] > 65536.0),
        ),
        entry(
            "memory-offsets",
            "has a kernel read offsets for 4096 columns where there is one",
            "w = torch.ones([4096, 4], dtype=1)
  p = torch.fbgemm_pack_quantized_matrix(w)
  o = torch.zeros([1], dtype=3)
  r = torch.fbgemm_linear_int8_weight_fp32_activation(x - 1000., w, p, o, 1., 1, torch.zeros([4096]))
  return (r[0, 1:] != r[0, 0]).sum().to(6) + x * 0",
            Free::Answers(found),
            // The kernel is machine code that is made when it is first called.
            Cage::Syscall("mmap"),
        ),
        entry(
            "memory-as-strided",
            "the overflow of old exploits in as_strided",
            "return torch.as_strided(x, [1, 4], [4, 1], 4611686018427387903)",
            Free::Says("overflow"),
            Cage::Refuses(500, "model_error"),
        ),
        entry(
            "memory-embedding-bag",
            "offsets of an embedding bag beyond its indices",
            "o = torch.embedding_bag(torch.ones([16, 4]), torch.zeros([4], dtype=4), torch.full([1], 1000000, dtype=4))[0]
  return o + x * 0",
            Free::Says("offsets"),
            Cage::Refuses(500, "model_error"),
        ),
    ]
}

/// Descriptions in `data.pkl` that are not true. libtorch 2.13 checks all but the last three; earlier ones check none.
fn by_description() -> Vec<Entry> {
    let entry = |name, act, forge, free, cage| Entry::new(name, act, Build::Crafted(forge), free, cage);
    let refused = Cage::Never("refused", "load");
    let mut all = vec![
        entry(
            "memory-size",
            "a tensor larger than its storage",
            |_| lying(Claim { sizes: Some(vec![16384]), ..Default::default() }),
            Free::Says("storage only has 16 bytes"),
            refused,
        ),
        entry(
            "memory-offset",
            "a tensor that begins before its storage",
            |_| lying(Claim { offset: Some(-4096), ..Default::default() }),
            Free::Says("storage offset"),
            refused,
        ),
        entry(
            "memory-stride",
            "a stride of 2^40",
            |_| lying(Claim { sizes: Some(vec![4]), strides: Some(vec![1 << 40]), ..Default::default() }),
            Free::Says("storage only has 16 bytes"),
            refused,
        ),
        entry(
            "memory-numel",
            "dimensions whose product overflows to zero",
            |_| {
                let claim = Claim {
                    sizes: Some(vec![1 << 32, 1 << 32]),
                    strides: Some(vec![1 << 32, 1]),
                    ..Default::default()
                };
                lying(claim)
            },
            Free::Says("overflowed"),
            refused,
        ),
    ];
    let record =
        |name, act, body: fn(&Place) -> Vec<u8>, free, cage| Entry::new(name, act, Build::Forged(body), free, cage);
    all.push(record(
        "memory-record-read",
        "a storage of 64 KiB in a record of 16 bytes: the heap behind it, by clone alone",
        |_| {
            let claim = Claim { numel: Some(16384), sizes: Some(vec![16384]), ..Default::default() };
            acting_on(claim, &format!("r = self.w.clone()\n{COUNT}"))
        },
        Free::Answers(found),
        OWN,
    ));
    all.push(record(
        "memory-record-write",
        "the same, written to by fill_ until something breaks",
        |_| {
            let claim = Claim { numel: Some(1 << 24), sizes: Some(vec![1 << 24]), ..Default::default() };
            acting_on(claim, "  return x + self.w.fill_(1.)[0]")
        },
        Free::Dies(SEGV),
        Cage::Either(&[Cage::Signal("SIGSEGV"), Cage::Syscall("abort")]),
    ));
    all
}

fn lying(claim: Claim) -> Vec<u8> {
    acting_on(claim, "  r = self.w.clone()\n  return r.sum() + x * 0")
}

fn acting_on(claim: Claim, body: &str) -> Vec<u8> {
    let body: String = body.lines().map(|line| format!("    {}\n", line.trim_start())).collect();
    Forge::new("M")
        .attribute("w", Tensor::new(&[4], [1.0; 4]).claiming(claim))
        .forward(&format!("def forward(self, x: Tensor) -> Tensor:\n  if bool(x[0, 0] > {ASK:?}):\n{body}  return x"))
        .bytes()
}
