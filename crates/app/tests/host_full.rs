//! State and pool on one disk that has no block and no inode left: it can be emptied with our own
//! commands, whatever happens to the daemon meanwhile.

mod support;

use std::fs::{File, OpenOptions, create_dir, hard_link};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use std::time::{Duration, Instant};

use serde_json::Value;
use stowage_testkit::disk::{FsKind, LoopFs};
use support::calls::{self, Code, Csi, Mode, refused, staging_of};
use support::{Rig, Storage, get, put, tool};

/// Where something small could be written, so that no directory has room for another name.
const DIRECTORIES: [&str; 4] = ["state", "state/attachments", "pool/making", "pool/trash"];

/// A daemon whose state lies on the file system of its pool, and what fills that.
struct Disk {
    rig: Rig,
    fs: PathBuf,
    links: usize,
}

/// Write until there is no room, and bring it to the disk; errors are what is wanted.
fn fill(path: &Path) {
    let file = OpenOptions::new().append(true).create(true).open(path);
    let mut file = file.expect("a name that is there, or has room");
    for piece in [1 << 20, 4096, 1] {
        while file.write_all(&vec![b'f'; piece]).is_ok() {}
        let _ = file.sync_all();
    }
}

fn is_full(result: std::io::Result<()>) -> bool {
    match result {
        Ok(()) => false,
        Err(e) if e.kind() == ErrorKind::StorageFull => true,
        Err(e) => panic!("{e}"),
    }
}

impl Disk {
    fn new(kind: FsKind, size: u64) -> Self {
        let disk = LoopFs::new(kind, size).expect("a file system");
        let fs = disk.path().to_owned();
        create_dir(fs.join("state")).expect("an empty file system");
        create_dir(fs.join("inodes")).expect("an empty file system");
        put(&fs.join("fill"), "f");
        let mut rig = Rig::stopped(Storage::File(disk));
        symlink(fs.join("state"), rig.path("state")).expect("a fresh directory");
        rig.start();
        let links = 0;
        Self { rig, fs, links }
    }

    /// Leave no block, and no room for a name.
    fn fill(&mut self) {
        fill(&self.fs.join("fill"));
        for dir in DIRECTORIES {
            // The daemon takes what is named so for somebody's. Long ones first.
            for length in [200, 60, 12] {
                loop {
                    let name = format!("not ours {:0length$}", self.links);
                    let made = hard_link(self.fs.join("fill"), self.fs.join(dir).join(name));
                    if is_full(made) {
                        break;
                    }
                    self.links += 1;
                }
            }
        }
    }

    /// Make empty files until no inode is left, or no block for one.
    fn use_up_inodes(&self) {
        let name = |n: usize| self.fs.join("inodes").join(n.to_string());
        let made = (0..2_000_000).find(|n| is_full(File::create_new(name(*n)).map(drop)));
        assert!(made.is_some(), "inodes without end");
    }

    fn again(&mut self) {
        self.rig.kill();
        self.rig.start();
    }

    /// Take away what filled it.
    fn clear(&self) {
        let fill = OpenOptions::new().write(true).open(self.fs.join("fill"));
        fill.and_then(|file| file.set_len(0)).expect("writable");
        for dir in DIRECTORIES {
            for entry in std::fs::read_dir(self.fs.join(dir)).expect("a directory") {
                let path = entry.expect("an entry").path();
                if path.display().to_string().contains("not ours") {
                    std::fs::remove_file(path).expect("removable");
                }
            }
        }
    }
}

