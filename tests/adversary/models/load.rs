//! While the file is loaded, the first run included: acts in `__setstate__`, and archives that are an act themselves.

use super::archive::{Crooked, renamed};
use super::{Build, Cage, Entry, Free, any};
use crate::forge::{Forge, Tensor, Value, literal};

pub(super) fn all() -> Vec<Entry> {
    let mut all = in_setstate();
    all.extend(depth());
    all.extend(size());
    all.extend(structure());
    all
}

const SEGV: i32 = 11;
const FPE: i32 = 8;

fn in_setstate() -> Vec<Entry> {
    let entry = |name, act, body, free, cage| Entry::new(name, act, Build::Loaded(body), free, cage);
    let open = Cage::Never("syscall", "open");
    vec![
        entry("load-save", "writes a file while it is loaded", "torch.save(x, {made})\n  return x", Free::Makes, open),
        entry(
            "load-map",
            "overwrites a file while it is loaded",
            "f = torch.from_file({bait}, True, 16, dtype=0)\n  return x + f.fill_(67)[0]",
            Free::Spoils,
            open,
        ),
        entry(
            "load-read",
            "reads a file while it is loaded and answers its bytes later",
            "f = torch.from_file({bait}, False, 4, dtype=0)\n  return f.to(6).unsqueeze(0)",
            Free::Answers(|y| y[1..] == [66.0, 84.0, 70.0]),
            open,
        ),
        entry(
            "load-loop",
            "never ends loading",
            "while True:\n    x = x + 1\n  return x",
            Free::Burns,
            Cage::Never("deadline", "load"),
        ),
        entry(
            "load-raise",
            "raises while it is loaded, with a text for a terminal",
            "ops.prim.RaiseException(\"\\033[2J\\015\\nall is well\", \"builtins.RuntimeError\")\n  return x",
            Free::Says("all is well"),
            Cage::Never("refused", "load"),
        ),
        entry(
            "load-wild-read",
            "reads 4 TiB away while it is loaded",
            "return x + ops.inductor._reinterpret_tensor(x, [1], [1], 1099511627776).clone()",
            Free::Dies(SEGV),
            Cage::Never("signal", "SIGSEGV"),
        ),
        entry(
            "load-sigfpe",
            "divides the smallest integer by -1 while it is loaded",
            "return x + (-9223372036854775807 - 1) // (int(x[0, 0]) - 1)",
            Free::Dies(FPE),
            Cage::Never("signal", "SIGFPE"),
        ),
        entry(
            "load-allocate",
            "takes memory without end while it is loaded",
            "l : List[Tensor] = []\n  while True:\n    l.append(torch.ones([1048576]))\n  return l[0][:4].unsqueeze(0)",
            Free::Grows(512),
            Cage::Never("refused", "load"),
        ),
        entry(
            "load-print",
            "prints for ever while it is loaded",
            "while True:\n    print(\"~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~\")\n  return x",
            Free::Prints(b"~~~~"),
            Cage::Never("deadline", "load"),
        ),
    ]
}

/// Recursive parsers and a stack of eight MiB; and what a parser takes for granted.
fn depth() -> Vec<Entry> {
    let entry = |name, act, forge| {
        let (free, cage) = (Free::Dies(SEGV), Cage::Never("signal", "SIGSEGV"));
        Entry::new(name, act, Build::Crafted(forge), free, cage)
    };
    vec![
        entry("load-deep-parentheses", "200,000 parentheses in its code", |_| {
            forward(&format!("return {}x{}", "(".repeat(200_000), ")".repeat(200_000)))
        }),
        entry("load-deep-minus", "200,000 minus signs in its code", |_| {
            forward(&format!("return {}x", "-".repeat(200_000)))
        }),
        entry("load-long-sum", "a sum of 100,000 terms in its code", |_| {
            forward(&format!("return x{}", " + 1".repeat(100_000)))
        }),
        entry("load-empty-subscript", "a subscript without anything in it", |_| forward("return (x * 2)[]")),
        entry("load-deep-type", "a list of lists of lists … as a type", |_| {
            let kind = format!("{}int{}", "List[".repeat(100_000), "]".repeat(100_000));
            Forge::new("M")
                .function(&format!("def deep(x: {kind}) -> int:\n  return 0"))
                .forward("def forward(self, x: Tensor) -> Tensor:\n  return x")
                .bytes()
        }),
        entry("load-deep-pickle", "2,000,000 tuples in one another in its data", |_| {
            let code = [b"N".to_vec(), vec![0x85; 2_000_000]].concat();
            Forge::new("M")
                .set_state(
                    Value::Pickled { kind: "Any".to_owned(), code },
                    "def __setstate__(self, state: Any) -> NoneType:\n  self.training = False",
                )
                .forward("def forward(self, x: Tensor) -> Tensor:\n  return x")
                .bytes()
        }),
    ]
}

