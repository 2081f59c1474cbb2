//! Whether a server would start here, how much of the cage this host gives, and what would raise that.

use std::net::SocketAddr;
use std::path::Path;

use casemate_config::Config;
use casemate_ipc::inquiry::{Checkup, Finding, Lack, State, Tier};

use super::survey::Survey;
use super::{cgroup, devices, files, finding, identities, kernel, namespaces, raise, raised};
use crate::listen::{self, BindError};
use crate::owner::Owner;
use crate::startup::{self, StartError};

/// Looks at everything. Never fails: what cannot be looked at is a finding too, and so is what kept this launcher from
/// making itself safe.
pub fn checkup(path: &Path, owner: Owner, hardened: Result<(), StartError>) -> Checkup {
    let own = hardened.as_ref().err().map(ToString::to_string);
    // The very start that serving makes, up to the moment in which the front would be started; but it is not heard.
    let start = hardened.and_then(|()| startup::prepare(path, owner));
    let start = start.and_then(|ready| match listen::try_bind(ready.config.inference) {
        // Most often by the very server that is asked about, and nothing is wrong with this host.
        Err(BindError::Taken(address)) => Ok(Some(address)),
        other => Ok(other.map(|()| None)?),
    });
    let (taken, refusal) = match start {
        Ok(taken) => (taken, None),
        Err(error) => (None, Some(error.to_string())),
    };
    // Without a config of its own, the host is looked at with the defaults.
    let read = startup::read_config(path, owner).ok().and_then(|text| Config::parse(&text).ok());
    let Some(config) = read.or_else(|| Config::parse("store = \"/\"").ok()) else {
        let (lacks, findings) = (Vec::new(), Vec::new());
        return Checkup { tier: Tier::Refused, starts: false, refusal, taken: None, lacks, findings };
    };
    let survey = Survey::make(&config, owner);
    let lacks: Vec<Lack> = survey
        .lacks
        .iter()
        .map(|(waiver, why)| Lack {
            layer: waiver.name().to_owned(),
            accepted: config.waives(*waiver),
            why: why.clone(),
            raise: raise::layer(waiver.name(), path),
        })
        .collect();
    Checkup {
        tier: tier(&lacks, survey.refused.is_some() || own.is_some()),
        starts: refusal.is_none(),
        refusal,
        findings: findings(&config, path, owner, (&survey, own)).into_iter().chain(taken.map(heard)).collect(),
        taken: taken.map(|address| address.to_string()),
        lacks,
    }
}

/// Something listens where the server would.
fn heard(address: SocketAddr) -> Finding {
    let value = format!("something listens on {address} already; is it Casemate?");
    let raise = "where it is another program: stop it, or change listen.inference";
    raised(finding("port", "listen.inference", value, State::Weak), raise)
}

/// What only root, or whom root lets, can have: nothing is wrong with a host that does not give it to an ordinary user.
const OF_ROOT: [&str; 2] = ["own-identity", "cgroup"];

fn tier(lacks: &[Lack], refused: bool) -> Tier {
    match lacks {
        _ if refused => Tier::Refused,
        [] => Tier::Full,
        lacks if lacks.iter().all(|lack| OF_ROOT.contains(&lack.layer.as_str())) => Tier::User,
        _ => Tier::Reduced,
    }
}

fn findings(config: &Config, path: &Path, owner: Owner, (survey, own): (&Survey, Option<String>)) -> Vec<Finding> {
    let mut found = kernel::look();
    if let Some(why) = own {
        let raise = "where this is root of a user namespace only (unshare -r): start it as an ordinary user, or in a \
                     container whose root may call setgroups(2)";
        found.push(raised(finding("launcher", "start", why, State::Bad), raise));
    }
    found.extend(namespaces::look());
    found.extend(cgroup::look());
    found.extend(identities::look(config, owner));
    found.extend(devices::look());
    found.extend(files::look(config, path, owner));
    // What stands in the way of every worker.
    found.extend(survey.refused.iter().map(|why| finding("jail", "trial", why, State::Bad)));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tier_is_what_the_host_gives_and_not_what_the_config_accepts() {
        let lack = |layer: &str, accepted| Lack {
            layer: layer.to_owned(),
            accepted,
            why: String::new(),
            raise: String::new(),
        };
        assert_eq!(tier(&[], false), Tier::Full);
        assert_eq!(tier(&[lack("own-identity", false)], false), Tier::User);
        assert_eq!(tier(&[lack("own-identity", true), lack("namespaces", true)], false), Tier::Reduced);
        assert_eq!(tier(&[lack("landlock", true)], false), Tier::Reduced);
        assert_eq!(tier(&[], true), Tier::Refused);
        assert!(Tier::Full > Tier::User && Tier::User > Tier::Reduced && Tier::Reduced > Tier::Refused);
    }
}
