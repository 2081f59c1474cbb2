//! What a bench finds: a number, the bound that the issue or the documents set it, and what it was the last time.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figure {
    figure: String,
    /// Nothing where it could not be measured here; then the note says why.
    value: Option<f64>,
    unit: &'static str,
    bound: Option<Bound>,
    holds: Option<bool>,
    /// Its value in the last committed result.
    baseline: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

/// What a value is held to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// Results of earlier runs, one file for each, named by its day.
const RESULTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/results");

impl Figure {
    /// A number by itself.
    pub(crate) fn new(figure: impl Into<String>, value: f64, unit: &'static str) -> Self {
        let (bound, holds, baseline, note) = (None, None, None, None);
        Self { figure: figure.into(), value: Some(value), unit, bound, holds, baseline, note }
    }

    /// A time, in microseconds.
    pub(crate) fn micros(figure: impl Into<String>, time: Duration) -> Self {
        Self::new(figure, time.as_secs_f64() * 1e6, "us")
    }

    /// A time, in milliseconds.
    pub(crate) fn millis(figure: impl Into<String>, time: Duration) -> Self {
        Self::new(figure, time.as_secs_f64() * 1e3, "ms")
    }

    /// One that cannot be measured here, and why.
    pub(crate) fn missing(figure: impl Into<String>, unit: &'static str, why: impl Into<String>) -> Self {
        Self { value: None, note: Some(why.into()), ..Self::new(figure, 0.0, unit) }
    }

    pub(crate) fn at_most(self, bound: f64) -> Self {
        self.bound(Bound::AtMost(bound))
    }

    pub(crate) fn at_least(self, bound: f64) -> Self {
        self.bound(Bound::AtLeast(bound))
    }

    fn bound(mut self, bound: Bound) -> Self {
        self.holds = self.value.map(|value| bound.holds(value));
        self.bound = Some(bound);
        self
    }

    /// Whether it breaks its bound.
    pub(crate) fn breaks(&self) -> bool {
        self.holds == Some(false)
    }
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtMost(most) => format!("<= {}", short(most)),
            Self::AtLeast(least) => format!(">= {}", short(least)),
        }
    }
}

impl Serialize for Bound {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text())
    }
}

// === the last result ===

#[derive(Debug, Deserialize)]
struct Kept {
    figure: String,
    value: Option<f64>,
}

/// Puts the values of the last committed result beside these.
pub(crate) fn compare(figures: &mut [Figure]) {
    let last = last(Path::new(RESULTS));
    for figure in figures {
        figure.baseline = last.get(&figure.figure).copied();
    }
}

/// The figures of the file whose name sorts last; none where there is no file, or none that can be read.
fn last(folder: &Path) -> BTreeMap<String, f64> {
    let paths = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let newest = paths.filter(|path| path.extension().is_some_and(|extension| extension == "json")).max();
    let text = newest.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
    let kept: Vec<Kept> = serde_json::from_str(&text).unwrap_or_default();
    kept.into_iter().filter_map(|kept| Some((kept.figure, kept.value?))).collect()
}

// === the table ===

/// The figures as a Markdown table.
pub(crate) fn table(figures: &[Figure]) -> String {
    let mut text = String::from("| figure | value | bound | holds | last |\n|---|---|---|---|---|\n");
    let mut notes = String::new();
    for Figure { figure, value, unit, bound, holds, baseline, note } in figures {
        let unit = if *unit == "ratio" { String::new() } else { format!(" {unit}") };
        let show = |value: &Option<f64>| value.map_or("–".to_owned(), |value| format!("{}{unit}", short(value)));
        let bound = bound.map_or("–".to_owned(), Bound::text);
        let holds = match (holds, value) {
            (Some(true), _) => "yes",
            (Some(false), _) => "**no**",
            (None, None) => "not available",
            (None, Some(_)) => "–",
        };
        let _ = writeln!(text, "| {figure} | {} | {bound} | {holds} | {} |", show(value), show(baseline));
        if let Some(note) = note {
            let _ = writeln!(notes, "* {figure}: {note}");
        }
    }
    if notes.is_empty() { text } else { format!("{text}\n{notes}") }
}

/// Three digits or more, and no more than a reader needs.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => trim(format!("{value:.2}")),
        _ => trim(format!("{value:.3}")),
    }
}

fn trim(text: String) -> String {
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_holds_or_does_not() {
        let figure = |value| Figure::new("a", value, "ratio");
        assert!(!figure(1.6).at_most(1.6).breaks() && figure(1.61).at_most(1.6).breaks());
        assert!(!figure(0.5).at_least(0.5).breaks() && figure(0.49).at_least(0.5).breaks());
        assert!(!Figure::missing("a", "us", "no").at_most(1.0).breaks());
        let json = serde_json::to_value(figure(1.0).at_most(1.6)).unwrap();
        assert_eq!(json["bound"], "<= 1.6");
        assert_eq!((&json["holds"], &json["baseline"]), (&true.into(), &serde_json::Value::Null));
    }

    #[test]
    fn the_newest_result_is_the_last_by_name() {
        let folder = tempfile::tempdir().unwrap();
        assert!(last(folder.path()).is_empty());
        for (name, value) in [("2026-01-02.json", 2.0), ("2026-01-01.json", 1.0), ("z.txt", 3.0)] {
            let figures = serde_json::to_string(&[Figure::new("a", value, "us"), Figure::missing("b", "us", "")]);
            fs::write(folder.path().join(name), figures.unwrap()).unwrap();
        }
        assert_eq!(last(folder.path()), [("a".to_owned(), 2.0)].into());
    }

    #[test]
    fn a_table_can_be_pasted() {
        let text = table(&[Figure::new("a", 85.26, "us").at_most(60.0), Figure::missing("b", "ratio", "why")]);
        assert!(text.contains("| a | 85.3 us | <= 60.0 | **no** | – |\n| b | – | – | not available | – |\n"), "{text}");
        assert!(text.ends_with("* b: why\n"));
    }
}
