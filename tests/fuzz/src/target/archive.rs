//! A model's archive, on its way to libtorch.

use std::borrow::Cow;
use std::sync::LazyLock;

use casemate_gate::{Level, Policy, judge};

static STRICT: LazyLock<Policy> = LazyLock::new(|| policy(Level::Strict));
static OPEN: LazyLock<Policy> = LazyLock::new(|| policy(Level::Open));

/// Between the parts of an input that is not yet an archive.
const CUT: &[u8] = b"\n\0";

/// As it stands where the first byte is odd. Otherwise what follows is a `data.pkl`, a `constants.pkl` and code, packed
/// with the right sums: what changes raw bytes alone ends at a checksum.
pub fn archive_gate(data: &[u8]) {
    if let Some(archive) = unpacked(data) {
        check(&archive);
    }
}

fn unpacked(data: &[u8]) -> Option<Cow<'_, [u8]>> {
    let (how, rest) = data.split_first()?;
    if how % 2 == 1 {
        return Some(rest.into());
    }
    let (data, rest) = cut(rest);
    let (constants, code) = cut(rest);
    Some(pack(data, constants, code).into())
}

fn check(bytes: &[u8]) {
    let open = judge(bytes, &OPEN);
    match &open {
        Ok(report) => {
            assert!(report.tensor_bytes <= bytes.len() as u64, "more tensors than bytes");
            let stored: u64 = report.records.iter().map(|record| record.packed).sum();
            assert!(stored <= bytes.len() as u64, "more records than bytes");
        }
        Err(refusal) => assert!(refusal.to_string().chars().all(|c| matches!(c, ' '..='~' | '…')), "{refusal:?}"),
    }
    let strict = judge(bytes, &STRICT);
    assert!(strict.is_err() || open.is_ok(), "what is refused when much is allowed passes when little is");
}

/// An archive with these records and 64 bytes of storage.
pub fn pack(data: &[u8], constants: &[u8], code: &[u8]) -> Vec<u8> {
    let records: [(&str, &[u8]); 5] = [
        ("m/data.pkl", data),
        ("m/code/__torch__.py", code),
        ("m/data/0", &[0; 64]),
        ("m/constants.pkl", constants),
        ("m/version", b"3\n"),
    ];
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in records {
        let start = length(&file);
        let mut head = Vec::new();
        for n in [0, 0, crc32fast::hash(bytes), length(bytes), length(bytes)] {
            head.extend(u32::to_le_bytes(n));
        }
        head.extend(length(name.as_bytes()).to_le_bytes());
        file.extend(b"PK\x03\x04\x0a\0");
        file.extend(&head);
        file.extend(name.as_bytes());
        file.extend(bytes);
        directory.extend(b"PK\x01\x02\x0a\0\x0a\0");
        directory.extend(&head);
        directory.extend([0; 10]);
        directory.extend(start.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (start, size) = (length(&file), length(&directory));
    file.extend(directory);
    file.extend(b"PK\x05\x06\0\0\0\0\x05\0\x05\0");
    file.extend([size.to_le_bytes(), start.to_le_bytes()].concat());
    file.extend([0, 0]);
    file
}

/// Up to the first cut, and behind it.
fn cut(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.windows(CUT.len()).position(|window| window == CUT) {
        Some(at) => (&bytes[..at], &bytes[at + CUT.len()..]),
        None => (bytes, &[]),
    }
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap()
}

fn policy(level: Level) -> Policy {
    Policy::new(level, []).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is refused at its first byte leads nowhere. One has constants, and no storage for them, so that it ends there.
    #[test]
    fn the_seeds_reach_the_end_of_the_gate() {
        let refusals = crate::seeds::of("archive_gate").into_iter().filter_map(|seed| {
            let refusal = judge(&unpacked(&seed).unwrap(), &OPEN).err()?;
            Some((refusal.record.clone(), refusal.to_string()))
        });
        let refusals: Vec<_> = refusals.collect();
        assert!(refusals.len() <= 1 && refusals.iter().all(|(record, _)| record == "constants.pkl"), "{refusals:?}");
    }
}
