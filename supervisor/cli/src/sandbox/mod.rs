//! `casemate sandbox`: what a worker may do, and the proof that it can do no more.

mod act;
pub(crate) mod explain;
pub(crate) mod prove;

/// The subcommands.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Say what a worker may do, from the policy that is compiled in
    Explain(explain::Args),
    /// Try the forbidden acts in real workers, and outside as their control
    Prove(prove::Args),
}
