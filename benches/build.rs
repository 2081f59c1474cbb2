//! The floor runs a model in this process, so this program needs libtorch at run time as a worker does.

use std::path::Path;

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    // Where it is missing, the worker's own build script says so.
    let library = std::env::var_os("LIBTORCH").and_then(|path| Path::new(&path).join("lib").canonicalize().ok());
    if let Some(library) = library {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{},--disable-new-dtags", library.display());
    }
}
