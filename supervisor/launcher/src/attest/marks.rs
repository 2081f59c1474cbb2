//! What tells two processes apart that both are caged: their namespaces, and their cookie for cores.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::unistd::Pid;

use super::Found;
use crate::sys::control::core_cookie;

/// The marks of one process, as they were when they were read.
#[derive(Debug, Clone)]
pub struct Marks {
    namespaces: Vec<(&'static str, Option<PathBuf>)>,
    cookie: nix::Result<u64>,
}

/// Somebody whose marks a worker must not have.
pub(super) type Other<'a> = (&'static str, &'a Marks);

const KINDS: [&str; 8] = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"];

impl Marks {
    /// Those of a process that runs. What cannot be read is a mark that is no proof of anything.
    pub fn of(pid: Pid) -> Self {
        let link = |kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok();
        Self { namespaces: KINDS.map(|kind| (kind, link(kind))).into(), cookie: core_cookie(pid) }
    }

    /// Whether the namespaces of these kinds are others than everybody's.
    pub(super) fn apart(&self, others: &[Other<'_>], kinds: &[&str]) -> Found {
        let (mut holds, mut parts) = (true, Vec::new());
        for kind in kinds {
            let Some(own) = self.namespace(kind) else {
                holds = false;
                parts.push(format!("{kind} cannot be read"));
                continue;
            };
            let mut part = own.to_string_lossy().into_owned();
            for (whose, other) in others {
                let _ = match other.namespace(kind) {
                    Some(theirs) if theirs != own => continue,
                    Some(_) => write!(part, " ({whose})"),
                    None => write!(part, " ({whose} cannot be read)"),
                };
                holds = false;
            }
            parts.push(part);
        }
        (holds, parts.join(", "))
    }

    /// Whether who has this cookie shares no core with who has another's. No cookie is everybody's.
    pub(super) fn apart_on_cores(&self, others: &[Other<'_>]) -> Found {
        let own = match self.cookie {
            Ok(0) => return (false, "no cookie".to_owned()),
            Ok(own) => own,
            Err(Errno::ENODEV) => return (true, "no core of this host runs two threads".to_owned()),
            Err(Errno::EINVAL) => return (false, "this kernel has no core scheduling".to_owned()),
            Err(errno) => return (false, format!("cannot be read: {errno}")),
        };
        for (whose, other) in others {
            match other.cookie {
                Ok(theirs) if theirs == own => return (false, format!("{whose} own cookie")),
                Ok(_) => {}
                Err(errno) => return (false, format!("a cookie, but {whose} cannot be read: {errno}")),
            }
        }
        (true, "a cookie of its own".to_owned())
    }

    fn namespace(&self, kind: &str) -> Option<&PathBuf> {
        self.namespaces.iter().find(|(name, _)| *name == kind)?.1.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    fn with(cookie: nix::Result<u64>) -> Marks {
        Marks { namespaces: Vec::new(), cookie }
    }

    #[test]
    fn only_a_cookie_of_its_own_keeps_a_worker_apart() {
        let holds = |own, others: &[nix::Result<u64>]| {
            let others: Vec<Marks> = others.iter().copied().map(with).collect();
            let names = ["the launcher's", "its zygote's"];
            with(own).apart_on_cores(&names.into_iter().zip(&others).collect::<Vec<_>>()).0
        };
        assert!(holds(Ok(7), &[Ok(0)]) && holds(Ok(7), &[Ok(8)]) && holds(Ok(7), &[Ok(0), Ok(8)]));
        assert!(!holds(Ok(0), &[Ok(0)]) && !holds(Ok(0), &[Ok(8)]), "no cookie is everybody's");
        assert!(!holds(Ok(8), &[Ok(8)]), "the launcher's own, and so that of all that it starts");
        assert!(holds(Ok(7), &[Ok(0)]) && !holds(Ok(7), &[Ok(0), Ok(7)]), "its zygote's, and so its siblings'");
        assert!(!holds(Ok(7), &[Err(Errno::ESRCH)]), "nothing to compare with");
        assert!(!holds(Ok(7), &[Ok(0), Err(Errno::ESRCH)]), "nothing to compare with");
        assert!(holds(Err(Errno::ENODEV), &[Err(Errno::ENODEV)]), "nobody shares a core there");
        assert!(!holds(Err(Errno::EINVAL), &[Err(Errno::EINVAL)]) && !holds(Err(Errno::ESRCH), &[Ok(0)]));
    }

    struct Killed(Child);

    impl Drop for Killed {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// A process that has namespaces of its own, and one that joined them, as a newborn would that got none.
    fn kin() -> Option<(Killed, Killed, [Pid; 2])> {
        let sleep = |program: &str, words: &[&str]| {
            Command::new(program).args(words).args(["sleep", "60"]).stderr(Stdio::null()).spawn().ok().map(Killed)
        };
        let zygote = sleep("unshare", &["--user", "--map-root-user", "--uts", "--ipc"])?;
        let pid = |child: &Killed| Pid::from_raw(child.0.id().cast_signed());
        let settled = |child: &Killed| {
            let until = Instant::now() + Duration::from_secs(10);
            while fs::read_to_string(format!("/proc/{}/comm", pid(child))).is_ok_and(|name| name != "sleep\n") {
                assert!(Instant::now() < until, "it does not begin");
                std::thread::sleep(Duration::from_millis(2));
            }
            Marks::of(pid(child)).namespace("uts").is_some()
        };
        if !settled(&zygote) {
            return None;
        }
        let target = pid(&zygote).to_string();
        let newborn = sleep("nsenter", &["--target", &target, "--user", "--uts", "--ipc"])?;
        let pids = [pid(&zygote), pid(&newborn)];
        settled(&newborn).then_some((zygote, newborn, pids))
    }

    #[test]
    fn what_a_newborn_has_in_common_with_its_zygote_is_not_its_own() {
        let Some((_zygote, _newborn, pids)) = kin() else {
            println!("SKIPPED: no user namespace can be made here");
            return;
        };
        let (launcher, [zygote, newborn]) = (Marks::of(Pid::this()), pids.map(Marks::of));
        let kinds = ["user", "uts", "ipc"];
        // The control: beside the launcher alone, both have namespaces of their own.
        for marks in [&zygote, &newborn] {
            assert!(marks.apart(&[("the launcher's", &launcher)], &kinds).0);
        }
        let others = [("the launcher's", &launcher), ("its zygote's", &zygote)];
        let (holds, evidence) = newborn.apart(&others, &kinds);
        assert!(!holds, "{evidence}");
        assert_eq!(evidence.matches("(its zygote's)").count(), 3, "{evidence}");
        let (holds, evidence) = newborn.apart(&others, &["net"]);
        assert!(!holds && evidence.contains("(the launcher's) (its zygote's)"), "{evidence}");
        let (holds, _) = newborn.apart(&[("its zygote's", &Marks::of(Pid::from_raw(i32::MAX)))], &kinds);
        assert!(!holds, "nothing to compare with");
    }
}
