//! What `cargo metadata` says that our crates depend on, held against the table of crates.

use serde_json::Value;

use super::Breach;
use super::law::{CRATES, OUTSIDE, Ours, Reach};

/// A package of the workspace, and its dependencies but for those of its tests.
#[derive(Debug)]
pub(crate) struct Package {
    pub(super) name: String,
    pub(super) manifest_path: String,
    pub(super) normal: Vec<String>,
    pub(super) build: Vec<String>,
}

/// `None` where the answer has not the shape that Cargo promises.
pub(super) fn packages(metadata: &Value) -> Option<Vec<Package>> {
    metadata["packages"].as_array()?.iter().map(package).collect()
}

pub(super) fn check(packages: &[Package]) -> Vec<Breach> {
    let names: Vec<_> = packages.iter().map(|package| package.name.as_str()).collect();
    let mut breaches: Vec<_> = packages.iter().flat_map(|package| one(package, &names)).collect();
    for law in CRATES.iter().filter(|law| !names.contains(&law.name)) {
        breaches.push(breach(law.name, "no such crate".into(), "the table of crates names only what is there"));
    }
    breaches
}

fn one(package: &Package, ours: &[&str]) -> Vec<Breach> {
    let name = package.name.as_str();
    let Some(law) = CRATES.iter().find(|law| law.name == name) else {
        return vec![breach(name, "not in the table of crates".into(), "each crate says what it may depend on")];
    };
    let mut breaches = Vec::new();
    let is_ours = |dependency: &&String| ours.contains(&dependency.as_str());
    for dependency in package.normal.iter().filter(is_ours) {
        if let Ours::Only(may) = law.may
            && !may.contains(&dependency.as_str())
        {
            breaches.push(breach(name, format!("depends on {dependency}"), law.why));
        }
    }
    for dependency in package.build.iter().filter(is_ours) {
        if !law.may_build.contains(&dependency.as_str()) {
            breaches.push(breach(name, format!("builds with {dependency}"), law.why));
        }
    }
    for law in OUTSIDE {
        let allowed = match law.reach {
            Reach::Only(only) => only.contains(&name),
            Reach::Never(never) => !never.contains(&name),
        };
        let named = package.normal.iter().chain(&package.build).filter(|named| law.outside.contains(&named.as_str()));
        breaches.extend(named.filter(|_| !allowed).map(|named| breach(name, format!("depends on {named}"), law.why)));
    }
    breaches
}

fn package(value: &Value) -> Option<Package> {
    let of_kind = |kind: Option<&str>| {
        let all = value["dependencies"].as_array()?.iter();
        all.filter(|dependency| dependency["kind"].as_str() == kind)
            // `name` is the package's own name even where the manifest renames it.
            .map(|dependency| Some(dependency["name"].as_str()?.to_owned()))
            .collect::<Option<Vec<_>>>()
    };
    Some(Package {
        name: value["name"].as_str()?.to_owned(),
        manifest_path: value["manifest_path"].as_str()?.to_owned(),
        normal: of_kind(None)?,
        build: of_kind(Some("build"))?,
    })
}

fn breach(place: &str, found: String, law: &str) -> Breach {
    Breach { place: place.to_owned(), found, law: law.to_owned() }
}
