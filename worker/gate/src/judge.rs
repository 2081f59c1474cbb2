//! The whole way through an archive, in one order.

use std::collections::{BTreeMap, HashMap};

use casemate_ipc::work::GateCode::{GraphDenied, GraphHook, GraphUnclear, GraphUnlisted, PickleOpcode};

use crate::code::{Code, Place, Use};
use crate::layout::{self, Kind};
use crate::pickle::{self, Pickled, Surroundings};
use crate::policy::{Policy, Verdict};
use crate::refusal::{Refusal, shown};
use crate::report::{Entry, Report};
use crate::zip::Archive;

/// Judges an archive.
pub fn judge(bytes: &[u8], policy: &Policy) -> Result<Report, Refusal> {
    let mut report = Report::default();
    examine(bytes, policy, &mut report)?;
    Ok(report)
}

/// The same; what was seen until a refusal stays in `report`.
pub fn examine(bytes: &[u8], policy: &Policy, report: &mut Report) -> Result<(), Refusal> {
    let archive = Archive::read(bytes)?;
    archive.root.clone_into(&mut report.root);
    report.records = archive.records.iter().map(entry).collect();
    let kinds = layout::check(&archive)?;

    // Every record is summed up, those too that nobody reads.
    let mut sources = Vec::new();
    let mut pickles = BTreeMap::new();
    let mut storages: BTreeMap<&str, HashMap<&str, u64>> = BTreeMap::new();
    for (record, kind) in archive.records.iter().zip(&kinds) {
        let bytes = record.bytes()?;
        layout::check_words(*kind, record, &bytes)?;
        match kind {
            Kind::Code => sources.push((record.name, bytes)),
            Kind::Object | Kind::Constants => {
                pickles.insert(record.name, bytes);
            }
            Kind::Storage => {
                let (folder, key) = record.name.split_once('/').unwrap_or_default();
                storages.entry(folder).or_default().insert(key, record.size);
            }
            _ => {}
        }
    }

    let texts: Vec<(&str, &[u8])> = sources.iter().map(|(name, bytes)| (*name, &**bytes)).collect();
    let code = Code::read(&texts)?;
    (report.classes, report.functions) = (code.classes.len(), code.functions());
    note_uses(&code, report);

    let native = |name: &str| policy.native(name).is_allowed();
    let none = HashMap::new();
    for (name, folder) in [("constants.pkl", "constants"), ("data.pkl", "data")] {
        let Some(bytes) = pickles.get(name) else { continue };
        let storages = storages.get(folder).unwrap_or(&none);
        let around = Surroundings { record: name, storages, classes: &code.classes, native: &native };
        let pickled = pickle::walk(bytes, &around)?;
        take(report, folder, storages, pickled)?;
    }
    judge_uses(&code, policy)
}

fn entry(record: &crate::zip::Record<'_>) -> Entry {
    Entry {
        name: record.name.to_owned(),
        kind: Kind::of(record.name),
        size: record.size,
        packed: record.packed.len() as u64,
        start: record.start,
        deflated: record.deflated,
        crc: record.crc,
    }
}

fn note_uses(code: &Code, report: &mut Report) {
    for used in code.uses.keys() {
        match used {
            Use::Operator(name) => report.operators.insert(name.clone()),
            Use::Native(name) => report.native.insert(name.clone()),
            Use::Hook(name) => report.hooks.insert(name.clone()),
            _ => false,
        };
    }
}

/// Notes what a pickle holds, and that its root is what libtorch wants there.
fn take(report: &mut Report, folder: &str, storages: &HashMap<&str, u64>, pickled: Pickled) -> Result<(), Refusal> {
    let name = format!("{folder}.pkl");
    let fits = if folder == "data" { pickled.class.is_some() } else { pickled.elements.is_some() };
    if !fits {
        let why = "it holds neither the module (data.pkl) nor the tuple of constants (constants.pkl)";
        return Err(Refusal::record(PickleOpcode, &name, 0, why));
    }
    report.class = pickled.class.or(report.class.take());
    report.tensors += pickled.tensors;
    report.tensor_bytes = report.tensor_bytes.saturating_add(pickled.bytes);
    report.native.extend(pickled.native);
    let unused = storages.keys().filter(|key| !pickled.used.contains(**key));
    report.unused.extend(unused.map(|key| format!("{folder}/{key}")));
    report.unused.sort_unstable();
    Ok(())
}

