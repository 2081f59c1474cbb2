//! The end of the file: end record, zip64 parts, central directory.

use std::collections::HashSet;

use casemate_ipc::work::GateCode::{ArchiveSize, ArchiveStructure};

use super::{MAX_NAME, MAX_RECORDS};
use crate::cursor::Cursor;
use crate::refusal::{Refusal, shown};

const END: u32 = 0x0605_4b50;
const END_BYTES: usize = 22;
const LOCATOR: u32 = 0x0706_4b50;
const LOCATOR_BYTES: usize = 20;
const END64: u32 = 0x0606_4b50;
const END64_BYTES: usize = 56;
const ENTRY: u32 = 0x0201_4b50;

/// Of a directory: how many entries, their bytes, their start.
type Numbers = (u64, u64, u64);

/// Where the central directory lies.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) start: usize,
    end: usize,
    count: u64,
}

/// What the directory says of one record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    /// With the root folder.
    pub(super) path: &'a str,
    pub(super) flags: u16,
    pub(super) method: u16,
    pub(super) time: [u8; 4],
    pub(super) crc: u32,
    pub(super) packed: u64,
    pub(super) size: u64,
    pub(super) header: u64,
}

impl Directory {
    /// From the last bytes of the file. A comment, which could hold another archive, is not accepted.
    pub(super) fn find(bytes: &[u8]) -> Result<Self, Refusal> {
        let refuse = |at: usize, why: &str| Refusal::file(ArchiveStructure, at as u64, why);
        let at = bytes.len().checked_sub(END_BYTES).ok_or_else(|| refuse(0, "too short for a zip archive"))?;
        let fields = |at: usize| -> Option<(u32, [u16; 4], u32, u32, u16)> {
            let mut c = Cursor::new(bytes, at);
            let signature = c.u32()?;
            let numbers = [c.u16()?, c.u16()?, c.u16()?, c.u16()?];
            Some((signature, numbers, c.u32()?, c.u32()?, c.u16()?))
        };
        let Some((END, numbers, size, start, 0)) = fields(at) else {
            return Err(refuse(at, "it does not end with the end record of a zip archive"));
        };
        let [disk, disk_of_directory, count_here, count] = numbers;
        if (disk, disk_of_directory) != (0, 0) || count_here != count {
            return Err(refuse(at, "the end record speaks of several disks"));
        }
        let short = (u64::from(count), u64::from(size), u64::from(start));
        let (end, (count, size, start)) = match Self::zip64(bytes, at)? {
            Some((end, long)) => {
                let agree = (short.0 == long.0 || count == u16::MAX)
                    && (short.1 == long.1 || size == u32::MAX)
                    && (short.2 == long.2 || start == u32::MAX);
                if !agree {
                    return Err(refuse(at, "the two end records say different things"));
                }
                (end, long)
            }
            None => (at, short),
        };
        if count == 0 || count > MAX_RECORDS {
            let why = format!("it has {count} records; 1 to {MAX_RECORDS} are allowed");
            return Err(Refusal::file(ArchiveSize, at as u64, why));
        }
        let start = usize::try_from(start)
            .ok()
            .filter(|start| usize::try_from(size).ok().and_then(|size| start.checked_add(size)) == Some(end));
        let start =
            start.ok_or_else(|| refuse(at, "the central directory does not lie right before the end record"))?;
        Ok(Self { start, end, count })
    }

    /// The zip64 end record, if there is a locator right before the end record: count, size and start.
    fn zip64(bytes: &[u8], end: usize) -> Result<Option<(usize, Numbers)>, Refusal> {
        let Some(locator) = end.checked_sub(LOCATOR_BYTES) else { return Ok(None) };
        let mut c = Cursor::new(bytes, locator);
        if c.u32() != Some(LOCATOR) {
            return Ok(None);
        }
        let refuse =
            || Refusal::file(ArchiveStructure, locator as u64, "the zip64 end record is not what it should be");
        let at = locator.checked_sub(END64_BYTES).ok_or_else(refuse)?;
        if (c.u32(), c.u64(), c.u32()) != (Some(0), Some(at as u64), Some(1)) {
            return Err(refuse());
        }
        let mut c = Cursor::new(bytes, at);
        let head = (c.u32(), c.u64(), c.u16(), c.u16(), c.u32(), c.u32());
        let (Some(END64), Some(44), Some(_), Some(_), Some(0), Some(0)) = head else { return Err(refuse()) };
        match (c.u64(), c.u64(), c.u64(), c.u64()) {
            (Some(here), Some(count), Some(size), Some(start)) if here == count => Ok(Some((at, (count, size, start)))),
            _ => Err(refuse()),
        }
    }

