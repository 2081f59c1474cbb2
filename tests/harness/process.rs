//! What the kernel says about a process, read from outside.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// The fields of `/proc/PID/status`.
pub fn status(pid: u32) -> BTreeMap<String, String> {
    fields(&format!("/proc/{pid}/status"))
}

fn fields(path: &str) -> BTreeMap<String, String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let field = |line: &str| line.split_once(':').map(|(k, v)| (k.to_owned(), v.trim().to_owned()));
    text.lines().filter_map(field).collect()
}

/// The threads of a process, each with the fields of its `status`.
pub fn threads(pid: u32) -> BTreeMap<String, BTreeMap<String, String>> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.map(|tid| (tid.clone(), fields(&format!("/proc/{pid}/task/{tid}/status")))).collect()
}

/// The namespaces of a process, by kind.
pub fn namespaces(pid: u32) -> BTreeMap<String, PathBuf> {
    links(&format!("/proc/{pid}/ns"))
}

/// The open descriptors of a process, by number.
pub fn descriptors(pid: u32) -> BTreeMap<String, PathBuf> {
    links(&format!("/proc/{pid}/fd"))
}

/// What lies under a process's `/`.
pub fn root_entries(pid: u32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/root/"));
    let name = |e: std::io::Result<fs::DirEntry>| e.map(|e| e.file_name().to_string_lossy().into_owned()).ok();
    entries.map(|e| e.filter_map(name).collect()).unwrap_or_else(|e| vec![format!("unreadable: {e}")])
}

/// A mapping of a file: its name as the kernel gives it, and which file it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mapped {
    /// A path as far as the process's root still leads there; `/` for a file that was bound and is detached.
    pub name: String,
    /// Device, as `major:minor` in hexadecimal.
    pub device: String,
    /// Inode.
    pub inode: u64,
}

/// Files that are mapped.
pub fn mapped_files(pid: u32) -> Vec<Mapped> {
    let text = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let mapped = |line: &str| {
        let mut fields = line.split_whitespace().skip(3);
        let (device, inode) = (fields.next()?.to_owned(), fields.next()?.parse().ok()?);
        (inode != 0).then(|| Mapped { name: fields.collect::<Vec<_>>().join(" "), device, inode })
    };
    let mut files: Vec<Mapped> = text.lines().filter_map(mapped).collect();
    files.sort();
    files.dedup();
    files
}

/// The program and every library that its loader would map, as the kernel names files in a mapping.
pub fn closure(program: &std::path::Path) -> Vec<(String, u64)> {
    use std::os::unix::fs::MetadataExt;
    let name = |path: PathBuf| {
        let file = fs::metadata(path).ok()?;
        let (major, minor) = (nix::sys::stat::major(file.dev()), nix::sys::stat::minor(file.dev()));
        Some((format!("{major:02x}:{minor:02x}"), file.ino()))
    };
    // An ordinary user's loader may have to take the second place where a worker looks for libtorch.
    let packaged = program.ancestors().nth(2).map(|prefix| prefix.join("lib/casemate/torch/lib"));
    let packaged = packaged.and_then(|folder| fs::read_dir(folder).ok()).into_iter().flatten().flatten();
    let packaged = packaged.map(|entry| entry.path());
    libraries(program).into_iter().chain(packaged).chain([program.to_owned()]).filter_map(name).collect()
}

/// The libraries that the loader would map for a program.
pub fn libraries(program: &std::path::Path) -> Vec<PathBuf> {
    let output = std::process::Command::new("ldd").arg(program).output().expect("ldd");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

/// Protections that occur in a process's mappings.
pub fn mapped_protections(pid: u32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let mut all: Vec<String> =
        text.lines().filter_map(|line| line.split_whitespace().nth(1).map(str::to_owned)).collect();
    all.sort();
    all.dedup();
    all
}

/// Children of a process.
pub fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|p| p.parse().ok()).collect()
}

/// The program name of a process.
pub fn name(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

fn links(folder: &str) -> BTreeMap<String, PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|e| Some((e.file_name().into_string().ok()?, fs::read_link(e.path()).ok()?))).collect()
}