fn a_full_disk_is_emptied(kind: FsKind, inodes_first: bool) {
    // There are fewer inodes in a small one.
    let size = if inodes_first { 224 } else { 384 };
    let mut disk = Disk::new(kind, size << 20);
    let rig = &disk.rig;
    rig.ok(&["volume", "create", "thin", "--size", "512Mi", "--thin"]);
    rig.ok(&["volume", "create", "thick", "--size", "64Mi"]);
    rig.ok(&["volume", "create", "raw", "--size", "16Mi", "--block"]);
    for name in ["idle", "blank"] {
        rig.ok(&["volume", "create", name, "--size", "16Mi"]);
    }
    for name in ["thin", "thick", "raw"] {
        rig.ok(&["volume", "mount", name, &rig.text(name)]);
    }
    put(&rig.path("thick").join("kept"), "kept");
    let reader = rig.text("reader");
    rig.ok(&["volume", "mount", "raw", &reader, "--read-only"]);
    let second = rig.text("second");
    rig.ok(&["volume", "mount", "thick", &second]);
    match inodes_first {
        true => {
            disk.use_up_inodes();
            let new = File::create_new(disk.fs.join("new"));
            assert!(is_full(new.map(drop)), "there are inodes left");
        }
        false => {
            fill(&disk.rig.path("thin").join("fill"));
            disk.fill();
            disk.use_up_inodes();
        }
    }

    // One thing after the other, each with a daemon that was killed before.
    disk.again();
    let rig = &disk.rig;
    assert_eq!(get(&rig.path("thick").join("kept")), "kept");
    // What begins says why it cannot.
    let state = disk.fs.join("state").display().to_string();
    rig.run(&["volume", "create", "more", "--size", "16Mi"])
        .fails_with(&["full"]);
    rig.run(&["volume", "mount", "blank", &rig.text("blank")])
        .fails_with(&["full", "make room", &state]);
    let csi = Csi::new(rig);
    let blank = rig.ok(&["volume", "show", "blank"])["id"].clone();
    let staging = rig.path("staged");
    create_dir(&staging).expect("writable");
    let capability = calls::mount("ext4", Mode::SingleNodeWriter);
    let asked = staging_of(blank.as_str().expect("an id"), &staging, capability);
    refused(
        csi.node_stage_volume(asked),
        Code::ResourceExhausted,
        &["full"],
    );

    rig.ok(&["volume", "unmount", &second]);
    rig.ok(&["volume", "unmount", &reader]);
    let told = rig.run(&["doctor"]).stdout;
    assert!(told.contains("no longer in use where they were"), "{told}");
    disk.again();
    let rig = &disk.rig;
    for (name, gone) in [("thick", &second), ("raw", &reader)] {
        let shown = rig.ok(&["volume", "show", name]).to_string();
        let kept = rig.text(name);
        assert!(!shown.contains(gone) && shown.contains(&kept), "{shown}");
    }
    rig.ok(&["volume", "unmount", &rig.text("thick")]);
    rig.ok(&["volume", "unmount", &rig.text("raw")]);
    disk.again();
    let rig = &disk.rig;
    rig.ok(&["volume", "delete", "idle"]);
    rig.ok(&["volume", "unmount", &rig.text("thin")]);
    rig.ok(&["volume", "delete", "thin"]);
    rig.settle();
    // There is room again; of inodes, and on btrfs of all that is not data, others have theirs. btrfs
    // gives room back only when it has committed and cleaned.
    std::fs::remove_dir_all(disk.fs.join("inodes")).expect("removable");
    let deadline = Instant::now() + Duration::from_secs(60);
    let mount = ["volume", "mount", "thick", &rig.text("thick")];
    while kind == FsKind::Btrfs && !rig.run(&mount).status.success() && Instant::now() < deadline {
        tool("sync", &["-f", &disk.fs.display().to_string()]);
    }
    rig.ok(&mount);
    assert_eq!(get(&rig.path("thick").join("kept")), "kept");
    put(&rig.path("thick").join("new"), "new");
    rig.ok(&["volume", "unmount", &rig.text("thick")]);
    for name in ["thick", "raw", "blank"] {
        rig.ok(&["volume", "delete", name]);
    }
    disk.clear();
    disk.rig.assert_clean();
}

#[test]
fn a_full_xfs_that_holds_state_and_pool_is_emptied() {
    a_full_disk_is_emptied(FsKind::Xfs, false);
}

#[test]
fn a_full_btrfs_that_holds_state_and_pool_is_emptied() {
    a_full_disk_is_emptied(FsKind::Btrfs, false);
}

#[test]
fn a_full_ext4_that_holds_state_and_pool_is_emptied() {
    a_full_disk_is_emptied(FsKind::Ext4, false);
}

#[test]
fn a_disk_without_inodes_that_holds_state_and_pool_is_emptied() {
    a_full_disk_is_emptied(FsKind::Ext4, true);
}

/// Each step of a deletion for which there is no room in the trash.
const STEPS: [&str; 5] = [
    "node.remove.begun",
    "file.discard.emptied",
    "file.discard.unlinked",
    "file.discard.unlinked#2",
    "node.remove.removed",
];

