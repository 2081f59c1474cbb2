//! What the documents say is what is compiled in. `cargo xtask policy` writes the printed policies anew.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code: what cannot be is a failure")]

use std::fs;
use std::path::{Path, PathBuf};

use casemate_config::Config;
use casemate_ipc::layer::Layer;
use casemate_ipc::work::GateCode;
use casemate_lockdown::policy;

const SECURITY: &str = "SECURITY.md";
const CONFIGURATION: &str = "docs/configuration.md";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(document: &str) -> String {
    fs::read_to_string(root().join(document)).unwrap_or_else(|e| panic!("{document}: {e}"))
}

/// Every document of the house, by its path.
fn documents() -> Vec<String> {
    let fixed =
        ["README.md", SECURITY, "ARCHITECTURE.md", "CHANGELOG.md", "benches/README.md", "tests/adversary/README.md"];
    let folder = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().file_name());
    let docs = folder.map(|name| format!("docs/{}", name.into_string().unwrap()));
    fixed.map(str::to_owned).into_iter().chain(docs).collect()
}

#[test]
fn the_printed_policies_are_the_compiled_ones() {
    let path = "docs/policies.md";
    let text = read(path);
    let (before, rest) = text.split_once("<!-- policy -->\n").expect("the first marker");
    let (printed, after) = rest.split_once("<!-- /policy -->").expect("the last marker");
    let compiled = policy::markdown().trim();
    if std::env::var_os("CASEMATE_WRITE_DOCUMENTS").is_some() {
        let text = format!("{before}<!-- policy -->\n\n{compiled}\n\n<!-- /policy -->{after}");
        fs::write(root().join(path), text).unwrap();
        return;
    }
    assert_eq!(printed.trim(), compiled, "run `cargo xtask policy`");
}

#[test]
fn the_filters_are_as_large_as_security_md_says() {
    let (text, mut found) = (read(SECURITY), 0);
    // As the tables are printed, for every CPU; a filter itself is that of one.
    for table in policy::markdown().split("### System calls: `").skip(1) {
        let (stage, rest) = table.split_once('`').unwrap();
        let calls = rest.trim_start().split_once(" calls").expect("how many").0;
        let row = format!("| `{stage}` | {calls} |");
        assert!(text.contains(&row), "{SECURITY} has no row {row:?}");
        found += 1;
    }
    assert_eq!(found, policy::filters().len());
}

#[test]
fn every_test_that_a_document_names_exists() {
    let mut named = 0;
    for document in documents() {
        for line in read(&document).lines() {
            // `path/file.rs: test_name`, and in a row of a table behind it `another_test` of the same file.
            let mut last: Option<(String, String)> = None;
            for quoted in line.split('`').skip(1).step_by(2) {
                let test = match quoted.split_once(".rs: ") {
                    Some((file, test)) => {
                        let source = fs::read_to_string(root().join(format!("{file}.rs")));
                        let source = source.unwrap_or_else(|e| panic!("{document} names {file}.rs: {e}"));
                        last = Some((file.to_owned(), source));
                        test
                    }
                    None if line.starts_with('|') && is_a_test(quoted) => quoted,
                    None => continue,
                };
                let Some((file, source)) = &last else { continue };
                assert!(source.contains(&format!("fn {test}(")), "{document} names {test} in {file}.rs");
                named += 1;
            }
        }
    }
    assert!(named >= 100, "only {named} tests are named");
}

/// Three words or more: what else stands in a row is a key or a call.
fn is_a_test(quoted: &str) -> bool {
    quoted.matches('_').count() >= 2 && quoted.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

#[test]
fn every_link_leads_somewhere() {
    for document in documents() {
        let folder = root().join(&document).parent().unwrap().to_owned();
        for target in read(&document).split("](").skip(1).filter_map(|rest| rest.split(')').next().map(str::to_owned)) {
            let (path, heading) = target.split_once('#').unwrap_or((&target, ""));
            if path.contains("://") {
                continue;
            }
            let path = if path.is_empty() { root().join(&document) } else { folder.join(path) };
            assert!(path.exists(), "{document} links to {target}");
            if !heading.is_empty() {
                let headings = fs::read_to_string(&path).unwrap();
                let mut headings = headings.lines().filter(|line| line.starts_with('#')).map(anchor);
                assert!(headings.any(|anchor| anchor == heading), "{document} links to {target}");
            }
        }
    }
}

/// A heading as a link names it.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_limit_is_documented_as_it_is() {
    let text = read(CONFIGURATION);
    for limit in casemate_config::Limits::TABLE {
        let row = text.lines().find(|line| line.contains(&format!("`{}`", limit.name)));
        let row = row.unwrap_or_else(|| panic!("{} is not in {CONFIGURATION}", limit.name)).replace([',', '_'], "");
        assert!(row.contains(&limit.default.to_string()), "{}: the default is {}: {row}", limit.name, limit.default);
    }
}

#[test]
fn the_printed_configs_are_configs() {
    let sample = read("packaging/casemate.toml");
    Config::parse(&sample).expect("as it stands");
    // What is commented out is a key's default, or an example: all of it together is a config too.
    let key = |line: &str| line.starts_with('[') || line.split(' ').nth(1) == Some("=");
    let all = sample.lines().map(|line| line.strip_prefix("# ").filter(|rest| key(rest)).unwrap_or(line));
    let all = all.collect::<Vec<_>>().join("\n");
    let config = Config::parse(&all).unwrap_or_else(|error| panic!("{error}\n{all}"));
    assert_eq!(config.limits, casemate_config::Limits::default(), "a limit's default is another");
    for limit in casemate_config::Limits::TABLE {
        assert!(all.contains(&format!("\n{} = ", limit.name)), "the sample has no {}", limit.name);
    }
    let readme = read("README.md");
    let blocks: Vec<&str> = readme.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(blocks.len() >= 2);
    for block in blocks {
        let whole = if block.starts_with("store") { block.to_owned() } else { format!("store = \"/s\"\n{block}") };
        Config::parse(&whole).unwrap_or_else(|error| panic!("{error}\n{whole}"));
    }
}

#[test]
fn every_layer_every_waiver_and_every_word_of_the_gate_is_documented() {
    let row = |text: &str, name: &str| text.lines().any(|line| line.starts_with(&format!("| `{name}` |")));
    let (readme, security, configuration) = (read("README.md"), read(SECURITY), read(CONFIGURATION));
    for layer in Layer::ALL {
        assert!(row(&readme, layer.name()), "the layer {layer} is not in README.md");
        if let Some(waiver) = layer.waiver() {
            assert!(row(&security, waiver.name()), "the waiver {waiver} is not in {SECURITY}");
            assert!(configuration.contains(&format!("`\"{waiver}\"`")), "{waiver} is not in {CONFIGURATION}");
        }
    }
    for code in GateCode::ALL {
        assert!(row(&configuration, code.name()), "{} is not in {CONFIGURATION}", code.name());
    }
}
