//! Who the processes are: uids and gids, checked.

use std::time::Duration;

use crate::config::ConfigError;
use crate::raw::RawSandbox;

/// Who the processes are, where the launcher is root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identities {
    /// Uid and gid of the front.
    pub front: u32,
    /// First uid and gid for workers.
    pub worker_first: u32,
    /// How many.
    pub worker_count: u32,
    /// How long a worker's uid stays unused after its end.
    pub rest: Duration,
}

/// Longest rest, in seconds: a week.
const UID_REST_MOST: u64 = 604_800;

impl Identities {
    /// Checks what is written.
    pub(crate) fn check(raw: &RawSandbox) -> Result<Self, ConfigError> {
        let fault = |key, why| Err(ConfigError::Identity { key, why });
        let RawSandbox { front_uid, worker_uid_first, worker_uid_count, uid_rest_s, .. } = *raw;
        // 65534 is what the kernel shows for every uid that a namespace does not know; u32::MAX means "leave it".
        let reserved = |uid: u32| uid < 1000 || uid == 65_534 || uid == u32::MAX;
        if reserved(front_uid) {
            return fault("front_uid", "uids below 1000, 65534 and 4294967295 belong to others");
        }
        if worker_uid_count == 0 {
            return fault("worker_uid_count", "at least one is needed");
        }
        let Some(last) = worker_uid_first.checked_add(worker_uid_count - 1) else {
            return fault("worker_uid_count", "the range passes the largest uid");
        };
        if reserved(worker_uid_first) || reserved(last) || (worker_uid_first..=last).contains(&65_534) {
            return fault("worker_uid_first", "uids below 1000, 65534 and 4294967295 belong to others");
        }
        if (worker_uid_first..=last).contains(&front_uid) {
            return fault("front_uid", "the front must not share a uid with a worker");
        }
        if uid_rest_s > UID_REST_MOST {
            return fault("uid_rest_s", "a week (604800) is the most");
        }
        let rest = Duration::from_secs(uid_rest_s);
        Ok(Self { front: front_uid, worker_first: worker_uid_first, worker_count: worker_uid_count, rest })
    }
}
