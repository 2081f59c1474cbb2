//! What a worker may do: read off the compiled policy, the config, and the trial of a jail on this host.

use std::path::Path;

use casemate_config::Config;
use casemate_config::model::ModelConfig;
use casemate_ipc::id::ModelName;
use casemate_ipc::inquiry::explanation::{
    Arena, Descriptor, Explanation, Files, LayerSaid, Limit, Refusal, Rule, Stage,
};
use casemate_ipc::launch::{Geometry, fd};
use casemate_ipc::layer::Layer;
use casemate_lockdown::policy::{self, Filter};
use casemate_lockdown::{Role, Stage as Compiled};

use super::survey::Survey;
use super::{InquiryError, kernel, never, zygote};
use crate::attest::worker_stages;
use crate::jail::rlimit::Ceilings;
use crate::models::Store;
use crate::owner::Owner;
use crate::startup::{self, StartError};

/// Explains a worker of that model, or of any.
pub fn explain(path: &Path, owner: Owner, model: Option<ModelName>) -> Result<Explanation, StartError> {
    let text = startup::read_config(path, owner)?;
    let config = Config::parse(&text).map_err(|source| StartError::Config { path: path.to_path_buf(), source })?;
    if let Some(name) = &model {
        let store = Store::open(&config, owner)?;
        if !store.models().iter().any(|id| id.name == *name) {
            let store = config.store().to_path_buf();
            return Err(InquiryError::NoModel { name: name.clone(), store }.into());
        }
    }
    let (survey, zygote) = (Survey::make(&config, owner), zygote::of(&config, model.as_ref()));
    let settings = model.as_ref().map_or_else(|| config.any(), |name| config.model(name));
    let (requests, responses) = (config.requests_of(&settings), config.responses_of(&settings));
    let ModelConfig { threads, instances, memory_bytes, cpu_millis, run_time_code, .. } = settings;
    let arenas = [requests, responses].map(|arena| arena.bytes().unwrap_or(usize::MAX) as u64);
    // What a model's own sizes add to the warm-up is in the evidence of its worker; the last filter is the same.
    let stages = worker_stages(run_time_code, false);
    let ceilings = Ceilings { threads, instances, memory_bytes, mapped_bytes: arenas.iter().sum(), cpu_millis };
    // As the jail counts: with namespaces, or under a uid of its own.
    let alone = owner.is_root() || survey.lacks.iter().all(|(waiver, _)| waiver.name() != "namespaces");
    let limits = ceilings.list(alone).into_iter().map(|one| Limit { name: one.name.to_owned(), most: one.most });
    Ok(Explanation {
        model: model.map(|name| name.as_str().to_owned()),
        threads,
        memory_bytes,
        arenas: vec![arena("requests", requests, false), arena("responses", responses, true)],
        descriptors: DESCRIPTORS.iter().map(|(number, what, stays)| descriptor(*number, what, *stays)).collect(),
        limits: limits.collect(),
        layers: Layer::ALL.into_iter().map(|layer| said(layer, &config, &survey)).collect(),
        stages: stages.iter().filter_map(|stage| policy::filter(stage.name())).map(stage).collect(),
        files: files(survey.landlock),
        never: policy::filter(stages[1].name()).map(never::of).unwrap_or_default(),
        spawn: settings.spawn.name().to_owned(),
        zygote,
    })
}

/// By number; what it is; whether it is open when the model is read.
const DESCRIPTORS: [(i32, &str, bool); 10] = [
    (0, "/dev/null", true),
    (1, "a pipe for what it prints, which never blocks", true),
    (2, "the same pipe", true),
    (fd::WORKER_CHANNEL, "its channel to the front", true),
    (fd::WORKER_REQUESTS, "the request arena, until it is mapped", false),
    (fd::WORKER_RESPONSES, "the response arena, until it is mapped", false),
    (fd::WORKER_MODEL, "the model, frozen, until it is mapped", false),
    (fd::WORKER_MANIFEST, "the manifest, frozen, until it is mapped", false),
    (fd::WORKER_GRANT, "its grant, frozen, until it is read", false),
    (fd::WORKER_DIGEST, "where the SHA-256 of its model comes from, until it has come", false),
];

