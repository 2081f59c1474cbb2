//! `casemate model list`: what is in a store. A broken entry is shown with its reason, not hidden.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use casemate_ipc::id::{ModelName, Version};
use casemate_ipc::tensor::TensorSpec;
use casemate_manifest::{Manifest, ManifestError};
use serde_json::{Value, json};
use thiserror::Error;

use crate::escape::{ascii_json, short};
use crate::exit::Exit;
use crate::model::Bytes;
use crate::model::entry::MODEL;
use crate::screen::{Screen, Tone};

/// Most entries of a folder that are looked at.
const MAX_ENTRIES: usize = 100_000;

/// Its arguments.
#[derive(Debug, clap::Args)]
#[command(
    before_help = "Examples:\n  casemate model list --store /srv/models\n  casemate model list --store /srv/models --json"
)]
pub(crate) struct Args {
    /// The store's folder
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// Write JSON, for programs
    #[arg(long)]
    json: bool,
}

/// Why a store cannot be listed.
#[derive(Debug, Error)]
pub(crate) enum ListError {
    #[error("cannot read the store {path:?}")]
    Store {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("{0:?} has more than {MAX_ENTRIES} entries")]
    TooMany(PathBuf),
}

/// What stands at one place of the store.
#[derive(Debug)]
struct Row {
    name: String,
    version: String,
    found: Result<Found, RowError>,
}

#[derive(Debug)]
struct Found {
    manifest: Manifest,
    bytes: u64,
}

/// Why an entry cannot be served.
#[derive(Debug, Error)]
enum RowError {
    #[error("not a name that a model can have; rename or remove it")]
    Name,
    #[error("not a version that a model can have; rename or remove it")]
    Version,
    #[error("not a folder")]
    NotAFolder,
    #[error("no version in it")]
    Empty,
    #[error("{file}: {cause}")]
    Read { file: &'static str, cause: io::Error },
    #[error("{0} is not a regular file")]
    NotAFile(&'static str),
    #[error("{} is larger than {} bytes", casemate_manifest::FILE, casemate_manifest::MAX_BYTES)]
    Size,
    #[error("{file}: {0}", file = casemate_manifest::FILE)]
    Manifest(#[from] ManifestError),
    #[error("{0}")]
    Folder(String),
}

pub(crate) fn run(args: &Args, screen: &mut Screen) -> Result<(), ListError> {
    let rows = rows(&args.store)?;
    if args.json {
        screen.line(ascii_json(&Value::Array(rows.iter().map(Row::json).collect())));
        return Ok(());
    }
    if rows.is_empty() {
        screen.line("The store is empty; `casemate model add --help` shows how to add a model.");
        return Ok(());
    }
    for text in table(&rows, screen) {
        screen.line(text);
    }
    Ok(())
}

impl ListError {
    /// The number for the shell.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Store { cause, .. } => cause.into(),
            Self::TooMany(_) => Exit::Failure,
        }
    }
}

fn rows(store: &Path) -> Result<Vec<Row>, ListError> {
    let mut rows = Vec::new();
    let mut names = children(store)?;
    names.sort();
    for name in names {
        let folder = store.join(&name);
        let broken = |found| Row { name: name.clone(), version: "-".to_owned(), found: Err(found) };
        if name.parse::<ModelName>().is_err() {
            rows.push(broken(RowError::Name));
        } else if !folder.is_dir() {
            rows.push(broken(RowError::NotAFolder));
        } else {
            match children(&folder) {
                Ok(versions) if versions.is_empty() => rows.push(broken(RowError::Empty)),
                Ok(versions) => rows.extend(versions_of(&name, &folder, versions)),
                Err(e) => rows.push(broken(RowError::Folder(e.to_string()))),
            }
        }
    }
    Ok(rows)
}

fn versions_of(name: &str, folder: &Path, versions: Vec<String>) -> Vec<Row> {
    let mut versions: Vec<(Option<Version>, String)> = versions.into_iter().map(|v| (v.parse().ok(), v)).collect();
    versions.sort();
    let row = |(parsed, version): (Option<Version>, String)| {
        let found = if parsed.is_none() { Err(RowError::Version) } else { look(&folder.join(&version)) };
        Row { name: name.to_owned(), version, found }
    };
    versions.into_iter().map(row).collect()
}

/// Names in a folder, without the hidden ones: those are entries that are being written, or were when something failed.
fn children(folder: &Path) -> Result<Vec<String>, ListError> {
    let failed = |cause| ListError::Store { path: folder.to_owned(), cause };
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            names.push(name);
        }
        if names.len() > MAX_ENTRIES {
            return Err(ListError::TooMany(folder.to_owned()));
        }
    }
    Ok(names)
}

