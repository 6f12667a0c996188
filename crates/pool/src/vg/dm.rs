//! What the kernel knows of device-mapper devices, from sysfs: no process is started to learn
//! whether an LV is active, suspended or was written to.

use std::fs;
use std::path::{Path, PathBuf};

use stowage_host::device::{self, Devno};
use stowage_model::error::Context as _;
use stowage_model::{Bytes, Result};

use super::names;

/// The device-mapper devices of this machine.
#[derive(Debug, Clone)]
pub(crate) struct Devices {
    /// /sys/block, or a test's own.
    root: PathBuf,
}

impl Default for Devices {
    fn default() -> Self {
        Self {
            root: PathBuf::from("/sys/block"),
        }
    }
}

/// One active device.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// Its device-mapper name.
    pub(crate) name: String,
    dir: PathBuf,
}

impl Devices {
    #[cfg(test)]
    pub(crate) fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Every device whose name begins with `prefix`.
    pub(crate) fn beginning(&self, prefix: &str) -> Result<Vec<Node>> {
        let listing = || format!("failed to list {}", self.root.display());
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.root).or_internal(listing)? {
            // Other devices have no name here, and one may go between listing and reading.
            let node = Node::of(entry.or_internal(listing)?.path());
            found.extend(node.filter(|node| node.name.starts_with(prefix)));
        }
        Ok(found)
    }

    /// The device of this name, if it is active. Where udev or LVM made its node, that leads to it,
    /// and the others are not looked at: a machine may have thousands, and be asked about each.
    pub(crate) fn find(&self, name: &str) -> Result<Option<Node>> {
        let led = device::devno(&names::node(name)).and_then(device::kernel_name);
        if let Some(node) = led.ok().and_then(|dir| Node::of(self.root.join(dir)))
            && node.name == name
        {
            return Ok(Some(node));
        }
        Ok(self
            .beginning(name)?
            .into_iter()
            .find(|node| node.name == name))
    }
}

impl Node {
    /// The device of this directory; none where it is of another kind, or gone.
    fn of(dir: PathBuf) -> Option<Self> {
        let name = fs::read_to_string(dir.join("dm/name")).ok()?;
        let name = name.trim_end().to_owned();
        Some(Self { name, dir })
    }

    fn read(&self, file: &str) -> Option<String> {
        Some(
            fs::read_to_string(self.dir.join(file))
                .ok()?
                .trim()
                .to_owned(),
        )
    }

    /// Its number.
    pub(crate) fn devno(&self) -> Option<Devno> {
        self.read("dev")?.parse().ok()
    }

    /// The kernel's node for it.
    pub(crate) fn plain(&self) -> PathBuf {
        Path::new("/dev").join(self.dir.file_name().unwrap_or_default())
    }

    /// Whether it is of the group with this UUID, and not of another one of that name.
    pub(crate) fn is_of(&self, group: &str) -> bool {
        let rest = |uuid: String| uuid.strip_prefix("LVM-").map(str::to_owned);
        self.read("dm/uuid")
            .and_then(rest)
            .is_some_and(|rest| rest.starts_with(group))
    }

    /// Whether all it lies on, layer by layer, is among these disks. One that left, also if it is
    /// back under another name, is not: the table keeps the number it had.
    pub(crate) fn rests_on(&self, disks: &[Devno]) -> bool {
        rests_on(&self.dir, disks)
    }

    /// Whether its writers are held.
    pub(crate) fn is_suspended(&self) -> bool {
        self.read("dm/suspended").as_deref() == Some("1")
    }

    /// Its size; 0 for one that has no table, or is gone by now.
    pub(crate) fn size(&self) -> Bytes {
        let sectors: u64 = self
            .read("size")
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        Bytes(sectors.saturating_mul(512))
    }

    /// Sectors written to it since it became active: the seventh number of its statistics
    /// (Documentation/block/stat.rst).
    pub(crate) fn written(&self) -> u64 {
        self.read("stat")
            .and_then(|stat| stat.split_whitespace().nth(6)?.parse().ok())
            .unwrap_or(0)
    }
}

