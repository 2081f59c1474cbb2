//! What a worker is not, and cannot do, once it is ready: read back from the kernel, and tried by models.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod cell;

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use casemate_ipc::launch::exit_code;
use casemate_ipc::work::{FromWorker, GateCode, Step, ToWorker};
use casemate_tests::models::{self, When};
use cell::{Birth, Value, f32s};

const SIGSYS: i32 = libc::SIGSYS;
/// What these tests let past the gate, so that the cage is met.
const FILES: &[&str] = &["aten::save", "aten::from_file"];

fn asked() -> Value {
    f32s(&[1, 4], &[5000.0; 4])
}

/// A path in a folder of this test's own, which a model tries to write.
fn forbidden(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cage");
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join(name);
    let _ = std::fs::remove_file(&path);
    path
}

#[test]
fn a_ready_worker_holds_nothing() {
    for threads in [1, 2] {
        let cell = Birth { threads, ..Birth::torch(models::identity()) }.ready();
        assert_eq!(cell.status("Seccomp"), "2");
        assert_eq!(cell.status("NoNewPrivs"), "1");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(cell.status(set), "0000000000000000", "{set}");
        }
        // Its own, one for `torch.jit.fork`, and the team of each.
        assert_eq!(cell.status("Threads"), (2 * threads).to_string());
        for task in std::fs::read_dir(format!("/proc/{}/task", cell.pid())).unwrap() {
            let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            assert!(status.contains("Seccomp:\t2") && status.contains("CapEff:\t0000000000000000"), "{status}");
        }
        // These belong to root, since the worker is not dumpable.
        let entries = std::fs::read_dir(format!("/proc/{}/fd", cell.pid()));
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", cell.pid()));
        let (Ok(entries), Ok(maps)) = (entries, maps) else {
            println!("SKIPPED: the worker's descriptors and memory, which only root may look at");
            continue;
        };
        let mut open: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        open.sort();
        assert_eq!(open, ["0", "1", "2", "3"]);
        assert!(maps.lines().all(|line| !line.contains("rwx")), "{maps}");
        assert!(maps.lines().all(|line| !line.contains("memfd:model") && !line.contains("memfd:grant")), "{maps}");
    }
}

#[test]
fn a_model_with_another_digest_is_never_loaded() {
    let path = forbidden("digest");
    let model = models::save_file(When::Load, path.to_str().unwrap());
    let (mut cell, step, detail) = Birth { sha256: Some("ab".repeat(32)), ..Birth::torch(model) }.refused();
    assert_eq!(step, Step::Verify);
    assert!(detail.contains("abababab"), "{detail}");
    assert_eq!(cell.wait().code(), Some(exit_code::VERIFY));
    assert!(!path.exists());
}

#[test]
fn a_manifest_that_is_none_is_refused() {
    for manifest in ["format = \"pickle\"", "\u{0}", ""] {
        let birth = Birth { manifest: Some(manifest.into()), ..Birth::torch(models::identity()) };
        let (mut cell, step, _) = birth.refused();
        assert_eq!((step, cell.wait().code()), (Step::Verify, Some(exit_code::VERIFY)));
    }
}

#[test]
fn a_file_that_is_no_archive_is_refused() {
    let whole = models::linear(4, 4);
    for model in [Vec::new(), b"no archive".to_vec(), whole[..whole.len() / 2].to_vec()] {
        let (mut cell, code, detail) = Birth::torch(model).gated();
        assert_eq!((code, cell.wait().code()), (GateCode::ArchiveStructure, Some(exit_code::GATE)), "{detail}");
    }
}

#[test]
fn what_a_model_does_to_files_ends_it() {
    let path = forbidden("file");
    let text = path.to_str().unwrap();
    for when in [When::Load, When::Always] {
        Birth::torch(models::save_file(when, text)).past_the_gate(FILES).spawn().dies_of(SIGSYS);
    }
    let acts = [
        models::save_file(When::Asked, text),
        models::from_file_create(When::Asked, text),
        models::from_file_read(When::Asked, "/etc/passwd"),
    ];
    for model in acts {
        let mut cell = Birth::torch(model).past_the_gate(FILES).ready();
        cell.send(&[asked()]);
        cell.dies_of(SIGSYS);
    }
    assert!(!path.exists());
}

#[test]
fn a_crash_is_a_crash() {
    for (model, signal) in
        [(models::crash_sigfpe(When::Asked), libc::SIGFPE), (models::crash_sigsegv(When::Asked), libc::SIGSEGV)]
    {
        let mut cell = Birth::torch(model).past_the_gate(&["inductor::_reinterpret_tensor"]).ready();
        cell.send(&[asked()]);
        cell.dies_of(signal);
    }
}

#[test]
fn by_default_the_gate_stands_before_the_cage() {
    let path = forbidden("gate");
    let text = path.to_str().unwrap();
    for (model, expected) in [
        (models::save_file(When::Load, text), GateCode::GraphDenied),
        (models::save_file(When::Asked, text), GateCode::GraphDenied),
        (models::from_file_read(When::Always, "/etc/passwd"), GateCode::GraphDenied),
        (models::crash_sigsegv(When::Asked), GateCode::GraphDenied),
        (models::deep_parentheses(), GateCode::CodeDepth),
    ] {
        let (mut cell, code, detail) = Birth::torch(model).gated();
        assert_eq!((code, cell.wait().code()), (expected, Some(exit_code::GATE)), "{detail}");
        assert!(detail.contains("code/__torch__.py at byte"), "{detail}");
    }
    assert!(!path.exists());
}

