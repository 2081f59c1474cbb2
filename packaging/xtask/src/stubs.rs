//! Stand-ins for the CUDA libraries that `libtorch_cpu.so` is linked against and never calls without a device.
//!
//! The wheel on PyPI is a CUDA build. Its CPU library imports a few dozen functions of CUDA's runtime and profiler for
//! the profiler alone; the real ones are a further download, under another licence, of code that a cage has no use for.
//! Ours answer "this is a stub". `libtorch.so` is an empty library: the wheel's own asks for 470 MB of CUDA kernels, and
//! all that torch-sys wants of it is that `-ltorch` finds something.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use crate::program::{self, ProgramError};

/// A library of our own under another's name.
#[derive(Debug)]
struct Stub {
    /// File name and SONAME; where it has functions, the name of their version node too, as in CUDA's own libraries.
    name: &'static str,
    /// `cudaErrorStubLibrary` or `CUPTI_ERROR_NOT_SUPPORTED`.
    code: u8,
    /// Functions that only return the code.
    refusing: &'static [&'static str],
    /// Functions whose answer is a text, which a caller may print without asking whether it is there.
    spoken: &'static str,
}

/// Why the stubs could not be made, or would not do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StubError {
    #[error("cannot write the source of {name}")]
    Source {
        name: &'static str,
        #[source]
        cause: std::io::Error,
    },
    #[error("cannot compile {name}")]
    Compile {
        name: &'static str,
        #[source]
        cause: ProgramError,
    },
    #[error("cannot read what libtorch_cpu.so imports")]
    Imports(#[source] ProgramError),
    #[error("libtorch_cpu.so imports what no stub has: {0}")]
    Uncovered(String),
}

/// All that 2.11.0 and 2.13.0 import, by `nm -D --undefined-only libtorch_cpu.so`.
const STUBS: [Stub; 3] = [
    Stub {
        name: "libcudart.so.13",
        code: 34,
        refusing: &[
            "cudaDeviceSynchronize",
            "cudaDriverGetVersion",
            "cudaGetDeviceCount",
            "cudaGetDeviceProperties",
            "cudaRuntimeGetVersion",
        ],
        spoken: "const char *cudaGetErrorString(int code) { (void)code; return \"CUDA is a stub here\"; }\n",
    },
    Stub {
        name: "libcupti.so.13",
        code: 27,
        refusing: &[
            "cuptiActivityDisable",
            "cuptiActivityEnable",
            "cuptiActivityEnableCudaEventDeviceTimestamps",
            "cuptiActivityEnableDriverApi",
            "cuptiActivityEnableRuntimeApi",
            "cuptiActivityFlushAll",
            "cuptiActivityGetNextRecord",
            "cuptiActivityGetNumDroppedRecords",
            "cuptiActivityPopExternalCorrelationId",
            "cuptiActivityPushExternalCorrelationId",
            "cuptiActivityRegisterCallbacks",
            "cuptiActivityRegisterTimestampCallback",
            "cuptiActivitySetAttribute",
            "cuptiEnableCallback",
            "cuptiEnableDomain",
            "cuptiFinalize",
            "cuptiGetVersion",
            "cuptiSubscribe",
            "cuptiUnsubscribe",
        ],
        spoken: "\
int cuptiGetResultString(int code, const char **text) { (void)code; *text = \"CUPTI is a stub here\"; return 0; }
int cuptiGetCallbackName(int domain, unsigned id, const char **text) {
    (void)domain; (void)id; *text = \"none\"; return 27;
}
",
    },
    Stub { name: "libtorch.so", code: 0, refusing: &[], spoken: "" },
];

/// The text that decides whether stubs made earlier are still the ones we would make.
pub(crate) fn recipe() -> String {
    let mut recipe = FLAGS.join(" ");
    for stub in &STUBS {
        recipe += &stub.source();
        recipe += &stub.versions();
    }
    recipe
}

