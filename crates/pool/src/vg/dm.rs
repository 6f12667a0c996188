//! What the kernel knows of device-mapper devices, from sysfs: no process is started to learn
//! whether an LV is active, suspended or was written to.

use std::fs;
use std::path::PathBuf;

use stowage_model::error::Context as _;
use stowage_model::{Bytes, Result};

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
            let dir = entry.or_internal(listing)?.path();
            // Other devices have no name here, and one may go between listing and reading.
            let Ok(name) = fs::read_to_string(dir.join("dm/name")) else {
                continue;
            };
            let name = name.trim_end().to_owned();
            if name.starts_with(prefix) {
                found.push(Node { name, dir });
            }
        }
        Ok(found)
    }

    /// The device of this name, if it is active.
    pub(crate) fn find(&self, name: &str) -> Result<Option<Node>> {
        Ok(self
            .beginning(name)?
            .into_iter()
            .find(|node| node.name == name))
    }
}

impl Node {
    fn read(&self, file: &str) -> Option<String> {
        Some(
            fs::read_to_string(self.dir.join(file))
                .ok()?
                .trim()
                .to_owned(),
        )
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
    fn devices_are_found_by_their_whole_name() {
        let (_root, devices) = fake::sysfs(&[("vg-a", true, 7), ("vg-a-real", false, 0)]);
        let node = devices.find("vg-a").unwrap().unwrap();
        assert!(node.is_suspended());
        assert_eq!((node.size(), node.written()), (Bytes::mib(1), 7));
        assert!(devices.find("vg").unwrap().is_none());
        assert_eq!(devices.beginning("vg-a-").unwrap().len(), 1);
    }
}
