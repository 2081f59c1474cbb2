//! Compiles the shim against libtorch's headers and tells the linker where libtorch lies. Nothing to do without `torch`.

#[cfg(feature = "torch")]
mod torch {
    use std::path::{Path, PathBuf};

    pub(super) fn build() {
        let shims = ["caged", "convolution", "guard", "instance", "libtorch", "mapped", "thrift"];
        let shims = shims.map(|name| format!("src/engine/shim/{name}.cpp"));
        println!("cargo:rerun-if-env-changed=LIBTORCH");
        for shim in &shims {
            println!("cargo:rerun-if-changed={shim}");
        }
        let libtorch = libtorch();
        let include = libtorch.join("include");
        cc::Build::new()
            .cpp(true)
            .pic(true)
            .std("c++17")
            .define("_GLIBCXX_USE_CXX11_ABI", "1")
            // `at::parallel_for` is in a header, and runs on one thread where OpenMP is off.
            .flag("-fopenmp")
            // libtorch's headers warn a lot, and not about us.
            .flag("-isystem")
            .flag(&include)
            .flag("-isystem")
            .flag(include.join("torch/csrc/api/include"))
            .files(&shims)
            .compile("casemate_shim");
        let library = libtorch.join("lib");
        println!("cargo:rustc-link-search=native={}", library.display());
        println!("cargo:rustc-link-lib=dylib=torch_cpu");
        println!("cargo:rustc-link-lib=dylib=c10");
        // The copy that libtorch brings: two OpenMP runtimes in one process would be two thread pools.
        println!("cargo:rustc-link-lib=dylib:+verbatim=libgomp.so.1");
        for symbol in ["__cxa_guard_acquire", "__cxa_guard_release", "__cxa_guard_abort", REGISTER, RECORD] {
            println!("cargo:rustc-link-arg=-Wl,--export-dynamic-symbol={symbol}");
        }
        // DT_RPATH and not DT_RUNPATH, so that it also holds for the libraries that libtorch brings along; no variable of
        // the environment is needed, and a worker's is empty. The second one is where a package puts libtorch.
        for path in [&library.display().to_string(), "$ORIGIN/../lib/casemate/torch/lib"] {
            println!("cargo:rustc-link-arg=-Wl,-rpath,{path},--disable-new-dtags");
        }
    }

    /// `c10::Dispatcher::registerImpl`, which `thrift.cpp` has in place of libtorch's.
    const REGISTER: &str = "_ZN3c1010Dispatcher12registerImpl*";

    /// `caffe2::serialize::PyTorchStreamReader::getRecord`, which `mapped.cpp` has in place of libtorch's.
    const RECORD: &str = "_ZN6caffe29serialize19PyTorchStreamReader9getRecord*";

    fn libtorch() -> PathBuf {
        let Some(path) = std::env::var_os("LIBTORCH") else { fail("LIBTORCH is not set") };
        let header = Path::new(&path).join("include/torch/csrc/jit/serialization/import.h");
        match Path::new(&path).canonicalize() {
            Ok(path) if header.is_file() => path,
            _ => fail(&format!("there is no libtorch in {}", Path::new(&path).display())),
        }
    }

    #[expect(clippy::exit, reason = "a build script's failure, without the noise of a panic")]
    fn fail(why: &str) -> ! {
        println!("cargo::error={why}; run `cargo xtask libtorch`, or set LIBTORCH to a copy that you have");
        std::process::exit(1)
    }
}

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "torch")]
    torch::build();
}