/// Small files that become large.
fn size() -> Vec<Entry> {
    let entry = |name, act, forge, free, cage| Entry::new(name, act, Build::Crafted(forge), free, cage);
    vec![
        entry(
            "load-bomb-tensor",
            "half a MiB of file, 512 MiB of tensor",
            |_| {
                let claim =
                    crate::forge::Claim { numel: Some(128 << 20), sizes: Some(vec![128 << 20]), ..Default::default() };
                let forge = Forge::new("M")
                    .attribute("w", Tensor::new(&[1], [0.0]).claiming(claim))
                    .forward("def forward(self, x: Tensor) -> Tensor:\n  return x + self.w[0]");
                Crooked::new(&forge).bomb("data/0", 0, 512 << 20).bytes()
            },
            Free::Grows(500),
            Cage::Never("refused", "load"),
        ),
        entry(
            "load-bomb-code",
            "400 KiB of file, 400 MiB of code",
            |_| {
                let forge = Forge::new("M").forward("def forward(self, x: Tensor) -> Tensor:\n  return x");
                Crooked::new(&forge).bomb("code/__torch__.py", b'\n', 400 << 20).bytes()
            },
            Free::Grows(400),
            Cage::Never("refused", "load"),
        ),
        entry(
            "load-call-tree",
            "sixty functions of two calls each: 2^60 additions in its first run",
            |_| {
                let mut forge = Forge::new("M").function("def f0(x: Tensor) -> Tensor:\n  return x + 1");
                for level in 1..=60 {
                    let before = level - 1;
                    forge = forge.function(&format!(
                        "def f{level}(x: Tensor) -> Tensor:\n  return __torch__.f{before}(__torch__.f{before}(x))"
                    ));
                }
                forge.forward("def forward(self, x: Tensor) -> Tensor:\n  return __torch__.f60(x)").bytes()
            },
            Free::Burns,
            Cage::Never("deadline", "load"),
        ),
        entry(
            "load-many-records",
            "20,000 records of nothing",
            |_| {
                let mut forge = Forge::new("M").forward("def forward(self, x: Tensor) -> Tensor:\n  return x");
                for number in 0..20_000 {
                    forge = forge.record(&format!("extra/{number}"), "");
                }
                forge.bytes()
            },
            Free::Serves,
            Cage::Answers(any),
        ),
        entry(
            "load-long-name",
            "a name of 65,000 bytes",
            |_| {
                let forge = Forge::new("M").forward("def forward(self, x: Tensor) -> Tensor:\n  return x");
                forge.record(&"n".repeat(65_000), "").bytes()
            },
            Free::Serves,
            Cage::Answers(any),
        ),
    ]
}

