//! `casemate-probe NAME…`: the worker's probes without a cage, each in a process of its own: the positive control of
//! everything that is said about the cage. Without a name it does all of them.
//!
//! `--list NAME…` says what there is instead, a line each, with tabs between: its name, when a worker's script must do it,
//! what refuses it in the cage, and the number of the call at which a filter stops it, or `-`. `--engine` says which engine the worker links, and for which CPU it works here.

use casemate_worker::engine::{self, shim};
use casemate_worker::probe::{self, Probe};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match *words {
        ["--engine"] => {
            for (name, value) in engine::about() {
                say(&[name, &value]);
            }
        }
        ["--list", ref names @ ..] => {
            for probe in wanted(names) {
                let stop = probe.stop.map_or("-".to_owned(), |number| number.to_string());
                say(&[probe.name, probe.at.name(), probe.by.name(), &stop]);
            }
        }
        ref names => {
            for probe in wanted(names) {
                shim::apart(|| probe.act_freely());
            }
        }
    }
}

fn wanted(names: &[&str]) -> Vec<&'static Probe> {
    if names.is_empty() { probe::all().collect() } else { names.iter().filter_map(|name| probe::find(name)).collect() }
}

fn say(words: &[&str]) {
    shim::log(1, format!("{}\n", words.join("\t")).as_bytes());
}