fn a_deletion_killed_on_a_full_disk_is_whole(kind: FsKind) {
    let mut disk = Disk::new(kind, 384 << 20);
    for n in 0..STEPS.len() {
        let (name, at) = (format!("v{n}"), disk.rig.text(&format!("m{n}")));
        disk.rig.ok(&["volume", "create", &name, "--size", "16Mi"]);
        disk.rig.ok(&["volume", "mount", &name, &at]);
        put(&Path::new(&at).join("kept"), &name);
        disk.rig.ok(&["volume", "unmount", &at]);
    }
    for (n, step) in STEPS.iter().enumerate() {
        let (name, at) = (format!("v{n}"), disk.rig.text("again"));
        disk.rig.kill();
        disk.rig.die_at(step);
        disk.rig.start();
        disk.fill();
        disk.rig.run(&["volume", "delete", &name]);
        assert!(
            disk.rig.died(),
            "{step} was not reached: {}",
            disk.rig.log()
        );
        disk.fill();
        disk.rig.start();
        let rig = &disk.rig;
        let listed = rig.ok(&["volume", "list"]);
        let there: Vec<&Value> = listed.as_array().expect("a list").iter().collect();
        let is_there = there.iter().any(|v| v["name"] == name.as_str());
        // It is whole or gone.
        assert_eq!(is_there, *step == "node.remove.begun", "{step}: {listed}");
        assert_eq!(
            there.len(),
            STEPS.len() - n - usize::from(!is_there),
            "{listed}"
        );
        let told = rig.run(&["doctor"]).stdout;
        assert!(!told.contains("bad-record"), "{step}: {told}");
        if is_there {
            rig.ok(&["volume", "delete", &name]);
        }
        // What comes next of its name is another.
        disk.clear();
        let rig = &disk.rig;
        rig.ok(&["volume", "create", &name, "--size", "8Mi", "--thin"]);
        rig.ok(&["volume", "mount", &name, &at]);
        assert!(!Path::new(&at).join("kept").exists(), "{step}");
        rig.ok(&["volume", "unmount", &at]);
        rig.ok(&["volume", "delete", &name]);
    }
    disk.rig.assert_clean();
}

#[test]
fn a_deletion_killed_on_a_full_xfs_is_whole() {
    a_deletion_killed_on_a_full_disk_is_whole(FsKind::Xfs);
}

#[test]
fn a_deletion_killed_on_a_full_ext4_is_whole() {
    a_deletion_killed_on_a_full_disk_is_whole(FsKind::Ext4);
}

#[test]
fn a_volume_left_frozen_is_let_go_on_a_full_disk() {
    let mut disk = Disk::new(FsKind::Xfs, 384 << 20);
    let at = disk.rig.text("m");
    disk.rig.ok(&["volume", "create", "v", "--size", "32Mi"]);
    disk.rig.ok(&["volume", "mount", "v", &at]);
    put(&Path::new(&at).join("kept"), "kept");
    disk.fill();
    let shown = disk.rig.ok(&["volume", "show", "v"]);
    let id = shown["id"].as_str().expect("an id");
    let staging = disk.fs.join("state/staging").join(id);
    tool("fsfreeze", &["-f", &at]);
    for path in [&at, &staging.display().to_string()] {
        tool("umount", &[path]);
    }
    disk.rig.ok(&["volume", "unmount", &at]);
    disk.rig.ok(&["volume", "delete", "v"]);
    disk.clear();
    disk.rig.assert_clean();
}

/// What is noted of an inline volume tells, also where its end cannot be, that its pod is gone.
#[test]
fn an_inline_volume_whose_removal_was_cut_off_on_a_full_disk_goes_at_the_next_start() {
    let mut disk = Disk::new(FsKind::Ext4, 384 << 20);
    let (pod, target) = (disk.rig.path("pod"), disk.rig.path("pod/t"));
    create_dir(&pod).expect("writable");
    let request = calls::inline("csi-1", &target, &[("size", "32Mi")]);
    let published = Csi::new(&disk.rig).node_publish_volume(request);
    published.expect("published");
    disk.rig.kill();
    disk.rig.die_at("node.ephemeral.unstaged");
    disk.rig.start();
    disk.fill();
    let cut_off = Csi::new(&disk.rig).unpublish("csi-1", &target);
    assert!(cut_off.is_err() && disk.rig.died(), "{}", disk.rig.log());
    std::fs::remove_dir_all(&pod).expect("removable");
    disk.rig.start();
    let deadline = Instant::now() + Duration::from_secs(30);
    while disk.rig.ok(&["volume", "list"]) != serde_json::json!([]) {
        let told = disk.rig.run(&["doctor"]).stdout;
        assert!(Instant::now() < deadline, "it is kept: {told}");
        std::thread::sleep(Duration::from_millis(100));
    }
    disk.clear();
    disk.rig.assert_clean();
}
