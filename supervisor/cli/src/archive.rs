//! What is inside a model file: the records of its zip archive and the code among them, read with bounds.
//!
//! It is a reading aid, never a guard: libtorch reads the archive with a reader of its own, in a worker, and whatever it
//! may find there is held by the cage.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use serde::Serialize;
use thiserror::Error;
use zip::read::{Config, ZipFileEntry};
use zip::result::ZipError;
// Entry by entry: the stable reader keeps an index of the whole archive, as large as a hostile file wants it. The crate
// is pinned to one version, as this module of it asks.
use zip::unstable::read::{ZipIterable, ZipIterableFiles};
use zip::{CompressionMethod, ZipReadOptions};

/// Most records.
pub(crate) const MAX_RECORDS: usize = 100_000;
/// Longest name of a record, in bytes.
pub(crate) const MAX_NAME: usize = 256;
/// Largest record of code, in bytes, once inflated.
pub(crate) const MAX_CODE: u64 = 16 << 20;
/// All records of code together.
pub(crate) const MAX_CODE_TOTAL: u64 = 64 << 20;
/// What is read of a small record (a version, the byte order) and of the start of a pickle.
const MAX_SMALL: u64 = 4096;

/// The inside of a model file.
#[derive(Debug)]
pub(crate) struct Archive {
    /// The folder that all records lie in, as PyTorch writes it.
    pub(crate) root: String,
    /// Every record, in the archive's order.
    pub(crate) records: Vec<Record>,
    /// The code, as TorchScript source.
    pub(crate) code: Vec<Code>,
    /// The first class that `data.pkl` names: module and name.
    pub(crate) class: Option<(String, String)>,
    /// Small records that say how the file was made: `version`, `byteorder` and the like.
    pub(crate) made: Vec<(String, String)>,
}

/// One record.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Record {
    /// Its path in the archive.
    pub(crate) name: String,
    /// Bytes, inflated.
    pub(crate) size: u64,
    /// Bytes as they lie in the archive.
    pub(crate) packed: u64,
    /// `stored`, `deflated`, or a number.
    pub(crate) method: String,
}

/// A record of code.
#[derive(Debug, Clone)]
pub(crate) struct Code {
    /// Its path in the archive.
    pub(crate) record: String,
    /// What it says.
    pub(crate) text: String,
}

/// What kind of file it is, by its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// Written by `torch.jit.save`.
    Torchscript,
    /// Written by `torch.save`: a Python pickle.
    Pickle,
    /// Written by `torch.export.save`.
    Export,
    /// Some other zip archive.
    Other,
}