pub(super) fn descriptor(number: i32, what: &str, stays: bool) -> Descriptor {
    Descriptor { number, what: what.to_owned(), stays }
}

fn arena(name: &str, geometry: Geometry, writable: bool) -> Arena {
    Arena { name: name.to_owned(), slots: geometry.slots, slot_bytes: geometry.slot_bytes, writable }
}

fn said(layer: Layer, config: &Config, survey: &Survey) -> LayerSaid {
    let lack = if layer.optional() { kernel::core_scheduling().err() } else { survey.lacks(layer) };
    LayerSaid {
        layer: layer.name().to_owned(),
        says: sentence(layer.name()).to_owned(),
        here: lack.is_none() && survey.refused.is_none(),
        waived: lack.is_some() && layer.excused_by(&config.waived),
        lack: lack.or_else(|| survey.refused.clone()),
    }
}

/// What a layer does. By name, so that a layer that is younger than this list is told too, without a sentence.
fn sentence(layer: &str) -> &'static str {
    match layer {
        "user-namespace" => "It has a user namespace of its own: no privilege in it means anything outside.",
        "namespaces" => {
            "It has mounts, processes, network, names, clocks and IPC objects of its own, and none of anybody else's."
        }
        "own-identity" => "It has a uid and gid that no other process has.",
        "empty-root" => "There is nothing under its /, not even a folder.",
        "no-capabilities" => "All five capability sets are empty.",
        "no-new-privileges" => "Nothing that it could start would gain a privilege.",
        "non-dumpable" => "No process of the same uid can look into it, and it leaves no core.",
        "resource-limits" => "The kernel bounds its memory, descriptors, threads and files.",
        "landlock" => "No path, TCP port, abstract socket or signal outside is granted to it.",
        "seccomp" => "Any system call that is not listed ends it.",
        "descriptors" => "It holds the descriptors that are listed, and no other.",
        name if name.contains("cgroup") => "A control group bounds what it and all its threads use together.",
        name if name.contains("nested") => "It can make no namespace inside its own.",
        name if name.contains("speculation") => "Its CPU does not speculate past stores or at indirect branches.",
        name if name.contains("core") => "No other worker runs on the other thread of its core. Never demanded.",
        _ => "",
    }
}

/// The stages in which a model runs.
const SERVING: [Compiled; 2] = [Compiled::WorkerServe, Compiled::WorkerServeCode];

pub(super) fn stage(filter: &Filter) -> Stage {
    let rules = filter.rules.iter().map(|rule| Rule {
        call: rule.call.to_owned(),
        number: rule.number,
        when: rule.condition(),
        why: rule.why.to_owned(),
    });
    let refusals = filter.refusals.iter().map(|refusal| Refusal {
        call: refusal.call.to_owned(),
        number: refusal.number,
        errno: refusal.errno.to_owned(),
        why: refusal.why.to_owned(),
    });
    Stage {
        stage: filter.stage.to_owned(),
        serves: SERVING.iter().any(|serving| serving.name() == filter.stage),
        default: filter.default.to_owned(),
        rules: rules.collect(),
        refusals: refusals.collect(),
    }
}

fn files(landlock: u32) -> Files {
    let own = policy::file_policies().iter().find(|policy| policy.role == Role::Worker.name());
    let readable = own.map_or(&[][..], |policy| policy.readable);
    Files { readable: readable.iter().map(|path| (*path).to_owned()).collect(), landlock }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layer_has_its_sentence() {
        for layer in Layer::ALL {
            assert!(!sentence(layer.name()).is_empty(), "{layer}");
        }
    }

    #[test]
    fn what_is_said_is_what_was_compiled() {
        let filter = policy::filter("worker-serve").unwrap();
        let said = stage(filter);
        assert!(said.serves && said.default == "kill-process");
        assert_eq!(said.rules.len(), filter.rules.len());
        for (said, rule) in said.rules.iter().zip(filter.rules) {
            assert_eq!((said.call.as_str(), said.number, said.why.as_str()), (rule.call, rule.number, rule.why));
        }
    }
}
