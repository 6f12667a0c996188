//! Everything the demo makes on the machine, and its end.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use stowage_testkit::disk::{self, run};
use stowage_testkit::scratch;
use tempfile::TempDir;

/// For what lets go by itself: the kernel's threads, a loop device that clears at its last close.
const PATIENCE: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(50);

pub(super) struct Keeper {
    dir: Option<TempDir>,
    path: PathBuf,
    cgroup: Option<PathBuf>,
    /// Where the io controller was not enabled before.
    to_disable: Option<PathBuf>,
    /// The process id namespace of the tour on the machine.
    namespace: Option<PathBuf>,
}

impl Keeper {
    pub(super) fn new() -> Result<Self> {
        let dir = scratch::dir("demo")?;
        Ok(Self {
            path: dir.path().to_owned(),
            dir: Some(dir),
            cgroup: None,
            to_disable: None,
            namespace: None,
        })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.path
    }

    /// A disk: a loop device over a sparse file.
    pub(super) fn disk(&self, name: &str, bytes: u64) -> Result<PathBuf> {
        let file = self.path.join(name);
        disk::create_sparse(&file, bytes)?;
        let shown = file.display().to_string();
        run("losetup", ["--find", "--show", &shown]).map(PathBuf::from)
    }

    /// A control group with an I/O controller, where the machine has one.
    pub(super) fn cgroup(&mut self) -> Result<Option<PathBuf>> {
        let Some((root, v2)) = io_tree() else {
            return Ok(None);
        };
        let switch = root.join("cgroup.subtree_control");
        if v2 && !has_io(&switch) {
            self.to_disable = Some(switch);
        }
        let group = root.join(format!("stowage-demo-{}", std::process::id()));
        fs::create_dir(&group)
            .with_context(|| format!("failed to make the control group {}", group.display()))?;
        self.cgroup = Some(group.clone());
        Ok(Some(group))
    }

    /// The processes of this namespace are ours.
    pub(super) fn owns(&mut self, namespace: PathBuf) {
        self.namespace = Some(namespace);
    }

    /// Ends the daemon and its commands, in an order that leaves no file system frozen.
    ///
    /// A snapshot freezes the file system for a moment; a guard process thaws it should the daemon
    /// die then. So the tour is stopped first (it would report the death of its daemon), then all
    /// but the guards end, then the guards by themselves.
    pub(super) fn end_daemon(&self) {
        let Some(namespace) = &self.namespace else {
            return;
        };
        let deadline = Instant::now() + PATIENCE;
        let has = |cmdline: &str, word: &str| cmdline.split('\0').any(|arg| arg == word);
        for (pid, cmdline) in processes(namespace) {
            if has(&cmdline, "demo-tour") {
                let _ = kill_process(pid, Signal::STOP);
            }
        }
        loop {
            let (guards, others): (Vec<_>, Vec<_>) = processes(namespace)
                .into_iter()
                .filter(|(_, cmdline)| !has(cmdline, "demo-tour"))
                .partition(|(_, cmdline)| has(cmdline, "internal-thaw"));
            // A command killed over a suspended device cannot die before the device is resumed.
            self.resume_devices();
            if (guards.is_empty() && others.is_empty()) || Instant::now() > deadline {
                break;
            }
            for (pid, _) in others {
                let _ = kill_process(pid, Signal::KILL);
            }
            sleep(Duration::from_millis(10));
        }
    }

    fn end_processes(&self) -> Result<()> {
        let Some(namespace) = &self.namespace else {
            return Ok(());
        };
        patiently("a process of the tour is still there", || {
            let left = processes(namespace);
            for (pid, _) in &left {
                let _ = kill_process(*pid, Signal::KILL);
            }
            self.resume_devices();
            left.is_empty()
        })
    }

    /// Undoes all, then looks whether it is.
    pub(super) fn undo(mut self) -> Result<()> {
        let mut trouble = Vec::new();
        let mut note = |result: Result<()>| {
            if let Err(error) = result {
                trouble.push(format!("{error:#}"));
            }
        };
        note(self.end_processes());
        note(disk::unmount_below(&self.path));
        let groups: BTreeSet<String> = self.mapped().iter().filter_map(|n| group(n)).collect();
        note(patiently("a device-mapper device is still there", || {
            self.remove_devices();
            self.mapped().is_empty()
        }));
        groups.iter().for_each(|group| remove_links(group));
        note(patiently("a loop device is still attached", || {
            for device in self.loops() {
                // Refused while it is in use, and then tried again.
                let _ = run("losetup", ["--detach", &device.display().to_string()]);
            }
            self.loops().is_empty()
        }));
        if let Some(group) = self.cgroup.take() {
            note(patiently("the control group is still there", || {
                let _ = fs::remove_dir(&group);
                !group.exists()
            }));
        }
        if let Some(switch) = self.to_disable.take().filter(|switch| has_io(switch)) {
            // Refused if another group has come to need it, which is as good.
            let _ = fs::write(switch, "-io");
        }
        if let Some(dir) = self.dir.take() {
            note(dir.close().context("failed to remove the directory"));
        }
        note(self.check());
        if trouble.is_empty() {
            return Ok(());
        }
        bail!("{}", trouble.join("; "));
    }

    fn check(&self) -> Result<()> {
        ensure!(!self.path.exists(), "{} is there", self.path.display());
        let loops = self.loops();
        ensure!(loops.is_empty(), "loop devices {loops:?}");
        let mounts: Vec<PathBuf> = disk::mounts()?
            .into_iter()
            .filter(|(source, target)| {
                target.starts_with(&self.path) || source.starts_with(&self.path)
            })
            .map(|(_, target)| target)
            .collect();
        ensure!(mounts.is_empty(), "mounts {mounts:?}");
        if let Some(namespace) = &self.namespace {
            let left = processes(namespace);
            ensure!(left.is_empty(), "processes {left:?}");
        }
        Ok(())
    }

