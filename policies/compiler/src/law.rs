//! The laws, each as what is said where a policy breaks it; [`crate::check`] holds them.

use crate::rule::Default;

/// A law, and where it was broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokenLaw {
    /// Two files for one stage.
    #[error("{stage}: two policies for one stage")]
    StageTwice {
        /// The stage.
        stage: String,
    },
    /// A default that lets the program go on.
    #[error("{stage}: the default must be kill-process, not {default}")]
    SoftDefault {
        /// The policy.
        stage: String,
        /// What it says.
        default: Default,
    },
    /// A call that may not stand in the policy of such a program, whatever the reason given.
    #[error("{stage}: `{call}` is never for {whom}")]
    Never {
        /// The policy.
        stage: String,
        /// The call.
        call: String,
        /// Whose policy it is.
        whom: &'static str,
    },
    /// A program that hears strangers and could map or make executable memory.
    #[error("{stage}: `{call}` must lack PROT_EXEC in {whom}")]
    ExecutableMemory {
        /// The policy.
        stage: String,
        /// The call.
        call: String,
        /// Whose policy it is.
        whom: &'static str,
    },
    /// A pair of sockets that could be of another family than the one that reaches nobody.
    #[error("{stage}: `{call}` must ask for AF_UNIX")]
    OtherFamily {
        /// The policy.
        stage: String,
        /// The call.
        call: String,
    },
    /// A namespace that could be joined and is not a user namespace, where nothing but the right to look is gained.
    #[error("{stage}: `{call}` must ask for CLONE_NEWUSER")]
    OtherNamespace {
        /// The policy.
        stage: String,
        /// The call.
        call: String,
    },
    /// A zygote that could make another kind of process than the one it is there for, or mount what it likes.
    #[error("{stage}: `{call}` must compare its flags whole")]
    LooseBirth {
        /// The policy.
        stage: String,
        /// The call.
        call: String,
    },
    /// A worker that may make code, and could do it in a way that nobody listed.
    #[error("{stage}: `{call}` may make code only as `mprotect` with one exact protection that lacks PROT_WRITE")]
    LooseCode {
        /// The policy.
        stage: String,
        /// The call.
        call: String,
    },
    /// A policy that adds to one that is not there, or that adds to another itself.
    #[error("{stage}: it extends `{missing}`, and there is no such policy that stands by itself")]
    NoBase {
        /// The policy.
        stage: String,
        /// The policy that should be there.
        missing: String,
    },
    /// seccompiler keeps only the conditions of such a pair, without a word.
    #[error("{stage}: `{call}` has a rule with conditions beside one without")]
    MixedConditions {
        /// The policy.
        stage: String,
        /// The call.
        call: String,
    },
    /// The same rule twice.
    #[error("{stage}: `{call}` has the same rule twice")]
    RuleTwice {
        /// The policy.
        stage: String,
        /// The call.
        call: String,
    },
    /// A call that is both allowed and answered with an errno.
    #[error("{stage}: `{call}` is allowed and refused")]
    AllowedAndRefused {
        /// The policy.
        stage: String,
        /// The call.
        call: String,
    },
    /// A narrower policy without the one that it narrows.
    #[error("{stage}: no policy `{missing}` to be a part of")]
    NoWiderStage {
        /// The policy.
        stage: String,
        /// The policy that should be there.
        missing: String,
    },
    /// A policy allows what a filter that is already installed where it is put on would kill.
    #[error("{stage}: `{call}` ({condition}) is not allowed by {wider}")]
    Wider {
        /// The policy.
        stage: String,
        /// The call.
        call: String,
        /// The rule's condition.
        condition: String,
        /// The policy that is narrower than it should be.
        wider: String,
    },
    /// A policy answers with an errno what a filter that is already installed would kill.
    #[error("{stage}: `{call}` is answered with an errno, and killed by {wider}")]
    KilledBefore {
        /// The policy.
        stage: String,
        /// The call.
        call: String,
        /// The policy that kills it.
        wider: String,
    },
    /// A path granted to a worker.
    #[error("{role}: Landlock grants {path}; a worker has no path")]
    WorkerGrant {
        /// The role.
        role: String,
        /// The path.
        path: String,
    },
    /// A Landlock policy that would be satisfied by nothing at all.
    #[error("{role}: Landlock must be required from ABI 1 up")]
    NoFloor {
        /// The role.
        role: String,
    },
}
