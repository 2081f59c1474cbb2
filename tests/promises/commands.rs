//! SECURITY.md, "Asked and answered by commands": `casemate doctor` says what `casemate serve` then does, on hosts that lack
//! things too; `sandbox explain` says what is compiled in; `sandbox prove` holds, and fails when it should.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "test code: what cannot be is a failure"
)]

#[path = "commands/host.rs"]
mod host;
#[path = "commands/served.rs"]
mod served;

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::Path;
use std::process::Output;

use casemate_lockdown::policy;
use casemate_tests::casemate::{ORDINARY, ORDINARY_WAIVERS, Setup, is_root};
use serde_json::Value;

use host::Host;
use served::serve;

/// `casemate WORDS`, as whoever the setup is for.
fn casemate(host: Host, user: bool, words: &[&str]) -> Output {
    let user = (user && is_root()).then_some(ORDINARY);
    host.command(user).args(words).output().expect("casemate runs")
}

fn json(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}\n{}", String::from_utf8_lossy(&output.stderr)))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of this test")
}

/// A model whose worker does nothing but start, given up at its first failure.
fn setup(user: bool, waived: &[&'static str]) -> Setup {
    let setup = Setup::new().echo("e", "").limit("start_attempts", 1);
    let setup = if user { setup.as_user() } else { setup };
    setup.waive(waived)
}

/// What doctor says is what serving then does; its answer.
fn true_on(host: Host, user: bool, waived: &[&'static str], tier: &str, serves: bool) -> Value {
    let case = format!("{host:?}, user {user}, waived {waived:?}");
    let setup = setup(user, waived);
    let config = setup.write_config();
    let output = casemate(host, user, &["doctor", "--json", "--config", text(&config)]);
    let said = json(&output);
    let brief = format!("{case}: {} {} {} {}", said["tier"], said["refusal"], said["lacks"], said["trial"]["fault"]);
    println!("{brief}");
    let served = serve(host.command((user && is_root()).then_some(ORDINARY)), &config);
    assert_eq!(output.status.code(), Some(if served.ready { 0 } else { 1 }), "{brief}\n{}", served.log);
    assert_eq!(said["met"], served.ready, "{brief}\n{}", served.log);
    assert_eq!(served.ready, serves, "{brief}\n{}", served.log);
    assert_eq!(said["tier"], tier, "{brief}");
    // Whether it starts at all, in the words of the start itself.
    if let Some(refusal) = said["refusal"].as_str() {
        assert!(!served.listened, "{brief}\n{}", served.log);
        assert!(served.log.replace("\\\"", "\"").contains(refusal), "{brief}\n{}", served.log);
        let first = said["findings"].as_array().unwrap().iter().filter(|found| found["state"] == "bad");
        assert!(first.count() > 0 || !said["lacks"].as_array().unwrap().is_empty(), "{said:#}");
    }
    for lack in said["lacks"].as_array().unwrap() {
        assert!(!lack["raise"].as_str().unwrap().is_empty() && !lack["why"].as_str().unwrap().is_empty(), "{lack}");
    }
    said
}

#[test]
fn doctor_is_true_on_this_machine() {
    if is_root() {
        let said = true_on(Host::Plain, false, &[], "full", true);
        assert_eq!(said["lacks"], serde_json::json!([]));
        assert!(said["engine"]["engine"].as_str().unwrap().contains("libtorch"), "{}", said["engine"]);
    }
    true_on(Host::Plain, true, &ORDINARY_WAIVERS, "user", true);
    let said = true_on(Host::Plain, true, &[], "user", false);
    let own = said["lacks"].as_array().unwrap().iter().find(|lack| lack["layer"] == "own-identity").unwrap();
    assert!(own["raise"].as_str().unwrap().starts_with("sudo casemate serve --config /"), "{said:#}");
}

#[test]
fn doctor_is_true_where_namespaces_cannot_be_made() {
    if !is_root() {
        println!("only root can make such a host");
        return;
    }
    for (user, waived) in [(false, &["namespaces"][..]), (true, &["namespaces", "own-identity", "cgroup"])] {
        let said = true_on(Host::NoNamespaces, user, &waived[1..], "reduced", false);
        let lack = said["lacks"].as_array().unwrap().iter().find(|lack| lack["layer"] == "namespaces").unwrap();
        assert_eq!(lack["raise"], "sudo sysctl -w user.max_user_namespaces=15000");
        true_on(Host::NoNamespaces, user, waived, "reduced", true);
    }
}

#[test]
fn doctor_is_true_in_containers() {
    // Root of a user namespace alone, as `unshare -r` makes it: it may not even drop its groups.
    let said = true_on(Host::Container, false, &ORDINARY_WAIVERS, "refused", false);
    assert!(said["refusal"].as_str().unwrap().contains("setgroups"), "{said:#}");
    // As the filters of container engines have it: a flag behind a pointer cannot be looked at, so no clone3 at all.
    true_on(
        Host::Without(libc::SYS_clone3, libc::ENOSYS),
        true,
        &["namespaces", "own-identity", "cgroup"],
        "refused",
        false,
    );
    true_on(Host::Without(libc::SYS_mount, libc::EPERM), true, &ORDINARY_WAIVERS, "reduced", false);
    true_on(
        Host::Without(libc::SYS_mount, libc::EPERM),
        true,
        &["namespaces", "own-identity", "cgroup"],
        "reduced",
        true,
    );
}

#[test]
fn doctor_is_true_without_landlock_and_without_filters() {
    let landlock = Host::Without(libc::SYS_landlock_create_ruleset, libc::ENOSYS);
    let said = true_on(landlock, true, &ORDINARY_WAIVERS, "reduced", false);
    assert!(said["lacks"].as_array().unwrap().iter().any(|lack| lack["layer"] == "landlock"), "{said:#}");
    true_on(landlock, true, &["own-identity", "cgroup", "landlock"], "reduced", true);
    // No waiver is for this: the server may start, and every worker ends before it has read a byte of its model.
    let said = true_on(Host::Without(libc::SYS_seccomp, libc::ENOSYS), true, &ORDINARY_WAIVERS, "refused", false);
    assert_eq!(said["met"], false);
}

/// Asked while the server runs, it answers as before, and says that the port is taken.
#[test]
fn doctor_is_true_beside_the_server_itself() {
    let setup = setup(true, &ORDINARY_WAIVERS);
    let config = setup.write_config();
    let doctor = || casemate(Host::Plain, true, &["doctor", "--json", "--config", text(&config)]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let free = std::fs::read_to_string(&config).unwrap();
    let line = free.lines().find(|line| line.trim_start().starts_with("inference")).unwrap();
    std::fs::write(&config, free.replace(line, &format!("inference = \"{address}\""))).unwrap();
    let heard =
        |said: &Value| said["findings"].as_array().unwrap().iter().find(|found| found["group"] == "port").cloned();
    let output = doctor();
    let said = json(&output);
    assert_eq!(
        (output.status.code(), &said["met"], &said["starts"]),
        (Some(0), &true.into(), &true.into()),
        "{said:#}"
    );
    assert_eq!((&said["taken"], &said["tier"]), (&address.as_str().into(), &"user".into()), "{said:#}");
    let found = heard(&said).unwrap();
    assert!(found["value"].as_str().unwrap().contains(&address) && found["state"] == "weak", "{found}");
    let plain = casemate(Host::Plain, true, &["doctor", "--config", text(&config)]);
    let plain = String::from_utf8_lossy(&plain.stdout).into_owned();
    assert!(plain.contains(&format!("once {address} is free")), "{plain}");
    // The control: an address that nothing can be bound to is a refusal, and a free one is no finding.
    std::fs::write(&config, &free).unwrap();
    let said = json(&doctor());
    assert_eq!((heard(&said), &said["taken"]), (None, &Value::Null), "{said:#}");
    drop(listener);
}

#[test]
fn doctor_names_every_bad_permission() {
    use std::os::unix::fs::PermissionsExt;
    let setup = setup(true, &ORDINARY_WAIVERS);
    let config = setup.write_config();
    let bad = [config.clone(), setup.store().join("e/1/model.pt"), setup.store().join("e")];
    for path in &bad {
        let mode = std::fs::metadata(path).unwrap().permissions().mode();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode | 0o002)).unwrap();
    }
    let output = casemate(Host::Plain, true, &["doctor", "--json", "--config", text(&config)]);
    assert_eq!(output.status.code(), Some(1));
    let said = json(&output);
    let found = said["findings"].to_string();
    for path in &bad[..1] {
        assert!(found.contains(&format!("chmod go-w {}", path.display())), "{found}");
    }
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o644)).unwrap();
    let output = casemate(Host::Plain, true, &["doctor", "--json", "--config", text(&config)]);
    let found = json(&output)["findings"].to_string();
    for path in &bad[1..] {
        assert!(found.contains(&format!("chmod go-w {}", path.display())), "{found}");
    }
}