/// Why the inside of a file is not known.
#[derive(Debug, Error)]
pub(crate) enum ArchiveError {
    #[error("it cannot be read")]
    Read(#[from] io::Error),
    #[error("it is not a zip archive, so it is no TorchScript model")]
    Zip(#[source] ZipError),
    #[error("it has {0} records; at most {MAX_RECORDS} are looked at")]
    Records(usize),
    #[error("a record's name has {0} bytes; at most {MAX_NAME} are allowed")]
    Name(usize),
    #[error("the code record {0:?} is larger than {MAX_CODE} bytes, or all of them than {MAX_CODE_TOTAL}")]
    Code(String),
    #[error("the record {record:?} cannot be read")]
    Record {
        record: String,
        #[source]
        cause: io::Error,
    },
}

type Files = ZipIterableFiles<BufReader<File>>;

// === impl Archive ===

impl Archive {
    /// Reads the list of records, the code, and the small records.
    pub(crate) fn read(file: File) -> Result<Self, ArchiveError> {
        let mut zip = ZipIterable::try_new(BufReader::new(file), Config::default()).map_err(ArchiveError::Zip)?;
        if zip.len() > MAX_RECORDS {
            return Err(ArchiveError::Records(zip.len()));
        }
        let mut archive =
            Self { root: String::new(), records: Vec::new(), code: Vec::new(), class: None, made: Vec::new() };
        let mut code_left = MAX_CODE_TOTAL;
        let files = zip.files().map_err(ArchiveError::Zip)?;
        while let Some(entry) = files.next() {
            let entry = entry.map_err(ArchiveError::Zip)?;
            let record = Record::of(&entry)?;
            if archive.records.is_empty() {
                archive.root = record.name.split('/').next().unwrap_or_default().to_owned();
            }
            archive.look_into(files, entry, &record.name, &mut code_left)?;
            archive.records.push(record);
        }
        Ok(archive)
    }

    /// What kind of file it is.
    pub(crate) fn kind(&self) -> Kind {
        let has = |name: &str| self.records.iter().any(|r| self.inner(&r.name) == Some(name));
        if has("data.pkl") && has("constants.pkl") && self.records.iter().any(|r| self.is_below(&r.name, "code/")) {
            Kind::Torchscript
        } else if has("archive_format") || has("serialized_exported_program.json") {
            Kind::Export
        } else if has("data.pkl") {
            Kind::Pickle
        } else {
            Kind::Other
        }
    }

    /// Number of records that hold a tensor's bytes, and those bytes.
    pub(crate) fn tensors(&self) -> (usize, u64) {
        let tensor = |r: &&Record| {
            let inner = self.inner(&r.name).and_then(|name| name.split_once('/'));
            inner.is_some_and(|(folder, rest)| {
                matches!(folder, "data" | "constants") && !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit())
            })
        };
        let sizes = self.records.iter().filter(tensor).map(|r| r.size);
        sizes.fold((0, 0), |(count, bytes), size| (count + 1, bytes.saturating_add(size)))
    }

    fn look_into(
        &mut self,
        files: &mut Files,
        entry: ZipFileEntry<'_>,
        name: &str,
        code_left: &mut u64,
    ) -> Result<(), ArchiveError> {
        let inner = self.inner(name).unwrap_or_default().to_owned();
        if self.is_below(name, "code/") && name.ends_with(".py") {
            let bytes = read_record(files, entry, name, MAX_CODE + 1)?;
            let size = bytes.len() as u64;
            *code_left = code_left
                .checked_sub(size)
                .filter(|_| size <= MAX_CODE)
                .ok_or_else(|| ArchiveError::Code(name.to_owned()))?;
            let text = String::from_utf8_lossy(&bytes).into_owned();
            self.code.push(Code { record: name.to_owned(), text });
        } else if inner == "data.pkl" {
            self.class = first_class(&read_record(files, entry, name, MAX_SMALL)?);
        } else if matches!(inner.as_str(), "version" | "byteorder" | "producer" | ".data/version" | ".format_version") {
            let bytes = read_record(files, entry, name, MAX_SMALL)?;
            let text = String::from_utf8_lossy(&bytes).trim().to_owned();
            self.made.push((inner.trim_start_matches('.').to_owned(), text));
        }
        Ok(())
    }

    /// A record's name below the root.
    fn inner<'a>(&self, name: &'a str) -> Option<&'a str> {
        name.strip_prefix(self.root.as_str())?.strip_prefix('/')
    }

    fn is_below(&self, name: &str, folder: &str) -> bool {
        self.inner(name).is_some_and(|inner| inner.starts_with(folder))
    }
}

// === impl Record ===

impl Record {
    fn of(entry: &ZipFileEntry<'_>) -> Result<Self, ArchiveError> {
        let name = entry.name_raw();
        if name.len() > MAX_NAME {
            return Err(ArchiveError::Name(name.len()));
        }
        let method = match entry.compression() {
            CompressionMethod::Stored => "stored".to_owned(),
            CompressionMethod::Deflated => "deflated".to_owned(),
            other => other.to_string().to_ascii_lowercase(),
        };
        let name = String::from_utf8_lossy(name).into_owned();
        Ok(Self { name, size: entry.size(), packed: entry.compressed_size(), method })
    }
}

// === impl Kind ===

impl Kind {
    /// Of a file that is only looked at; none where it cannot be. The file stands at its start again.
    pub(crate) fn of(file: &File) -> Option<Self> {
        let kind = Archive::read(file.try_clone().ok()?).ok().map(|archive| archive.kind());
        (&*file).seek(SeekFrom::Start(0)).ok()?;
        kind
    }

    /// For a person.
    pub(crate) const fn describe(self) -> &'static str {
        match self {
            Self::Torchscript => "a TorchScript archive",
            Self::Pickle => {
                "a Python pickle in a zip archive, as `torch.save` writes it; save the model with \
                 `torch.jit.script(model).save(\"model.pt\")`"
            }
            Self::Export => {
                "an archive of `torch.export`, which is not served yet; save the model with \
                 `torch.jit.script(model).save(\"model.pt\")`"
            }
            Self::Other => "a zip archive, but without data.pkl, constants.pkl and code/ no TorchScript model",
        }
    }
}

