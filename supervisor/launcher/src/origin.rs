//! Where an instruction of a worker lies: in which of the files that the launcher gave it, and how far in.
//!
//! `/proc/PID/maps` names files as the worker's own root shows them, and a worker's root shows nothing. So files are told
//! by device and inode, and only those that the launcher bound have a name here: no text of a worker becomes one.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;

use nix::sys::stat::{major, minor};
use nix::unistd::Pid;

use crate::library::Library;

/// The files of a worker, by what the kernel calls them.
#[derive(Debug, Default)]
pub struct Images(Vec<Image>);

#[derive(Debug)]
struct Image {
    /// `major:minor`, in hexadecimal, and the inode.
    file: (String, u64),
    name: String,
}

/// As much of the maps is read as one worker can fill without meaning harm; a mapping behind that is not found.
const MAPS_MAX: u64 = 1 << 20;
/// Longest name of a file that is told.
const NAME_MAX: usize = 64;

impl Images {
    /// Those of a library. One that cannot be looked at has no name.
    pub fn of(library: &Library) -> Self {
        let image = |bound: &crate::library::Bound| {
            let metadata = fs::metadata(&bound.source).ok()?;
            let device = format!("{:02x}:{:02x}", major(metadata.dev()), minor(metadata.dev()));
            let name = bound.target.file_name()?.to_string_lossy();
            Some(Image { file: (device, metadata.ino()), name: printable(&name, NAME_MAX) })
        };
        Self(library.files().iter().filter_map(image).collect())
    }

    /// Where an instruction of a thread lies. The thread must be held, or it is gone before its maps are read.
    pub fn origin(&self, tid: Pid, instruction: u64) -> String {
        let Ok(maps) = File::open(format!("/proc/{tid}/maps")) else { return UNMAPPED.to_owned() };
        self.find(BufReader::new(maps.take(MAPS_MAX)), instruction)
    }

    fn find(&self, maps: impl BufRead, instruction: u64) -> String {
        let lines = maps.split(b'\n').map_while(Result::ok);
        let mapping = lines.filter_map(|line| Mapping::parse(&String::from_utf8_lossy(&line)));
        // They come in rising order.
        match mapping.take_while(|m| m.start <= instruction).find(|m| instruction < m.end) {
            None => UNMAPPED.to_owned(),
            Some(Mapping { vdso: true, .. }) => "vdso".to_owned(),
            Some(Mapping { file: (_, 0), .. }) => "anonymous".to_owned(),
            Some(mapping) => match self.0.iter().find(|image| image.file == mapping.file) {
                Some(image) => {
                    format!("{}+{:#x}", image.name, mapping.offset.saturating_add(instruction - mapping.start))
                }
                None => "unknown-file".to_owned(),
            },
        }
    }
}

/// The name of a thread, made printable. It comes from a process that nobody trusts.
pub fn thread_name(tid: Pid) -> String {
    const COMM: usize = 15;
    printable(&fs::read_to_string(format!("/proc/{tid}/comm")).unwrap_or_default(), COMM)
}

const UNMAPPED: &str = "unmapped";

fn printable(text: &str, most: usize) -> String {
    text.trim_end().chars().take(most).map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect()
}

/// One line of the maps.
struct Mapping {
    start: u64,
    end: u64,
    offset: u64,
    file: (String, u64),
    vdso: bool,
}

impl Mapping {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let (_protection, offset) = (fields.next()?, hex(fields.next()?)?);
        let (device, inode) = (fields.next()?.to_owned(), fields.next()?.parse().ok()?);
        // A file could be called so too, but a file has an inode.
        let vdso = inode == 0 && fields.next() == Some("[vdso]");
        Some(Self { start: hex(start)?, end: hex(end)?, offset, file: (device, inode), vdso })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "1000-2000 r--p 00000000 fe:01 77 /\n2000-3000 r-xp 00001000 fe:01 77 /\n4000-5000 rw-p 0 00:00 0\n\
                        5000-6000 r-xp 00000000 fe:01 78 /\u{1b}[31mevil\n7000-8000 r-xp 0 00:00 0 [vdso]\n";

    #[test]
    fn only_files_of_ours_have_names() {
        let images = Images(vec![Image { file: ("fe:01".to_owned(), 77), name: "libc.so.6".to_owned() }]);
        let find = |instruction| images.find(MAPS.as_bytes(), instruction);
        assert_eq!(find(0x2010), "libc.so.6+0x1010");
        assert_eq!(find(0x4fff), "anonymous");
        assert_eq!(find(0x5000), "unknown-file");
        assert_eq!(find(0x7001), "vdso");
        for nowhere in [0, 0x3000, 0xffff_ffff_ffff_ffff] {
            assert_eq!(find(nowhere), "unmapped");
        }
        assert_eq!(images.find(&b"nonsense\n\xff-\xff\n"[..], 1), "unmapped");
    }

    #[test]
    fn the_code_of_this_test_lies_in_its_program() {
        let program = fs::metadata("/proc/self/exe").unwrap();
        let device = format!("{:02x}:{:02x}", major(program.dev()), minor(program.dev()));
        let images = Images(vec![Image { file: (device, program.ino()), name: "this-test".to_owned() }]);
        let here = (the_code_of_this_test_lies_in_its_program as fn() as usize) as u64;
        assert!(images.origin(Pid::this(), here).starts_with("this-test+0x"));
        assert!(!thread_name(nix::unistd::gettid()).is_empty());
    }

    #[test]
    fn a_name_is_printable_and_short() {
        assert_eq!(printable("a\u{1b}[31m b\n", 15), "a?[31m?b");
        assert_eq!(printable(&"x".repeat(99), 15).len(), 15);
    }
}