/// Compiles the stubs into `lib`, then holds them against what the library there really imports.
pub(crate) fn make(lib: &Path) -> Result<(), StubError> {
    for stub in &STUBS {
        stub.compile(lib)?;
    }
    let mut nm = Command::new("nm");
    let imports = program::output(nm.args(["-D", "--undefined-only"]).arg(lib.join("libtorch_cpu.so")));
    let uncovered = uncovered(&imports.map_err(StubError::Imports)?);
    if uncovered.is_empty() { Ok(()) } else { Err(StubError::Uncovered(uncovered.join(", "))) }
}

/// No C library: the stubs stand alone, so nothing else comes into the worker with them.
const FLAGS: [&str; 7] =
    ["-shared", "-fPIC", "-O2", "-nostdlib", "-Wl,--hash-style=gnu", "-Wl,-z,relro,-z,now", "-Wl,-z,noexecstack"];

impl Stub {
    fn source(&self) -> String {
        let mut source = String::from(self.spoken);
        for function in self.refusing {
            // Whatever the arguments are, the caller owns them; out-parameters stay as they were.
            let _ = writeln!(source, "int {function}(void) {{ return {}; }}", self.code);
        }
        source
    }

    fn versions(&self) -> String {
        if self.refusing.is_empty() {
            "{ };\n".into()
        } else {
            format!("{} {{ global: cu*; local: *; }};\n", self.name)
        }
    }

    fn defines(&self, function: &str) -> bool {
        self.refusing.contains(&function) || self.spoken.contains(&format!("{function}("))
    }

    fn compile(&self, lib: &Path) -> Result<(), StubError> {
        let (source, versions) = (lib.join(format!("{}.c", self.name)), lib.join(format!("{}.map", self.name)));
        let failed = |cause| StubError::Source { name: self.name, cause };
        std::fs::write(&source, self.source()).map_err(failed)?;
        std::fs::write(&versions, self.versions()).map_err(failed)?;
        let mut script = std::ffi::OsString::from("-Wl,--version-script=");
        script.push(&versions);
        let mut cc = Command::new("cc");
        cc.args(FLAGS).arg(format!("-Wl,-soname,{}", self.name)).arg(script);
        cc.arg(&source).arg("-o").arg(lib.join(self.name));
        program::run(&mut cc).map_err(|cause| StubError::Compile { name: self.name, cause })?;
        std::fs::remove_file(&source).and_then(|()| std::fs::remove_file(&versions)).map_err(failed)
    }
}

/// `nm` prints `U cudaGetDeviceCount@libcudart.so.13`; what comes from `libcu…` must be one of ours.
fn uncovered(imports: &str) -> Vec<String> {
    let words = imports.lines().filter_map(|line| line.split_whitespace().last());
    let foreign = words.filter_map(|word| word.split_once('@')).filter(|(_, library)| library.starts_with("libcu"));
    foreign
        .filter(|(function, library)| !STUBS.iter().any(|stub| stub.name == *library && stub.defines(function)))
        .map(|(function, library)| format!("{function}@{library}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_stub_has_is_named() {
        let imports = "                 U cudaGetDeviceCount@libcudart.so.13\n                 U malloc@GLIBC_2.2.5\n";
        assert_eq!(uncovered(imports), Vec::<String>::new());
        let grown = format!("{imports}                 U cudaMalloc@libcudart.so.13\n");
        assert_eq!(uncovered(&grown), ["cudaMalloc@libcudart.so.13"]);
        assert_eq!(uncovered("U cudaGetDeviceCount@libcudart.so.14"), ["cudaGetDeviceCount@libcudart.so.14"]);
    }

    #[test]
    fn a_text_function_counts_as_defined() {
        assert_eq!(uncovered("U cuptiGetResultString@libcupti.so.13"), Vec::<String>::new());
        assert_eq!(uncovered("U cuptiGetResult@libcupti.so.13"), ["cuptiGetResult@libcupti.so.13"]);
    }

    #[test]
    fn the_recipe_holds_every_function() {
        let recipe = recipe();
        for function in STUBS.iter().flat_map(|stub| stub.refusing) {
            assert!(recipe.contains(function), "{function}");
        }
    }
}
