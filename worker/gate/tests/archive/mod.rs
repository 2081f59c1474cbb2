//! Archives made by hand, so that any part of one can be wrong.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::sync::LazyLock;

use casemate_gate::{Level, Policy, Refusal, Report, judge};
use casemate_ipc::work::GateCode;

/// A record, and what is odd about it.
#[derive(Clone)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    /// Bytes between this record and the one before.
    pub(crate) before: Vec<u8>,
    /// What the directory says in place of the truth.
    pub(crate) listed: Option<String>,
    pub(crate) size: Option<u32>,
    pub(crate) crc: Option<u32>,
    pub(crate) flags: u16,
    pub(crate) method: u16,
    pub(crate) external: u32,
    pub(crate) header: Option<u32>,
}

pub(crate) fn part(name: &str, bytes: impl Into<Vec<u8>>) -> Part {
    Part {
        name: name.to_owned(),
        bytes: bytes.into(),
        before: Vec::new(),
        listed: None,
        size: None,
        crc: None,
        flags: 0,
        method: 0,
        external: 0,
        header: None,
    }
}

/// The bytes of a file with these records.
pub(crate) fn zip(parts: &[Part]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for part in parts {
        file.extend(&part.before);
        let start = part.header.unwrap_or(file.len() as u32);
        let packed = if part.method == 8 { deflate(&part.bytes) } else { part.bytes.clone() };
        let crc = part.crc.unwrap_or_else(|| crc32fast::hash(&part.bytes));
        let sizes = [packed.len() as u32, part.size.unwrap_or(part.bytes.len() as u32)];
        let mut head = Vec::new();
        for n in [part.flags, part.method, 0, 0] {
            head.extend(n.to_le_bytes());
        }
        for n in [crc, sizes[0], sizes[1]] {
            head.extend(n.to_le_bytes());
        }
        file.extend(b"PK\x03\x04\x0a\x00");
        file.extend(&head);
        file.extend((part.name.len() as u16).to_le_bytes());
        file.extend([0, 0]);
        file.extend(part.name.as_bytes());
        file.extend(&packed);
        let listed = part.listed.as_ref().unwrap_or(&part.name);
        directory.extend(b"PK\x01\x02\x0a\x00\x0a\x00");
        directory.extend(&head);
        directory.extend((listed.len() as u16).to_le_bytes());
        directory.extend([0; 8]);
        directory.extend(part.external.to_le_bytes());
        directory.extend(start.to_le_bytes());
        directory.extend(listed.as_bytes());
    }
    let (start, size, count) = (file.len() as u32, directory.len() as u32, parts.len() as u16);
    file.extend(directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend(count.to_le_bytes());
    file.extend(count.to_le_bytes());
    file.extend(size.to_le_bytes());
    file.extend(start.to_le_bytes());
    file.extend([0, 0]);
    file
}

pub(crate) fn deflate(bytes: &[u8]) -> Vec<u8> {
    miniz_oxide::deflate::compress_to_vec(bytes, 9)
}

/// A well-behaved model: its code, its module, one tensor `w` of four floats.
pub(crate) fn model() -> Vec<Part> {
    with(CODE, &object(&tensor("FloatStorage", "0", "cpu", 4, 0, &[4], &[1])))
}

pub(crate) const CODE: &str = "class M(Module):
  __parameters__ = [\"w\", ]
  __buffers__ = []
  w : Tensor
  def forward(self: __torch__.M, x: Tensor) -> Tensor:
    return torch.add(x, self.w)
";

/// A model of this code and this `data.pkl`.
pub(crate) fn with(code: &str, data: &[u8]) -> Vec<Part> {
    vec![
        part("m/data.pkl", data),
        part("m/code/__torch__.py", code),
        part("m/data/0", [0; 16]),
        part("m/constants.pkl", *b"\x80\x02)."),
        part("m/version", *b"3\n"),
        part("m/byteorder", *b"little"),
    ]
}

/// A model of this code, its module without attributes.
pub(crate) fn code(code: &str) -> Vec<u8> {
    let mut parts = with(code, b"\x80\x02c__torch__\nM\n)\x81}b.");
    parts.retain(|part| part.name != "m/data/0");
    zip(&parts)
}

/// A model whose `forward` has this body.
pub(crate) fn body(body: &str) -> Vec<u8> {
    code(&format!("class M(Module):\n  def forward(self: __torch__.M, x: Tensor) -> Tensor:\n    {body}\n"))
}

/// A model whose module holds this one value, as `w`.
pub(crate) fn pickled(value: &[u8]) -> Vec<u8> {
    zip(&with(CODE, &object(value)))
}

/// `data.pkl`: a module with `w`.
pub(crate) fn object(value: &[u8]) -> Vec<u8> {
    [b"\x80\x02c__torch__\nM\n)\x81}(", &text("w")[..], value, b"ub."].concat()
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

pub(crate) fn int(n: i64) -> Vec<u8> {
    [b"\x8a\x08", &n.to_le_bytes()[..]].concat()
}

/// A call of `_rebuild_tensor_v2`.
pub(crate) fn tensor(
    kind: &str,
    key: &str,
    device: &str,
    count: i64,
    offset: i64,
    sizes: &[i64],
    strides: &[i64],
) -> Vec<u8> {
    let tuple = |numbers: &[i64]| [b"(", &numbers.iter().flat_map(|n| int(*n)).collect::<Vec<_>>()[..], b"t"].concat();
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        format!("ctorch\n{kind}\n").into_bytes(),
        text(key),
        text(device),
        int(count),
        b"tQ".to_vec(),
        int(offset),
        tuple(sizes),
        tuple(strides),
        b"\x89ccollections\nOrderedDict\n)RtR".to_vec(),
    ]
    .concat()
}

pub(crate) fn strict(bytes: &[u8]) -> Result<Report, Refusal> {
    static STRICT: LazyLock<Policy> = LazyLock::new(|| Policy::new(Level::Strict, []).unwrap());
    judge(bytes, &STRICT)
}

pub(crate) fn open(bytes: &[u8]) -> Result<Report, Refusal> {
    static OPEN: LazyLock<Policy> = LazyLock::new(|| Policy::new(Level::Open, []).unwrap());
    judge(bytes, &OPEN)
}

pub(crate) fn refused(bytes: &[u8], code: GateCode) -> String {
    let refusal = strict(bytes).unwrap_err();
    assert_eq!(refusal.code, code, "{refusal}");
    refusal.to_string()
}
