//! The zygotes that run, one for each tenant that has asked for one: started, heard, renewed, seen off.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use casemate_config::Config;
use casemate_config::tenant::{Renewal, Tenant};
use casemate_ipc::launch::ExitCause;
use casemate_ipc::seqpacket::{ChannelError, PacketBuffer};
use casemate_ipc::zygote::FromZygote;
use nix::unistd::Pid;

use crate::jail::identity::{Identity, Pool, uids_of_processes};
use crate::log;
use crate::spawn::{SpawnError, Spawner};
use crate::trace::{Tracer, name_of};
use crate::zygote::{Zygote, numbered};

/// All of them, by tenant; never one for two.
#[derive(Debug, Default)]
pub struct Nursery {
    zygotes: BTreeMap<Tenant, Zygote>,
    /// Told to end, or seen to; what is theirs is given back once they are gone.
    leaving: Vec<(Tenant, Zygote)>,
    /// Why the last one of a tenant was of no use.
    complaints: BTreeMap<Tenant, String>,
    next: u64,
}

/// What a zygote may take until it is warm.
const WARMTH: Duration = Duration::from_secs(60);

impl Nursery {
    /// A tenant's zygote, if it can bear now.
    pub fn ready(&mut self, tenant: &Tenant) -> Option<&mut Zygote> {
        self.zygotes.get_mut(tenant).filter(|zygote| zygote.warm && zygote.births > 0)
    }

    /// Whether there is one that is, or will be, of use.
    pub fn has(&self, tenant: &Tenant) -> bool {
        self.zygotes.get(tenant).is_some_and(|zygote| !zygote.warm || zygote.births > 0)
    }

    /// Whether none runs.
    pub fn none(&self) -> bool {
        self.zygotes.is_empty() && self.leaving.is_empty()
    }

    /// Why there is none, as far as that is known.
    pub fn complaint(&self, tenant: &Tenant) -> String {
        let known = self.complaints.get(tenant).cloned();
        known
            .unwrap_or_else(|| "its tenant's zygote ended before it was of use; the launcher's log says how".to_owned())
    }

    /// Starts one; it will say when it is warm.
    pub fn raise(
        &mut self,
        tenant: &Tenant,
        (spawner, config): (&Spawner, &Config),
        pool: &mut Pool,
        tracer: &mut Tracer,
    ) -> Result<(), SpawnError> {
        let (strangers, now) = (uids_of_processes(), Instant::now());
        let identity = pool.take(&strangers, now).map_err(SpawnError::Dry)?;
        let unborn = pool.reserve(config.renewal.births, &strangers, now);
        if identity != Identity::Shared && unborn.is_empty() {
            pool.release(identity);
            return Err(match pool.take(&strangers, now) {
                Err(dry) => SpawnError::Dry(dry),
                Ok(identity) => {
                    pool.release(identity);
                    SpawnError::Uids
                }
            });
        }
        self.next += 1;
        match spawner.zygote(config, self.next, identity, numbered(unborn.clone()), tracer) {
            Ok(zygote) => {
                let fields: [(&str, &dyn Display); 3] =
                    [("tenant", tenant), ("pid", &zygote.pid), ("births", &zygote.births)];
                log::info("zygote-started", &fields);
                // One that has borne all it may, and was not seen to yet, would otherwise never give its uid back.
                self.dismiss(tenant, None);
                self.zygotes.insert(tenant.clone(), zygote);
                Ok(())
            }
            Err(error) => {
                pool.give_back(identity, Instant::now());
                unborn.into_iter().for_each(|identity| pool.release(identity));
                Err(error)
            }
        }
    }

