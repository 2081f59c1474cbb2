//! `casemate-worker`: started by the launcher with ten descriptors and nothing else; see `casemate_worker::phases`. Started
//! with four it is a zygote, which bears workers: `casemate_worker::zygote`.

fn main() {
    if casemate_worker::zygote::is_one() { casemate_worker::zygote::run() } else { casemate_worker::phases::run() }
}
