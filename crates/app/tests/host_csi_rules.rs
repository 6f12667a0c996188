//! What CSI says an answer must be, with the real node behind the socket: sizes, capacity, sources,
//! modes, limits.

#![allow(
    clippy::disallowed_methods,
    reason = "tests start the program under test"
)]

mod support;

use stowage_csi::proto::{CreateVolumeRequest, GetCapacityRequest};
use stowage_testkit::disk::FsKind;
use support::calls::{Code, Csi, MIB, Mode, block, map, range, refused, volume};
use support::{Rig, Storage};

fn rig() -> Rig {
    Rig::new(Storage::file(FsKind::Xfs))
}

// Capacity.

#[test]
fn the_largest_volume_told_is_made_and_one_step_more_is_not() {
    // Not on btrfs, whose own figure counts room it needs for itself.
    for kind in [FsKind::Xfs, FsKind::Ext4] {
        let rig = Rig::new(Storage::file(kind));
        let csi = Csi::new(&rig);
        for provisioning in ["thick", "thin"] {
            let parameters = map(&[("provisioning", provisioning)]);
            let ask = GetCapacityRequest {
                parameters: parameters.clone(),
                ..Default::default()
            };
            let (available, largest) = csi.get_capacity(ask).expect("a capacity");
            let largest = largest.expect("a largest size");
            assert!(0 < largest && largest <= available);
            assert_eq!(largest % MIB, 0);
            let sized = |bytes: i64| CreateVolumeRequest {
                capacity_range: Some(range(bytes, bytes)),
                volume_capabilities: vec![block(Mode::SingleNodeWriter)],
                parameters: parameters.clone(),
                ..volume("v")
            };
            let more = csi.create_volume(sized(largest + MIB));
            refused(more, Code::ResourceExhausted, &["full"]);
            let made = csi.create_volume(sized(largest)).expect("it fits");
            assert_eq!(made.capacity_bytes, largest, "{kind:?} {provisioning}");
            csi.delete(&made.volume_id).expect("deleted");
            rig.assert_clean();
        }
    }
}

#[test]
fn a_class_no_pool_can_serve_has_no_capacity() {
    let rig = rig();
    let csi = Csi::new(&rig);
    for parameters in [
        &[("lvmType", "striping")][..],
        &[("lvmType", "raid1")],
        &[("volumeType", "LVM")],
        &[("vgName", "vg0")],
    ] {
        let ask = GetCapacityRequest {
            parameters: map(parameters),
            ..Default::default()
        };
        let told = csi.get_capacity(ask).expect("a capacity");
        assert_eq!(told, (0, Some(0)), "{parameters:?}");
        let want = CreateVolumeRequest {
            parameters: map(parameters),
            ..volume("v")
        };
        refused(csi.create_volume(want), Code::InvalidArgument, &["no pool"]);
    }
    rig.assert_clean();
}
