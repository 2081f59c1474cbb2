//! The zygotes that run, one for each tenant that has asked for one: started, heard, renewed, seen off.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::io::ErrorKind;
use std::os::fd::BorrowedFd;
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
use crate::zygote::{BearError, Zygote, numbered};

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
    /// A tenant's zygote, if a newborn of it waits for what belongs to it.
    pub fn ripe(&mut self, tenant: &Tenant) -> Option<&mut Zygote> {
        self.zygotes.get_mut(tenant).filter(|zygote| zygote.is_ripe())
    }

    /// Tells the zygotes of these tenants to bear, and has those that were told forget about it whose tenants want none now.
    pub fn expect(&mut self, wanted: &BTreeSet<Tenant>) {
        let mut useless = Vec::new();
        for (tenant, zygote) in &mut self.zygotes {
            if !wanted.contains(tenant) {
                zygote.let_go();
            } else if let Err(error) = zygote.expect() {
                useless.push((tenant.clone(), error.to_string()));
            }
        }
        useless.into_iter().for_each(|(tenant, why)| self.dismiss(&tenant, Some(why)));
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

    /// Hears what they have to say: that they are warm, that they bore somebody, or that they are gone. Births that came to
    /// nothing are given back.
    pub fn hear(&mut self, tracer: &mut Tracer) -> Vec<(Tenant, BearError)> {
        let mut failed = Vec::new();
        let mut buffer = PacketBuffer::default();
        let tenants: Vec<Tenant> = self.zygotes.keys().cloned().collect();
        for tenant in tenants {
            let Some(zygote) = self.zygotes.get_mut(&tenant) else { continue };
            let said = zygote.channel.receive(&mut buffer);
            let gone = match said {
                Ok(Some(FromZygote::Warm)) if !zygote.warm => {
                    zygote.warm = true;
                    let ms = zygote.since.elapsed().as_millis();
                    log::info("zygote-warm", &[("tenant", &tenant), ("pid", &zygote.pid), ("ms", &ms)]);
                    self.complaints.remove(&tenant);
                    continue;
                }
                Err(ChannelError::Socket(error)) if error.kind() == ErrorKind::WouldBlock => {
                    let cold = !zygote.warm && zygote.since.elapsed() >= WARMTH;
                    match zygote.hear(None, tracer) {
                        Err(error) => self.miscarried(&tenant, error, &mut failed),
                        Ok(()) if cold => {
                            let why = format!("its tenant's zygote was not warm within {} s", WARMTH.as_secs());
                            self.dismiss(&tenant, Some(why));
                        }
                        Ok(()) => {}
                    }
                    continue;
                }
                Ok(Some(FromZygote::Unfit { why })) => format!("its tenant's zygote cannot be one: {why}"),
                Ok(Some(said)) if zygote.expected.is_some() => {
                    if let Err(error) = zygote.hear(Some(said), tracer) {
                        self.miscarried(&tenant, error, &mut failed);
                    }
                    continue;
                }
                Ok(Some(_)) => "its tenant's zygote spoke out of turn".to_owned(),
                Ok(None) => self.complaint(&tenant),
                Err(error) => format!("its tenant's zygote: {error}"),
            };
            self.dismiss(&tenant, Some(gone));
        }
        failed
    }

    /// A birth came to nothing; its zygote goes, if another may do better.
    fn miscarried(&mut self, tenant: &Tenant, error: BearError, failed: &mut Vec<(Tenant, BearError)>) {
        if error.is_of_zygote() {
            self.dismiss(tenant, Some(error.to_string()));
        }
        failed.push((tenant.clone(), error));
    }

    /// Ends one; its workers live on.
    pub fn dismiss(&mut self, tenant: &Tenant, complaint: Option<String>) {
        let Some(mut zygote) = self.zygotes.remove(tenant) else { return };
        zygote.forget();
        zygote.end();
        if let Some(why) = complaint {
            log::error("zygote-useless", &[("tenant", tenant), ("pid", &zygote.pid), ("why", &why)]);
            self.complaints.insert(tenant.clone(), why);
        }
        self.leaving.push((tenant.clone(), zygote));
    }

    /// Ends those that are old, or have borne as many as they may, and says whose they were.
    pub fn retire(&mut self, renewal: Renewal, now: Instant) -> Vec<Tenant> {
        let worn = |zygote: &Zygote| {
            zygote.warm && zygote.expected.is_none() && (zygote.births == 0 || now >= zygote.since + renewal.age)
        };
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
        self.zygotes.values().flat_map(Zygote::sources)
    }

    /// When something must have happened.
    pub fn due(&self, renewal: Renewal) -> Option<Instant> {
        let due = |zygote: &Zygote| {
            // One that has somebody on the way is not renewed before.
            zygote.due().unwrap_or(zygote.since + if zygote.warm { renewal.age } else { WARMTH })
        };
        self.zygotes.values().map(due).min()
    }

    /// Ends all.
    pub fn end_all(&mut self) {
        let tenants: Vec<Tenant> = self.zygotes.keys().cloned().collect();
        tenants.iter().for_each(|tenant| self.dismiss(tenant, None));
    }
}