fn rests_on(dir: &Path, disks: &[Devno]) -> bool {
    let Ok(slaves) = fs::read_dir(dir.join("slaves")) else {
        return true;
    };
    slaves.flatten().all(|slave| {
        let number = fs::read_to_string(slave.path().join("dev"));
        let Some(devno) = number.ok().and_then(|text| text.parse::<Devno>().ok()) else {
            return false;
        };
        // A layer of LVM's own, or another mapping between the group and its disk.
        disks.contains(&devno)
            || (slave.path().join("dm").exists() && rests_on(&slave.path(), disks))
    })
}

#[cfg(test)]
pub(crate) mod fake {
    use super::*;

    /// A directory like /sys/block with one dm device for each of (name, suspended, written).
    pub(crate) fn sysfs(devices: &[(&str, bool, u64)]) -> (tempfile::TempDir, Devices) {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("sda")).unwrap();
        for (index, (name, suspended, written)) in devices.iter().enumerate() {
            let dir = root.path().join(format!("dm-{index}"));
            fs::create_dir_all(dir.join("dm")).unwrap();
            fs::write(dir.join("dm/name"), format!("{name}\n")).unwrap();
            fs::write(
                dir.join("dm/suspended"),
                if *suspended { "1\n" } else { "0\n" },
            )
            .unwrap();
            fs::write(dir.join("size"), "2048\n").unwrap();
            fs::write(dir.join("stat"), format!("1 0 8 0 5 0 {written} 0 0 0\n")).unwrap();
        }
        let devices = Devices::at(root.path());
        (root, devices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_on_a_disk_that_left_is_told() {
        let (root, devices) = fake::sysfs(&[("vg-a", false, 0), ("vg-a-real", false, 0)]);
        let at = |path: &str| root.path().join(path);
        let disk = Devno {
            major: 8,
            minor: 16,
        };
        let rests = || devices.find("vg-a").unwrap().unwrap().rests_on(&[disk]);
        assert!(rests(), "of an old kernel, or a table of zeros");
        fs::create_dir_all(at("sdb")).unwrap();
        for dm in ["dm-0", "dm-1"] {
            fs::create_dir_all(at(dm).join("slaves")).unwrap();
        }
        fs::write(at("sdb/dev"), "8:16\n").unwrap();
        fs::write(at("dm-1/dev"), "253:1\n").unwrap();
        std::os::unix::fs::symlink(at("dm-1"), at("dm-0/slaves/dm-1")).unwrap();
        std::os::unix::fs::symlink(at("sdb"), at("dm-1/slaves/sdb")).unwrap();
        assert!(rests());
        fs::write(at("sdb/dev"), "8:32\n").unwrap();
        assert!(!rests(), "another disk");
        fs::remove_dir_all(at("sdb")).unwrap();
        assert!(!rests(), "gone");
    }

    #[test]
    fn a_device_is_of_its_group_by_uuid() {
        let (root, devices) = fake::sysfs(&[("vg-a", false, 0)]);
        let node = devices.find("vg-a").unwrap().unwrap();
        assert!(!node.is_of("GROUP"));
        fs::write(root.path().join("dm-0/dm/uuid"), "LVM-GROUPvolume\n").unwrap();
        assert!(node.is_of("GROUP") && !node.is_of("OTHER"));
    }

    #[test]
    fn devices_are_found_by_their_whole_name() {
        let (_root, devices) = fake::sysfs(&[("vg-a", true, 7), ("vg-a-real", false, 0)]);
        let node = devices.find("vg-a").unwrap().unwrap();
        assert!(node.is_suspended());
        assert_eq!((node.size(), node.written()), (Bytes::mib(1), 7));
        assert!(devices.find("vg").unwrap().is_none());
        assert_eq!(devices.beginning("vg-a-").unwrap().len(), 1);
    }
}
