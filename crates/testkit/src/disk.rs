//! Sparse files and real file systems on loop devices.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::{require, scratch};

/// A file of holes, in a directory of its own; removed when dropped.
#[derive(Debug)]
pub struct SparseFile {
    path: PathBuf,
    _dir: TempDir,
}

impl SparseFile {
    pub fn new(bytes: u64) -> Result<Self> {
        let dir = scratch::dir("disk")?;
        let path = dir.path().join("disk.img");
        create_sparse(&path, bytes)?;
        Ok(Self { path, _dir: dir })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Makes a file of `bytes` that occupies nothing yet.
pub fn create_sparse(path: &Path, bytes: u64) -> Result<()> {
    File::create_new(path)
        .and_then(|file| file.set_len(bytes))
        .with_context(|| format!("failed to create a sparse file {}", path.display()))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FsKind {
    Ext4,
    Xfs,
    Btrfs,
}

impl FsKind {
    pub const ALL: [Self; 3] = [Self::Ext4, Self::Xfs, Self::Btrfs];

    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    fn mkfs(self) -> &'static str {
        match self {
            Self::Ext4 => "mkfs.ext4",
            Self::Xfs => "mkfs.xfs",
            Self::Btrfs => "mkfs.btrfs",
        }
    }
}

/// The name of a file system's image in its directory.
const IMAGE: &str = "fs.img";

/// A fresh file system of the machine's own kernel: sparse file, loop device, mkfs, mount.
///
/// Dropping it unmounts whatever the test left mounted below it, detaches the loop devices whose
/// files lie in it, and removes the files.
#[derive(Debug)]
pub struct LoopFs {
    mount: PathBuf,
    device: PathBuf,
    dir: TempDir,
}

impl LoopFs {
    /// # Panics
    /// Unless run as root with the kind's mkfs installed, see [`require`].
    pub fn new(kind: FsKind, bytes: u64) -> Result<Self> {
        require(&[kind.mkfs(), "losetup", "mount"]);
        let dir = scratch::dir(kind.name())?;
        let image = dir.path().join(IMAGE);
        create_sparse(&image, bytes)?;
        run(kind.mkfs(), [OsStr::new("-q"), image.as_os_str()])?;
        Self::attach(kind, dir)
    }

    /// The file system in a copy of this image.
    ///
    /// # Panics
    /// Unless run as root, see [`require`].
    pub fn of_image(kind: FsKind, image: &Path) -> Result<Self> {
        require(&["cp", "losetup", "mount"]);
        let dir = scratch::dir(kind.name())?;
        let copy = dir.path().join(IMAGE);
        run(
            "cp",
            [
                OsStr::new("--sparse=always"),
                image.as_os_str(),
                copy.as_os_str(),
            ],
        )?;
        Self::attach(kind, dir)
    }

    fn attach(kind: FsKind, dir: TempDir) -> Result<Self> {
        let device = PathBuf::from(run(
            "losetup",
            [
                OsStr::new("--find"),
                OsStr::new("--show"),
                dir.path().join(IMAGE).as_os_str(),
            ],
        )?);
        let mount = dir.path().join("mnt");
        // From here on Drop cleans up, also when a step below fails.
        let fs = Self { mount, device, dir };
        std::fs::create_dir(&fs.mount).context("failed to create the mount point")?;
        run(
            "mount",
            [
                OsStr::new("-t"),
                OsStr::new(kind.name()),
                fs.device.as_os_str(),
                fs.mount.as_os_str(),
            ],
        )?;
        Ok(fs)
    }

    /// The file it is in.
    pub fn image(&self) -> PathBuf {
        self.dir.path().join(IMAGE)
    }

    /// The root of the file system.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// The loop device under it.
    pub fn device(&self) -> &Path {
        &self.device
    }
}

impl Drop for LoopFs {
    fn drop(&mut self) {
        let cleaned =
            unmount_below(self.dir.path()).and_then(|()| detach_loops_below(self.dir.path()));
        if let Err(error) = cleaned {
            eprintln!(
                "failed to clean up {}: {error:#}",
                self.dir.path().display()
            );
        }
    }
}

/// Unmounts everything below `dir`, the newest mount first, so that what a killed daemon
/// left behind does not outlive the test.
///
/// A loop device over a file below `dir` may be mounted elsewhere; it goes first.
pub fn unmount_below(dir: &Path) -> Result<()> {
    for device in loops_below(dir)? {
        for (_, target) in mounts()?
            .iter()
            .rev()
            .filter(|(source, _)| *source == device)
        {
            thaw(target);
            run("umount", [target])?;
        }
    }
    for (_, target) in mounts()?
        .iter()
        .rev()
        .filter(|(_, target)| target.starts_with(dir) && target != dir)
    {
        thaw(target);
        run("umount", [target])?;
    }
    Ok(())
}

/// Thaws what a test left frozen at `target`: one that is unmounted so keeps its device for good, and
/// whoever waits for a write to it. An error says that nothing was frozen.
pub fn thaw(target: &Path) {
    let _ = run("fsfreeze", [OsStr::new("-u"), target.as_os_str()]);
}

/// Detaches every loop device whose file lies below `dir`.
pub fn detach_loops_below(dir: &Path) -> Result<()> {
    for device in loops_below(dir)? {
        run("losetup", [OsStr::new("--detach"), device.as_os_str()])?;
    }
    Ok(())
}

/// The loop devices whose file lies below `dir`, deleted files included.
pub fn loops_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/sys/block").context("failed to list /sys/block")? {
        let entry = entry.context("failed to list /sys/block")?;
        // Only a bound loop device has the file; the kernel appends " (deleted)" to a lost one.
        let Ok(backing) = std::fs::read_to_string(entry.path().join("loop/backing_file")) else {
            continue;
        };
        if Path::new(backing.trim_end()).starts_with(dir) {
            found.push(Path::new("/dev").join(entry.file_name()));
        }
    }
    Ok(found)
}

