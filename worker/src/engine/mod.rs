//! From a manifest's format to the engine that reads it: one line each.

pub mod contract;
pub mod echo;
pub mod script;
#[expect(unsafe_code, reason = "C++ behind a C interface, and raw system calls for the probes")]
pub mod shim;
#[cfg(feature = "torch")]
pub mod torchscript;

use casemate_ipc::launch::RunTimeCode;
use casemate_ipc::shm::map::Private;
use casemate_ipc::tensor::ModelSignature;
use casemate_manifest::Format;

use self::contract::{Engine, RunError};
use crate::model::gate::Gated;

/// Work that we trust, before the lock: whatever an engine opens or asks for once, it does here.
pub fn warm_up(code: RunTimeCode) -> Result<(), RunError> {
    #[cfg(feature = "torch")]
    torchscript::warm_up(code)?;
    let _ = code;
    Ok(())
}

/// Gives the generators of random numbers another seed than the one that this process shares with its siblings.
pub fn reseed(seed: u64) -> Result<(), RunError> {
    #[cfg(feature = "torch")]
    torchscript::reseed(seed)?;
    let _ = seed;
    Ok(())
}

/// Starts every thread that a model may use when it is run by the calling one.
pub fn start_threads(threads: u32) -> Result<(), RunError> {
    #[cfg(feature = "torch")]
    torchscript::start_threads(threads)?;
    let _ = threads;
    Ok(())
}

/// Makes the calling thread one that may run a model, and starts the threads that its operations use. The one that calls
/// [`start_threads`] is ready by that.
pub fn ready_thread(threads: u32) -> Result<(), RunError> {
    #[cfg(feature = "torch")]
    torchscript::ready_thread(threads)?;
    let _ = threads;
    Ok(())
}

/// Trusted work between the thread pools and the last filter: machine code from the text of a `model.shapes`. The digest of
/// the model that it is for; nothing where it is no such text.
pub fn learn(shapes: &[u8]) -> Option<[u8; 32]> {
    #[cfg(feature = "torch")]
    match torchscript::learn(shapes) {
        Ok(sha256) => return Some(sha256),
        Err(error) => shim::log(2, format!("model.shapes: {error}; it is left aside\n").as_bytes()),
    }
    let _ = shapes;
    None
}

/// That was for another model.
pub fn forget() {
    shim::log(2, b"model.shapes is of another model; it is left aside\n");
    #[cfg(feature = "torch")]
    torchscript::forget();
}

/// Gives back what the start and the load needed of the heap, and nothing else does.
pub fn let_go_of_heap() {
    #[cfg(feature = "torch")]
    shim::thrift::let_go_of_heap();
}

/// The same for pages of libraries.
pub fn let_go_of_libraries() {
    #[cfg(feature = "torch")]
    shim::thrift::let_go_of_libraries();
}

/// The engine's name and version, if this build has it.
pub fn platform(format: Format) -> Option<String> {
    match format {
        Format::Echo => Some("echo".into()),
        #[cfg(feature = "torch")]
        Format::Torchscript => Some(torchscript::platform()),
        #[cfg(not(feature = "torch"))]
        Format::Torchscript => None,
    }
}

/// The version of libtorch that this build has; `none` without it.
pub fn libtorch_version() -> &'static str {
    #[cfg(feature = "torch")]
    return shim::libtorch::version();
    #[cfg(not(feature = "torch"))]
    "none"
}

/// What this build's engine is, and what it makes of this CPU: names and values, for a person.
pub fn about() -> Vec<(&'static str, String)> {
    #[cfg(feature = "torch")]
    return vec![("engine", torchscript::platform()), ("cpu", shim::libtorch::cpu_capability())];
    #[cfg(not(feature = "torch"))]
    vec![("engine", "none".to_owned())]
}

/// Loads a model that the gate let through. `weights` is the same file, and becomes what its tensors lie in; without it they are
/// copied.
pub fn load(
    gated: &Gated<'_>,
    weights: Option<Private>,
    signature: &ModelSignature,
) -> Result<Box<dyn Engine>, RunError> {
    #[cfg(feature = "torch")]
    if gated.format == Format::Torchscript {
        return Ok(Box::new(torchscript::TorchScript::load_in(gated.model, weights, &gated.tensors, signature)?));
    }
    drop(weights);
    load_unjudged(gated.format, gated.model, signature)
}

/// The same for bytes that no gate has seen, copied: benches of our own models, and the control of the hostile ones, which must
/// be seen to do their act. A worker does not come this way: `cargo xtask layers` lets nobody else name it.
pub fn load_unjudged(format: Format, model: &[u8], signature: &ModelSignature) -> Result<Box<dyn Engine>, RunError> {
    match format {
        Format::Echo => Ok(Box::new(echo::Echo::load(model)?)),
        #[cfg(feature = "torch")]
        Format::Torchscript => Ok(Box::new(torchscript::TorchScript::load(model, signature)?)),
        #[cfg(not(feature = "torch"))]
        Format::Torchscript => {
            let _ = signature;
            Err(RunError::Model("this worker was built without libtorch".into()))
        }
    }
}
