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

/// When a worker may make machine code: what oneDNN's kernels are, and what an attacker would like to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunTimeCode {
    /// No page is ever executable that was not.
    Refused,
    /// In the warm-up, from sizes and nothing else; from the seal on, as with [`RunTimeCode::Refused`].
    Warmed,
    /// Private pages of its own may become executable. The operator trusts this model with that.
    Allowed,
}

/// A stage of a program's life with a system call filter of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// A worker from its first act until it is sealed.
    WorkerWarm,
    /// A worker while it runs a model.
    WorkerServe,
    /// [`Stage::WorkerWarm`] where the warm-up, at least, may make code.
    WorkerWarmCode,
    /// [`Stage::WorkerServe`] for a model that may make code.
    WorkerServeCode,
    /// The front while it hears the network.
    Front,
    /// The launcher from its first front on, and every child of it.
    Launcher,
    /// A tenant's zygote, from its first act to its end, and what it bears until that is a worker.
    Zygote,
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
    pub const ALL: [Self; 7] = [
        Self::WorkerWarm,
        Self::WorkerServe,
        Self::WorkerWarmCode,
        Self::WorkerServeCode,
        Self::Front,
        Self::Launcher,
        Self::Zygote,
    ];

    /// The stages of one worker's life, in order: their filters add up.
    pub const fn of_worker(code: RunTimeCode) -> [Self; 2] {
        match code {
            RunTimeCode::Refused => [Self::WorkerWarm, Self::WorkerServe],
            RunTimeCode::Warmed => [Self::WorkerWarmCode, Self::WorkerServe],
            RunTimeCode::Allowed => [Self::WorkerWarmCode, Self::WorkerServeCode],
        }
    }

    /// Whether its filter lets a process ask what is in force.
    pub(crate) const fn may_ask(self) -> bool {
        matches!(self, Self::WorkerWarm | Self::WorkerWarmCode | Self::Launcher | Self::Zygote)
    }

    /// The name of `policies/seccomp/NAME.toml`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::WorkerWarm => "worker-warm",
            Self::WorkerServe => "worker-serve",
            Self::WorkerWarmCode => "worker-warm-code",
            Self::WorkerServeCode => "worker-serve-code",
            Self::Front => "front",
            Self::Launcher => "launcher",
            Self::Zygote => "zygote",
        }
    }
}
