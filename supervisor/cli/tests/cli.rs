//! The command as a shell sees it: what it prints, and the number it ends with.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use zip::write::{SimpleFileOptions, ZipWriter};

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn model(&self) -> PathBuf {
        let path = self.path("net.pt");
        let code = "class Net(Module):\n  def forward(self: __torch__.Net,\n    x: Tensor) -> Tensor:\n    torch.save(x, \"out\")\n    return x\n";
        let records = [
            ("net/data.pkl", "\u{2}c__torch__\nNet\n"),
            ("net/code/__torch__.py", code),
            ("net/constants.pkl", "."),
            ("net/data/0", "01234567"),
            ("net/\u{1b}[2Jevil", ""),
            ("net/version", "3\n"),
        ];
        let mut zip = ZipWriter::new(File::create(&path).unwrap());
        for (name, text) in records {
            zip.start_file(name, SimpleFileOptions::default()).unwrap();
            zip.write_all(text.as_bytes()).unwrap();
        }
        zip.finish().unwrap();
        path
    }
}

fn casemate<const N: usize>(args: [&str; N]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_casemate")).args(args).env_remove("NO_COLOR").output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The code it ended with, which must be this one, and what it complained of.
fn fails<const N: usize>(code: i32, args: [&str; N]) -> String {
    let output = casemate(args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    assert!(!said.trim().is_empty(), "{args:?} failed without a word");
    said
}

fn works<const N: usize>(args: [&str; N]) -> String {
    let output = casemate(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_model_is_added_listed_and_inspected() {
    let place = Place::new();
    let (store, model) = (place.path("store"), place.model());
    let (store, model) = (text(&store), text(&model));
    let declared = ["--input", "x:f32[-1,16]", "--output", "y:f32[-1,16]"];
    let [i, input, o, output] = declared;
    // The model of these tests calls torch.save: a server would not load it.
    let add = ["model", "add", "--store", store, "--name", "net", i, input, o, output, model];
    let refused = fails(1, add);
    assert!(refused.contains("gate refuses it") && refused.contains("--force"), "{refused}");
    assert!(!Path::new(store).join("net").exists());
    let said = works(["model", "add", "--force", "--store", store, "--name", "net", i, input, o, output, model]);
    assert!(said.contains("gate refuses it"), "{said}");
    assert!(said.contains("net/1") && said.contains("curl -s http://127.0.0.1:8080/v2/models/net/versions/1/infer"));
    let batch = ["--max-batch-size", "8"];
    let [b, eight] = batch;
    works(["model", "add", "--force", "--store", store, "--name", "net", i, input, o, output, b, eight, model]);

    let list: Value = serde_json::from_str(&works(["model", "list", "--store", store, "--json"])).unwrap();
    assert_eq!(list[1]["version"], "2");
    assert_eq!(list[0]["inputs"][0]["datatype"], "FP32");
    assert!(said.contains(list[0]["sha256"].as_str().unwrap()));
    let table = works(["model", "list", "--store", store]);
    assert!(table.contains("x:FP32[-1,16] -> y:FP32[-1,16]"), "{table}");

    let shown = works(["model", "inspect", model]);
    assert!(shown.contains("forward(x: Tensor) -> Tensor"), "{shown}");
    assert!(shown.contains("net/code/__torch__.py:4: torch.save(x, \"out\")"), "{shown}");
    assert!(!shown.contains('\x1b') && shown.contains("u{1b}[2Jevil"), "{shown}");
    let json = works(["model", "inspect", "--json", model]);
    assert!(!json.contains('\x1b'));
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["sha256"], list[0]["sha256"]);
    assert_eq!(json["operators"][0]["operator"], "save");
    assert_eq!(json["tensors"]["bytes"], 8);
    assert_eq!(json["gate"]["passes"], false);

    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/demo/store/digits/1/model.pt");
    let shown = works(["model", "inspect", demo]);
    assert!(shown.contains("gate      passes") && shown.contains("aten::linear"), "{shown}");
    let json: Value = serde_json::from_str(&works(["model", "inspect", "--json", demo])).unwrap();
    assert_eq!(json["gate"]["passes"], true);
}

#[test]
fn help_and_version_are_no_failures() {
    assert!(works(["--version"]).starts_with("casemate "));
    assert!(works(["--help"]).starts_with("Examples:"));
    assert!(works(["serve", "--help"]).contains("store = \"/srv/models\""));
    for help in ["demo", "model", "doctor", "sandbox"] {
        works([help, "--help"]);
    }
    assert!(works(["doctor", "--help"]).contains("The tiers:"));
    assert!(works(["sandbox", "prove", "--help"]).contains("casemate sandbox prove --act openat"));
    assert!(works(["sandbox", "explain", "--help"]).contains("casemate sandbox explain iris --config"));
}

#[test]
fn wrong_usage_is_2_and_says_what_is_right() {
    let place = Place::new();
    let (store, model) = (place.path("store"), place.model());
    let (store, model) = (text(&store), text(&model));
    let add = ["model", "add", "--store", store, "--name", "net"];
    let [a, b, c, d, e, f] = add;
    fails(2, []);
    fails(2, ["fly"]);
    fails(2, ["serve"]);
    fails(2, ["model", "list"]);
    fails(2, ["demo", "--port", "70000"]);
    fails(2, ["sandbox"]);
    // A model is one of a config's store.
    fails(2, ["sandbox", "explain", "iris"]);
    fails(2, ["sandbox", "prove", "iris"]);
    let said = fails(2, [a, b, c, d, e, f, model]);
    assert!(said.contains("--input 'x:f32[-1,16]'") && said.contains("forward(x: Tensor) -> Tensor"), "{said}");
    fails(2, [a, b, c, d, e, f, "--input", "x:f32[1]", model]);
    fails(2, [a, b, c, d, e, f, "--input", "x", "--output", "y:f32[1]", model]);
    fails(2, [a, b, c, d, e, "../up", "--input", "x:f32[1]", "--output", "y:f32[1]", model]);
    fails(2, [a, b, c, d, e, f, "--input", "x:f32[1]", "--output", "y:f32[1]", "--max-batch-size", "2", model]);
    fails(2, [a, b, c, d, e, f, "--input", "x:f32[1]", "--output", "y:f32[1]", "--max-batch-size", "0", model]);
    fails(2, [a, b, c, d, e, f, "--input", "x:f32[1]", "--output", "y:f32[1]", "--non-finite", "z", model]);
    assert!(!Path::new(store).exists(), "nothing may have been written");
}

#[test]
fn what_is_not_there_is_66() {
    let place = Place::new();
    let none = place.path("none");
    let none = text(&none);
    fails(66, ["model", "inspect", none]);
    fails(66, ["model", "inspect", text(place.folder.path())]);
    fails(66, ["model", "list", "--store", none]);
    fails(66, ["model", "add", "--store", none, "--name", "a", "--input", "x:f32[1]", "--output", "y:f32[1]", none]);
    fails(66, ["serve", "--config", none]);
    fails(66, ["doctor", "--config", none]);
}

#[test]
fn what_cannot_be_a_model_or_is_there_already_is_1() {
    let place = Place::new();
    let (store, model, junk) = (place.path("store"), place.model(), place.path("junk"));
    fs::write(&junk, "junk").unwrap();
    let add = |file: &Path| {
        ["model", "add", "--force", "--store", text(&store), "--name", "a", "--version", "1", "--input", "x:f32[1]"]
            .into_iter()
            .chain(["--output", "y:f32[1]", text(file)])
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let run =
        |file: &Path| Command::new(env!("CARGO_BIN_EXE_casemate")).args(add(file)).output().unwrap().status.code();
    fails(1, ["model", "inspect", text(&junk)]);
    assert_eq!(run(&junk), Some(1));
    assert_eq!(run(&model), Some(0));
    assert_eq!(run(&model), Some(1));
}

#[test]
fn a_wrong_config_is_78_and_no_launcher_69() {
    let place = Place::new();
    let (config, alone) = (place.path("casemate.toml"), place.path("casemate"));
    fs::write(&config, "store = \"/srv\"\n[listen]\ninference = \"0.0.0.0:80\"\n").unwrap();
    assert!(fails(78, ["serve", "--config", text(&config)]).contains("loopback"));
    fs::write(&config, "store = \"/srv\"\n").unwrap();
    // A copy that stands alone finds no launcher beside it.
    // By another process: a test beside this one may fork while a copy is being written here, and a program that anybody
    // has open for writing cannot be started.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_casemate")).arg(&alone).status();
    assert!(copied.unwrap().success());
    let asking = [["doctor"].as_slice(), &["sandbox", "explain"], &["sandbox", "prove"]];
    for args in [["serve", "--config", text(&config)].as_slice(), &["demo", "--once"]].into_iter().chain(asking) {
        let output = Command::new(&alone).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(69), "{args:?}");
    }
}

#[test]
fn the_manual_has_a_page_for_each_subcommand() {
    let place = Place::new();
    works(["man", text(place.folder.path())]);
    let pages = ["casemate.1", "casemate-serve.1", "casemate-demo.1", "casemate-model-add.1"];
    for page in pages.into_iter().chain(["casemate-doctor.1", "casemate-sandbox-explain.1", "casemate-sandbox-prove.1"])
    {
        assert!(fs::read_to_string(place.path(page)).unwrap().contains("casemate"), "{page}");
    }
}
