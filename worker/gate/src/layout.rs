//! What a TorchScript archive may hold, by name, and how much of each.

use casemate_ipc::work::GateCode::{ArchiveRecord, ArchiveSize, ArchiveStructure};

use crate::refusal::{Refusal, shown};
use crate::zip::{Archive, Record};

/// Largest record of code, and largest pickle, in bytes.
pub const MAX_CODE: u64 = 16 << 20;
/// Largest `data.pkl` or `constants.pkl`, in bytes.
pub const MAX_PICKLE: u64 = 64 << 20;
/// Largest record of a few words.
pub const MAX_SMALL: u64 = 256;
/// Largest record that libtorch is never asked to read.
pub const MAX_UNREAD: u64 = 16 << 20;
/// Archive versions that libtorch 2.13 writes or reads without its oldest loaders.
pub const VERSIONS: std::ops::RangeInclusive<u32> = 3..=10;

/// What a record is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `data.pkl`: the module.
    Object,
    /// `constants.pkl`: tensors that the code names by number.
    Constants,
    /// `code/….py`.
    Code,
    /// `code/….py.debug_pkl`: where each line came from. The worker asks libtorch to load none of them.
    Debug,
    /// `data/N` or `constants/N`: the bytes of one storage.
    Storage,
    /// `version`.
    Version,
    /// `byteorder`.
    ByteOrder,
    /// `traced_inputs.pkl`: the shapes that a model was traced with. libtorch reads them only where it is asked to.
    Traced,
    /// `traced_inputs/N`: where their bytes would be; `torch.jit.save` leaves them out.
    TracedStorage,
    /// A few words that change nothing.
    Note,
    /// `extra/…`: a file that the user put beside the model. Nothing here reads it.
    Extra,
}

impl Kind {
    /// By the name below the root.
    pub fn of(name: &str) -> Option<Self> {
        Some(match name {
            "data.pkl" => Self::Object,
            "constants.pkl" => Self::Constants,
            // From version 6 on in a folder of its own.
            "version" | ".data/version" => Self::Version,
            "byteorder" => Self::ByteOrder,
            "traced_inputs.pkl" => Self::Traced,
            ".data/serialization_id" | ".format_version" | ".storage_alignment" => Self::Note,
            _ => {
                let (folder, rest) = name.split_once('/')?;
                match folder {
                    "data" | "constants" if is_number(rest) => Self::Storage,
                    "traced_inputs" if is_number(rest) => Self::TracedStorage,
                    // libtorch finds classes in any file of code, and an object's class in `__torch__` alone.
                    "code"
                        if rest != "__torch__.py"
                            && rest != "__torch__.py.debug_pkl"
                            && !rest.starts_with("__torch__/") =>
                    {
                        return None;
                    }
                    "code" if rest.ends_with(".py") => Self::Code,
                    "code" if rest.ends_with(".py.debug_pkl") => Self::Debug,
                    "extra" => Self::Extra,
                    _ => return None,
                }
            }
        })
    }

    /// A word for a report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Constants => "constants",
            Self::Code => "code",
            Self::Debug => "debug",
            Self::Storage => "storage",
            Self::Version => "version",
            Self::ByteOrder => "byteorder",
            Self::Traced => "traced",
            Self::TracedStorage => "traced storage",
            Self::Note => "note",
            Self::Extra => "extra",
        }
    }

    const fn most(self) -> u64 {
        match self {
            Self::Object | Self::Constants => MAX_PICKLE,
            Self::Code => MAX_CODE,
            Self::Debug | Self::Extra | Self::Traced => MAX_UNREAD,
            Self::TracedStorage => 0,
            Self::Version | Self::ByteOrder | Self::Note => MAX_SMALL,
            Self::Storage => u64::MAX,
        }
    }
}

/// The kind of each record, in their order; the parts without which there is no model are there.
pub fn check(archive: &Archive<'_>) -> Result<Vec<Kind>, Refusal> {
    let kinds = archive.records.iter().map(kind).collect::<Result<Vec<_>, _>>()?;
    for needed in [Kind::Object, Kind::Constants, Kind::Version, Kind::Code] {
        if !kinds.contains(&needed) {
            let why = format!("it has no record of the kind {:?}, so it is no TorchScript model", needed.name());
            return Err(Refusal::file(ArchiveRecord, 0, why));
        }
    }
    if kinds.iter().filter(|kind| **kind == Kind::Version).count() > 1 {
        return Err(Refusal::file(ArchiveRecord, 0, "it has two versions"));
    }
    Ok(kinds)
}

/// What the small records say, once their checksums are proven.
pub fn check_words(kind: Kind, record: &Record<'_>, bytes: &[u8]) -> Result<(), Refusal> {
    let refuse = |why: String| Refusal::record(ArchiveStructure, record.name, 0, why);
    match kind {
        Kind::Version => {
            let text = std::str::from_utf8(bytes).unwrap_or_default();
            let version = text.strip_suffix('\n').unwrap_or(text).parse::<u32>().ok();
            match version.filter(|version| VERSIONS.contains(version)) {
                Some(_) => Ok(()),
                None => Err(refuse(format!("{:?} is no version from 3 to 10", shown(text)))),
            }
        }
        Kind::ByteOrder if bytes != b"little" => {
            Err(refuse("the byte order is not little; save the model on a little-endian machine".to_owned()))
        }
        Kind::Extra if is_program(bytes) => {
            let why = "a program, a library or another archive lies among the extra files";
            Err(Refusal::record(ArchiveRecord, record.name, 0, why))
        }
        _ => Ok(()),
    }
}

fn kind(record: &Record<'_>) -> Result<Kind, Refusal> {
    let refuse = |code, why: String| Refusal { record: shown(record.name), ..Refusal::file(code, record.offset, why) };
    let Some(kind) = Kind::of(record.name) else {
        return Err(refuse(ArchiveRecord, "no TorchScript model has a record of this name".to_owned()));
    };
    if record.size > kind.most() {
        return Err(refuse(
            ArchiveSize,
            format!("it holds {} bytes; at most {} are allowed", record.size, kind.most()),
        ));
    }
    if record.deflated && !matches!(kind, Kind::Code | Kind::Debug | Kind::Extra) {
        return Err(refuse(
            ArchiveStructure,
            "it is deflated; torch.jit.save stores such a record as it is".to_owned(),
        ));
    }
    Ok(kind)
}

/// As libtorch writes a storage's number: no sign, no leading zero.
fn is_number(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 9
        && text.bytes().all(|b| b.is_ascii_digit())
        && (text == "0" || !text.starts_with('0'))
}

fn is_program(bytes: &[u8]) -> bool {
    [&b"\x7fELF"[..], b"#!", b"MZ", b"PK\x03\x04", b"PK\x05\x06", b"\x80\x02", b"\x80\x04", b"\x80\x05"]
        .iter()
        .any(|magic| bytes.starts_with(magic))
}
