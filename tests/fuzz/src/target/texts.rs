//! What operators write, and what is printed.

use std::cmp::Ordering;

use casemate_config::{Config, limits::Limits};
use casemate_front::telemetry::{MAX_TEXT, escape as front_escape};
use casemate_ipc::id::{ModelName, Version};
use casemate_manifest::Manifest;

/// A model's manifest.
pub fn manifest(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else { return };
    let Ok(manifest) = Manifest::parse(text) else { return };
    let written = manifest.to_toml().expect("a manifest can be written");
    assert_eq!(Manifest::parse(&written).expect("what was written can be read"), manifest, "{written}");
    manifest.signature().expect("a checked manifest has a signature");
}

/// The server's config.
pub fn config(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else { return };
    let Ok(config) = Config::parse(text) else { return };
    assert!(config.inference.ip().is_loopback() && config.store().is_absolute());
    let bounds = |name: &str| Limits::TABLE.iter().find(|limit| limit.name == name).map(|l| (l.least, l.most)).unwrap();
    let (least, most) = bounds("request_bytes");
    assert!((least..=most).contains(&config.limits.request_bytes));
    assert!(config.requests().bytes().is_some() && config.responses().bytes().is_some());
    for model in config.models.keys() {
        let (least, most) = bounds("threads");
        assert!((least..=most).contains(&config.model(model).threads.into()));
    }
}

/// Lines: names, and versions whose order must be one.
pub fn names(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else { return };
    for line in text.split('\n') {
        let Ok(name) = line.parse::<ModelName>() else { continue };
        assert!(!name.as_str().contains(['/', '\0', ' ', '"', '\\']) && !name.as_str().starts_with('.'));
        assert!(line.len() <= ModelName::MAX && line == name.to_string());
    }
    let versions: Vec<Version> = text.split('\n').take(6).filter_map(|line| line.parse().ok()).collect();
    for a in &versions {
        for b in &versions {
            assert_eq!(a.cmp(b), b.cmp(a).reverse(), "{a} {b}");
            assert_eq!(a.cmp(b) == Ordering::Equal, a == b, "{a} {b}");
            for c in versions.iter().filter(|c| a <= b && b <= *c) {
                assert!(a <= c, "{a} {b} {c}");
            }
        }
    }
}

/// Text of a worker, on its way to the log.
pub fn escape(text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    let safe = front_escape(&text);
    assert!(safe.len() <= MAX_TEXT);
    assert!(!safe.chars().any(char::is_control), "{safe:?}");
    assert!(!safe.contains(['\u{202e}', '\u{2066}', '\u{200b}', '\u{feff}']), "{safe:?}");
    let plain = text.chars().all(|c| c.is_ascii_graphic() || c == ' ');
    assert!(!plain || text.len() > MAX_TEXT / 2 || safe == text);
}
