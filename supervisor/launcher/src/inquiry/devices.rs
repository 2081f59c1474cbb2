//! Graphics processors: whether there are any. Workers use none of them yet.

use std::fs;

use casemate_ipc::inquiry::{Finding, State};

use super::finding;
use super::kernel::read;

/// All of it.
pub(super) fn look() -> Vec<Finding> {
    let names = fs::read_dir("/dev").into_iter().flatten().flatten().map(|entry| entry.file_name());
    let mut devices: Vec<String> =
        names.filter_map(|name| name.into_string().ok()).filter(|name| name.starts_with("nvidia")).collect();
    devices.sort();
    let driver = read("/proc/driver/nvidia/version").and_then(|text| text.lines().next().map(str::to_owned));
    let value = match (devices.is_empty(), driver) {
        (true, None) => "none".to_owned(),
        (true, Some(driver)) => format!("no device; {driver}"),
        (false, driver) => format!("{}; {}", devices.join(", "), driver.unwrap_or("no driver".to_owned())),
    };
    vec![finding("devices", "gpu", value, State::Note)]
}
