//! What an earlier version made in a volume group and in a thin pool, upgraded. See
//! `support/recorded.rs`.

mod support;

use std::path::PathBuf;

use support::recorded::{self, On, Recording};
use support::{Rig, Storage, thin_pool, tool};

const VG: &str = "vgrecorded";

const Q: &str = "[[pool]]\nname = \"q\"\nkind = \"thin\"\nvg = \"vgrecorded\"\n\
                 thin-pool = \"tp\"\noverprovision = 4.0\n";

/// The first of the guest's disks.
fn disk() -> PathBuf {
    let Storage::Lvm { vg, disks } = &Storage::lvm(false) else {
        unreachable!("asked for above")
    };
    tool("vgremove", &["-y", vg]);
    let disk = disks.first().expect("a disk").clone();
    tool("pvremove", &["-y", &disk.display().to_string()]);
    disk
}

fn rig(disk: PathBuf) -> Rig {
    let rig = recorded::rig(Storage::Lvm {
        vg: VG.to_owned(),
        disks: vec![disk],
    });
    rig.configure(Q);
    rig
}

#[test]
fn what_0_1_0_made_in_a_group_and_a_thin_pool_is_found_used_grown_and_deleted() {
    let disk = disk();
    let recording = Recording::unpack("0.1.0-lvm");
    let (from, to) = (recording.disk(), disk.display().to_string());
    let copy = ["bs=1M", "conv=fsync", "status=none"];
    let (from, to) = (format!("if={}", from.display()), format!("of={to}"));
    tool("dd", &[&[from.as_str(), &to][..], &copy].concat());
    tool("vgchange", &["-q", "-ay", VG]);
    let rig = rig(disk);
    recording.lay_under(&rig);
    recorded::upgraded(rig, &recording);
}

#[test]
#[ignore = "records what this version makes; see tests/recorded/README.md"]
fn record() {
    let disk = disk();
    let shown = disk.display().to_string();
    // As large as the archive's image shall be.
    tool(
        "pvcreate",
        &["-q", "-y", "--setphysicalvolumesize", "1g", &shown],
    );
    tool("vgcreate", &["-q", "-y", VG, &shown]);
    thin_pool(VG, &["-L", "256m"]);
    let mut rig = rig(disk.clone());
    let facts = recorded::make(&mut rig, On::Lvm);
    rig.unmount_all();
    tool("vgchange", &["-q", "-an", VG]);
    let name = format!("{}-lvm", env!("CARGO_PKG_VERSION"));
    // The group's metadata and its first disk's gibibyte.
    recorded::write(&rig, &disk, 1025, &facts, &name);
}
