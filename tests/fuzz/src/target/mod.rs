//! The targets. Each holds more than "it does not panic": what was decoded encodes to the same bytes, what was accepted
//! keeps its promises.

mod archive;
mod contract;
mod outputs;
mod requests;
mod texts;

pub use archive::{archive_gate, pack};
pub use contract::{channel, frame, launch, work};
pub use outputs::{lifecycle, sanitise};
pub use requests::{numbers, oip_binary, oip_json};
pub use texts::{config, escape, manifest, names};
