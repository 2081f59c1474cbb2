//! What would give a layer that is missing: the exact command, where there is one.

use std::path::Path;

use super::kernel::{read, sysctl};

/// What to do about a layer that is missing, by the name that the config calls it.
pub(super) fn layer(name: &str, config: &Path) -> String {
    match name {
        "own-identity" => format!("sudo casemate serve --config {}", config.display()),
        "landlock" => landlock(),
        "namespaces" => namespaces(),
        "speculation" => {
            let told = read("/proc/cmdline").unwrap_or_default();
            let cpu = |file: &str| read(&format!("/sys/devices/system/cpu/vulnerabilities/{file}")).unwrap_or_default();
            speculation(&told, &cpu("spectre_v2"), &cpu("spec_store_bypass"))
        }
        name if name.contains("cgroup") => cgroup(config),
        _ => "see what was found".to_owned(),
    }
}

/// What to do where user namespaces cannot be made, or not be used.
pub(super) fn namespaces() -> String {
    let zero = |key: &str| sysctl(key).is_some_and(|value| value == "0");
    if zero("user.max_user_namespaces") {
        return "sudo sysctl -w user.max_user_namespaces=15000".to_owned();
    }
    if zero("kernel.unprivileged_userns_clone") {
        return "sudo sysctl -w kernel.unprivileged_userns_clone=1".to_owned();
    }
    if sysctl("kernel.apparmor_restrict_unprivileged_userns").is_some_and(|value| value == "1") {
        return "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or load an AppArmor profile with \
                `userns,` for casemate-launcher"
            .to_owned();
    }
    if filtered() {
        return "this process runs under somebody's system call filter; in a container: docker run --security-opt \
                seccomp=PROFILE, with a profile that allows clone3, unshare, mount and pivot_root"
            .to_owned();
    }
    "a kernel with CONFIG_USER_NS, and a root that is a mount point (no chroot)".to_owned()
}

fn landlock() -> String {
    match read("/sys/kernel/security/lsm") {
        Some(modules) if !modules.contains("landlock") => {
            format!(
                "boot with lsm=landlock,{modules}: add it to GRUB_CMDLINE_LINUX, then sudo update-grub && sudo reboot"
            )
        }
        _ if filtered() => {
            "this process runs under somebody's system call filter; in a container, use a seccomp profile \
                            that allows landlock_create_ruleset, landlock_add_rule and landlock_restrict_self"
                .to_owned()
        }
        _ => "a kernel of 5.13 or later with CONFIG_SECURITY_LANDLOCK, booted with landlock in lsm=".to_owned(),
    }
}

fn cgroup(config: &Path) -> String {
    let config = config.display();
    match (nix::unistd::geteuid().is_root(), Path::new("/run/systemd/system").exists()) {
        (false, true) => format!("systemd-run --user --scope -p Delegate=yes casemate serve --config {config}"),
        (false, false) => format!("sudo casemate serve --config {config}"),
        (true, true) => format!("systemd-run --scope -p Delegate=yes casemate serve --config {config}"),
        (true, false) => "mount -t cgroup2 none /sys/fs/cgroup; in a container: docker run --cgroupns=private with a \
                          writable /sys/fs/cgroup"
            .to_owned(),
    }
}

/// Words of a kernel's command line that leave speculation to every process.
const LEFT_ON: [&str; 6] = [
    "mitigations=off",
    "nospectre_v2",
    "spectre_v2=off",
    "spectre_v2_user=off",
    "nospec_store_bypass_disable",
    "spec_store_bypass_disable=off",
];

/// `told` is the kernel's command line, the others what it says of this CPU. One that can flush its predictor shows IBPB there,
/// and one that can hold its stores back is not vulnerable; another leaves nothing to be switched for one process.
fn speculation(told: &str, spectre: &str, bypass: &str) -> String {
    if let Some(word) = told.split_whitespace().find(|word| LEFT_ON.contains(word)) {
        return format!(
            "take {word} from the kernel's command line (GRUB_CMDLINE_LINUX), then sudo update-grub && sudo reboot"
        );
    }
    let affected = !spectre.is_empty() && !spectre.starts_with("Not affected");
    if (affected && !spectre.contains("IBPB")) || bypass.starts_with("Vulnerable") {
        return "a CPU with IBPB, STIBP and SSBD: newer microcode, or for a virtual machine the CPU of its host (qemu: -cpu host; \
                libvirt: host-passthrough)"
            .to_owned();
    }
    "see what was found".to_owned()
}

/// Whether this process is under a filter that was there before it.
fn filtered() -> bool {
    let status = read("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speculation_is_mended_where_it_was_left_on() {
        let whole = "Mitigation: Retpolines; IBPB: conditional; STIBP: always-on; RSB filling";
        let without =
            "Mitigation: Retpolines; STIBP: disabled; RSB filling; PBRSB-eIBRS: Not affected; BHI: Not affected";
        assert!(
            speculation("root=/dev/vda quiet mitigations=off", "Vulnerable", "")
                .starts_with("take mitigations=off from")
        );
        let bypass = "spec_store_bypass_disable=off";
        assert!(speculation(bypass, whole, "Vulnerable").contains(bypass));
        assert!(speculation("root=/dev/vda xmitigations=off", without, "Not affected").contains("-cpu host"));
        assert!(speculation("quiet", without, "Not affected").contains("-cpu host"));
        assert_eq!(speculation("quiet", whole, "Mitigation: SSBD"), "see what was found");
        assert!(speculation("quiet", "Not affected", "Vulnerable").contains("SSBD"));
        assert_eq!(speculation("quiet", "Not affected", "Not affected"), "see what was found");
        assert_eq!(speculation("quiet", "", ""), "see what was found");
    }

    /// The unit that an operator is given: what it asks systemd for, and what it must leave to the cage.
    #[test]
    fn the_unit_leaves_what_a_cage_is_made_of() {
        let unit = include_str!("../../../../packaging/systemd/casemate.service");
        let lines: Vec<&str> = unit.lines().map(str::trim).collect();
        let value = |key: &str| lines.iter().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let handed: Vec<&str> = value("Delegate").unwrap_or_default().split(' ').collect();
        assert!(["memory", "pids", "cpu"].iter().all(|controller| handed.contains(controller)), "{handed:?}");
        // The launcher stops the front, which finishes what runs; then everything goes.
        assert_eq!(value("KillMode"), Some("mixed"));
        let drain = casemate_config::Config::parse("store = \"/\"").unwrap().limits.drain_ms;
        let patience = value("TimeoutStopSec").and_then(|text| text.parse::<u64>().ok()).unwrap();
        assert!(patience * 1000 > drain, "{patience} s are less than limits.drain_ms");
        for key in [
            "RestrictSUIDSGID",
            "ProtectKernelTunables",
            "ProtectControlGroups",
            "RestrictNamespaces",
            "PrivateUsers",
            "ProtectProc",
            "ProcSubset",
            "MemoryDenyWriteExecute",
            "User",
            "DynamicUser",
        ] {
            assert_eq!(value(key), None, "{key}");
        }
    }
}
