//! The guest's first process: a shell script made for each boot.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Carries the command's exit status back, in the scratch directory.
pub(super) const STATUS_FILE: &str = "status";

/// What a node has. Other modules load when asked for: the guest's modprobe finds them too.
pub(super) const MODULES: &[&str] = &[
    "dm-mod",
    "dm-snapshot",
    "dm-thin-pool",
    "dm-mirror",
    "dm-raid",
    "raid1",
    "dm-flakey",
    "loop",
    "fuse",
    "xfs",
    "btrfs",
];

/// LVM where no udev runs, which would otherwise be waited for. Nothing of a guest is swapped out, and
/// the memory that LVM touches beforehand, lest it is while a device is suspended, would take a third
/// of the time of its commands: each page is a system call of User Mode Linux.
const LVM_CONF: &str = r#"devices { use_devicesfile=0 obtain_device_list_from_udev=0 external_device_info_source="none" }
activation { udev_sync=0 udev_rules=0 verify_udev_operations=0 reserved_memory=0 reserved_stack=0 }
backup { backup=0 archive=0 }
"#;

const BEFORE: &str = r#"
# Until its own /proc is mounted the guest sees the machine's through hostfs, and the machine's
# sysrq-trigger with it: hence exit (a panic of the guest, and of the guest alone) up to there.
mount -t proc proc /proc || exit 1
off() { echo o >/proc/sysrq-trigger; while :; do sleep 60; done; }
die() { echo "guest: failed to $*"; off; }
mount -t sysfs sysfs /sys || die "mount /sys"
# Debian's kernel mounts it before it starts init; another may not.
grep -q ' /dev devtmpfs ' /proc/mounts || mount -t devtmpfs devtmpfs /dev || die "mount /dev"
# The kernel makes 500 for terminals that nobody has; every command of LVM looks at each.
rm -f /dev/tty?* /dev/pty?*
mkdir -p /dev/pts /dev/shm /dev/mapper
mount -t devpts devpts /dev/pts || die "mount /dev/pts"
mount -t tmpfs tmpfs /dev/shm || die "mount /dev/shm"
[ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd

# shadow TOP DIR...: a tmpfs over TOP through which each DIR below it stays in sight.
shadow() {
    top=$1; shift
    mkdir -p /dev/.below
    mount --bind "$top" /dev/.below || die "look below $top"
    mount -t tmpfs -o mode=1777 tmpfs "$top" || die "mount $top"
    for dir; do
        mkdir -p "$dir" && mount --bind "/dev/.below${dir#"$top"}" "$dir" || die "show $dir"
    done
    umount -l /dev/.below
}
"#;

const CGROUPS_AND_NETWORK: &str = r#"
mkdir -p /run/lock /run/home
mount -t cgroup2 cgroup2 /sys/fs/cgroup || die "mount /sys/fs/cgroup"
# While every process still sits in the root group, the only time the kernel allows it.
echo "+cpu +io +memory +pids" >/sys/fs/cgroup/cgroup.subtree_control || die "enable controllers"
ip link set lo up || die "bring up lo"
"#;

const AFTER: &str = r#"
# Beside first and renamed then: the file is there whole or not at all.
echo "$status" >"$scratch/status.new" && sync "$scratch/status.new" || die "write the status"
mv "$scratch/status.new" "$scratch/status"
# In the background, and not for ever: a device that was left suspended blocks sync for good.
sync &
syncing=$!
tries=0
while kill -0 "$syncing" 2>/dev/null && [ "$tries" -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
off
"#;

pub(super) struct Plan<'a> {
    pub(super) modules: &'a [String],
    pub(super) modules_dir: &'a Path,
    pub(super) visible: &'a [PathBuf],
    pub(super) env: &'a [(OsString, OsString)],
    pub(super) disks: usize,
    pub(super) current_dir: &'a Path,
    pub(super) argv: &'a [OsString],
}

/// Writes the script and what it reads into the scratch directory; returns the script's path.
pub(super) fn write(scratch: &Path, plan: &Plan<'_>) -> Result<PathBuf> {
    let place = |name: &str, content: &[u8]| {
        let path = scratch.join(name);
        std::fs::write(&path, content)
            .with_context(|| format!("failed to write {}", path.display()))?;
        anyhow::Ok(path)
    };
    let make_dir = |name: &str| {
        std::fs::create_dir_all(scratch.join(name)).context("failed to prepare the guest")
    };

    make_dir("lvm")?;
    place("lvm/lvm.conf", LVM_CONF.as_bytes())?;
    // modprobe wants DIR/lib/modules/VERSION; the package has them at another place.
    make_dir("modules/lib")?;
    std::os::unix::fs::symlink(plan.modules_dir, scratch.join("modules/lib/modules"))
        .context("failed to prepare the guest's modules")?;
    let modprobe = format!(
        "#!/bin/sh\nexec modprobe -d {}/modules \"$@\"\n",
        scratch.display()
    );
    make_executable(&place("modprobe", modprobe.as_bytes())?)?;

    let path = place("init", &script(scratch, plan)?)?;
    make_executable(&path)?;
    Ok(path)
}

fn make_executable(path: &Path) -> Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
        .with_context(|| format!("failed to make {} executable", path.display()))
}

