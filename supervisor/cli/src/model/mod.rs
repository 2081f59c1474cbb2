//! `casemate model`: the store, and what is put into it.

pub(crate) mod add;
pub(crate) mod entry;
pub(crate) mod inspect;
pub(crate) mod list;
pub(crate) mod request;
pub(crate) mod tune;

use std::fmt;

/// What to do with models.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Copy a model file into a store and write its manifest
    Add(add::Args),
    /// Show what is in a store
    List(list::Args),
    /// Show what is in a model file, without loading it
    Inspect(inspect::Args),
    /// Measure a model in its cage, and write down what makes it faster
    Tune(tune::Args),
}

/// A number of bytes, for a person.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        if self.0 < 1024 {
            return f.pad(&format!("{} B", self.0));
        }
        let mut tenths = u128::from(self.0) * 10 / 1024;
        let mut unit = 0;
        while tenths >= 10_240 && unit + 1 < UNITS.len() {
            tenths /= 1024;
            unit += 1;
        }
        f.pad(&format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit]))
    }
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::Bytes;

    #[test]
    fn sizes_read_well() {
        let shown = [0, 1023, 1024, 29_632, 1 << 20, u64::MAX].map(|n| Bytes(n).to_string());
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "28.9 KiB", "1.0 MiB", "16383.9 PiB"]);
    }
}