#[test]
fn explain_says_what_is_compiled_in() {
    let setup = setup(true, &ORDINARY_WAIVERS).config("[models.e]\nthreads = 3\nmemory_mib = 256");
    let config = setup.write_config();
    stages_are_those_compiled_in(&config, "");
    let trusted = Setup::new().as_user().echo("e", "").config("[models.e]\nrun_time_code = \"allowed\"");
    stages_are_those_compiled_in(&trusted.write_config(), "-code");
    let output = casemate(Host::Plain, true, &["sandbox", "explain", "e", "--json", "--config", text(&config)]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = json(&output);
    assert_eq!((&said["model"], &said["threads"]), (&"e".into(), &3.into()));
    assert_eq!(said["memory_bytes"], 256 << 20);
    let data = said["limits"].as_array().unwrap().iter().find(|limit| limit["name"] == "Max data size").unwrap();
    assert_eq!(data["most"], 256 << 20);
    let plain = casemate(Host::Plain, true, &["sandbox", "explain"]);
    let plain = String::from_utf8_lossy(&plain.stdout).into_owned();
    for rule in policy::filter("worker-serve").unwrap().rules {
        assert!(plain.contains(rule.why), "{}: {plain}", rule.call);
    }
    let none = casemate(Host::Plain, true, &["sandbox", "explain", "none", "--config", text(&config)]);
    assert_eq!(none.status.code(), Some(66), "{none:?}");
}

/// Both stages of a worker of that kind, rule by rule.
fn stages_are_those_compiled_in(config: &Path, kind: &str) {
    let said = json(&casemate(Host::Plain, true, &["sandbox", "explain", "e", "--json", "--config", text(config)]));
    assert_eq!(said["stages"].as_array().unwrap().len(), 2, "{said:#}");
    let mut told = 0;
    for name in ["worker-warm", "worker-serve"] {
        let filter = policy::filter(&format!("{name}{kind}")).unwrap();
        let stage = said["stages"].as_array().unwrap().iter().find(|stage| stage["stage"] == filter.stage).unwrap();
        let rules: Vec<_> = stage["rules"]
            .as_array()
            .unwrap()
            .iter()
            .map(|rule| {
                let word = |key: &str| rule[key].as_str().unwrap().to_owned();
                (word("call"), rule["number"].as_u64().unwrap(), word("when"), word("why"))
            })
            .collect();
        let compiled: Vec<_> = filter
            .rules
            .iter()
            .map(|rule| (rule.call.to_owned(), u64::from(rule.number), rule.condition(), rule.why.to_owned()))
            .collect();
        assert_eq!(rules, compiled, "{}", filter.stage);
        assert_eq!(stage["default"], filter.default);
        told += rules.len();
    }
    assert!(told > 20, "{told} rules");
}

#[test]
fn explain_tells_of_the_zygote_where_there_is_one() {
    let setup = Setup::new().as_user().echo("e", "").echo("own", "");
    let config = setup.config("[models.e]\nspawn = \"zygote\"\ntenant = \"shop\"\n[models.own]\nspawn = \"exec\"");
    let config = config.write_config();
    let explain = |model: &str, more: &[&str]| {
        let words = [&["sandbox", "explain", model, "--config", text(&config)], more].concat();
        casemate(Host::Plain, true, &words)
    };
    let said = json(&explain("e", &["--json"]));
    let (zygote, filter) = (&said["zygote"], policy::filter("zygote").unwrap());
    assert_eq!(
        (&said["spawn"], &zygote["tenant"], &zygote["shared"]),
        (&"zygote".into(), &"shop".into(), &true.into())
    );
    assert_eq!(zygote["capabilities"], serde_json::json!(["CAP_SYS_ADMIN"]));
    let told: Vec<[&str; 3]> = zygote["stage"]["rules"]
        .as_array()
        .unwrap()
        .iter()
        .map(|rule| ["call", "when", "why"].map(|key| rule[key].as_str().unwrap()))
        .collect();
    let conditions: Vec<String> = filter.rules.iter().map(policy::Rule::condition).collect();
    let compiled: Vec<[&str; 3]> =
        filter.rules.iter().zip(&conditions).map(|(rule, when)| [rule.call, when.as_str(), rule.why]).collect();
    assert_eq!(told, compiled);
    // What it has not, of a worker's layers.
    let lacks: Vec<&str> = zygote["layers"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|layer| layer["has"] == false)
        .map(|layer| layer["layer"].as_str().unwrap())
        .collect();
    assert_eq!(lacks, ["namespaces", "no-nested-namespaces", "empty-root", "no-capabilities", "landlock"]);
    for never in zygote["never"].as_array().unwrap() {
        for call in never["calls"].as_array().unwrap() {
            assert!(filter.rules.iter().all(|rule| rule.call != call.as_str().unwrap()), "{never}");
        }
    }
    let plain = explain("e", &[]);
    let plain = String::from_utf8_lossy(&plain.stdout).into_owned();
    let whys = filter.rules.iter().map(|rule| rule.why);
    for words in ["The zygote of shop", "CAP_SYS_ADMIN", "one empty folder"].into_iter().chain(whys) {
        assert!(plain.contains(words), "{words}: {plain}");
    }
    // The control: one that is started afresh has none, in both forms.
    let said = json(&explain("own", &["--json"]));
    assert_eq!((&said["spawn"], &said["zygote"]), (&"exec".into(), &Value::Null));
    assert!(!String::from_utf8_lossy(&explain("own", &[]).stdout).contains("zygote"));
}

/// One act for each mechanism; all of them together are in `native_probes.rs` and in the command itself.
const ACTS: [&str; 9] = [
    "openat",
    "mmap-exec",
    "int80-getpid",
    "write-requests",
    "unprotect-requests",
    "write-model",
    "map-beyond-limit",
    "deep-stack",
    "spin",
];

fn prove(user: bool, acts: &[&str], more: &[&str]) -> (Option<i32>, Value) {
    let words = ["sandbox", "prove", "--json"].into_iter().chain(acts.iter().flat_map(|act| ["--act", act]));
    let words: Vec<&str> = words.chain(more.iter().copied()).collect();
    let output = casemate(Host::Plain, user, &words);
    (output.status.code(), json(&output))
}

#[test]
fn prove_holds_as_root_and_as_an_ordinary_user() {
    let acts: Vec<&str> =
        ACTS.into_iter().filter(|act| cfg!(target_arch = "x86_64") || *act != "int80-getpid").collect();
    let users = if is_root() { &[false, true][..] } else { &[true] };
    for user in users {
        let (code, said) = prove(*user, &acts, &[]);
        assert_eq!(code, Some(0), "{said:#}");
        assert_eq!((&said["held"], &said["not_held"]), (&acts.len().into(), &0.into()), "{said:#}");
        let waived: BTreeSet<&str> = said["waived"].as_array().unwrap().iter().map(|w| w.as_str().unwrap()).collect();
        assert_eq!(waived.contains("own-identity"), *user, "{said:#}");
        for act in said["acts"].as_array().unwrap() {
            assert_eq!((&act["outcome"], &act["control"]), (&"held".into(), &"succeeded".into()), "{act}");
        }
    }
}

#[test]
fn prove_takes_a_model_s_own_limits() {
    let setup = setup(true, &ORDINARY_WAIVERS).config("[models.e]\nmemory_mib = 256");
    let config = setup.write_config();
    let (code, said) = prove(true, &["map-beyond-limit"], &["e", "--config", text(&config)]);
    assert_eq!(code, Some(0), "{said:#}");
    assert_eq!(said["model"], "e");
    let words = ["sandbox", "prove", "none", "--config", text(&config)];
    assert_eq!(casemate(Host::Plain, true, &words).status.code(), Some(66));
}

#[test]
fn prove_fails_when_it_should() {
    let (code, said) = prove(true, &["openat", "allowed-sched-yield"], &[]);
    assert_eq!((code, &said["held"], &said["not_held"]), (Some(1), &1.into(), &1.into()), "{said:#}");
    let (code, said) = prove(true, &["control-vanishes"], &[]);
    assert_eq!((code, &said["unproven"]), (Some(1), &1.into()), "{said:#}");
    // Refused, but not the call that it is about.
    let (code, said) = prove(true, &["stopped-elsewhere"], &[]);
    assert_eq!((code, &said["unproven"]), (Some(1), &1.into()), "{said:#}");
    let caged = said["acts"][0]["caged"].as_str().unwrap();
    assert!(caged.contains("getppid") && caged.contains(&libc::SYS_getpid.to_string()), "{caged}");
    let unknown = casemate(Host::Plain, true, &["sandbox", "prove", "--act", "fly"]);
    assert_eq!(unknown.status.code(), Some(2), "{unknown:?}");
}
