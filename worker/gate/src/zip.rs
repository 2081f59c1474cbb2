//! The zip archive, as strict as `torch.jit.save` is regular: records that follow each other without a gap from the first
//! byte to the central directory, and an end record in the last bytes of the file.
//!
//! libtorch reads with miniz, which believes the central directory and takes from a local header only where the data
//! begins. Here both must agree, so there is one reading of the file and no byte that is in none of its records.

mod directory;
mod local;

use std::borrow::Cow;

use casemate_ipc::work::GateCode::{ArchiveChecksum, ArchiveSize, ArchiveStructure};
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

use crate::refusal::{Refusal, shown};

/// Most records.
pub const MAX_RECORDS: u64 = 65_535;
/// Longest name of a record, in bytes. miniz cuts at 511.
pub const MAX_NAME: usize = 256;
/// Largest record that is inflated, in bytes.
pub const MAX_INFLATED: u64 = 16 << 20;
/// Inflated bytes of the whole archive.
pub const MAX_INFLATED_TOTAL: u64 = 64 << 20;
/// How many times its packed size a record may have. Deflate itself ends near 1,032.
pub const MAX_RATIO: u64 = 200;

/// A file that is nothing but its records.
#[derive(Debug)]
pub struct Archive<'a> {
    /// The folder that all records lie in.
    pub root: &'a str,
    /// Every record, in the directory's order.
    pub records: Vec<Record<'a>>,
}

/// One record.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Its name below the root folder.
    pub name: &'a str,
    /// Its bytes as they lie in the file.
    pub packed: &'a [u8],
    /// Its length, inflated.
    pub size: u64,
    /// Whether it is deflated; otherwise its bytes are as they lie.
    pub deflated: bool,
    /// CRC-32 of the inflated bytes.
    pub crc: u32,
    /// Where its header begins in the file.
    pub offset: u64,
    /// Where its bytes begin in the file.
    pub start: u64,
}

impl<'a> Archive<'a> {
    /// Reads the structure. No record has been inflated or summed up yet.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Refusal> {
        let directory = directory::Directory::find(bytes)?;
        let entries = directory.entries(bytes)?;
        let records = local::records(bytes, &directory, &entries)?;
        let inflated = records.iter().filter(|r| r.deflated).fold(0u64, |sum, r| sum.saturating_add(r.size));
        if inflated > MAX_INFLATED_TOTAL {
            return Err(Refusal::file(
                ArchiveSize,
                0,
                format!("its deflated records hold {inflated} bytes; at most {MAX_INFLATED_TOTAL} are allowed"),
            ));
        }
        Ok(Self { root: entries.first().map_or("", |e| e.root()), records })
    }
}

impl Record<'_> {
    /// Its bytes, inflated if need be, with the checksum proven.
    pub fn bytes(&self) -> Result<Cow<'_, [u8]>, Refusal> {
        let bytes = if self.deflated { Cow::Owned(self.inflate()?) } else { Cow::Borrowed(self.packed) };
        let found = crc32fast::hash(&bytes);
        if found != self.crc {
            let why = format!("its CRC-32 is {found:08x}, its header says {:08x}", self.crc);
            return Err(Refusal { record: shown(self.name), ..Refusal::file(ArchiveChecksum, self.offset, why) });
        }
        Ok(bytes)
    }

    fn inflate(&self) -> Result<Vec<u8>, Refusal> {
        let refuse = |code, why: String| Refusal { record: shown(self.name), ..Refusal::file(code, self.offset, why) };
        let packed = self.packed.len() as u64;
        if self.size > MAX_INFLATED || (self.size > 1 << 20 && self.size / packed.max(1) > MAX_RATIO) {
            return Err(refuse(ArchiveSize, format!("{packed} bytes would inflate to {}", self.size)));
        }
        let size = usize::try_from(self.size).map_err(|_| refuse(ArchiveSize, "too large".to_owned()))?;
        let mut bytes = vec![0; size];
        let mut state = DecompressorOxide::new();
        let flags = TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
        let (status, read, written) = decompress(&mut state, self.packed, &mut bytes, 0, flags);
        if status != TINFLStatus::Done || read != self.packed.len() || written != size {
            let why = format!("{read} of {packed} bytes inflate to {written}, its header says {}", self.size);
            return Err(refuse(ArchiveStructure, why));
        }
        Ok(bytes)
    }
}
