//! What would give a layer that is missing: the exact command, where there is one.

use std::path::Path;

use super::kernel::{read, sysctl};

/// What to do about a layer that is missing, by the name that the config calls it.
pub(super) fn layer(name: &str, config: &Path) -> String {
    match name {
        "own-identity" => format!("sudo casemate serve --config {}", config.display()),
        "landlock" => landlock(),
        "namespaces" => namespaces(),
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

/// Whether this process is under a filter that was there before it.
fn filtered() -> bool {
    let status = read("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2"))
}
