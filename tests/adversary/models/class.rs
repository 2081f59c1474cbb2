//! Classes that list what is not there, and types that grow by being compared or written out.

use super::{Build, Cage, Entry, Free};
use crate::forge::{Forge, Value};

const SEGV: i32 = 11;
const QUIET: &str = "def forward(self, x: Tensor) -> Tensor:\n  return x";

/// They act at load.
pub(super) fn all() -> Vec<Entry> {
    let mut all = listed();
    all.extend(grown());
    all
}

/// libtorch looks a hook up among the methods, and takes what it finds.
fn listed() -> Vec<Entry> {
    let entry = |name, act, forge| {
        let (free, cage) = (Free::Dies(SEGV), Cage::Never("signal", "SIGSEGV"));
        Entry::new(name, act, Build::Crafted(forge), free, cage)
    };
    vec![
        entry("load-hook-gone", "a hook after its forward that is no method", |_| hooked("__forward_hooks__", "gone")),
        entry("load-hook-before-gone", "a hook before its forward that is no method", |_| {
            hooked("__forward_pre_hooks__", "gone")
        }),
        entry("load-hook-bare", "a hook that takes nothing", |_| hooked("__forward_hooks__", "bare")),
        entry("load-enumeration", "an enumeration whose member has no value", |_| {
            Forge::new("M")
                .function("class E(Enum):\n  A : int")
                .attribute("e", Value::Pickled { kind: "Optional[__torch__.E]".to_owned(), code: b"N".to_vec() })
                .forward(QUIET)
                .bytes()
        }),
    ]
}

fn hooked(list: &str, hook: &str) -> Vec<u8> {
    // The list is a line of the class, and so is a method.
    let forge = Forge::new("M").method(&format!("{list} = [\"{hook}\", ]"));
    let forge = if hook == "bare" { forge.method("def bare() -> int:\n  return 1") } else { forge };
    forge.forward(QUIET).bytes()
}

fn grown() -> Vec<Entry> {
    let entry =
        |name, act, forge| Entry::new(name, act, Build::Crafted(forge), Free::Burns, Cage::Never("deadline", "load"));
    vec![
        entry("load-twin-tuples", "two trees of tuples with names, alike, of 2^40 leaves each", |_| {
            let mut forge = Forge::new("M");
            for side in ["T", "U"] {
                forge = forge.function(&format!("class {side}0(NamedTuple):\n  a : int"));
                for level in 1..=40 {
                    let below = level - 1;
                    forge = forge.function(&format!(
                        "class {side}{level}(NamedTuple):\n  a : __torch__.{side}{below}\n  b : __torch__.{side}{below}"
                    ));
                }
            }
            let body = "a : Optional[__torch__.T40] = None\n  b : Optional[__torch__.U40] = a\n  return x";
            forge.forward(&format!("def forward(self, x: Tensor) -> Tensor:\n  {body}")).bytes()
        }),
        entry("load-tuple-tree", "a pair of pairs of pairs …, whose type has 2^40 letters", |_| {
            let mut body = "t0 = (x, x)".to_owned();
            for level in 1..=40 {
                body += &format!("\n  t{level} = (t{below}, t{below})", below = level - 1);
            }
            Forge::new("M").forward(&format!("def forward(self, x: Tensor) -> Tensor:\n  {body}\n  return x")).bytes()
        }),
    ]
}
