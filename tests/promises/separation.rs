//! SECURITY.md, "Three programs": what each links, where the server listens, and what the launcher refuses to read.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "test code: what cannot be is a failure"
)]

use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use casemate_tests::casemate::{Setup, is_root, program};
use casemate_tests::models;

/// The libraries that a program asks its loader for.
fn needed(name: &str) -> Vec<String> {
    let output = Command::new("readelf").arg("-d").arg(program(name)).output().expect("readelf (package binutils)");
    let text = String::from_utf8(output.stdout).unwrap();
    let needed = text.lines().filter(|line| line.contains("(NEEDED)"));
    needed.filter_map(|line| Some(line.split_once('[')?.1.trim_end_matches(']').to_owned())).collect()
}

#[test]
fn only_the_worker_links_libtorch() {
    assert!(needed("casemate-worker").iter().any(|l| l.contains("torch")), "the control: the worker does");
    for name in ["casemate-front", "casemate-launcher", "casemate"] {
        let libraries = needed(name);
        assert!(!libraries.is_empty(), "{name}");
        for library in libraries {
            let known = ["libc.so.6", "libgcc_s.so.1", "libm.so.6", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"];
            assert!(known.contains(&library.as_str()), "{name} links {library}");
        }
    }
}

#[test]
fn d1_only_loopback_listens() {
    let casemate = Setup::new().simple("m", &models::double()).serve();
    assert!(casemate.address.ip().is_loopback());
    // 0A is "listening"; the front is the only one of ours with a socket, and this is its only listening one.
    let port = format!("{:04X}", casemate.address.port());
    let sockets =
        std::fs::read_to_string("/proc/net/tcp").unwrap() + &std::fs::read_to_string("/proc/net/tcp6").unwrap();
    let ours: Vec<&str> = sockets
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            (fields.get(3) == Some(&"0A")).then(|| fields[1]).filter(|a| a.ends_with(&port))
        })
        .collect();
    assert_eq!(ours, [format!("0100007F:{port}")]);
}

#[test]
fn d2_an_exposed_address_is_refused_before_a_socket_is_opened() {
    for address in ["0.0.0.0:0", "[::]:0", "8.8.8.8:80", "localhost:0"] {
        let setup = Setup::new().simple("m", &models::double());
        let path = setup.folder().join("exposed.toml");
        let text = format!("store = \"{}\"\n[listen]\ninference = \"{address}\"\n", setup.store().display());
        std::fs::write(&path, text).unwrap();
        let output = Command::new(program("casemate-launcher")).arg("--config").arg(&path).output().unwrap();
        let says = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{address}: {says}");
        assert!(says.contains("listen.inference") && says.contains("127.0.0.1"), "{address}: {says}");
        assert!(!says.contains("listening on"), "{says}");
    }
}

#[test]
fn a_store_that_others_can_write_is_refused() {
    let setup = Setup::new().simple("m", &models::double());
    std::fs::set_permissions(setup.store(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let (code, says) = setup.refused();
    assert!(matches!(code, Some(77 | 78)), "{code:?} {says}");
    assert!(says.contains("writ"), "{says}");
}

#[test]
fn links_in_the_store_are_not_followed() {
    let setup = Setup::new().simple("m", &models::double()).simple("n", &models::double());
    let file = setup.store().join("m/1/model.pt");
    let elsewhere = setup.folder().join("elsewhere.pt");
    std::fs::rename(&file, &elsewhere).unwrap();
    symlink(&elsewhere, &file).unwrap();
    let casemate = setup.serve();
    let status = casemate.status("m");
    assert_eq!(status["state"], "failed", "{status}");
    assert_eq!(status["last_exit"]["cause"], "spawn", "{status}");
    assert_eq!(casemate.row("n", [1.0; 4]).status, 200);
}

#[test]
fn workers_and_front_do_not_run_as_root() {
    if !is_root() {
        return;
    }
    let casemate = Setup::new().simple("m", &models::double()).serve();
    for pid in [casemate.front(), casemate.worker("m")] {
        let status = casemate_tests::process::status(pid);
        assert!(!status["Uid"].split_whitespace().any(|uid| uid == "0"), "{pid}: {}", status["Uid"]);
        assert!(!status["Gid"].split_whitespace().any(|gid| gid == "0"), "{pid}: {}", status["Gid"]);
    }
}
