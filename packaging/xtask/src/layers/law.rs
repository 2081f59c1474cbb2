//! The laws, as data, each with its reason.

/// What one of our crates may depend on among ours. Dev-dependencies do not count: a test may reach anywhere.
#[derive(Debug)]
pub(super) struct CrateLaw {
    pub(super) name: &'static str,
    pub(super) may: Ours,
    pub(super) may_build: &'static [&'static str],
    pub(super) why: &'static str,
}

#[derive(Debug)]
pub(super) enum Ours {
    Only(&'static [&'static str]),
    All,
}

/// Who may name an outside crate in a manifest.
#[derive(Debug)]
pub(super) struct OutsideLaw {
    pub(super) outside: &'static [&'static str],
    pub(super) reach: Reach,
    pub(super) why: &'static str,
}

#[derive(Debug)]
pub(super) enum Reach {
    Only(&'static [&'static str]),
    Never(&'static [&'static str]),
}

/// What may not stand in the files of a place.
#[derive(Debug)]
pub(super) struct PlaceLaw {
    /// `dir/` is all below it; anything else is that module: the path with `.rs`, or the folder of that name. Empty is
    /// every file.
    pub(super) place: &'static str,
    pub(super) except: &'static [&'static str],
    pub(super) bans: &'static [Ban],
    pub(super) why: &'static str,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Ban {
    /// A path that begins so. Ours begin with `crate`.
    Under(&'static [&'static str]),
    /// A path with these segments anywhere in a row.
    Holds(&'static [&'static str]),
    /// A keyword.
    Word(&'static str),
    /// A method by name, whatever it is called on.
    Method(&'static str),
    /// A module beside one's own below this one, but for the shared ones.
    Sibling { of: &'static [&'static str], shared: &'static [&'static str] },
}

/// A file that may hold unsafe code.
#[derive(Debug)]
pub(super) struct UnsafeFile {
    /// As `PlaceLaw::place`.
    pub(super) place: &'static str,
    pub(super) why: &'static str,
}

pub(super) const CRATES: &[CrateLaw] = &[
    ours("casemate-ipc", &[], "the contract must outlive every engine and every protocol, and the launcher links it"),
    ours("casemate-manifest", &["casemate-ipc"], "what a model declares is part of the contract"),
    ours("casemate-policy-compiler", &[], "build-time only"),
    CrateLaw {
        name: "casemate-lockdown",
        may: Ours::Only(&[]),
        may_build: &["casemate-policy-compiler"],
        why: "the cage does not depend on what is in it",
    },
    ours("casemate-config", &["casemate-ipc"], "what the operator wrote needs names and limits, not processes"),
    ours(
        "casemate-launcher",
        &["casemate-config", "casemate-ipc", "casemate-lockdown"],
        "privileged code knows the contract, the cage and the operator's word, and neither the front nor a worker",
    ),
    ours(
        "casemate-front",
        &["casemate-config", "casemate-ipc", "casemate-lockdown"],
        "the process with clients reaches workers through the contract alone",
    ),
    ours("casemate-load", &[], "it sends bytes and takes times, the same to whatever server answers"),
    ours(
        "casemate-cli",
        &["casemate-config", "casemate-gate", "casemate-ipc", "casemate-load", "casemate-manifest"],
        "the command starts the other programs, it does not contain them",
    ),
    ours("casemate-gate", &["casemate-ipc"], "it judges bytes, wherever they are: no engine, no cage, no files"),
    ours(
        "casemate-worker",
        &["casemate-gate", "casemate-ipc", "casemate-lockdown", "casemate-manifest"],
        "a worker knows its grant, not the house",
    ),
    CrateLaw { name: "casemate-tests", may: Ours::All, may_build: &[], why: "tests reach the inside" },
    CrateLaw { name: "casemate-fuzz", may: Ours::All, may_build: &[], why: "every decoder is reached from its inside" },
    CrateLaw { name: "casemate-benches", may: Ours::All, may_build: &[], why: "benches reach the inside" },
    ours("casemate-xtask", &["casemate-policy-compiler"], "project tasks are built before anything else is"),
];

pub(super) const OUTSIDE: &[OutsideLaw] = &[
    OutsideLaw {
        outside: &["tch", "torch-sys"],
        reach: Reach::Only(&["casemate-worker"]),
        why: "the largest and least trusted C++ stays out of the process with clients",
    },
    OutsideLaw {
        outside: &["axum"],
        reach: Reach::Only(&["casemate-front", "casemate-benches"]),
        why: "HTTP is spoken in one process, and by the echo that it is measured against",
    },
    OutsideLaw {
        outside: &["tokio"],
        reach: Reach::Only(&["casemate-front", "casemate-tests", "casemate-benches"]),
        why: "privileged code stays single-threaded and blocking, and a worker has no reactor thread before its lock",
    },
    OutsideLaw {
        outside: &["tracing"],
        reach: Reach::Never(&["casemate-ipc", "casemate-manifest", "casemate-lockdown", "casemate-launcher"]),
        why: "the contract and the cage log nothing: their callers know what matters",
    },
    OutsideLaw {
        outside: &["tracing-subscriber"],
        reach: Reach::Only(&["casemate-front", "casemate-tests", "casemate-benches"]),
        why: "privileged code stays short; a worker's lines go out as bytes",
    },
];

