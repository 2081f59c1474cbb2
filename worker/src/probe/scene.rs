//! What an act finds around it: the memory that a worker was given.

use std::sync::OnceLock;

use casemate_ipc::shm::map::Outgoing;
use casemate_ipc::shm::seal;

/// Where things lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scene {
    /// The request arena; 0 where there is none yet.
    pub requests: usize,
    /// The model's bytes; 0 where they are gone.
    pub model: usize,
}

impl Scene {
    /// The same without a cage: memory of that kind, which nobody sealed and which is mapped for writing.
    pub(super) fn free() -> Self {
        static MEMORY: OnceLock<Option<Outgoing>> = OnceLock::new();
        let memory = MEMORY.get_or_init(|| {
            let file = seal::create("casemate-probe", SIZE).ok()?;
            seal::apply(&file, seal::Sealing::Fixed).ok()?;
            Outgoing::map(&file, SIZE).ok()
        });
        let address = memory.as_ref().map_or(0, Outgoing::address);
        Self { requests: address, model: address }
    }
}

const SIZE: u64 = 4096;
