//! What a tenant's zygote may do, for a model whose workers one bears.

use casemate_config::Config;
use casemate_config::tenant::{Spawn, Tenant};
use casemate_ipc::id::ModelName;
use casemate_ipc::inquiry::explanation::{Limit, Zygote, ZygoteLayer};
use casemate_ipc::layer::Layer;
use casemate_lockdown::policy;
use casemate_lockdown::{Stage as Compiled, ZYGOTE_KEEPS};

use super::{explain, never};
use crate::jail::rlimit::Ceilings;

/// The one of that model; nothing where its workers are started afresh.
pub(super) fn of(config: &Config, model: Option<&ModelName>) -> Option<Zygote> {
    let settings = model.map_or_else(|| config.any(), |name| config.model(name));
    let filter = policy::filter(Compiled::Zygote.name()).filter(|_| settings.spawn == Spawn::Zygote)?;
    let tenant = model.map(|name| config.tenant(name));
    let memory_bytes = config.limits.worker_memory_mib << 20;
    let ceilings = Ceilings { threads: 1, instances: 1, memory_bytes, mapped_bytes: 0, cpu_millis: None };
    let limits = ceilings.of_zygote().into_iter().map(|one| Limit { name: one.name.to_owned(), most: one.most });
    Some(Zygote {
        shared: matches!(tenant, Some(Tenant::Named(_))),
        tenant: tenant.map(|tenant| tenant.as_str().to_owned()),
        births: config.renewal.births,
        age_s: config.renewal.age.as_secs(),
        capabilities: vec![ZYGOTE_KEEPS.to_string()],
        descriptors: DESCRIPTORS.iter().map(|(number, what)| explain::descriptor(*number, what, true)).collect(),
        limits: limits.collect(),
        layers: Layer::ALL.into_iter().map(layer).collect(),
        stage: explain::stage(filter),
        // It has rules for its warm-up, which its root bounds and no filter: what they say of it is above.
        never: never::of(filter).into_iter().filter(|never| never.only.is_empty()).collect(),
    })
}

const DESCRIPTORS: [(i32, &str); 4] =
    [(0, "/dev/null"), (1, "/dev/null"), (2, "/dev/null"), (3, "its channel to the launcher")];

fn layer(layer: Layer) -> ZygoteLayer {
    let (has, says) = held(layer);
    ZygoteLayer { layer: layer.name().to_owned(), has, says: says.to_owned() }
}

/// Whether a zygote has that layer as a worker has it, and what it has.
const fn held(layer: Layer) -> (bool, &'static str) {
    match layer {
        Layer::Cgroup => (true, "A control group of its own bounds it; each of its workers has another."),
        Layer::ResourceLimits => (true, "As a worker, but memory, addresses and processes only by its control group."),
        Layer::UserNamespace => (true, "A user namespace of its own; those of its workers lie inside it."),
        Layer::Namespaces => {
            (false, "All but one for processes: its workers are the launcher's children, and not its own.")
        }
        Layer::NoNestedNamespaces => (false, "None: it makes its workers' namespaces. Each of theirs is closed."),
        Layer::Speculation => (true, "Its CPU does not speculate past stores or at indirect branches."),
        Layer::CoreScheduling => {
            (true, "A mark of its own, where the kernel has marks; each of its workers takes another.")
        }
        Layer::OwnIdentity => (true, "A uid and gid of its own; each of its workers has another."),
        Layer::NoNewPrivileges => {
            (true, "Nothing that it could start would gain a privilege, and it can start no program.")
        }
        Layer::NonDumpable => (true, "No process of the same uid can look into it."),
        Layer::EmptyRoot => (false, "Under its / is one empty folder, where each of its workers mounts its own root."),
        Layer::NoCapabilities => (false, "One is left, and means something in its own user namespace only."),
        Layer::Landlock => (false, "None: it mounts, which Landlock refuses. Its workers have it."),
        Layer::Seccomp => {
            (true, "A filter of its own, from its first act to its end; its workers keep it under theirs.")
        }
        Layer::Descriptors => (true, "Those that are listed, and while it bears one worker that one's wire."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(more: &str) -> Config {
        Config::parse(&format!("store = \"/\"\n{more}")).unwrap()
    }

    #[test]
    fn only_who_has_one_is_told_of_one() {
        let name: ModelName = "m".parse().unwrap();
        assert!(of(&config(""), Some(&name)).is_none() && of(&config(""), None).is_none());
        let whole = config("[sandbox]\nspawn = \"zygote\"\nzygote_births = 7\n[models.x]\nspawn = \"exec\"");
        let told = of(&whole, Some(&name)).unwrap();
        assert_eq!((told.tenant.as_deref(), told.shared, told.births), (Some("m"), false, 7));
        assert!(of(&whole, None).is_some() && of(&whole, Some(&"x".parse().unwrap())).is_none());
        let one = config("[models.m]\nspawn = \"zygote\"\ntenant = \"t\"");
        let told = of(&one, Some(&name)).unwrap();
        assert_eq!((told.tenant.as_deref(), told.shared), (Some("t"), true));
        let rules = policy::filter("zygote").unwrap().rules;
        assert_eq!(told.stage.rules.len(), rules.len());
        assert!(told.never.iter().any(|never| never.act.contains("network")), "{:?}", told.never);
        assert!(!told.stage.serves && told.capabilities == ["CAP_SYS_ADMIN"]);
    }
}