    /// The loop devices over our files, and those over files in the file systems on them: these
    /// were mounted where only the tour could see it, so their paths tell nothing.
    fn loops(&self) -> Vec<PathBuf> {
        let Ok(text) = run(
            "losetup",
            [
                "--list",
                "--noheadings",
                "--raw",
                "--output",
                "NAME,BACK-MAJ:MIN,BACK-FILE",
            ],
        ) else {
            return Vec::new();
        };
        let all: Vec<(PathBuf, String, PathBuf)> = text
            .lines()
            .filter_map(|line| {
                // The columns are padded with escaped blanks.
                let mut words = line
                    .split_whitespace()
                    .map(|word| word.replace("\\x20", " ").trim().to_owned());
                let name = PathBuf::from(words.next()?);
                let under = words.next()?;
                Some((name, under, words.next().map(PathBuf::from)?))
            })
            .collect();
        let mut ours: Vec<PathBuf> = Vec::new();
        let mut numbers: BTreeSet<String> = BTreeSet::new();
        loop {
            let before = ours.len();
            for (name, under, file) in &all {
                let mine = file.starts_with(&self.path) || numbers.contains(under);
                if mine && !ours.contains(name) {
                    numbers.extend(number(name));
                    ours.push(name.clone());
                }
            }
            if ours.len() == before {
                // The upper ones first.
                ours.reverse();
                return ours;
            }
        }
    }

    /// The names of the device-mapper devices on our disks, the upper ones first.
    fn mapped(&self) -> Vec<String> {
        let mut below: Vec<PathBuf> = self.loops();
        let mut names = Vec::new();
        while let Some(device) = below.pop() {
            let Some(name) = device.file_name() else {
                continue;
            };
            let holders = Path::new("/sys/block").join(name).join("holders");
            for holder in fs::read_dir(holders).into_iter().flatten().flatten() {
                let dir = Path::new("/sys/block").join(holder.file_name());
                if let Ok(name) = fs::read_to_string(dir.join("dm/name")) {
                    let name = name.trim().to_owned();
                    names.retain(|n| *n != name);
                    names.push(name);
                    below.push(Path::new("/dev").join(holder.file_name()));
                }
            }
        }
        names.reverse();
        names
    }

    fn resume_devices(&self) {
        for name in self.mapped() {
            let _ = run("dmsetup", ["resume", &name]);
        }
    }

    fn remove_devices(&self) {
        for name in self.mapped() {
            // Refused while another lies on it, and then tried again.
            if run("dmsetup", ["remove", &name]).is_ok() {
                // Gone already where udev does it.
                let _ = fs::remove_file(Path::new("/dev/mapper").join(&name));
            }
        }
    }
}

/// The volume group in the name of a device of LVM, where a dash is written twice.
fn group(name: &str) -> Option<String> {
    let single = name.replace("--", "\0");
    let (group, _) = single.split_once('-')?;
    Some(group.replace('\0', "-"))
}

/// Where no udev keeps /dev, LVM makes links in a directory named after the group, and a command
/// that was killed leaves them.
fn remove_links(group: &str) {
    let dir = Path::new("/dev").join(group);
    for link in fs::read_dir(&dir).into_iter().flatten().flatten() {
        if !link.path().exists() {
            let _ = fs::remove_file(link.path());
        }
    }
    // Refused while something is in it, which then is not ours.
    let _ = fs::remove_dir(dir);
}

/// Every process in the namespace, as this one sees it, with its command line. Not those that have
/// ended and that their parent has not asked for yet.
fn processes(namespace: &Path) -> Vec<(Pid, String)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
            let mine = fs::read_link(entry.path().join("ns/pid")).is_ok_and(|ns| ns == namespace);
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            let state = stat.rsplit_once(") ")?.1;
            let mine = mine && !state.starts_with(['Z', 'X']);
            let cmdline =
                mine.then(|| fs::read(entry.path().join("cmdline")).unwrap_or_default())?;
            Some((pid, String::from_utf8_lossy(&cmdline).into_owned()))
        })
        .collect()
}

fn patiently(what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        ensure!(
            Instant::now() < deadline,
            "{what} after {} s",
            PATIENCE.as_secs()
        );
        sleep(POLL);
    }
    Ok(())
}

fn number(device: &Path) -> Option<String> {
    let rdev = fs::metadata(device).ok()?.rdev();
    Some(format!(
        "{}:{}",
        rustix::fs::major(rdev),
        rustix::fs::minor(rdev)
    ))
}

/// The control-group tree that limits I/O, and whether it is of version 2.
pub(super) fn io_tree() -> Option<(PathBuf, bool)> {
    let root = Path::new("/sys/fs/cgroup");
    for tree in [root.to_owned(), root.join("unified")] {
        if has_io(&tree.join("cgroup.controllers")) {
            return Some((tree, true));
        }
    }
    let v1 = root.join("blkio");
    v1.join("blkio.throttle.read_bps_device")
        .exists()
        .then_some((v1, false))
}

fn has_io(file: &Path) -> bool {
    fs::read_to_string(file).is_ok_and(|names| names.split_whitespace().any(|n| n == "io"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_group_is_found_before_a_single_dash() {
        let found = super::group("demo--lvm-stowage--v--1-cow");
        assert_eq!(found.as_deref(), Some("demo-lvm"));
    }
}