/// The worst first, so that a refusal names what matters.
fn judge_uses(code: &Code, policy: &Policy) -> Result<(), Refusal> {
    let mut faults = Vec::new();
    for (used, Place { record, offset }) in &code.uses {
        let fault = match used {
            Use::Operator(name) => match policy.operator(name) {
                Verdict::Allowed => None,
                Verdict::Denied(why) => Some((GraphDenied, format!("{}: {why}", shown(name)))),
                Verdict::Unlisted => Some((GraphUnlisted, unlisted(policy, name))),
            },
            Use::Member(name) => match policy.member(name, || code.declares(name)) {
                Verdict::Allowed => None,
                Verdict::Denied(why) => {
                    let why = format!(
                        ".{name}: as an operator, it {why}; an attribute or method wants another name, or \
                         graph.extra_ops = [\"aten::{name}\"]",
                        name = shown(name)
                    );
                    Some((GraphDenied, why))
                }
                Verdict::Unlisted => Some((GraphUnlisted, format!(".{} is not on the list", shown(name)))),
            },
            Use::Builtin(name) => match policy.builtin(name) {
                Verdict::Denied(why) => Some((GraphDenied, format!("{}: {why}", shown(name)))),
                _ => None,
            },
            Use::Native(name) => match policy.native(name) {
                Verdict::Allowed => None,
                Verdict::Denied(why) => Some((GraphDenied, format!("{}: {why}", shown(name)))),
                Verdict::Unlisted => Some((GraphUnlisted, native_unlisted(name))),
            },
            Use::Hook(name) if !policy.hooks() => Some((
                GraphHook,
                format!(
                    "{name} runs while the model is loaded, before its graph can be judged; graph.extra_ops = [\"__setstate__\"] allows it"
                ),
            )),
            Use::Hook(_) => None,
            Use::Unclear(name) => {
                let why = format!("{} hides what it names; torch.jit.save writes names out", shown(name));
                Some((GraphUnclear, why))
            }
        };
        if let Some((code, why)) = fault {
            faults.push((rank(code), record, *offset, code, why));
        }
    }
    faults.sort_by(|a, b| (a.0, a.1, a.2).cmp(&(b.0, b.1, b.2)));
    match faults.into_iter().next() {
        Some((_, record, offset, code, why)) => Err(Refusal::record(code, record, offset, why)),
        None => Ok(()),
    }
}

fn native_unlisted(name: &str) -> String {
    let name = shown(name.strip_prefix("__torch__.").unwrap_or(name));
    format!("the class {name} is written in C++; graph.extra_ops = [\"{name}\"] allows it")
}

/// Libraries that register operators of their own when Python loads them. To allow such an operator would not bring it here.
const ELSEWHERE: [&str; 7] =
    ["torchvision", "torchaudio", "torchtext", "torch_cluster", "torch_scatter", "torch_sparse", "torch_spline_conv"];

/// What the owner may do about an operator that nobody has listed.
fn unlisted(policy: &Policy, name: &str) -> String {
    let name = shown(name);
    if let Some((library, _)) = name.split_once("::").filter(|(library, _)| ELSEWHERE.contains(library)) {
        return format!(
            "{name} is an operator of {library}, which this server does not have; export the model without it"
        );
    }
    let why = policy.left_out(&name).map_or(String::new(), |why| format!(" ({why})"));
    format!("{name} is not on the list{why}; graph.extra_ops = [\"{name}\"] allows it")
}

fn rank(code: casemate_ipc::work::GateCode) -> u8 {
    match code {
        GraphDenied => 0,
        GraphUnclear => 1,
        GraphHook => 2,
        _ => 3,
    }
}
