//! Every law is broken once on purpose: a law that strikes nothing is no law.

use serde_json::{Value, json};

use super::law::{Ban, CRATES, PLACES, PlaceLaw, UNSAFE};
use super::source::{self, SourceFile};
use super::{Breach, manifest};

#[test]
fn every_ban_of_every_place_strikes() {
    for law in PLACES {
        for ban in law.bans {
            let breaches = breaches_in(&file_in(law), &planted(ban));
            assert!(breaches.iter().any(|breach| breach.law == law.why), "{ban:?} in {:?}", law.place);
        }
    }
}

#[test]
fn an_innocent_file_stays_innocent() {
    let text = "//! tch, tokio::spawn, unsafe\nuse std::time::{Duration, Instant};\nfn f(now: Instant) -> &'static str { \"unsafe tch::\" }";
    for law in PLACES {
        assert_eq!(breaches_in(&file_in(law), text), [], "{:?}", law.place);
    }
}

#[test]
fn a_breach_says_where_and_why() {
    let breaches = breaches_in("supervisor/front/src/protocol/oip_json.rs", "\nuse crate::batch::Job;");
    assert_eq!(breaches.len(), 1);
    assert_eq!(breaches[0].place, "supervisor/front/src/protocol/oip_json.rs:2");
    assert_eq!(breaches[0].found, "names crate::batch::Job");
}

#[test]
fn libtorch_is_known_in_its_corner_and_nowhere_else() {
    for path in [
        "worker/src/engine/torchscript.rs",
        "worker/src/engine/torchscript/load.rs",
        "worker/src/engine/shim/libtorch.rs",
    ] {
        assert_eq!(breaches_in(path, "use tch::Tensor;"), [], "{path}");
    }
    for path in ["worker/src/engine/mod.rs", "supervisor/front/src/app.rs", "worker/src/libtorch.rs"] {
        assert_eq!(breaches_in(path, "use tch::Tensor;").len(), 1, "{path}");
    }
}

#[test]
fn a_glob_of_the_root_counts_as_what_it_brings() {
    assert_eq!(breaches_in("supervisor/front/src/protocol/oip_json.rs", "use crate::*;").len(), 1);
    assert_eq!(breaches_in("supervisor/front/src/protocol/oip_json.rs", "mod tests { use super::*; }"), []);
}

#[test]
fn protocols_share_numbers_and_nothing_else() {
    let path = "supervisor/front/src/protocol/oip_json.rs";
    assert_eq!(breaches_in(path, "use super::numbers::read; use crate::protocol::oip_json::X;"), []);
    assert_eq!(breaches_in(path, "use super::oip_binary::read;").len(), 1);
    // The face declares all of them.
    assert_eq!(breaches_in("supervisor/front/src/protocol/mod.rs", "pub use self::oip_json::routes;"), []);
}

#[test]
fn unsafe_code_outside_the_list_is_found() {
    let text = "fn f() { unsafe { g() } }";
    for allowed in UNSAFE {
        let file = if allowed.place.ends_with('/') { "any.rs" } else { ".rs" };
        assert_eq!(breaches_in(&format!("{}{file}", allowed.place), text), [], "{:?}", allowed.place);
    }
    for path in ["ipc/src/shm/arena.rs", "supervisor/launcher/src/system.rs", "worker/src/boot.rs"] {
        assert_eq!(breaches_in(path, text).len(), 1, "{path}");
    }
    assert_eq!(breaches_in("worker/src/boot.rs", "#![forbid(unsafe_code)]"), []);
}

#[test]
fn a_law_whose_file_is_gone_is_a_breach() {
    let gone = source::check(&[]);
    for place in PLACES.iter().map(|law| law.place).chain(UNSAFE.iter().map(|file| file.place)) {
        assert!(gone.iter().any(|breach| breach.place == place && breach.found == "no such file"), "{place:?}");
    }
}

#[test]
fn the_table_of_crates_holds_for_a_lawful_workspace() {
    assert_eq!(check_manifests(&lawful()), []);
}

#[test]
fn a_forbidden_dependency_is_found() {
    for (krate, dependency, kind) in [
        ("casemate-launcher", "casemate-front", Value::Null),
        ("casemate-front", "casemate-manifest", Value::Null),
        ("casemate-worker", "casemate-config", Value::Null),
        ("casemate-lockdown", "casemate-ipc", Value::Null),
        ("casemate-lockdown", "casemate-policy-compiler", Value::Null),
        ("casemate-ipc", "casemate-policy-compiler", json!("build")),
        ("casemate-front", "tch", Value::Null),
        ("casemate-cli", "torch-sys", json!("build")),
        ("casemate-launcher", "tokio", Value::Null),
        ("casemate-worker", "tokio", Value::Null),
        ("casemate-tests", "axum", Value::Null),
        ("casemate-ipc", "tracing", Value::Null),
        ("casemate-launcher", "tracing-subscriber", Value::Null),
    ] {
        let found = check_manifests(&with(krate, dependency, kind));
        assert!(found.iter().any(|b| b.place == krate && b.found.ends_with(dependency)), "{krate} -> {dependency}");
    }
}

#[test]
fn dependencies_of_tests_do_not_count() {
    assert_eq!(check_manifests(&with("casemate-ipc", "tokio", json!("dev"))), []);
}

#[test]
fn a_crate_outside_the_table_and_a_row_without_a_crate_are_found() {
    let mut packages = lawful();
    packages[0] = package("casemate-new");
    let found = check_manifests(&packages);
    assert!(found.iter().any(|breach| breach.place == "casemate-new"));
    assert!(found.iter().any(|breach| breach.place == CRATES[0].name && breach.found == "no such crate"));
}

/// A file in the place, and never one that an exception names.
fn file_in(law: &PlaceLaw) -> String {
    match law.place {
        "" => "supervisor/front/src/app.rs".into(),
        folder if folder.ends_with('/') => format!("{folder}planted.rs"),
        module => format!("{module}.rs"),
    }
}

fn planted(ban: &Ban) -> String {
    match ban {
        Ban::Under(path) => format!("use {}::x;", path.join("::")),
        Ban::Holds(path) => format!("fn f() {{ let _ = std::time::{}::x(); }}", path.join("::")),
        Ban::Word(word) => format!("fn f() {{ {word} }}"),
        Ban::Method(method) => format!("fn f() {{ x.{method}() }}"),
        Ban::Sibling { of, .. } => format!("use {}::another::X;", of.join("::")),
    }
}

/// All but the breaches of places that this one file does not fill.
fn breaches_in(path: &str, text: &str) -> Vec<Breach> {
    let home = path.split_once("/src/").map_or("tests", |(home, _)| home);
    let file = SourceFile::read(path.to_owned(), home, "casemate-planted", text);
    source::check(&[file]).into_iter().filter(|breach| breach.found != "no such file").collect()
}

fn check_manifests(packages: &[Value]) -> Vec<Breach> {
    manifest::check(&manifest::packages(&json!({ "packages": packages })).unwrap())
}

fn lawful() -> Vec<Value> {
    CRATES.iter().map(|law| package(law.name)).collect()
}

fn package(name: &str) -> Value {
    json!({ "name": name, "manifest_path": format!("/nowhere/{name}/Cargo.toml"), "dependencies": [] })
}

fn with(krate: &str, dependency: &str, kind: Value) -> Vec<Value> {
    let mut packages = lawful();
    let package = packages.iter_mut().find(|package| package["name"] == krate).unwrap();
    package["dependencies"] = json!([{ "name": dependency, "kind": kind }]);
    packages
}