/// (source, target) of every mount, the oldest first.
pub fn mounts() -> Result<Vec<(PathBuf, PathBuf)>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo")
        .context("failed to read /proc/self/mountinfo")?;
    Ok(text.lines().filter_map(parse_mountinfo).collect())
}

fn parse_mountinfo(line: &str) -> Option<(PathBuf, PathBuf)> {
    let (mount, superblock) = line.split_once(" - ")?;
    let target = mount.split(' ').nth(4)?;
    let source = superblock.split(' ').nth(1)?;
    Some((unescape(source), unescape(target)))
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> PathBuf {
    PathBuf::from(
        text.replace("\\040", " ")
            .replace("\\011", "\t")
            .replace("\\012", "\n")
            .replace("\\134", "\\"),
    )
}

/// Runs a command of the bench and returns its trimmed stdout.
pub fn run<A: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = A>) -> Result<String> {
    let mut command = Command::new(program);
    command.args(args).env("LC_ALL", "C");
    let output = command
        .output()
        .with_context(|| format!("failed to run {command:?}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!(
            "{command:?} ended with {}: {}",
            output.status,
            stderr.trim()
        );
    }
    let stdout = String::from_utf8(output.stdout).context("command printed no UTF-8")?;
    Ok(stdout.trim_end().to_owned())
}

/// Reads a size such as `64M`, `2G` or `4096` (binary units).
pub fn parse_size(text: &str) -> Result<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "K" | "Ki" | "KiB" => 10,
        "M" | "Mi" | "MiB" => 20,
        "G" | "Gi" | "GiB" => 30,
        unit => bail!("unknown unit {unit:?} in size {text:?}: use K, M or G"),
    };
    let number: u64 = digits
        .parse()
        .with_context(|| format!("no number in size {text:?}"))?;
    ensure!(number <= u64::MAX >> shift, "size {text:?} is too large");
    Ok(number << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_with_a_space_is_unescaped() {
        let line =
            r"36 35 98:0 /mnt1 /mnt\040two rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
        assert_eq!(
            parse_mountinfo(line),
            Some(("/dev/root".into(), "/mnt two".into()))
        );
    }

    #[test]
    fn sizes_are_binary() {
        assert_eq!(parse_size("2G").unwrap(), 2 << 30);
        assert_eq!(parse_size("64Mi").unwrap(), 64 << 20);
        assert_eq!(parse_size("4096").unwrap(), 4096);
        assert!(parse_size("2T5").is_err());
        assert!(parse_size("99999999999G").is_err());
    }

    #[test]
    fn a_frozen_file_system_leaves_nothing_behind_either() {
        let fs = LoopFs::new(FsKind::Ext4, 64 << 20).unwrap();
        let dir = fs.dir.path().to_owned();
        run("fsfreeze", [OsStr::new("-f"), fs.path().as_os_str()]).unwrap();
        drop(fs);
        assert!(!dir.exists());
        assert_eq!(loops_below(&dir).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_loop_file_system_leaves_nothing_behind() {
        for kind in FsKind::ALL {
            let fs = LoopFs::new(kind, 512 << 20).unwrap();
            std::fs::write(fs.path().join("hello"), "world").unwrap();
            let (dir, device) = (fs.dir.path().to_owned(), fs.device().to_owned());
            assert_eq!(loops_below(&dir).unwrap(), [device.as_path()]);

            drop(fs);
            assert!(!dir.exists());
            assert!(
                !mounts()
                    .unwrap()
                    .iter()
                    .any(|(_, target)| target.starts_with(&dir))
            );
            assert_eq!(loops_below(&dir).unwrap(), Vec::<PathBuf>::new());
        }
    }
}