    /// Every entry. Names are unique even where case is ignored, since miniz ignores it when it looks for one.
    pub(super) fn entries<'a>(&self, bytes: &'a [u8]) -> Result<Vec<Entry<'a>>, Refusal> {
        let directory = bytes.get(..self.end).unwrap_or_default();
        let mut cursor = Cursor::new(directory, self.start);
        let mut entries: Vec<Entry<'a>> = Vec::new();
        let mut names = HashSet::new();
        for _ in 0..self.count {
            let at = cursor.at() as u64;
            let entry = Entry::read(&mut cursor).map_err(|why| Refusal::file(ArchiveStructure, at, why))?;
            let refuse = |why: &str| Refusal::file(ArchiveStructure, at, format!("{}: {why}", shown(entry.path)));
            check_path(entry.path).map_err(refuse)?;
            if entries.first().is_some_and(|first| first.root() != entry.root()) {
                return Err(refuse("it lies in another folder than the first record"));
            }
            if !names.insert(entry.path.to_ascii_lowercase()) {
                return Err(refuse("there is a second record of this name (upper and lower case are one to libtorch)"));
            }
            entries.push(entry);
        }
        if !cursor.is_done() {
            return Err(Refusal::file(ArchiveStructure, cursor.at() as u64, "bytes follow the last directory entry"));
        }
        Ok(entries)
    }
}

impl<'a> Entry<'a> {
    /// The folder at the top.
    pub(super) fn root(&self) -> &'a str {
        self.path.split('/').next().unwrap_or_default()
    }

    fn read(c: &mut Cursor<'a>) -> Result<Self, String> {
        const CUT: &str = "a directory entry is cut off";
        if c.u32().ok_or(CUT)? != ENTRY {
            return Err("no directory entry begins here".to_owned());
        }
        let _made_by = c.u16().ok_or(CUT)?;
        let _needs = c.u16().ok_or(CUT)?;
        let (flags, method) = (c.u16().ok_or(CUT)?, c.u16().ok_or(CUT)?);
        let time = c.array().ok_or(CUT)?;
        let crc = c.u32().ok_or(CUT)?;
        let (packed, size) = (c.u32().ok_or(CUT)?, c.u32().ok_or(CUT)?);
        let [name, extra, comment] = [c.u16().ok_or(CUT)?, c.u16().ok_or(CUT)?, c.u16().ok_or(CUT)?];
        let (disk, _internal) = (c.u16().ok_or(CUT)?, c.u16().ok_or(CUT)?);
        let (external, header) = (c.u32().ok_or(CUT)?, c.u32().ok_or(CUT)?);
        if usize::from(name) > MAX_NAME {
            return Err(format!("a name has {name} bytes; at most {MAX_NAME} are allowed"));
        }
        let path = c.take(name.into()).ok_or(CUT)?;
        let path = std::str::from_utf8(path).map_err(|_| "a name is not UTF-8")?;
        let extra = c.take(extra.into()).ok_or(CUT)?;
        let [packed, size, header] = long(extra, [packed, size, header])?;
        if comment != 0 || disk != 0 {
            return Err("an entry has a comment, or lies on another disk".to_owned());
        }
        // Bit 3: sizes follow the data. Bit 11: the name is UTF-8. All others change how the bytes are read.
        if flags & !0x0808 != 0 {
            return Err(format!("flags {flags:#06x}: encrypted, patched, or otherwise not plain"));
        }
        if method != 0 && method != 8 {
            return Err(format!("method {method}; only stored and deflated records are read"));
        }
        // The upper half is a Unix mode where Unix wrote it: a regular file or nothing. 0x10 is a DOS folder.
        if !matches!(external >> 28, 0 | 8) || external & 0x10 != 0 {
            return Err("an entry is a link, a folder or a device".to_owned());
        }
        Ok(Self { path, flags, method, time, crc, packed, size, header })
    }
}

/// Numbers of 32 bits that stand for longer ones, which the zip64 field then has in this order, and nothing else.
fn long(extra: &[u8], short: [u32; 3]) -> Result<[u64; 3], String> {
    let mut numbers = short.map(u64::from);
    let mut c = Cursor::new(extra, 0);
    let missing = numbers.iter().filter(|n| **n == u64::from(u32::MAX)).count();
    let announced = if extra.is_empty() { None } else { Some((c.u16(), c.u16().map(usize::from))) };
    match announced {
        None if missing == 0 => return Ok(numbers),
        Some((Some(1), Some(length))) if length == missing * 8 && length > 0 => {}
        _ => return Err("an entry has an extra field that libtorch would not write".to_owned()),
    }
    for number in numbers.iter_mut().filter(|n| **n == u64::from(u32::MAX)) {
        *number = c.u64().ok_or("a zip64 field is cut off")?;
    }
    if c.is_done() { Ok(numbers) } else { Err("an entry has more extra fields than libtorch would write".to_owned()) }
}

fn check_path(path: &str) -> Result<(), &'static str> {
    if path.chars().any(|c| c.is_control() || c == '\\') {
        return Err("a name with a backslash or a control character");
    }
    let mut parts = path.split('/');
    if parts.clone().any(|part| part.is_empty() || part == "." || part == "..") {
        return Err("a name that is absolute, a folder, or climbs");
    }
    // The root is the user's file name; everything below it is libtorch's own, or Python's.
    let _root = parts.next();
    if parts.clone().count() == 0 {
        return Err("a record outside the archive's folder");
    }
    if parts.any(|part| !part.bytes().all(|b| b.is_ascii_graphic() || b == b' ')) {
        return Err("a name that is not ASCII");
    }
    Ok(())
}
