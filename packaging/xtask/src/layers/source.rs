//! The source files of the workspace, held against the laws of places and the list of files with unsafe code.

use std::fs;
use std::io;
use std::path::Path;

use super::Breach;
use super::law::{Ban, PLACES, UNSAFE};
use super::manifest::Package;
use super::reference::{Named, Reference, Stand, references};
use super::token::tokens;

/// A file of Rust, by its path from the root, with what it refers to.
#[derive(Debug)]
pub(super) struct SourceFile {
    pub(super) path: String,
    stand: Stand,
    references: Vec<Reference>,
}

/// Every Rust file of every package; a package inside another's folder keeps its own.
pub(super) fn collect(root: &Path, packages: &[Package]) -> io::Result<Vec<SourceFile>> {
    let homes: Vec<_> = packages.iter().filter_map(|package| Some((home(root, package)?, package))).collect();
    let mut files = Vec::new();
    for (home, package) in &homes {
        let mut folders = vec![root.join(home)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)? {
                let path = entry?.path();
                let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
                if path.is_dir() {
                    if !homes.iter().any(|(other, _)| *other == name) {
                        folders.push(path);
                    }
                } else if name.ends_with(".rs") {
                    files.push(SourceFile::read(name, home, &package.name, &fs::read_to_string(&path)?));
                }
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

pub(super) fn check(files: &[SourceFile]) -> Vec<Breach> {
    let mut breaches: Vec<_> = files.iter().flat_map(one).collect();
    // A law whose file was renamed would hold for nothing, and a permission would wait for whoever takes its name.
    let places = PLACES.iter().map(|law| law.place).chain(UNSAFE.iter().map(|file| file.place));
    for place in places.filter(|place| !files.iter().any(|file| lies_in(&file.path, place))) {
        let law = "each place that the laws name is there: correct packaging/xtask/src/layers/law.rs";
        breaches.push(Breach { place: place.to_owned(), found: "no such file".into(), law: law.to_owned() });
    }
    breaches
}

fn one(file: &SourceFile) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let mut push = |reference: &Reference, why: &str| {
        let place = format!("{}:{}", file.path, reference.line);
        breaches.push(Breach { place, found: reference.named.to_string(), law: why.to_owned() });
    };
    let lies = |places: &[&str]| places.iter().any(|place| file.path.starts_with(place));
    for law in PLACES.iter().filter(|law| lies_in(&file.path, law.place) && !lies(law.except)) {
        for reference in &file.references {
            if law.bans.iter().any(|ban| ban.strikes(&reference.named, &file.stand)) {
                push(reference, law.why);
            }
        }
    }
    if !UNSAFE.iter().any(|allowed| lies_in(&file.path, allowed.place)) {
        for reference in file.references.iter().filter(|reference| reference.named == Named::Word("unsafe".into())) {
            push(reference, &unsafe_law());
        }
    }
    breaches
}

/// Names each permitted place with its reason, so that whoever wants one more sees what a reason is.
fn unsafe_law() -> String {
    let places: Vec<_> = UNSAFE.iter().map(|file| format!("{} ({})", file.place, file.why)).collect();
    format!("unsafe code stands only in {}", places.join(", "))
}

impl SourceFile {
    pub(super) fn read(path: String, home: &str, package: &str, text: &str) -> Self {
        let inside = path.strip_prefix(home).unwrap_or(&path).trim_start_matches('/');
        let stand = Stand { krate: package.replace('-', "_"), module: module(inside) };
        let references = references(&tokens(text), &stand);
        Self { path, stand, references }
    }
}

impl Ban {
    fn strikes(&self, named: &Named, stand: &Stand) -> bool {
        match (self, named) {
            // A glob of what lies above brings the forbidden along.
            (Ban::Under(prefix), Named::Path(path)) => match path.split_last() {
                Some((last, above)) if last == "*" && prefix.len() > above.len() => begins(prefix, above),
                _ => begins(path, prefix),
            },
            (Ban::Holds(row), Named::Path(path)) => path.windows(row.len()).any(|window| window == *row),
            (Ban::Word(word), Named::Word(found)) => word == found,
            (Ban::Method(method), Named::Method(found)) => method == found,
            (Ban::Sibling { of, shared }, Named::Path(path)) => {
                let (own, other) = (stand.module.get(of.len()), path.get(of.len()));
                begins(path, of)
                    && own.is_some()
                    && other.is_some_and(|other| own != Some(other) && !shared.contains(&other.as_str()))
            }
            _ => false,
        }
    }
}

impl std::fmt::Display for Named {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Named::Path(path) => write!(out, "names {}", path.join("::")),
            Named::Word(word) => write!(out, "says {word}"),
            Named::Method(method) => write!(out, "calls .{method}()"),
        }
    }
}

fn begins<A: PartialEq<B>, B>(path: &[A], prefix: &[B]) -> bool {
    path.len() >= prefix.len() && path.iter().zip(prefix).all(|(a, b)| a == b)
}

/// As `PlaceLaw::place` says.
fn lies_in(path: &str, place: &str) -> bool {
    if place.is_empty() || place.ends_with('/') {
        return path.starts_with(place);
    }
    path.strip_prefix(place).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
}

fn home(root: &Path, package: &Package) -> Option<String> {
    let home = Path::new(&package.manifest_path).parent()?.strip_prefix(root).ok()?;
    Some(home.to_string_lossy().into_owned())
}

/// `src/protocol/mod.rs` is `crate::protocol`; `src/lib.rs`, `src/main.rs` and `build.rs` are `crate`.
fn module(inside: &str) -> Vec<String> {
    let path = inside.strip_prefix("src/").unwrap_or(inside).trim_end_matches(".rs");
    let mut module = vec!["crate".to_owned()];
    module.extend(path.split('/').map(str::to_owned));
    if matches!(module.last().map(String::as_str), Some("mod" | "lib" | "main" | "build")) {
        module.pop();
    }
    module
}
