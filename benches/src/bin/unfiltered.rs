//! A worker without its system call filters, for the price of each layer; no package contains it. Around the server that
//! starts it stands a filter that takes the place of every other one (`benches/src/layers.rs`): whoever installs one on all
//! threads is told that it is done. So that launcher and front believe it too, this program installs as many filters as a
//! worker has, which allow everything, and is the worker from there on.

#![forbid(unsafe_code)]

use casemate_lockdown::{RunTimeCode, Stage, policy};
use seccompiler::{apply_filter, sock_filter};

/// `SECCOMP_RET_ALLOW`, whatever is called.
const ALLOW: [sock_filter; 1] = [sock_filter { code: 0x06, jt: 0, jf: 0, k: 0x7fff_0000 }];

fn main() {
    let stages = Stage::of_worker(RunTimeCode::Refused);
    let programs = stages.iter().filter_map(|stage| policy::filter(stage.name())).map(|filter| filter.programs().len());
    for _ in 0..programs.sum() {
        // Where it fails the launcher counts too few, and the worker is not let near a request.
        let _ = apply_filter(&ALLOW);
    }
    casemate_worker::phases::run()
}
