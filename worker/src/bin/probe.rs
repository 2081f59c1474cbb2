//! `casemate-probe NAME`: one of the worker's probes without a cage, the positive control of the tests of the cage.
//! Without a name it lists them.

use casemate_worker::engine::shim;
use casemate_worker::probe;

fn main() {
    match std::env::args().nth(1) {
        None => {
            let names: Vec<&str> = probe::ALL.iter().map(|probe| probe.name).collect();
            shim::log(1, format!("{}\n", names.join("\n")).as_bytes());
        }
        Some(name) => match probe::find(&name) {
            Some(probe) => probe.act_freely(),
            None => {
                shim::log(2, format!("no probe is called {name:?}\n").as_bytes());
                shim::exit(2);
            }
        },
    }
}
