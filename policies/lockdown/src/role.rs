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
    pub const ALL: [Self; 2] = [Self::WorkerWarm, Self::WorkerServe];

    /// The name of `policies/seccomp/NAME.toml`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::WorkerWarm => "worker-warm",
            Self::WorkerServe => "worker-serve",
        }
    }
}
