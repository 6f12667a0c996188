//! What the bench needs of the machine. One table serves `require` in tests and `xtask setup`.

use std::path::PathBuf;

/// A program and the Debian package that brings it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tool {
    pub program: &'static str,
    pub package: &'static str,
}

const fn tool(program: &'static str, package: &'static str) -> Tool {
    Tool { program, package }
}

/// Every program the tests run, Rust and Go aside (those have no usable Debian package).
pub const TOOLS: &[Tool] = &[
    tool("linux.uml", "user-mode-linux"),
    // For the newer kernel that `xtask setup` gets for the guests.
    tool("patchelf", "patchelf"),
    tool("modprobe", "kmod"),
    tool("lvm", "lvm2"),
    tool("dmsetup", "dmsetup"),
    tool("thin_check", "thin-provisioning-tools"),
    tool("mkfs.ext4", "e2fsprogs"),
    tool("mkfs.xfs", "xfsprogs"),
    tool("mkfs.btrfs", "btrfs-progs"),
    tool("mkfs.vfat", "dosfstools"),
    // Signatures that a pool must never overwrite: partition tables, RAID members, LUKS.
    tool("sfdisk", "fdisk"),
    tool("mdadm", "mdadm"),
    tool("cryptsetup", "cryptsetup-bin"),
    tool("fio", "fio"),
    tool("mount", "mount"),
    tool("losetup", "mount"),
    tool("setpriv", "util-linux"),
    tool("ip", "iproute2"),
];

/// Where `program` lies. Looks beside `PATH` also in the sbin directories, which a developer's
/// `PATH` often lacks.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// Panics unless this process is root and all `programs` are installed. A test that cannot run
/// has failed; were it skipped, nobody would notice that it has not run for a year.
///
/// # Panics
/// See above; the text names the `apt-get install` line.
pub fn require(programs: &[&str]) {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test mounts and makes devices: run it as root (sudo -E make test)"
    );
    let missing: Vec<&str> = programs
        .iter()
        .copied()
        .filter(|p| find(p).is_none())
        .collect();
    let mut packages: Vec<&str> = missing.iter().map(|p| package_of(p)).collect();
    packages.sort_unstable();
    packages.dedup();
    assert!(
        missing.is_empty(),
        "not installed: {}; mend it with: apt-get install -y --no-install-recommends {}",
        missing.join(" "),
        packages.join(" ")
    );
}

fn package_of(program: &str) -> &str {
    TOOLS
        .iter()
        .find(|tool| tool.program == program)
        .map_or(program, |tool| tool.package)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_in_sbin_is_found_without_sbin_in_path() {
        assert!(find("mount").is_some());
        assert_eq!(find("no-such-program-here"), None);
    }

    #[test]
    fn the_package_of_a_known_program_is_named() {
        assert_eq!(package_of("lvm"), "lvm2");
        assert_eq!(package_of("unheard-of"), "unheard-of");
    }
}
