//! The steps by name, what an operator can do where one fails, and how a child tells its parent.

use std::fmt;

use nix::errno::Errno;

macro_rules! steps {
    ($($(#[doc = $doc:literal])+ $step:ident = $name:literal, $hint:literal;)+) => {
        /// One step of a child on its way to another program, in order.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Step { $($(#[doc = $doc])+ $step,)+ }

        impl Step {
            /// Every step, in order.
            pub const ALL: &'static [Self] = &[$(Self::$step,)+];

            /// Its name in logs.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$step => $name,)+ }
            }

            /// What an operator can do about it; empty where there is nothing but to report it.
            pub const fn hint(self) -> &'static str {
                match self { $(Self::$step => $hint,)+ }
            }
        }
    };
}

steps! {
    /// The parent has mapped and traced it.
    Begin = "begin", "";
    /// Its control group.
    Cgroup = "cgroup", "";
    /// A session of its own: no terminal, no process group of the launcher.
    Session = "session", "";
    /// Only the CPUs that the operator named.
    Cores = "cores", "models.NAME.cores must name CPUs that the launcher may run on";
    /// Mounts of the host do not spread into it, nor its own out.
    Propagation = "mount-propagation", "allow mounts in user namespaces; on Ubuntu, load the AppArmor profile that \
        comes with Casemate, since kernel.apparmor_restrict_unprivileged_userns takes them away";
    /// Each library taken hold of, read-only.
    Libraries = "libraries", "the program and each of its libraries must be readable by the launcher";
    /// Who it is.
    Identity = "identity", "the uids of sandbox.worker_uid_first must exist where the launcher runs; in a container, \
        choose a range that is mapped into it";
    /// Its user namespace closed for others inside it.
    NestedNamespaces = "nested-namespaces", "/proc/sys/user must be there, and writable; containers often hide it";
    /// A root that holds the libraries and nothing else.
    Root = "root", "allow tmpfs and bind mounts in user namespaces";
    /// The root swapped for that one.
    Pivot = "pivot-root", "the launcher's own root must be a mount point: neither a chroot nor an initramfs";
    /// The host's name hidden.
    HostName = "host-name", "";
    /// Only the descriptors that the house lists.
    Descriptors = "descriptors", "";
    /// Limits of the kernel on what it uses.
    Limits = "limits", "a limit of the launcher itself may be lower than what a worker needs; see its unit or shell";
    /// Speculation past known leaks turned off.
    Speculation = "speculation", "the kernel was started with mitigations=off, \
        spectre_v2_user=off or spec_store_bypass_disable=off, or a virtual machine shows a CPU without IBPB, STIBP and SSBD; casemate doctor says which";
    /// A mark that keeps others off the core that it runs on.
    CoreScheduling = "core-scheduling", "";
    /// All capabilities gone but two, and those inside its own user namespace.
    Capabilities = "capabilities", "";
    /// Privileges never grow again.
    NoNewPrivileges = "no-new-privileges", "";
    /// Killed when its parent dies.
    ParentDeath = "parent-death", "";
    /// Default actions, nothing blocked.
    Signals = "signals", "";
    /// The new program.
    Exec = "exec", "the program must be executable by everybody, and stand on a mount without noexec";
}

/// The step that a child could not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// Which.
    pub step: Step,
    /// The kernel's answer.
    pub errno: Errno,
}

impl Step {
    /// Takes it, and puts its name to a failure.
    pub fn take<T>(self, step: impl FnOnce() -> Result<T, Errno>) -> Result<T, Failure> {
        step().map_err(|errno| Failure { step: self, errno })
    }
}

impl Failure {
    /// For the wire to the parent.
    pub fn to_bytes(self) -> [u8; 5] {
        let step = Step::ALL.iter().position(|step| *step == self.step).unwrap_or(0);
        let [a, b, c, d] = (self.errno as i32).to_le_bytes();
        [u8::try_from(step).unwrap_or(0), a, b, c, d]
    }

    /// From the wire; `None` if nothing was said.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let &[step, a, b, c, d] = bytes else { return None };
        let errno = Errno::from_raw(i32::from_le_bytes([a, b, c, d]));
        Some(Self { step: *Step::ALL.get(usize::from(step))?, errno })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "jail step {}: {}", self.step.name(), self.errno)?;
        match self.step.hint() {
            "" => Ok(()),
            hint => write!(f, "; {hint}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_crosses_the_wire() {
        for step in Step::ALL {
            let failure = Failure { step: *step, errno: Errno::EPERM };
            assert_eq!(Failure::from_bytes(&failure.to_bytes()), Some(failure));
        }
        assert_eq!(Failure::from_bytes(&[]), None);
        assert_eq!(Failure::from_bytes(&[200, 1, 0, 0, 0]), None);
    }

    #[test]
    fn the_order_of_the_jail() {
        let names: Vec<_> = Step::ALL.iter().map(|step| step.name()).collect();
        let expected = "begin cgroup session cores mount-propagation libraries identity nested-namespaces root pivot-root host-name \
                        descriptors limits speculation core-scheduling capabilities no-new-privileges parent-death signals exec";
        assert_eq!(names, expected.split_whitespace().collect::<Vec<_>>());
    }
}
