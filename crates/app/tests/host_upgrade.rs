//! What an earlier version made in file pools, upgraded. See `support/recorded.rs`.

mod support;

use stowage_testkit::disk::{FsKind, LoopFs};
use support::recorded::{self, On, Recording};
use support::{Rig, Storage};

/// Two pools on one file system.
fn rig(fs: LoopFs) -> Rig {
    let q = fs.path().join("pool-q");
    let rig = recorded::rig(Storage::File(fs));
    rig.configure(&format!(
        "[[pool]]\nname = \"q\"\nkind = \"file\"\npath = \"{}\"\noverprovision = 4.0\n",
        q.display()
    ));
    rig
}

fn upgrade(kind: FsKind, name: &str) {
    let recording = Recording::unpack(name);
    let fs = LoopFs::of_image(kind, &recording.disk()).expect("the recorded file system");
    let rig = rig(fs);
    recording.lay_under(&rig);
    recorded::upgraded(rig, &recording);
}

#[test]
fn what_0_1_0_made_on_xfs_is_found_used_grown_and_deleted() {
    upgrade(FsKind::Xfs, "0.1.0-xfs");
}

#[test]
fn what_0_1_0_made_on_btrfs_is_found_used_grown_and_deleted() {
    upgrade(FsKind::Btrfs, "0.1.0-btrfs");
}

#[test]
#[ignore = "records what this version makes; see tests/recorded/README.md"]
fn record() {
    const MIB: u64 = 512;
    for kind in [FsKind::Xfs, FsKind::Btrfs] {
        let mut rig = rig(LoopFs::new(kind, MIB << 20).expect("a file system"));
        let facts = recorded::make(&mut rig, On::Files);
        rig.unmount_all();
        let Storage::File(fs) = &rig.storage else {
            unreachable!("made above")
        };
        support::tool("umount", &[&fs.path().display().to_string()]);
        let name = format!("{}-{}", env!("CARGO_PKG_VERSION"), kind.name());
        recorded::write(&rig, &fs.image(), MIB, &facts, &name);
    }
}
