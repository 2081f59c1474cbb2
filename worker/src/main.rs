//! `casemate-worker`: born by the launcher with nine descriptors and nothing else; see `casemate_worker::phases`.

fn main() {
    casemate_worker::phases::run()
}
