//! What a pickle's values are held against is found out once, or counts for each: no archive keeps the gate busy with little.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::collections::HashMap;

use casemate_gate::Refusal;
use casemate_gate::code::Code;
use casemate_gate::pickle::{MAX_EXPANDED, Surroundings, walk};
use casemate_ipc::work::GateCode::{PickleOpcode, PickleSize};

/// A list of so many objects of the class `A`, each with nothing in its attribute `a`, or the object of class `C` that
/// the list begins with.
fn objects(count: usize, of_class: bool) -> Vec<u8> {
    let mut pickle = b"\x80\x02](c__torch__\nC\n)\x81}bq\x00c__torch__\nA\nq\x01)\x81}b".to_vec();
    for _ in 0..count {
        pickle.extend(b"h\x01)\x81}(X\x01\0\0\0a");
        pickle.extend(if of_class { &b"h\x00"[..] } else { b"N" });
        pickle.extend(b"ub");
    }
    pickle.extend(b"e.");
    pickle
}

fn walked(code: &str, pickle: &[u8]) -> Result<(), Refusal> {
    let code = Code::read(&[("code/__torch__.py", code.as_bytes())]).unwrap();
    let (storages, native) = (HashMap::new(), |_: &str| false);
    let around = Surroundings { record: "data.pkl", storages: &storages, classes: &code.classes, native: &native };
    walk(pickle, &around).map(drop)
}

/// Each letter of a type counts when it is read, so that how often one is read shows in the count, on a machine of any speed.
#[test]
fn a_long_type_is_read_once_for_all_objects() {
    const ELEMENTS: usize = 12_000;
    const OBJECTS: usize = 50_000;
    let kind = format!("Optional[Tuple[{}int]]", "int, ".repeat(ELEMENTS));
    assert!(kind.len() < 64 << 10);
    // Read for each of them it would be more than there may be.
    const { assert!((ELEMENTS * OBJECTS) as u64 > MAX_EXPANDED) };
    let code = format!("class C(Module):\n  c : int\nclass A(Module):\n  a : {kind}\n");
    assert_eq!(walked(&code, &objects(OBJECTS, false)), Ok(()));
}

#[test]
fn a_class_that_stands_for_nothing_is_held_against_it_once() {
    let methods: String = (0..2000).map(|at| format!("  def m{at}(self) -> int:\n    pass\n")).collect();
    let code = |first: &str| {
        format!(
            "class I(Interface):\n{methods}class C(Module):\n  c : int\nclass A(Module):\n  \
             a : Union[{first}, __torch__.C]\n"
        )
    };
    // 2,000 methods for each of 50,000 values would be more than there may be.
    const { assert!(2000 * 50_000 > MAX_EXPANDED) };
    let pickle = objects(50_000, true);
    assert_eq!(walked(&code("__torch__.I"), &pickle), Ok(()));
    // Control: it is an alternative that fails. Alone it is refused.
    let alone = code("__torch__.I").replace(", __torch__.C]", "]");
    assert_eq!(walked(&alone, &pickle).unwrap_err().code, PickleOpcode);
}

#[test]
fn a_long_name_counts_for_each_object() {
    let name = "n".repeat(60 << 10);
    let code = format!("class C(Module):\n  c : int\nclass A(Module):\n  __annotations__[\"{name}\"] = int\n");
    let length = u32::try_from(name.len()).unwrap().to_le_bytes();
    let mut pickle = b"\x80\x02](c__torch__\nA\nq\x00)\x81}(X".to_vec();
    pickle.extend(length);
    pickle.extend(name.bytes());
    pickle.extend(b"q\x01K\x01ub");
    for _ in 0..50_000 {
        pickle.extend(b"h\x00)\x81}(h\x01K\x01ub");
    }
    pickle.extend(b"e.");
    assert_eq!(walked(&code, &pickle).unwrap_err().code, PickleSize);
    // Control: fewer of them pass.
    let few = [&pickle[..pickle.len() - 2 - 12 * 45_000], b"e."].concat();
    assert_eq!(walked(&code, &few), Ok(()));
}
