#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| casemate_fuzz::target::archive_gate(data));
