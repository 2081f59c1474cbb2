//! Each law with a violation planted.

use super::*;

const WARM_BASE: &str = "[[rule]]\ncall = \"brk\"\nwhy = \"heap\"\n";

fn policy(stage: &str, body: &str) -> Policy {
    Policy::parse(&format!("stage = \"{stage}\"\ndefault = \"kill-process\"\n{body}")).unwrap()
}

fn rule(call: &str, when: &str) -> String {
    format!("[[rule]]\ncall = \"{call}\"\nwhen = [{when}]\nwhy = \"a test\"\n")
}

/// What is wrong with a worker of these two stages.
fn laws(warm: &str, serve: &str) -> Vec<String> {
    match check(vec![policy("worker-warm", warm), policy("worker-serve", serve)]) {
        Ok(_) => Vec::new(),
        Err(broken) => broken.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn a_lawful_pair_passes() {
    assert_eq!(laws(WARM_BASE, WARM_BASE), Vec::<String>::new());
}

#[test]
fn no_worker_starts_a_program_or_reaches_another_process() {
    for call in [
        "execve",
        "execveat",
        "ptrace",
        "process_vm_readv",
        "process_vm_writev",
        "io_uring_enter",
        "bpf",
        "socket",
        "kill",
    ] {
        let said = laws(&rule(call, ""), "");
        assert_eq!(said, [format!("worker-warm: `{call}` is never for a worker")]);
    }
    let refused = "[[refuse]]\ncall = \"execve\"\nerrno = \"ENOSYS\"\nwhy = \"a test\"";
    assert_eq!(laws(refused, ""), ["worker-warm: `execve` is never for a worker"]);
}

#[test]
fn serving_opens_and_starts_nothing() {
    for call in ["openat", "clone", "clone3", "prctl", "ioctl", "recvmsg", "landlock_restrict_self"] {
        let said = laws(&rule(call, ""), &rule(call, ""));
        assert_eq!(said, [format!("worker-serve: `{call}` is never for a serving worker")]);
    }
}

#[test]
fn a_condition_beside_none_is_found() {
    let both = [rule("futex", ""), rule("futex", "{ arg = \"op\", equals = \"FUTEX_WAIT\" }")].concat();
    assert_eq!(laws(&both, ""), ["worker-warm: `futex` has a rule with conditions beside one without"]);
}

#[test]
fn a_rule_stands_once() {
    let twice = [rule("brk", ""), rule("brk", "")].concat();
    assert_eq!(laws(&twice, ""), ["worker-warm: `brk` has the same rule twice"]);
}

#[test]
fn allowed_and_refused_is_a_contradiction() {
    let both = [&rule("clone3", ""), "[[refuse]]\ncall = \"clone3\"\nerrno = \"ENOSYS\"\nwhy = \"a test\""].concat();
    assert_eq!(laws(&both, ""), ["worker-warm: `clone3` is allowed and refused"]);
}

#[test]
fn only_a_kill_is_a_default() {
    for default in ["kill-thread", "errno", "log"] {
        let soft = Policy::parse(&format!("stage = \"other\"\ndefault = \"{default}\"")).unwrap();
        let said = check(vec![soft]).unwrap_err()[0].to_string();
        assert_eq!(said, format!("other: the default must be kill-process, not {default}"));
    }
}

#[test]
fn no_worker_makes_code() {
    for call in ["mmap", "mprotect"] {
        assert_eq!(laws(&rule(call, ""), ""), [format!("worker-warm: `{call}` must lack PROT_EXEC in a worker")]);
        let other = rule(call, "{ arg = \"prot\", lacks = \"PROT_WRITE\" }");
        assert_eq!(laws(&other, ""), [format!("worker-warm: `{call}` must lack PROT_EXEC in a worker")]);
        assert_eq!(laws(&rule(call, "{ arg = \"prot\", equals = \"PROT_READ\" }"), ""), Vec::<String>::new());
    }
}

#[test]
fn only_a_stage_that_says_so_makes_code() {
    let exact = rule("mprotect", "{ arg = \"prot\", equals = \"PROT_READ|PROT_EXEC\" }");
    let code = |body: &str| {
        let base = [policy("worker-warm", WARM_BASE), policy("worker-serve", WARM_BASE)];
        let extend = |stage: &str| policy(&format!("{stage}-code"), &format!("extends = \"{stage}\"\n{body}"));
        match check([&base[..], &[extend("worker-warm"), extend("worker-serve")]].concat()) {
            Ok(checked) => {
                let serve = checked.policies().iter().find(|policy| policy.stage == "worker-serve-code").unwrap();
                assert_eq!((serve.rules.len(), serve.own().len(), serve.inherited), (2, 1, 1));
                Vec::new()
            }
            Err(broken) => broken.iter().map(ToString::to_string).collect(),
        }
    };
    assert_eq!(code(&exact), Vec::<String>::new());
    assert_eq!(laws(&exact, ""), ["worker-warm: `mprotect` must lack PROT_EXEC in a worker"]);
    for loose in [
        rule("mprotect", ""),
        rule("mprotect", "{ arg = \"prot\", has = \"PROT_EXEC\" }"),
        rule("mprotect", "{ arg = \"prot\", in = [\"PROT_READ|PROT_EXEC\", \"PROT_EXEC\"] }"),
        rule("mprotect", "{ arg = \"prot\", equals = \"PROT_READ|PROT_WRITE|PROT_EXEC\" }"),
        rule("mmap", "{ arg = \"prot\", equals = \"PROT_READ|PROT_WRITE|PROT_EXEC\" }"),
    ] {
        let said = code(&loose);
        assert_eq!(said.len(), 2, "{loose}: {said:?}");
        assert!(
            said[0].ends_with("may make code only as `mprotect` with one exact protection that lacks PROT_WRITE"),
            "{said:?}"
        );
    }
    let alone = policy("worker-serve-code", &format!("extends = \"worker-serve\"\n{exact}"));
    let said = check(vec![policy("worker-warm", ""), policy("worker-serve", ""), alone]).unwrap_err();
    let missing = |stage: &str| BrokenLaw::NoWiderStage { stage: stage.into(), missing: "worker-warm-code".into() };
    assert_eq!(said, [missing("worker-serve-code")]);
}

#[test]
fn what_is_extended_stands_by_itself() {
    let add = |stage: &str, base: &str| policy(stage, &format!("extends = \"{base}\"\n{WARM_BASE}"));
    let missing = |stage: &str, base: &str| BrokenLaw::NoBase { stage: stage.into(), missing: base.into() };
    assert_eq!(check(vec![add("a", "none")]).unwrap_err(), [missing("a", "none")]);
    assert_eq!(check(vec![policy("a", ""), add("b", "a"), add("c", "b")]).unwrap_err(), [missing("c", "b")]);
    assert_eq!(check(vec![add("a", "a")]).unwrap_err(), [missing("a", "a")]);
}

#[test]
fn serving_is_a_part_of_warming() {
    assert_eq!(laws("", WARM_BASE), ["worker-serve: `brk` (any arguments) is not allowed by worker-warm"]);
    assert!(check(vec![policy("worker-serve", "")]).is_err());

    let op = |test: &str| rule("futex", &format!("{{ arg = \"op\", {test} }}"));
    let narrower = [
        ("in = [0, 1, 9]", "in = [0, 9]"),
        ("in = [0, 1, 9]", "equals = 1"),
        ("at-most = 4", "at-most = 4"),
        ("at-most = 4", "in = [0, 4]"),
        ("lacks = 2", "lacks = 6"),
        ("lacks = 2", "equals = 5"),
        ("has = 2", "has = 3"),
        ("has = 2", "equals = 3"),
    ];
    for (warm, serve) in narrower {
        assert_eq!(laws(&op(warm), &op(serve)), Vec::<String>::new(), "{warm} ⊇ {serve}");
        assert_eq!(laws(&rule("futex", ""), &op(serve)), Vec::<String>::new(), "anything ⊇ {serve}");
    }
    let wider = [
        ("in = [0, 9]", "in = [0, 1, 9]"),
        ("at-most = 4", "at-most = 5"),
        ("lacks = 6", "lacks = 2"),
        ("has = 3", "has = 2"),
        ("lacks = 2", "has = 2"),
        ("equals = 1", "lacks = 2"),
    ];
    for (warm, serve) in wider {
        assert_eq!(laws(&op(warm), &op(serve)).len(), 1, "{warm} ⊉ {serve}");
        assert_eq!(laws(&op(warm), &rule("futex", "")).len(), 1, "{warm} ⊉ anything");
    }
    let split = [op("equals = 0"), op("equals = 1")].concat();
    assert_eq!(laws(&split, &op("in = [0, 1]")), Vec::<String>::new(), "alternatives of the wider stage add up");
}

/// What is wrong with one policy.
fn laws_of(stage: &str, body: &str) -> Vec<String> {
    let broken = check(vec![policy(stage, body)]).err().unwrap_or_default();
    broken.iter().map(ToString::to_string).collect()
}

#[test]
fn the_front_opens_starts_and_reaches_nothing() {
    for call in
        ["openat", "statx", "newfstatat", "execve", "clone", "clone3", "socket", "connect", "kill", "prctl", "bpf"]
    {
        assert_eq!(laws_of("front", &rule(call, "")), [format!("front: `{call}` is never for the front")]);
    }
    for call in ["mmap", "mprotect"] {
        assert_eq!(laws_of("front", &rule(call, "")), [format!("front: `{call}` must lack PROT_EXEC in the front")]);
    }
    assert_eq!(laws_of("front", &rule("accept4", "")), Vec::<String>::new(), "the control");
}

#[test]
fn the_launcher_reaches_no_network() {
    for call in [
        "socket",
        "bind",
        "connect",
        "listen",
        "io_uring_setup",
        "open_by_handle_at",
        "process_vm_writev",
        "init_module",
    ] {
        assert_eq!(laws_of("launcher", &rule(call, "")), [format!("launcher: `{call}` is never for the launcher")]);
    }
    let family = |test: &str| laws_of("launcher", &rule("socketpair", test));
    for other in ["", "{ arg = \"family\", equals = \"AF_INET\" }", "{ arg = \"family\", at-most = \"AF_UNIX\" }"] {
        assert_eq!(family(other), ["launcher: `socketpair` must ask for AF_UNIX"], "{other}");
    }
    assert_eq!(family("{ arg = \"family\", equals = \"AF_UNIX\" }"), Vec::<String>::new(), "the control");
    let joins = |test: &str| laws_of("launcher", &rule("setns", test));
    for other in ["", "{ arg = \"type\", equals = 0 }", "{ arg = \"type\", has = \"CLONE_NEWUSER\" }"] {
        assert_eq!(joins(other), ["launcher: `setns` must ask for CLONE_NEWUSER"], "{other}");
    }
    assert_eq!(joins("{ arg = \"type\", equals = \"CLONE_NEWUSER\" }"), Vec::<String>::new(), "the control");
}

#[test]
fn the_launcher_allows_what_its_children_allow() {
    let together = |launcher: &str, front: &str| -> Vec<String> {
        let broken = check(vec![policy("front", front), policy("launcher", launcher)]).err().unwrap_or_default();
        broken.iter().map(ToString::to_string).collect()
    };
    let op = |test: &str| rule("futex", &format!("{{ arg = \"op\", {test} }}"));
    let refusal = "[[refuse]]\ncall = \"getcpu\"\nerrno = \"ENOSYS\"\nwhy = \"a test\"\n";
    assert_eq!(together(WARM_BASE, WARM_BASE), Vec::<String>::new());
    assert_eq!(together(&op("in = [0, 1]"), &op("equals = 1")), Vec::<String>::new());
    assert_eq!(together(&rule("getcpu", ""), refusal), Vec::<String>::new());
    assert_eq!(together(refusal, refusal), Vec::<String>::new());
    assert_eq!(together("", WARM_BASE), ["front: `brk` (any arguments) is not allowed by launcher"]);
    assert_eq!(
        together(&op("equals = 1"), &op("in = [0, 1]")),
        ["front: `futex` (op in {0, 1}) is not allowed by launcher"]
    );
    assert_eq!(together("", refusal), ["front: `getcpu` is answered with an errno, and killed by launcher"]);
}

#[test]
fn a_worker_is_granted_no_path() {
    let worker = "role = \"worker\"\nwhy = \"a test\"\nfloor = 1\n[best-effort]\nfiles = 5\nnet = 4\nscopes = 6\n";
    let lawful = FilePolicy::parse(worker).unwrap();
    assert!(check_files(&[lawful]).is_ok());
    let granted = format!("{worker}[[grant]]\npath = \"/etc\"\naccess = \"read\"\nwhy = \"a test\"");
    let said = check_files(&[FilePolicy::parse(&granted).unwrap()]).unwrap_err()[0].to_string();
    assert_eq!(said, "worker: Landlock grants /etc; a worker has no path");
    let floorless = FilePolicy::parse(&worker.replace("floor = 1", "floor = 0")).unwrap();
    assert_eq!(check_files(&[floorless]).unwrap_err(), [BrokenLaw::NoFloor { role: "worker".into() }]);
}

#[test]
fn a_zygote_leaves_no_flag_to_chance() {
    let said = |body: &str| match check(vec![policy("worker-warm", WARM_BASE), policy("zygote", body)]) {
        Ok(_) => Vec::new(),
        Err(broken) => broken.iter().map(ToString::to_string).collect::<Vec<_>>(),
    };
    let birth = rule(
        "clone",
        "{ arg = \"flags\", equals = \"CLONE_PARENT|CLONE_CHILD_SETTID|CLONE_CHILD_CLEARTID|CLONE_NEWUSER|CLONE_NEWNS|CLONE_NEWPID|CLONE_NEWNET|CLONE_NEWIPC|CLONE_NEWUTS|CLONE_NEWCGROUP|SIGCHLD\" }",
    );
    let thread = rule("clone", "{ arg = \"flags\", has = \"CLONE_VM|CLONE_SIGHAND|CLONE_THREAD\" }");
    let mount = rule("mount", "{ arg = \"flags\", equals = \"MS_RDONLY|MS_NOSUID|MS_NODEV|MS_NOEXEC\" }");
    assert_eq!(said(&[birth, thread, mount].concat()), Vec::<String>::new());
    for (call, when) in [
        ("clone", ""),
        ("clone", "{ arg = \"flags\", has = \"CLONE_NEWUSER\" }"),
        ("clone", "{ arg = \"flags\", equals = \"SIGCHLD\" }"),
        ("mount", "{ arg = \"flags\", equals = \"MS_NOSUID\" }"),
        ("unshare", "{ arg = \"flags\", lacks = \"CLONE_NEWNET\" }"),
        ("mount", "{ arg = \"flags\", has = \"MS_RDONLY\" }"),
    ] {
        assert_eq!(said(&rule(call, when)), [format!("zygote: `{call}` must compare its flags whole")]);
    }
    for call in ["ptrace", "kill", "execve", "socket", "pidfd_open", "memfd_create", "sendmsg", "setgroups"] {
        assert_eq!(said(&rule(call, "")), [format!("zygote: `{call}` is never for a zygote")]);
    }
    // What only a birth needs is no worker's and no front's.
    for call in ["mount", "setresuid", "setsid"] {
        assert_eq!(laws(&rule(call, ""), ""), [format!("worker-warm: `{call}` is never for a worker")]);
    }
}
