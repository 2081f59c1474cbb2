//! The programs of the house and the stages of their lives, by the names of their policy files.

/// A program that goes through the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// Runs a model.
    Worker,
    /// Hears the clients.
    Front,
}

/// A stage of a program's life with a system call filter of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// A worker from its first act until it is sealed.
    WorkerWarm,
    /// A worker while it runs a model.
    WorkerServe,
    /// The front while it hears the network.
    Front,
    /// The launcher from its first front on, and every child of it.
    Launcher,
}

impl Role {
    /// The name of `policies/landlock/NAME.toml`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Front => "front",
        }
    }
}

impl Stage {
    /// Every stage.
    pub const ALL: [Self; 4] = [Self::WorkerWarm, Self::WorkerServe, Self::Front, Self::Launcher];

    /// The stages of a worker, in order: their filters add up.
    pub const WORKER: [Self; 2] = [Self::WorkerWarm, Self::WorkerServe];

    /// Whether its filter lets a process ask what is in force.
    pub(crate) const fn may_ask(self) -> bool {
        matches!(self, Self::WorkerWarm | Self::Launcher)
    }

    /// The name of `policies/seccomp/NAME.toml`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::WorkerWarm => "worker-warm",
            Self::WorkerServe => "worker-serve",
            Self::Front => "front",
            Self::Launcher => "launcher",
        }
    }
}