#[test]
fn what_its_source_hides_is_seen_in_its_graph() {
    let using = |forge: casemate_tests::forge::Forge| {
        forge.forward("def forward(self, x: Tensor) -> Tensor:\n  return x.set_(x)").bytes()
    };
    let plain = using(casemate_tests::forge::Forge::new("M"));
    let (mut cell, code, detail) = Birth::torch(plain.clone()).gated();
    assert_eq!((code, cell.wait().code()), (GateCode::GraphUnlisted, Some(exit_code::GATE)), "{detail}");
    // Declared as an attribute, the name passes in the source; the graph that libtorch made of it does not.
    let declared = using(casemate_tests::forge::Forge::new("M").attribute("set_", 1));
    let (mut cell, code, detail) = Birth::torch(declared).gated();
    assert_eq!((code, cell.wait().code()), (GateCode::GraphUnlisted, Some(exit_code::GATE)), "{detail}");
    assert!(detail.contains("aten::set_ in a loaded graph"), "{detail}");
    // The control: it is the policy that refuses both, and nothing else.
    Birth::torch(plain).past_the_gate(&[]).ready();
}

#[test]
fn a_model_that_never_ends_can_be_killed() {
    let mut cell = Birth::torch(models::loop_forever(When::Asked)).ready();
    cell.send(&[asked()]);
    std::thread::sleep(Duration::from_millis(200));
    cell.kill();
    assert_eq!(cell.wait().signal(), Some(libc::SIGKILL));
}

#[test]
fn a_birth_with_anything_more_is_refused() {
    let born = || Birth::echo("");
    let births = [
        (Birth { arguments: vec!["--help"], ..born() }, "arguments"),
        (Birth { environment: vec![("LD_BIND_NOW", "1")], ..born() }, "environment"),
        (Birth { leak: true, ..born() }, "descriptor 10"),
    ];
    for (birth, why) in births {
        let mut cell = birth.spawn();
        assert_eq!(cell.wait().code(), Some(exit_code::BOOT));
        let log = cell.log();
        assert!(log.contains(why), "{log}");
    }
    let (mut cell, step, detail) = Birth { threads: 0, ..born() }.refused();
    assert_eq!((step, cell.wait().code()), (Step::Boot, Some(exit_code::BOOT)), "{detail}");
}

#[test]
fn a_worker_without_the_digest_of_its_model_does_not_begin() {
    let born = |digest: &[u8]| Birth { digest: Some(digest.to_vec()), ..Birth::echo("") };
    for (digest, why) in [(&[][..], "no SHA-256"), (&[7; 31], "31 bytes"), (&[7; 33], "33 bytes")] {
        let (mut cell, step, detail) = born(digest).refused();
        assert_eq!((step, cell.wait().code()), (Step::Boot, Some(exit_code::BOOT)), "{detail}");
        assert!(detail.contains(why), "{detail}");
    }
    // It is the launcher's word that is compared, and nothing that the worker counts itself.
    let (mut cell, step, detail) = born(&[7; 32]).refused();
    assert_eq!((step, cell.wait().code()), (Step::Verify, Some(exit_code::VERIFY)));
    assert!(detail.contains("the model's SHA-256 is 0707"), "{detail}");
}

#[test]
fn a_front_that_breaks_the_protocol_is_left() {
    let mut cell = Birth::echo("").ready();
    cell.send(&[f32s(&[1, 5], &[0.0; 5])]);
    assert_eq!(cell.wait().code(), Some(exit_code::PROTOCOL));

    let mut cell = Birth::echo("").ready();
    cell.send(&[]);
    assert_eq!(cell.wait().code(), Some(exit_code::PROTOCOL));

    let mut cell = Birth::echo("").ready();
    nix::sys::socket::send(
        std::os::fd::AsRawFd::as_raw_fd(&cell.front),
        b"garbage",
        nix::sys::socket::MsgFlags::empty(),
    )
    .unwrap();
    assert_eq!(cell.wait().code(), Some(exit_code::PROTOCOL));

    let cell = Birth::echo("").ready();
    cell.front.send(&ToWorker::Ping { token: 1 }).unwrap();
    assert_eq!(cell.drain(), Some(exit_code::DONE));
}

#[test]
fn the_declaration_is_what_the_manifest_says() {
    let birth = Birth { max_batch_size: 8, ..Birth::torch(models::identity()) };
    let model = birth.model.clone();
    let mut cell = birth.spawn();
    let declared = cell.verified();
    assert_eq!(declared.signature.inputs[0].to_string(), "x:FP32[-1,4]");
    assert_eq!(declared.sha256, <[u8; 32]>::from(<sha2::Sha256 as sha2::Digest>::digest(model)));
    assert_eq!((declared.max_batch_size, declared.non_finite.len()), (8, 1));
    assert!(declared.platform.starts_with("libtorch 2."), "{}", declared.platform);
    assert!(matches!(cell.hear(), FromWorker::Ready { load_us } if load_us > 0));
}
