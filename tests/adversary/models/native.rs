//! Objects of classes in C++, which unpack themselves from what the file says, and `constants.pkl`, which nobody looks at.

use super::archive::Crooked;
use super::{Build, Cage, Entry, Free, any};
use crate::forge::{Forge, Value};

const SEGV: i32 = 11;
const QUIET: &str = "def forward(self, x: Tensor) -> Tensor:\n  return x";

/// They act at load.
pub(super) fn all() -> Vec<Entry> {
    let mut all = packed();
    all.extend(constants());
    all
}

fn packed() -> Vec<Entry> {
    let entry = |name, act, forge, free, cage| Entry::new(name, act, Build::Crafted(forge), free, cage);
    let refused = Cage::Never("refused", "load");
    vec![
        entry(
            "load-packed-convolution",
            "packed weights of a convolution that are an empty list, of which C++ takes the first",
            |_| object("quantized", "Conv2dPackedParamsBase", &[text("2"), TENSORS.into(), TENSORS.into()]),
            Free::Dies(SEGV),
            Cage::Never("signal", "SIGSEGV"),
        ),
        entry(
            "load-packed-linear",
            "packed weights of a linear layer that are None",
            |_| object("quantized", "LinearPackedParamsBase", &[b"N".to_vec(), b"N".to_vec()]),
            Free::Says("ensor"),
            refused,
        ),
        entry(
            "load-packed-cell",
            "the cell of a recurrent network without any weight",
            |_| {
                let empty = |kind: &str| format!("ctorch.jit._pickle\nbuild_{kind}list\n(]tR").into_bytes();
                let state = [text("quantized"), TENSORS.into(), empty("double"), empty("int"), b"]".to_vec()];
                object("rnn", "CellParamsBase", &state)
            },
            Free::Says("size"),
            refused,
        ),
    ]
}

fn constants() -> Vec<Entry> {
    let entry = |name, act, forge, free, cage| Entry::new(name, act, Build::Crafted(forge), free, cage);
    let refused = Cage::Never("refused", "load");
    vec![
        entry(
            "load-constants-global",
            "constants that call posix.system",
            |place| {
                let command = text(&format!("touch {}", place.made().display()));
                with_constants(QUIET, &[b"cposix\nsystem\n(".as_slice(), &command, b"tR"].concat())
            },
            Free::Says("posix.system"),
            refused,
        ),
        entry(
            "load-constants-none",
            "None for constants",
            |_| with_constants(QUIET, b"N"),
            Free::Says("uple"),
            refused,
        ),
        entry(
            "load-constants-beyond",
            "a constant behind the last one",
            |_| with_constants("def forward(self, x: Tensor) -> Tensor:\n  return x + CONSTANTS.c7", b")"),
            Free::Says("out of bounds"),
            refused,
        ),
        entry(
            "load-constants-deep",
            "2,000,000 tuples in one another in its constants",
            |_| with_constants(QUIET, &[b"N".as_slice(), &[0x85; 2_000_000]].concat()),
            Free::Dies(SEGV),
            Cage::Never("signal", "SIGSEGV"),
        ),
        entry(
            "load-constants-record",
            "a constant of 64 KiB in a record of 16 bytes",
            |_| {
                let tensor = [
                    b"(ctorch._utils\n_rebuild_tensor_v2\n((".as_slice(),
                    &text("storage"),
                    b"ctorch\nFloatStorage\n",
                    &text("0"),
                    &text("cpu"),
                    // 16384 elements, from the first, one dimension, dense.
                    b"M\0\x40tQK\0(M\0\x40t(K\x01t\x89ccollections\nOrderedDict\n)RtRt",
                ];
                let forward = "def forward(self, x: Tensor) -> Tensor:\n  return x + (CONSTANTS.c0[4:] != 0).sum() * 0";
                let forge = Forge::new("M").forward(forward);
                Crooked::new(&forge)
                    .record("constants.pkl", pickle(&tensor.concat()))
                    .record("constants/0", [1; 16])
                    .bytes()
            },
            Free::Serves,
            Cage::Answers(any),
        ),
    ]
}

/// A list of tensors with none in it.
const TENSORS: &[u8] = b"ctorch.jit._pickle\nbuild_tensorlist\n(]tR";

/// A model that holds an object of `torch.classes.SPACE.CLASS`, which is unpacked from such a tuple.
fn object(space: &str, class: &str, state: &[Vec<u8>]) -> Vec<u8> {
    let mut code =
        format!("c__torch__.torch.classes.{space}\n{class}\n)\u{81}").chars().map(|c| c as u8).collect::<Vec<u8>>();
    code.push(b'(');
    code.extend(state.concat());
    code.extend(b"tb");
    let kind = format!("__torch__.torch.classes.{space}.{class}");
    Forge::new("M").attribute("packed", Value::Pickled { kind, code }).forward(QUIET).bytes()
}

fn with_constants(forward: &str, code: &[u8]) -> Vec<u8> {
    Crooked::new(&Forge::new("M").forward(forward)).record("constants.pkl", pickle(code)).bytes()
}

fn pickle(code: &[u8]) -> Vec<u8> {
    [b"\x80\x02".as_slice(), code, b"."].concat()
}

/// BINUNICODE
fn text(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes();
    [b"X".as_slice(), &length, text.as_bytes()].concat()
}