/// Zip and pickle, bent.
fn structure() -> Vec<Entry> {
    let entry = |name, act, forge, free, cage| Entry::new(name, act, Build::Crafted(forge), free, cage);
    let refused = Cage::Never("refused", "load");
    vec![
        entry(
            "load-global",
            "a pickle that calls posix.system",
            |place| {
                let mut code = b"cposix\nsystem\n(".to_vec();
                let command = format!("touch {}", literal(place.made().to_str().expect("a path of ours")));
                code.extend(
                    [b"X".as_slice(), &(command.len() as u32).to_le_bytes(), command.as_bytes(), b"tR"].concat(),
                );
                Forge::new("M")
                    .attribute("a", Value::Pickled { kind: "int".to_owned(), code })
                    .forward("def forward(self, x: Tensor) -> Tensor:\n  return x")
                    .bytes()
            },
            Free::Says("posix.system"),
            refused,
        ),
        entry(
            "load-setitems",
            "a pickle that sets items of what is no dictionary",
            |_| {
                let code = b"K\x01(K\x02K\x03u".to_vec();
                Forge::new("M")
                    .attribute("a", Value::Pickled { kind: "int".to_owned(), code })
                    .forward("def forward(self, x: Tensor) -> Tensor:\n  return x")
                    .bytes()
            },
            Free::Says("GenericDict"),
            refused,
        ),
        entry(
            "load-memo",
            "a pickle that gets what was never put",
            |_| {
                let code = b"h\xff".to_vec();
                Forge::new("M")
                    .attribute("a", Value::Pickled { kind: "int".to_owned(), code })
                    .forward("def forward(self, x: Tensor) -> Tensor:\n  return x")
                    .bytes()
            },
            Free::Says("memo_table"),
            refused,
        ),
        entry(
            "load-duplicate",
            "two records of one name: which is read?",
            |_| {
                let forge = Forge::new("M").forward("def forward(self, x: Tensor) -> Tensor:\n  return x");
                let other = Forge::new("M").forward("def forward(self, x: Tensor) -> Tensor:\n  return x * 3");
                let code = other.records().into_iter().find(|(name, _)| name == "code/__torch__.py").expect("code").1;
                renamed(forge.record("code/__torch__.pX", code).bytes(), "code/__torch__.pX", "code/__torch__.py")
            },
            Free::Serves,
            Cage::Answers(any),
        ),
        entry(
            "load-overlap",
            "two directory entries for one place in the file",
            |_| overlapping(),
            Free::Serves,
            Cage::Answers(any),
        ),
        entry(
            "load-traversal",
            "records named ../../made and /made",
            |place| {
                let up = format!("../../../../../../../..{}", place.made().display());
                let forge = Forge::new("M").forward("def forward(self, x: Tensor) -> Tensor:\n  return x");
                forge.record(&up, "made").record("..\\..\\made", "made").bytes()
            },
            Free::Serves,
            Cage::Answers(any),
        ),
        entry(
            "load-truncated",
            "the first half of an archive",
            |_| {
                let whole = Forge::new("M").forward("def forward(self, x: Tensor) -> Tensor:\n  return x").bytes();
                whole[..whole.len() / 2].to_vec()
            },
            Free::Says("central directory"),
            refused,
        ),
        entry("load-no-zip", "zeros", |_| vec![0; 4096], Free::Says("central directory"), refused),
    ]
}

fn forward(body: &str) -> Vec<u8> {
    Forge::new("M").forward(&format!("def forward(self, x: Tensor) -> Tensor:\n  {body}")).bytes()
}

/// The directory entry of one record points to the bytes of another of the same length.
fn overlapping() -> Vec<u8> {
    let forge = Forge::new("M").forward("def forward(self, x: Tensor) -> Tensor:\n  return x");
    let mut bytes = forge.record("extra/aaaa", "1234").record("extra/bbbb", "1234").bytes();
    let entries: Vec<usize> = (0..bytes.len() - 4).filter(|at| bytes[*at..].starts_with(b"PK\x01\x02")).collect();
    let [.., a, b] = entries[..] else { unreachable!("two records were added") };
    // The place of the local header, at 42 in a directory entry.
    let place: [u8; 4] = bytes[a + 42..a + 46].try_into().expect("four bytes");
    bytes[b + 42..b + 46].copy_from_slice(&place);
    bytes
}