pub(super) const PLACES: &[PlaceLaw] = &[
    PlaceLaw {
        place: "",
        except: &["worker/src/engine/torchscript", "worker/src/engine/shim/libtorch", "worker/tests/mapped"],
        bans: &[Ban::Under(&["tch"]), Ban::Under(&["torch_sys"])],
        why: "one corner of the engine knows libtorch: one corner to audit, one to replace",
    },
    PlaceLaw {
        place: "supervisor/front/src/admit/",
        except: &[],
        bans: &[
            Ban::Under(&["axum"]),
            Ban::Under(&["http"]),
            Ban::Under(&["http_body_util"]),
            Ban::Under(&["hyper"]),
            Ban::Under(&["hyper_util"]),
            Ban::Under(&["tower"]),
        ],
        why: "refusals are decided without HTTP",
    },
    PlaceLaw {
        place: "supervisor/front/src/protocol/",
        except: &[],
        bans: &[
            Ban::Under(&["crate", "batch"]),
            Ban::Under(&["crate", "fleet"]),
            Ban::Sibling { of: &["crate", "protocol"], shared: &["answer", "intake", "numbers", "pieces", "slate"] },
        ],
        why: "a protocol sees the pipeline and the vocabulary: not batch, not fleet, not another protocol",
    },
    PlaceLaw {
        place: "",
        except: &["worker/src/engine/mod", "worker/tests/uncaged", "benches/src/bin/floor"],
        bans: &[Ban::Holds(&["load_unjudged"]), Ban::Word("load_unjudged")],
        why: "a worker loads what the gate let through: only the control of the hostile models and a bench go round it",
    },
    PlaceLaw {
        place: "",
        except: &[
            "worker/src/engine/torchscript",
            "worker/tests/operators",
            "worker/tests/confused",
            "worker/tests/mapped",
        ],
        bans: &[Ban::Holds(&["Module", "load"]), Ban::Holds(&["Module", "load_in"])],
        why: "libtorch reads an archive in one place, behind the gate; three tests compare it with the gate, and with itself",
    },
    PlaceLaw { except: &["supervisor/front/src/fleet/breaker/tests"], ..pure("supervisor/front/src/fleet/breaker") },
    pure("supervisor/front/src/fleet/cage"),
    pure("supervisor/front/src/fleet/lifecycle"),
    PlaceLaw { except: &["supervisor/front/src/batch/plan/tests"], ..pure("supervisor/front/src/batch/plan") },
    pure("worker/gate/src/"),
    pure("ipc/src/frame"),
    pure("ipc/src/tensor"),
];

/// Types such as `Instant` may come in as arguments; asking for the time may not.
const IMPURE: &[Ban] = &[
    Ban::Holds(&["Instant", "now"]),
    Ban::Holds(&["SystemTime"]),
    Ban::Method("elapsed"),
    Ban::Word("async"),
    Ban::Word("await"),
    Ban::Under(&["tokio"]),
    Ban::Under(&["nix"]),
    Ban::Under(&["libc"]),
    Ban::Under(&["std", "env"]),
    Ban::Under(&["std", "fs"]),
    Ban::Under(&["std", "net"]),
    Ban::Under(&["std", "os"]),
    Ban::Under(&["std", "process"]),
    Ban::Under(&["std", "thread"]),
];

pub(super) const UNSAFE: &[UnsafeFile] = &[
    UnsafeFile { place: "ipc/src/shm/map", why: "mmap, and copies from memory that another process may be changing" },
    UnsafeFile { place: "ipc/src/inherited", why: "descriptors that come as plain numbers, at birth or in a message" },
    UnsafeFile { place: "supervisor/front/src/fleet/registered", why: "tokio asks for a promise about descriptors" },
    UnsafeFile { place: "supervisor/front/src/heap", why: "libc gives free pages back only when it is told to" },
    UnsafeFile { place: "supervisor/launcher/src/sys", why: "clone3, exec and ptrace have no safe form" },
    UnsafeFile { place: "worker/src/engine/shim", why: "the door to our C++ over libtorch" },
    UnsafeFile { place: "policies/lockdown/src/prctl", why: "system calls that no crate wraps" },
    UnsafeFile { place: "policies/lockdown/src/signals", why: "resetting signal handlers" },
    UnsafeFile {
        place: "worker/tests/cell",
        why: "a test puts a worker's descriptors in their places before it is born",
    },
    UnsafeFile {
        place: "worker/tests/uncaged",
        why: "a hostile model without a cage gets a process of its own, forked from a warm one",
    },
    UnsafeFile { place: "worker/tests/tracer", why: "what the kernel tells a tracer is a union" },
    UnsafeFile { place: "policies/lockdown/tests/", why: "a child makes the calls that its filter must refuse" },
    UnsafeFile { place: "tests/", why: "an adversary makes the system calls that a cage must refuse" },
];

const fn ours(name: &'static str, may: &'static [&'static str], why: &'static str) -> CrateLaw {
    CrateLaw { name, may: Ours::Only(may), may_build: &[], why }
}

const fn pure(place: &'static str) -> PlaceLaw {
    PlaceLaw { place, except: &[], bans: IMPURE, why: "pure: time and events come in as arguments, no I/O goes out" }
}