fn look(folder: &Path) -> Result<Found, RowError> {
    if !folder.is_dir() {
        return Err(RowError::NotAFolder);
    }
    let size = |file: &'static str| {
        let found = folder.join(file).symlink_metadata().map_err(|cause| RowError::Read { file, cause })?;
        if found.is_file() { Ok(found.len()) } else { Err(RowError::NotAFile(file)) }
    };
    if size(casemate_manifest::FILE)? > casemate_manifest::MAX_BYTES {
        return Err(RowError::Size);
    }
    let bytes = size(MODEL)?;
    let manifest = read(&folder.join(casemate_manifest::FILE))
        .map_err(|cause| RowError::Read { file: casemate_manifest::FILE, cause })?;
    Ok(Found { manifest: Manifest::parse(&manifest)?, bytes })
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(casemate_manifest::MAX_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

fn table(rows: &[Row], screen: &Screen) -> Vec<String> {
    let cells: Vec<[String; 5]> = rows
        .iter()
        .map(|row| {
            let [name, version] = [&row.name, &row.version].map(|text| short(text, 63));
            let rest = row.found.as_ref().map_or(["-", "-", "-"].map(str::to_owned), |found| {
                [word(&found.manifest), Bytes(found.bytes).to_string(), found.manifest.sha256_hex()[..12].to_owned()]
            });
            let [format, size, digest] = rest;
            [name, version, format, size, digest]
        })
        .collect();
    let heads = ["MODEL", "VERSION", "FORMAT", "SIZE", "SHA-256"];
    let width = |i: usize| cells.iter().map(|c| c[i].chars().count()).chain([heads[i].len()]).max().unwrap_or(0);
    let widths: [usize; 5] = std::array::from_fn(width);
    let line = |cells: [&str; 5], rest: &str| {
        let cells: Vec<String> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}  {rest}", cells.join("  "))
    };
    let mut lines = vec![screen.tone(Tone::Strong, line(heads, "INPUTS -> OUTPUTS"))];
    for (row, cells) in rows.iter().zip(&cells) {
        let rest = match &row.found {
            Ok(found) => signature(&found.manifest),
            // A parser's message has several lines with a drawing; a table has room for what they say.
            Err(e) => screen.tone(Tone::Bad, format_args!("broken: {}", short(&first_sentence(&e.to_string()), 200))),
        };
        lines.push(line(cells.each_ref().map(String::as_str), &rest));
    }
    lines
}

/// TOML's errors begin with a line, a column and a drawing; the last line says what is wrong.
fn first_sentence(text: &str) -> String {
    let lines: Vec<&str> = text.trim().lines().collect();
    match lines.as_slice() {
        [first, .., last] => format!("{} ({last})", first.trim()),
        _ => text.to_owned(),
    }
}

fn word(manifest: &Manifest) -> String {
    serde_json::to_value(manifest.format).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

fn signature(manifest: &Manifest) -> String {
    let join = |specs: Vec<String>| specs.join(" ");
    let outputs = manifest.outputs.iter().map(|o| o.spec.to_string()).collect();
    format!("{} -> {}", join(manifest.inputs.iter().map(TensorSpec::to_string).collect()), join(outputs))
}

// === impl Row ===

impl Row {
    fn json(&self) -> Value {
        let Self { name, version, found } = self;
        match found {
            Ok(Found { manifest, bytes }) => json!({
                "name": name,
                "version": version,
                "format": manifest.format,
                "size": bytes,
                "sha256": manifest.sha256_hex(),
                "inputs": manifest.inputs.iter().map(tensor).collect::<Vec<_>>(),
                "outputs": manifest.outputs.iter().map(|o| tensor(&o.spec)).collect::<Vec<_>>(),
                "broken": null,
            }),
            Err(e) => json!({ "name": name, "version": version, "broken": e.to_string() }),
        }
    }
}

fn tensor(spec: &TensorSpec) -> Value {
    json!({ "name": spec.name, "datatype": spec.dtype, "shape": spec.dims_i64() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::entry::tests::put;

    #[test]
    fn broken_entries_are_shown_with_their_reasons() {
        let store = tempfile::tempdir().unwrap();
        let path = |name: &str| store.path().join(name);
        for version in ["2", "10"] {
            put(store.path(), "good", Some(version)).unwrap();
        }
        put(store.path(), "cut", None).unwrap();
        fs::remove_file(path("cut/1").join(MODEL)).unwrap();
        put(store.path(), "bent", None).unwrap();
        fs::write(path("bent/1/model.toml"), "format = \"torchscript\"\nsha = 1\n").unwrap();
        put(store.path(), "linked", None).unwrap();
        fs::remove_file(path("linked/1").join(MODEL)).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", path("linked/1").join(MODEL)).unwrap();
        fs::create_dir(path("empty")).unwrap();
        fs::create_dir(path("bad name")).unwrap();
        fs::create_dir(path(".new-left")).unwrap();
        fs::write(path("file"), "").unwrap();

        let rows = rows(store.path()).unwrap();
        let shown: Vec<_> = rows.iter().map(|r| (r.name.as_str(), r.version.as_str(), r.found.is_ok())).collect();
        let expected = [
            ("bad name", "-", false),
            ("bent", "1", false),
            ("cut", "1", false),
            ("empty", "-", false),
            ("file", "-", false),
            ("good", "2", true),
            ("good", "10", true),
            ("linked", "1", false),
        ];
        assert_eq!(shown, expected);
        let text = table(&rows, &Screen::stdout()).join("\n");
        for reason in ["unknown field `sha`", "model.pt: No such file", "no version in it", "not a regular file"] {
            assert!(text.contains(reason), "{reason:?} is not in\n{text}");
        }
        assert!(text.contains("x:FP32[-1,16] -> y:FP32[-1,4]"), "{text}");
        assert_eq!(rows[5].json()["inputs"][0]["shape"], json!([-1, 16]));
    }
}
