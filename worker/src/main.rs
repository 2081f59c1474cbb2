//! `casemate-worker`: born by the launcher with nine descriptors and nothing else; see `casemate_worker::phases`.

fn main() {
    let code = casemate_worker::phases::run();
    casemate_worker::engine::shim::exit(code)
}