fn script(scratch: &Path, plan: &Plan<'_>) -> Result<Vec<u8>> {
    let mut script = Script::default();
    script.line(["#!/bin/sh"]);
    script.line(["export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]);
    script.assign("scratch", scratch.as_os_str());
    script.line([BEFORE]);
    for top in ["/tmp", "/run"] {
        let below = outermost_below(
            top,
            plan.visible.iter().map(PathBuf::as_path).chain([scratch]),
        )?;
        script.words(
            ["shadow", top]
                .map(OsStr::new)
                .into_iter()
                .chain(below.iter().map(|d| d.as_os_str())),
        );
    }
    script.line([CGROUPS_AND_NETWORK]);
    script.line(["echo \"$scratch/modprobe\" >/proc/sys/kernel/modprobe"]);
    for module in MODULES
        .iter()
        .copied()
        .chain(plan.modules.iter().map(String::as_str))
    {
        script.assign("module", OsStr::new(module));
        script.line(["\"$scratch/modprobe\" \"$module\" || die \"load module $module\""]);
    }

    // `env -i` keeps what the kernel and this script have set from the command.
    let mut env: Vec<(OsString, OsString)> = [
        (
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        ),
        ("HOME", "/run/home"),
        ("LC_ALL", "C"),
        ("TERM", "dumb"),
        (crate::scratch::VARIABLE, "/run/scratch"),
    ]
    .map(|(key, value)| (key.into(), value.into()))
    .to_vec();
    env.push(("LVM_SYSTEM_DIR".into(), scratch.join("lvm").into()));
    let disks: Vec<String> = ('b'..)
        .take(plan.disks)
        .map(|letter| format!("/dev/ubd{letter}"))
        .collect();
    env.push((super::DISKS_VARIABLE.into(), disks.join(",").into()));
    env.extend(plan.env.iter().cloned());

    script.words([OsStr::new("cd"), plan.current_dir.as_os_str()]);
    let assignments: Vec<OsString> = env
        .into_iter()
        .map(|(mut key, value)| {
            key.push("=");
            key.push(value);
            key
        })
        .collect();
    let command = ["env", "-i"].map(OsStr::new).into_iter();
    let command = command.chain(assignments.iter().map(OsString::as_os_str));
    script.words(command.chain(plan.argv.iter().map(OsString::as_os_str)));
    script.line(["status=$?"]);
    script.line([AFTER]);
    Ok(script.bytes)
}

/// The directories below `top`, without those that lie in another one of them.
fn outermost_below<'a>(top: &str, dirs: impl Iterator<Item = &'a Path>) -> Result<Vec<PathBuf>> {
    let mut below: Vec<PathBuf> = Vec::new();
    for dir in dirs.filter(|dir| dir.starts_with(top)) {
        anyhow::ensure!(
            dir != Path::new(top),
            "the guest cannot show {top}: name a directory in it"
        );
        below.push(dir.to_path_buf());
    }
    // Parents come before their children in this order.
    below.sort();
    below.dedup_by(|child, parent| child.starts_with(parent));
    Ok(below)
}

#[derive(Default)]
struct Script {
    bytes: Vec<u8>,
}

impl Script {
    fn line<'a>(&mut self, parts: impl IntoIterator<Item = &'a str>) {
        for part in parts {
            self.bytes.extend_from_slice(part.as_bytes());
        }
        self.bytes.push(b'\n');
    }

    fn assign(&mut self, name: &str, value: &OsStr) {
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(b'=');
        self.quote(value);
        self.bytes.push(b'\n');
    }

    fn words<'a>(&mut self, words: impl IntoIterator<Item = &'a OsStr>) {
        for word in words {
            self.quote(word);
            self.bytes.push(b' ');
        }
        self.bytes.push(b'\n');
    }

    fn quote(&mut self, word: &OsStr) {
        self.bytes.push(b'\'');
        for byte in word.as_bytes() {
            match byte {
                b'\'' => self.bytes.extend_from_slice(br"'\''"),
                other => self.bytes.push(*other),
            }
        }
        self.bytes.push(b'\'');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_in_a_word_survives_the_shell() {
        let mut script = Script::default();
        script.words([OsStr::new("echo"), OsStr::new("it's $HOME")]);
        assert_eq!(script.bytes, b"'echo' 'it'\\''s $HOME' \n");
    }

    #[test]
    fn nested_directories_are_shown_once() {
        let dirs = ["/tmp/clone/target", "/srv/x", "/tmp/clone", "/tmp/clone2"].map(Path::new);
        let shown = outermost_below("/tmp", dirs.into_iter()).unwrap();
        assert_eq!(shown, [Path::new("/tmp/clone"), Path::new("/tmp/clone2")]);
        assert!(outermost_below("/tmp", [Path::new("/tmp")].into_iter()).is_err());
    }
}
