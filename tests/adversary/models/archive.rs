//! Archives as no `torch.jit.save` writes them.

use std::io::{Cursor, Write as _};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::forge::Forge;

/// The records of a forge, some of them others.
#[derive(Debug)]
pub(super) struct Crooked {
    folder: String,
    records: Vec<(String, Content)>,
}

#[derive(Debug)]
enum Content {
    Stored(Vec<u8>),
    /// This byte so many times, deflated.
    Bomb(u8, u64),
}

impl Crooked {
    pub(super) fn new(forge: &Forge) -> Self {
        let records = forge.records().into_iter().map(|(name, bytes)| (name, Content::Stored(bytes)));
        Self { folder: forge.name().to_owned(), records: records.collect() }
    }

    /// A record of this byte so many times, in a thousandth of the room.
    pub(super) fn bomb(self, name: &str, byte: u8, times: u64) -> Self {
        self.put(name, Content::Bomb(byte, times))
    }

    /// Other bytes in place of a record's, or a record more.
    pub(super) fn record(self, name: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.put(name, Content::Stored(bytes.into()))
    }

    fn put(mut self, name: &str, content: Content) -> Self {
        match self.records.iter_mut().find(|(found, _)| found == name) {
            Some((_, old)) => *old = content,
            None => self.records.push((name.to_owned(), content)),
        }
        self
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
        let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        let deflated = stored.compression_method(CompressionMethod::Deflated);
        for (name, content) in &self.records {
            let name = format!("{}/{name}", self.folder);
            match content {
                Content::Stored(bytes) => {
                    archive.start_file(name, stored).expect("a record begins");
                    archive.write_all(bytes).expect("a record is written");
                }
                Content::Bomb(byte, times) => {
                    archive.start_file(name, deflated).expect("a record begins");
                    let block = vec![*byte; 1 << 20];
                    for _ in 0..times.div_ceil(block.len() as u64) {
                        archive.write_all(&block).expect("a record is written");
                    }
                }
            }
        }
        archive.finish().expect("the archive ends").into_inner()
    }
}

/// Every place where `old` stands, replaced by as many bytes. Names have no checksum.
pub(super) fn renamed(mut bytes: Vec<u8>, old: &str, new: &str) -> Vec<u8> {
    assert_eq!(old.len(), new.len());
    let places: Vec<usize> =
        (0..bytes.len().saturating_sub(old.len())).filter(|at| bytes[*at..].starts_with(old.as_bytes())).collect();
    for at in places {
        bytes[at..at + old.len()].copy_from_slice(new.as_bytes());
    }
    bytes
}
