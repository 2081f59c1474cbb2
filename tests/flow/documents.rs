//! What the documents say is what is compiled in. `cargo xtask policy` writes the tables anew.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code: what cannot be is a failure")]

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

#[test]
fn the_policies_in_security_md_are_the_compiled_ones() {
    let path = root().join("SECURITY.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once("<!-- policy -->\n").expect("the first marker");
    let (printed, after) = rest.split_once("<!-- /policy -->").expect("the last marker");
    let compiled = format!("\n{}\n", casemate_lockdown::policy::markdown().trim());
    if std::env::var_os("CASEMATE_WRITE_DOCUMENTS").is_some() {
        fs::write(&path, format!("{before}<!-- policy -->\n{compiled}\n<!-- /policy -->{after}")).unwrap();
        return;
    }
    assert_eq!(printed.trim(), compiled.trim(), "run `cargo xtask policy`");
}

#[test]
fn every_test_that_a_document_names_exists() {
    let mut named = 0;
    for document in ["SECURITY.md", "README.md"] {
        let text = fs::read_to_string(root().join(document)).unwrap();
        // `path/file.rs: test_name`, as the documents write it.
        for quoted in text.split('`').skip(1).step_by(2) {
            let Some((file, test)) = quoted.split_once(".rs: ") else { continue };
            let source = fs::read_to_string(root().join(format!("{file}.rs")));
            let source = source.unwrap_or_else(|e| panic!("{document} names {file}.rs: {e}"));
            assert!(source.contains(&format!("fn {test}(")), "{document} names {quoted}");
            named += 1;
        }
    }
    assert!(named >= 20, "only {named} tests are named");
}

#[test]
fn every_limit_is_documented_as_it_is() {
    let text = fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    for limit in casemate_config::Limits::TABLE {
        let row = text.lines().find(|line| line.contains(&format!("`{}`", limit.name)));
        let row =
            row.unwrap_or_else(|| panic!("{} is not in docs/configuration.md", limit.name)).replace([',', '_'], "");
        assert!(row.contains(&limit.default.to_string()), "{}: the default is {}: {row}", limit.name, limit.default);
    }
}
