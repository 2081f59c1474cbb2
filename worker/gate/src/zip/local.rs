//! Local headers, each compared with its directory entry, and the chain that they form.

use casemate_ipc::work::GateCode::ArchiveStructure;

use super::Record;
use super::directory::{Directory, Entry};
use crate::cursor::Cursor;
use crate::refusal::{Refusal, shown};

const HEADER: u32 = 0x0403_4b50;
const DESCRIPTOR: u32 = 0x0807_4b50;
/// The field with which libtorch aligns a record's data.
const PADDING: u16 = 0x4246;
const ZIP64: u16 = 1;
/// Flag: the sizes follow the data.
const SIZES_FOLLOW: u16 = 8;

/// Every record in the directory's order; together they fill the file up to the directory.
pub(super) fn records<'a>(
    bytes: &'a [u8],
    directory: &Directory,
    entries: &[Entry<'a>],
) -> Result<Vec<Record<'a>>, Refusal> {
    let file = bytes.get(..directory.start).unwrap_or_default();
    let mut records = Vec::with_capacity(entries.len());
    let mut spans = Vec::with_capacity(entries.len());
    for entry in entries {
        let (record, end) = record(file, entry).map_err(|why| Refusal {
            record: shown(entry.path),
            ..Refusal::file(ArchiveStructure, entry.header, why)
        })?;
        spans.push((entry.header, end));
        records.push(record);
    }
    spans.sort_unstable();
    let mut expected = 0;
    for (begin, end) in spans {
        if begin != expected {
            let why = "a record does not begin where the one before it ends: a gap, or two that share bytes";
            return Err(Refusal::file(ArchiveStructure, begin, why));
        }
        expected = end;
    }
    if expected != directory.start as u64 {
        return Err(Refusal::file(ArchiveStructure, expected, "bytes stand between the last record and the directory"));
    }
    Ok(records)
}

/// The record, and where it ends.
fn record<'a>(file: &'a [u8], entry: &Entry<'a>) -> Result<(Record<'a>, u64), &'static str> {
    const CUT: &str = "the record is cut off";
    let start = usize::try_from(entry.header).map_err(|_| CUT)?;
    let mut c = Cursor::new(file, start);
    if c.u32().ok_or("there is no record where the directory says")? != HEADER {
        return Err("no record begins where the directory says");
    }
    let _needs = c.u16().ok_or(CUT)?;
    if (c.u16().ok_or(CUT)?, c.u16().ok_or(CUT)?) != (entry.flags, entry.method) {
        return Err("header and directory differ on flags or method");
    }
    let time: [u8; 4] = c.array().ok_or(CUT)?;
    let (crc, packed, size) = (c.u32().ok_or(CUT)?, c.u32().ok_or(CUT)?, c.u32().ok_or(CUT)?);
    let (name, extra) = (c.u16().ok_or(CUT)?, c.u16().ok_or(CUT)?);
    if c.take(name.into()).ok_or(CUT)? != entry.path.as_bytes() || time != entry.time {
        return Err("header and directory differ on the name or the time");
    }
    let extra = c.take(extra.into()).ok_or(CUT)?;
    let zip64 = zip64(extra)?;
    let sizes_follow = entry.flags & SIZES_FOLLOW != 0;
    let agrees = |short: u32, true_one: u64, long: Option<u64>| match long {
        Some(long) if short == u32::MAX => long == true_one || (sizes_follow && long == 0),
        _ => u64::from(short) == true_one || (sizes_follow && short == 0),
    };
    let (long_size, long_packed) = zip64.map_or((None, None), |(size, packed)| (Some(size), Some(packed)));
    let crc_agrees = crc == entry.crc || (sizes_follow && crc == 0);
    if !crc_agrees || !agrees(packed, entry.packed, long_packed) || !agrees(size, entry.size, long_size) {
        return Err("header and directory differ on sizes or checksum");
    }
    let start = c.at() as u64;
    let data = c.take(usize::try_from(entry.packed).map_err(|_| CUT)?).ok_or(CUT)?;
    if entry.method == 0 && entry.packed != entry.size {
        return Err("a stored record has two sizes");
    }
    if sizes_follow {
        descriptor(&mut c, entry).ok_or("the sizes behind the data are not those of the directory")?;
    }
    let name = entry.path.split_once('/').map_or("", |(_, name)| name);
    let Entry { method, crc, size, header, .. } = *entry;
    Ok((Record { name, packed: data, size, deflated: method == 8, crc, offset: header, start }, c.at() as u64))
}

/// Behind the data: checksum and sizes, short, or long for a large record.
fn descriptor(c: &mut Cursor<'_>, entry: &Entry<'_>) -> Option<()> {
    let at = *c;
    if (c.u32()?, c.u32()?) != (DESCRIPTOR, entry.crc) {
        return None;
    }
    let [packed, size] = [c.u32()?, c.u32()?].map(u64::from);
    // A short one of the right sizes could be the start of a long one only if a length's upper half began with "PK".
    if (packed, size) == (entry.packed, entry.size) && next_is_known(*c) {
        return Some(());
    }
    *c = at;
    c.take(8)?;
    ((c.u64()?, c.u64()?) == (entry.packed, entry.size)).then_some(())
}

/// Whether a header, or the end of the part that holds records, comes next.
fn next_is_known(mut c: Cursor<'_>) -> bool {
    c.is_done() || c.u32() == Some(HEADER)
}

/// Sizes of the zip64 field, if there is one: whole and packed. No other field is accepted but the padding.
fn zip64(extra: &[u8]) -> Result<Option<(u64, u64)>, &'static str> {
    const ODD: &str = "a header has an extra field that libtorch would not write";
    let mut c = Cursor::new(extra, 0);
    let mut found = None;
    let mut padded = false;
    while !c.is_done() {
        let (id, length) = (c.u16().ok_or(ODD)?, c.u16().ok_or(ODD)?);
        let mut field = Cursor::new(c.take(length.into()).ok_or(ODD)?, 0);
        match id {
            PADDING if !padded => padded = true,
            ZIP64 if found.is_none() && (16..=24).contains(&length) => {
                found = Some((field.u64().ok_or(ODD)?, field.u64().ok_or(ODD)?));
            }
            _ => return Err(ODD),
        }
    }
    Ok(found)
}
