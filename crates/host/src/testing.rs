//! Fixtures: loop devices and mounts that go away with the test.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::loopdev::{self, LoopDevice, Options};
use crate::path::Target;

/// These tests use the real kernel; skipping them in silence would hide that nothing was tested.
pub(crate) fn require_root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test mounts and attaches loop devices: run it as root"
    );
}

/// A sparse file on a loop device, both gone at the end.
pub(crate) struct Disk {
    pub(crate) dir: TempDir,
    pub(crate) file: PathBuf,
    pub(crate) device: LoopDevice,
}

impl Disk {
    pub(crate) fn new(size: u64) -> Self {
        require_root();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("disk");
        File::create(&file).unwrap().set_len(size).unwrap();
        let options = Options {
            autoclear: true,
            ..Options::default()
        };
        let device = loopdev::attach(&file, options).unwrap();
        Self { dir, file, device }
    }

    /// Zeros with a file system of the smallest size that all of them accept.
    pub(crate) fn formatted(fstype: &str) -> Self {
        let disk = Self::new(if fstype == "xfs" {
            320 << 20
        } else {
            128 << 20
        });
        tool(
            &format!("mkfs.{fstype}"),
            &["-q", disk.device.path.to_str().unwrap()],
        );
        disk
    }

    pub(crate) fn path(&self) -> &Path {
        &self.device.path
    }

    /// Mounts it at a new directory.
    pub(crate) fn mounted(&self, fstype: &str) -> Mounted {
        let mounted = Mounted::at(self.dir.path().join("mnt"));
        crate::mount::mount_device::<&str>(self.path(), &mounted.target(), fstype, &[]).unwrap();
        mounted
    }
}

/// A directory from which everything is unmounted at the end.
pub(crate) struct Mounted(pub(crate) PathBuf);

impl Mounted {
    pub(crate) fn at(path: PathBuf) -> Self {
        require_root();
        Target::create_dir(&path, 0o750).unwrap();
        Self(path)
    }

    pub(crate) fn target(&self) -> Target {
        Target::open(&self.0).unwrap()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        while rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).is_ok() {}
    }
}

/// Runs a tool that the test needs, and says what it said if it fails.
pub(crate) fn tool(program: &str, args: &[&str]) {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|error| {
            panic!("failed to run {program}, which this test needs: {error}");
        });
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
}
