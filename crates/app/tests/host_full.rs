//! State and pool on one disk that has no block and no inode left: it can be emptied with our own
//! commands, whatever happens to the daemon meanwhile.

mod support;

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;

use stowage_testkit::disk::{FsKind, LoopFs};
use support::{Rig, Storage, get, put, tool};

/// Write until there is no room, and bring it to the disk; errors are what is wanted.
fn fill(path: &Path) {
    let mut file = File::create(path).expect("room for a name");
    for piece in [1 << 20, 4096, 1] {
        while file.write_all(&vec![b'f'; piece]).is_ok() {}
        let _ = file.sync_all();
    }
}

/// Make empty files until no inode or block is left.
fn use_up_inodes(dir: &Path) {
    std::fs::create_dir_all(dir).expect("room for a directory");
    for n in 0..2_000_000 {
        match File::create_new(dir.join(n.to_string())) {
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::StorageFull => return,
            Err(e) => panic!("{e}"),
        }
    }
    panic!("inodes without end");
}

/// A daemon whose state lies on the file system of its pool.
fn rig(kind: FsKind) -> Rig {
    let fs = LoopFs::new(kind, 384 << 20).expect("a file system");
    let state = fs.path().join("state");
    std::fs::create_dir(&state).expect("an empty file system");
    let rig = Rig::stopped(Storage::File(fs));
    std::fs::create_dir(rig.path("state")).expect("a fresh directory");
    tool(
        "mount",
        &["--bind", &state.display().to_string(), &rig.text("state")],
    );
    rig
}

fn a_full_disk_is_emptied(kind: FsKind) {
    let mut rig = rig(kind);
    rig.start();
    let thin = ["volume", "create", "thin", "--size", "512Mi", "--thin"];
    rig.ok(&thin);
    rig.ok(&["volume", "create", "thick", "--size", "64Mi"]);
    rig.ok(&["volume", "create", "raw", "--size", "16Mi", "--block"]);
    rig.ok(&["volume", "create", "idle", "--size", "16Mi"]);
    for name in ["thin", "thick", "raw"] {
        rig.ok(&["volume", "mount", name, &rig.text(name)]);
    }
    put(&rig.path("thick").join("kept"), "kept");
    let second = rig.text("second");
    rig.ok(&["volume", "mount", "thick", &second]);
    fill(&rig.path("thin").join("fill"));
    let Storage::File(fs) = &rig.storage else {
        unreachable!("made above")
    };
    let fs = fs.path().to_owned();
    fill(&fs.join("fill"));
    use_up_inodes(&fs.join("inodes"));

    // One thing after the other, each with a daemon that was killed before.
    rig.kill();
    rig.start();
    assert_eq!(get(&rig.path("thick").join("kept")), "kept");
    rig.ok(&["volume", "unmount", &second]);
    rig.kill();
    rig.start();
    let listed = rig.ok(&["volume", "show", "thick"]);
    let shown = listed.to_string();
    assert!(
        !shown.contains(&second) && shown.contains(&rig.text("thick")),
        "{shown}"
    );
    rig.ok(&["volume", "unmount", &rig.text("thick")]);
    rig.ok(&["volume", "unmount", &rig.text("raw")]);
    rig.kill();
    rig.start();
    rig.ok(&["volume", "delete", "idle"]);
    rig.ok(&["volume", "unmount", &rig.text("thin")]);
    rig.ok(&["volume", "delete", "thin"]);
    rig.settle();
    // There is room again.
    rig.ok(&["volume", "mount", "thick", &rig.text("thick")]);
    assert_eq!(get(&rig.path("thick").join("kept")), "kept");
    put(&rig.path("thick").join("new"), "new");
    rig.ok(&["volume", "unmount", &rig.text("thick")]);
    for name in ["thick", "raw"] {
        rig.ok(&["volume", "delete", name]);
    }
    rig.assert_clean();
}

#[test]
fn a_full_xfs_that_holds_state_and_pool_is_emptied() {
    a_full_disk_is_emptied(FsKind::Xfs);
}

#[test]
fn a_full_btrfs_that_holds_state_and_pool_is_emptied() {
    a_full_disk_is_emptied(FsKind::Btrfs);
}

#[test]
fn a_full_ext4_that_holds_state_and_pool_is_emptied() {
    a_full_disk_is_emptied(FsKind::Ext4);
}
