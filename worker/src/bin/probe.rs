//! `casemate-probe NAME…`: the worker's probes without a cage, each in a process of its own: the positive control of the tests
//! of the cage. Without a name it does all of them.

use casemate_worker::engine::shim;
use casemate_worker::probe::{self, Probe};

fn main() {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |probe: &&Probe| names.is_empty() || names.iter().any(|name| name == probe.name);
    for probe in probe::ALL.iter().filter(wanted) {
        shim::apart(|| probe.act_freely());
    }
}
