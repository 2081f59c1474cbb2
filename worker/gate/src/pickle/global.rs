//! What a pickle may name: the functions and types that libtorch's reader knows and that a saved model needs, and classes
//! of the archive's own code.

use casemate_ipc::work::GateCode;
use casemate_ipc::work::GateCode::{GraphUnlisted, PickleGlobal};

use super::Surroundings;
use super::value::{Scheme, Value};
use crate::refusal::shown;
use crate::tensor::Element;

/// Something that a pickle may call or make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Global {
    /// `torch._utils._rebuild_tensor_v2`
    Tensor,
    /// `torch._utils._rebuild_qtensor`
    QuantizedTensor,
    /// `collections.OrderedDict`: the hooks of a tensor, always empty.
    Hooks,
    /// `torch.jit._pickle.build_…list`
    List(Item),
    /// `torch.jit._pickle.restore_type_tag`
    Tag,
    /// `torch.device`
    Device,
    /// `builtins.complex`
    Complex,
    /// A class of the archive's code, or one in C++ that the operator allows.
    Class(String),
    /// An enumeration of the archive's code.
    Enum(String),
}

/// What a tagged list holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Item {
    Int,
    Float,
    Bool,
    Tensor,
}

/// A name, looked up.
pub(super) enum Found {
    Global(Global),
    Value(Value<'static>),
}

/// Looks a name up.
pub(super) fn find(module: &str, name: &str, around: &Surroundings<'_>) -> Result<Found, (GateCode, String)> {
    let global = match (module, name) {
        ("torch._utils", "_rebuild_tensor_v2") => Global::Tensor,
        ("torch._utils", "_rebuild_qtensor") => Global::QuantizedTensor,
        ("collections", "OrderedDict") => Global::Hooks,
        ("torch.jit._pickle", "build_intlist") => Global::List(Item::Int),
        ("torch.jit._pickle", "build_doublelist") => Global::List(Item::Float),
        ("torch.jit._pickle", "build_boollist") => Global::List(Item::Bool),
        ("torch.jit._pickle", "build_tensorlist") => Global::List(Item::Tensor),
        ("torch.jit._pickle", "restore_type_tag") => Global::Tag,
        ("torch", "device") => Global::Device,
        ("builtins", "complex") => Global::Complex,
        ("torch", "per_tensor_affine") => return Ok(Found::Value(Value::Scheme(Scheme::PerTensor))),
        ("torch", "per_channel_affine" | "per_channel_affine_float_qparams") => {
            return Ok(Found::Value(Value::Scheme(Scheme::PerChannel)));
        }
        ("torch", name) => {
            let element = Element::of(name).ok_or_else(|| unknown(module, name))?;
            return Ok(Found::Value(Value::Element(element)));
        }
        _ if module == "__torch__" || module.starts_with("__torch__.") => {
            let full = format!("{module}.{name}");
            if full.starts_with("__torch__.torch.classes.") {
                if !(around.native)(&full) {
                    let short = shown(full.trim_start_matches("__torch__."));
                    let why = format!("the class {short} is written in C++; graph.extra_ops = [\"{short}\"] allows it");
                    return Err((GraphUnlisted, why));
                }
            } else if !around.classes.contains_key(&full) {
                return Err((PickleGlobal, format!("the class {} is not in the archive's code", shown(&full))));
            }
            if around.classes.get(&full).is_some_and(|class| class.enumeration) {
                Global::Enum(full)
            } else {
                Global::Class(full)
            }
        }
        _ => return Err(unknown(module, name)),
    };
    Ok(Found::Global(global))
}

fn unknown(module: &str, name: &str) -> (GateCode, String) {
    let why = format!("{}.{} is nothing that a TorchScript pickle may name", shown(module), shown(name));
    (PickleGlobal, why)
}