    /// Hears what they have to say: that they are warm, or that they are gone.
    pub fn hear(&mut self) {
        let mut buffer = PacketBuffer::default();
        let tenants: Vec<Tenant> = self.zygotes.keys().cloned().collect();
        for tenant in tenants {
            let Some(zygote) = self.zygotes.get_mut(&tenant) else { continue };
            let gone = match zygote.channel.receive(&mut buffer) {
                Ok(Some(FromZygote::Warm)) if !zygote.warm => {
                    zygote.warm = true;
                    let ms = zygote.since.elapsed().as_millis();
                    log::info("zygote-warm", &[("tenant", &tenant), ("pid", &zygote.pid), ("ms", &ms)]);
                    self.complaints.remove(&tenant);
                    continue;
                }
                Err(ChannelError::Socket(error)) if error.kind() == ErrorKind::WouldBlock => {
                    if zygote.warm || zygote.since.elapsed() < WARMTH {
                        continue;
                    }
                    format!("its tenant's zygote was not warm within {} s", WARMTH.as_secs())
                }
                Ok(Some(FromZygote::Unfit { why })) => format!("its tenant's zygote cannot be one: {why}"),
                Ok(Some(_)) => "its tenant's zygote spoke out of turn".to_owned(),
                Ok(None) => self.complaint(&tenant),
                Err(error) => format!("its tenant's zygote: {error}"),
            };
            self.dismiss(&tenant, Some(gone));
        }
    }

    /// Ends one; its workers live on.
    pub fn dismiss(&mut self, tenant: &Tenant, complaint: Option<String>) {
        let Some(zygote) = self.zygotes.remove(tenant) else { return };
        zygote.end();
        if let Some(why) = complaint {
            log::error("zygote-useless", &[("tenant", tenant), ("pid", &zygote.pid), ("why", &why)]);
            self.complaints.insert(tenant.clone(), why);
        }
        self.leaving.push((tenant.clone(), zygote));
    }

    /// Ends those that are old, or have borne as many as they may, and says whose they were.
    pub fn retire(&mut self, renewal: Renewal, now: Instant) -> Vec<Tenant> {
        let worn = |zygote: &Zygote| zygote.warm && (zygote.births == 0 || now >= zygote.since + renewal.age);
        let worn: Vec<Tenant> =
            self.zygotes.iter().filter(|(_, zygote)| worn(zygote)).map(|(tenant, _)| tenant.clone()).collect();
        for tenant in &worn {
            log::info("zygote-renewed", &[("tenant", tenant)]);
            self.dismiss(tenant, None);
        }
        worn
    }

    /// A process ended: whether it was one of these.
    pub fn ended(&mut self, pid: Pid, how: &ExitCause, pool: &mut Pool) -> bool {
        if let Some(tenant) =
            self.zygotes.iter().find(|(_, zygote)| zygote.pid == pid).map(|(tenant, _)| tenant.clone())
        {
            self.dismiss(&tenant, None);
        }
        let Some(at) = self.leaving.iter().position(|(_, zygote)| zygote.pid == pid) else { return false };
        let (tenant, zygote) = self.leaving.swap_remove(at);
        let mut fields: Vec<(&str, &dyn Display)> = vec![("tenant", &tenant), ("pid", &pid), ("how", how)];
        let call = match how {
            ExitCause::Syscall(denied) => Some(name_of(denied.number)),
            _ => None,
        };
        if let Some(call) = &call {
            fields.push(("call", call));
        }
        log::info("zygote-gone", &fields);
        pool.give_back(zygote.identity, Instant::now());
        zygote.unborn.into_iter().for_each(|(_, identity)| pool.release(identity));
        true
    }

    /// What is worth waiting for.
    pub fn sources(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.zygotes.values().map(|zygote| zygote.channel.as_fd())
    }

    /// When something must have happened.
    pub fn due(&self, renewal: Renewal) -> Option<Instant> {
        self.zygotes.values().map(|zygote| zygote.since + if zygote.warm { renewal.age } else { WARMTH }).min()
    }

    /// Ends all.
    pub fn end_all(&mut self) {
        let tenants: Vec<Tenant> = self.zygotes.keys().cloned().collect();
        tenants.iter().for_each(|tenant| self.dismiss(tenant, None));
    }
}