/// At most so many bytes of a record, inflated; a record that goes on after them is cut.
fn read_record(files: &mut Files, entry: ZipFileEntry<'_>, name: &str, most: u64) -> Result<Vec<u8>, ArchiveError> {
    let failed = |cause| ArchiveError::Record { record: name.to_owned(), cause };
    let mut bytes = Vec::new();
    let reader = entry.with_reader(files.reader_mut(), ZipReadOptions::new());
    let reader = reader.map_err(|e| failed(io::Error::other(e)))?;
    reader.take(most).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// The first class named in a pickle: opcode `c`, module, newline, name, newline. A TorchScript module's own is first.
fn first_class(pickle: &[u8]) -> Option<(String, String)> {
    let start = pickle.windows(10).position(|w| w == b"c__torch__")? + 1;
    let mut lines = pickle.get(start..)?.split(|b| *b == b'\n');
    let mut line = || String::from_utf8(lines.next()?.to_vec()).ok();
    Some((line()?, line()?))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;

    use zip::write::{SimpleFileOptions, ZipWriter};

    use super::*;

    /// A file with these records; those of code are deflated, as PyTorch does it.
    pub(crate) fn zipped(records: &[(&str, &[u8])]) -> File {
        let mut zip = ZipWriter::new(tempfile::tempfile().unwrap());
        for (name, bytes) in records {
            let method = if name.ends_with(".py") { CompressionMethod::Deflated } else { CompressionMethod::Stored };
            zip.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
            zip.write_all(bytes).unwrap();
        }
        let mut file = zip.finish().unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        file
    }

    /// The records of a small model.
    pub(crate) const MODEL: &[(&str, &[u8])] = &[
        ("m/data.pkl", b"\x80\x02c__torch__.net\nNet\nq\x00)\x81}."),
        (
            "m/code/__torch__/net.py",
            b"class Net(Module):\n  __parameters__ = []\n  def forward(self: __torch__.net.Net,\n    x: Tensor) -> Tensor:\n    return torch.neg(x)\n",
        ),
        ("m/data/0", &[0; 32]),
        ("m/constants/0", &[0; 8]),
        ("m/constants.pkl", b"\x80\x02)."),
        ("m/byteorder", b"little"),
        ("m/version", b"3\n"),
    ];

    #[test]
    fn the_inside_of_a_model_is_seen() {
        let archive = Archive::read(zipped(MODEL)).unwrap();
        assert_eq!(archive.kind(), Kind::Torchscript);
        assert_eq!(archive.root, "m");
        assert_eq!(archive.tensors(), (2, 40));
        assert_eq!(archive.class, Some(("__torch__.net".to_owned(), "Net".to_owned())));
        assert_eq!(archive.made.len(), 2);
        assert!(archive.code[0].text.contains("torch.neg"));
        assert_eq!(archive.records[1].method, "deflated");
    }

    #[test]
    fn other_archives_are_told_apart() {
        let kind = |records: &[(&str, &[u8])]| Archive::read(zipped(records)).unwrap().kind();
        assert_eq!(kind(&[("a/data.pkl", b"."), ("a/data/0", b"....")]), Kind::Pickle);
        assert_eq!(kind(&[("a/archive_format", b"pt2"), ("a/version", b"1")]), Kind::Export);
        assert_eq!(kind(&[("word/document.xml", b"<a/>")]), Kind::Other);
        // The three parts in three different folders make no archive that PyTorch would write.
        assert_eq!(kind(&[("a/data.pkl", b"."), ("b/constants.pkl", b"."), ("c/code/x.py", b"")]), Kind::Pickle);
    }

    #[test]
    fn what_is_too_much_is_refused() {
        let name = format!("m/{}", "n".repeat(MAX_NAME));
        assert!(matches!(Archive::read(zipped(&[(name.as_str(), b"")])), Err(ArchiveError::Name(_))));
        let bomb = vec![b' '; usize::try_from(MAX_CODE).unwrap() + 1];
        let file = zipped(&[("m/code/bomb.py", bomb.as_slice())]);
        assert!(file.metadata().unwrap().len() < 1 << 20, "it must be a bomb: small outside");
        assert!(matches!(Archive::read(file), Err(ArchiveError::Code(_))));
    }

    #[test]
    fn an_end_record_that_lies_reserves_nothing() {
        let mut lie = b"PK\x05\x06".to_vec();
        lie.extend([0, 0, 0, 0, 0xfe, 0xff, 0xfe, 0xff, 0xfe, 0xff, 0xff, 0x0f, 0, 0, 0, 0, 0, 0]);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&lie).unwrap();
        assert!(Archive::read(file).is_err());
        assert!(matches!(Archive::read(tempfile::tempfile().unwrap()), Err(ArchiveError::Zip(_))));
    }
}
