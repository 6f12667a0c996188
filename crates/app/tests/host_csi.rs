//! The CSI door with the real node behind it: what rivals break in the field.

#![allow(
    clippy::disallowed_methods,
    reason = "tests start the program under test"
)]

mod support;

use std::collections::BTreeSet;
use std::fs::{create_dir, read_dir};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;
use stowage_csi::proto::{
    ControllerExpandVolumeRequest, ControllerGetVolumeRequest, CreateVolumeGroupSnapshotRequest,
    CreateVolumeRequest, DeleteVolumeGroupSnapshotRequest,
};
use stowage_testkit::disk::{FsKind, LoopFs, mounts};
use support::calls::{
    Code, Csi, MIB, Mode, block, from_snapshot, inline, map, mount, publishing, range, refused,
    staging_of, text, volume,
};
use support::uses::{Writer, records, uuid_of};
use support::{Rig, Storage, get, put, tool};

fn rig() -> Rig {
    Rig::new(Storage::file(FsKind::Xfs))
}

fn writer() -> stowage_csi::proto::VolumeCapability {
    mount("ext4", Mode::SingleNodeMultiWriter)
}

/// A directory below the rig, made.
fn dir(rig: &Rig, name: &str) -> PathBuf {
    let path = rig.path(name);
    create_dir(&path).expect("a fresh directory");
    path
}

fn entries(path: &Path) -> usize {
    read_dir(path).expect("a directory").count()
}

fn mounted(path: &Path) -> usize {
    let all = mounts().expect("a mount table");
    all.iter().filter(|(_, target)| target == path).count()
}

/// Something of somebody else's, mounted where a volume might go.
struct Foreign(PathBuf);

impl Foreign {
    fn at(path: &Path) -> Self {
        tool("mount", &["-t", "tmpfs", "tmpfs", &text(path)]);
        put(&path.join("theirs"), "theirs");
        Self(path.to_owned())
    }

    #[track_caller]
    fn assert_untouched(&self) {
        assert_eq!(get(&self.0.join("theirs")), "theirs");
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}

// Names, ids and idempotency.

const NAMES: [&str; 10] = [
    "../x",
    "-n",
    "$(x)",
    "a/b",
    "a",
    "A",
    "..",
    "Ünï ナ",
    "con'\"`;\\",
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\
     0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
];

#[test]
fn every_name_csi_allows_is_a_volume_of_its_own() {
    let rig = rig();
    let csi = Csi::new(&rig);
    let staging = dir(&rig, "staging");
    let mut ids = BTreeSet::new();
    for round in ["written", "read"] {
        for (n, name) in NAMES.iter().enumerate() {
            let mut want = volume(name);
            want.capacity_range = Some(range(16 * MIB, 0));
            let id = csi.create_volume(want).expect("an allowed name").volume_id;
            ids.insert(id.clone());
            let at = staging.join(n.to_string());
            if round == "written" {
                create_dir(&at).expect("a fresh directory");
            }
            csi.stage(&id, &at, writer());
            let target = rig.path("t");
            csi.publish(&id, &at, &target, writer());
            match round {
                "written" => put(&target.join("name"), name),
                _ => assert_eq!(get(&target.join("name")), *name),
            }
            csi.unpublish(&id, &target).expect("unpublished");
            csi.unstage(&id, &at).expect("unstaged");
        }
    }
    assert_eq!(ids.len(), NAMES.len());
    let listed = rig.ok(&["volume", "list"]);
    let shown: BTreeSet<&str> = listed
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|v| v["name"].as_str())
        .collect();
    assert_eq!(shown, BTreeSet::from(NAMES));
    for name in NAMES {
        // The command line takes them too.
        rig.ok(&["volume", "delete", "--", name]);
    }
    rig.assert_clean();
}

#[test]
fn ids_that_were_never_given_out_are_unknown_and_gone() {
    let rig = rig();
    let csi = Csi::new(&rig);
    let staging = dir(&rig, "staging");
    for id in NAMES {
        csi.delete(id).expect("as gone as can be");
        csi.drop_snapshot(id).expect("as gone as can be");
        csi.unpublish(id, &rig.path("t")).expect("never published");
        csi.unstage(id, &staging).expect("never staged");
        let get = ControllerGetVolumeRequest {
            volume_id: id.to_owned(),
        };
        refused(csi.controller_get_volume(get), Code::NotFound, &[]);
        let grow = ControllerExpandVolumeRequest {
            volume_id: id.to_owned(),
            capacity_range: Some(range(MIB, 0)),
            ..Default::default()
        };
        refused(csi.controller_expand_volume(grow), Code::NotFound, &[]);
        let stage = staging_of(id, &staging, writer());
        refused(csi.node_stage_volume(stage), Code::NotFound, &[]);
        let publish = publishing(id, &staging, &rig.path("t"), writer());
        refused(csi.node_publish_volume(publish), Code::NotFound, &[]);
        refused(csi.stats(id, &staging), Code::NotFound, &[]);
        refused(csi.cut("s", id), Code::NotFound, &[]);
        let copy = CreateVolumeRequest {
            volume_content_source: from_snapshot(id),
            ..volume("copy")
        };
        refused(csi.create_volume(copy), Code::NotFound, &[]);
    }
    assert!(staging.exists());
    rig.assert_clean();
}

#[test]
fn the_same_name_is_the_same_volume_or_an_error() {
    let mut rig = rig();
    let csi = Csi::new(&rig);
    let limited = CreateVolumeRequest {
        parameters: map(&[("pool", "p"), ("bps", "10Mi")]),
        ..volume("v")
    };
    let first = csi.create_volume(limited.clone()).expect("a volume");
    let again = csi.create_volume(limited.clone()).expect("the same");
    assert_eq!(first, again);
    let larger = CreateVolumeRequest {
        capacity_range: Some(range(128 * MIB, 0)),
        ..limited.clone()
    };
    refused(csi.create_volume(larger), Code::AlreadyExists, &["size"]);
    let otherwise = [
        CreateVolumeRequest {
            parameters: map(&[("pool", "p"), ("bps", "20Mi")]),
            ..volume("v")
        },
        volume("v"),
        CreateVolumeRequest {
            volume_capabilities: vec![mount("xfs", Mode::SingleNodeWriter)],
            ..limited.clone()
        },
        CreateVolumeRequest {
            volume_capabilities: vec![block(Mode::SingleNodeWriter)],
            ..limited.clone()
        },
    ];
    for other in otherwise {
        refused(csi.create_volume(other), Code::AlreadyExists, &["\"v\""]);
    }
    let cut = csi.cut("s", &first.volume_id).expect("a snapshot");
    assert!(cut.ready_to_use);
    let created = rig.ok(&["volume", "show", "v"])["created"].clone();
    rig.kill();
    rig.start();
    let csi = Csi::new(&rig);
    assert_eq!(csi.create_volume(limited).expect("the same"), first);
    assert_eq!(rig.ok(&["volume", "show", "v"])["created"], created);
    let recut = csi.cut("s", &first.volume_id).expect("the same");
    assert_eq!(recut, cut, "creation_time must not move");
    let other = csi.made("other");
    let stolen = csi.cut("s", &other.volume_id);
    refused(stolen, Code::AlreadyExists, &["\"s\""]);
    csi.drop_snapshot(&cut.snapshot_id).expect("deleted");
    for id in [&first.volume_id, &other.volume_id] {
        csi.delete(id).expect("deleted");
        csi.delete(id).expect("deleted already");
    }
    rig.assert_clean();
}

// Paths and modes.

#[test]
fn a_path_through_a_symlink_is_refused_and_nothing_made_behind_it() {
    let rig = rig();
    let csi = Csi::new(&rig);
    let id = csi.made("v").volume_id;
    let (staging, real) = (dir(&rig, "staging"), dir(&rig, "real"));
    create_dir(real.join("staging")).expect("a fresh directory");
    symlink(&real, rig.path("link")).expect("a link");
    symlink(real.join("staging"), rig.path("staging-link")).expect("a link");

    for path in ["link/staging", "staging-link"] {
        let through = staging_of(&id, &rig.path(path), writer());
        let words = ["symbolic link", &rig.text(path)];
        refused(
            csi.node_stage_volume(through),
            Code::InvalidArgument,
            &words,
        );
    }
    csi.stage(&id, &staging, writer());
    symlink(real.join("nowhere"), rig.path("dangling")).expect("a link");
    for path in ["link/target", "dangling", "staging-link"] {
        let through = publishing(&id, &staging, &rig.path(path), writer());
        let words = ["symbolic link", &rig.text(path)];
        refused(
            csi.node_publish_volume(through),
            Code::InvalidArgument,
            &words,
        );
        // The kubelet undoes what it is not sure of; there is nothing to undo.
        csi.unpublish(&id, &rig.path(path))
            .expect("never published");
    }
    assert_eq!(entries(&real), 1, "made behind the link");
    assert_eq!(entries(&real.join("staging")), 0, "mounted behind the link");
    assert!(rig.path("dangling").is_symlink());
    // No trace is left that would keep the volume.
    csi.unstage(&id, &staging).expect("unstaged");
    csi.delete(&id).expect("deleted");
    rig.assert_clean();
}

#[test]
fn an_inline_volume_at_a_symlink_leaves_no_volume() {
    let rig = rig();
    let csi = Csi::new(&rig);
    let real = dir(&rig, "real");
    symlink(&real, rig.path("link")).expect("a link");
    let target = rig.path("link/t");
    let want = inline("csi-1", &target, &[("size", "64Mi"), ("pool", "p")]);
    refused(
        csi.node_publish_volume(want),
        Code::InvalidArgument,
        &["symbolic link"],
    );
    csi.unpublish("csi-1", &target).expect("never published");
    assert_eq!(entries(&real), 0);
    rig.assert_clean();
}

#[test]
fn what_stands_at_the_target_is_not_ours_to_remove() {
    let rig = rig();
    let csi = Csi::new(&rig);
    let id = csi.made("v").volume_id;
    let staging = dir(&rig, "staging");
    csi.stage(&id, &staging, writer());
    // A file where a directory is needed, with and without content.
    for (name, content) in [("empty", ""), ("full", "theirs")] {
        let path = rig.path(name);
        put(&path, content);
        let want = publishing(&id, &staging, &path, writer());
        refused(
            csi.node_publish_volume(want),
            Code::InvalidArgument,
            &[&rig.text(name)],
        );
        csi.unpublish(&id, &path).expect("never published");
        assert_eq!(get(&path), content);
    }
    // Somebody else's mount.
    let target = dir(&rig, "theirs");
    let foreign = Foreign::at(&target);
    let want = publishing(&id, &staging, &target, writer());
    refused(
        csi.node_publish_volume(want),
        Code::AlreadyExists,
        &["tmpfs"],
    );
    foreign.assert_untouched();
    csi.unpublish(&id, &target).expect("never published");
    foreign.assert_untouched();
    rig.run(&["volume", "unmount", &text(&target)])
        .fails_with(&["no volume", &text(&target)]);
    foreign.assert_untouched();
    drop(foreign);
    // A directory with something in it: mounted over or refused, never emptied.
    let target = dir(&rig, "occupied");
    put(&target.join("theirs"), "theirs");
    let want = publishing(&id, &staging, &target, writer());
    refused(
        csi.node_publish_volume(want),
        Code::InvalidArgument,
        &["occupied", "empty"],
    );
    csi.unpublish(&id, &target).expect("never published");
    assert_eq!(get(&target.join("theirs")), "theirs");
    csi.unstage(&id, &staging).expect("unstaged");
    // The same for staging.
    let foreign = Foreign::at(&staging);
    let want = staging_of(&id, &staging, writer());
    refused(csi.node_stage_volume(want), Code::AlreadyExists, &["tmpfs"]);
    csi.unstage(&id, &staging).expect("never staged");
    foreign.assert_untouched();
    drop(foreign);
    csi.delete(&id).expect("deleted");
    rig.assert_clean();
}

#[test]
fn a_mount_put_over_a_target_by_others_is_left_alone() {
    let rig = rig();
    let csi = Csi::new(&rig);
    let id = csi.made("v").volume_id;
    let (staging, target) = (dir(&rig, "staging"), rig.path("t"));
    csi.stage(&id, &staging, writer());
    csi.publish(&id, &staging, &target, writer());
    let foreign = Foreign::at(&target);
    refused(
        csi.unpublish(&id, &target),
        Code::FailedPrecondition,
        &["tmpfs", &text(&target)],
    );
    foreign.assert_untouched();
    drop(foreign);
    assert_eq!(mounted(&target), 1, "ours is still there");
    csi.unpublish(&id, &target).expect("unpublished");
    let foreign = Foreign::at(&staging);
    refused(
        csi.unstage(&id, &staging),
        Code::FailedPrecondition,
        &["tmpfs", &text(&staging)],
    );
    foreign.assert_untouched();
    drop(foreign);
    csi.unstage(&id, &staging).expect("unstaged");
    csi.delete(&id).expect("deleted");
    rig.assert_clean();
}

#[test]
fn a_device_is_published_at_a_file_and_a_directory_stays_one() {
    let rig = rig();
    let csi = Csi::new(&rig);
    let raw = CreateVolumeRequest {
        volume_capabilities: vec![block(Mode::SingleNodeWriter)],
        ..volume("v")
    };
    let id = csi.create_volume(raw).expect("a volume").volume_id;
    let (staging, target) = (dir(&rig, "staging"), dir(&rig, "t"));
    let access = || block(Mode::SingleNodeWriter);
    csi.stage(&id, &staging, access());
    let want = publishing(&id, &staging, &target, access());
    refused(
        csi.node_publish_volume(want),
        Code::InvalidArgument,
        &["directory"],
    );
    assert!(target.is_dir());
    let occupied = rig.path("occupied");
    put(&occupied, "theirs");
    let want = publishing(&id, &staging, &occupied, access());
    refused(
        csi.node_publish_volume(want),
        Code::InvalidArgument,
        &["occupied", "empty"],
    );
    csi.unpublish(&id, &occupied).expect("never published");
    assert_eq!(get(&occupied), "theirs");
    csi.publish(&id, &staging, &rig.path("device"), access());
    csi.publish(&id, &staging, &rig.path("device"), access());
    assert_eq!(mounted(&rig.path("device")), 1);
    csi.unpublish(&id, &rig.path("device"))
        .expect("unpublished");
    csi.unstage(&id, &staging).expect("unstaged");
    csi.delete(&id).expect("deleted");
    rig.assert_clean();
}

#[test]
fn a_single_writer_has_one_target_and_others_have_many() {
    let rig = rig();
    let csi = Csi::new(&rig);
    let staging = dir(&rig, "staging");
    for (mode, second) in [
        (Mode::SingleNodeSingleWriter, false),
        (Mode::SingleNodeWriter, true),
        (Mode::SingleNodeMultiWriter, true),
    ] {
        let want = CreateVolumeRequest {
            volume_capabilities: vec![mount("ext4", mode)],
            ..volume("v")
        };
        let id = csi.create_volume(want).expect("a volume").volume_id;
        csi.stage(&id, &staging, mount("ext4", mode));
        csi.publish(&id, &staging, &rig.path("t1"), mount("ext4", mode));
        // The same again is the same.
        csi.publish(&id, &staging, &rig.path("t1"), mount("ext4", mode));
        assert_eq!(mounted(&rig.path("t1")), 1);
        let want = publishing(&id, &staging, &rig.path("t2"), mount("ext4", mode));
        let published = csi.node_publish_volume(want);
        if second {
            published.expect("many targets");
            put(&rig.path("t1/file"), "seen by both");
            assert_eq!(get(&rig.path("t2/file")), "seen by both");
            csi.unpublish(&id, &rig.path("t2")).expect("unpublished");
        } else {
            refused(published, Code::FailedPrecondition, &[&rig.text("t1")]);
            assert!(!rig.path("t2").exists());
        }
        let mut otherwise = publishing(&id, &staging, &rig.path("t1"), mount("ext4", mode));
        otherwise.readonly = true;
        refused(
            csi.node_publish_volume(otherwise),
            Code::AlreadyExists,
            &[&rig.text("t1")],
        );
        refused(
            csi.unstage(&id, &staging),
            Code::FailedPrecondition,
            &[&rig.text("t1")],
        );
        refused(csi.delete(&id), Code::FailedPrecondition, &["in use"]);
        csi.unpublish(&id, &rig.path("t1")).expect("unpublished");
        csi.unstage(&id, &staging).expect("unstaged");
        csi.delete(&id).expect("deleted");
    }
    rig.assert_clean();
}

#[test]
fn a_wrong_file_system_type_is_refused() {
    let rig = rig();
    let csi = Csi::new(&rig);
    let id = csi.made("v").volume_id;
    let staging = dir(&rig, "staging");
    csi.stage(&id, &staging, writer());
    put(&staging.join("file"), "kept");
    csi.unstage(&id, &staging).expect("unstaged");
    let wrong = staging_of(&id, &staging, mount("xfs", Mode::SingleNodeMultiWriter));
    refused(
        csi.node_stage_volume(wrong),
        Code::InvalidArgument,
        &["ext4", "xfs"],
    );
    csi.stage(&id, &staging, writer());
    assert_eq!(get(&staging.join("file")), "kept");
    // Staged in another way at the same path.
    let other = staging_of(
        &id,
        &staging,
        support::calls::flagged("ext4", Mode::SingleNodeMultiWriter, &["noatime"]),
    );
    refused(csi.node_stage_volume(other), Code::AlreadyExists, &[]);
    // As the specification says for whatever does not go with what is staged.
    let wrong = staging_of(&id, &staging, mount("xfs", Mode::SingleNodeMultiWriter));
    refused(
        csi.node_stage_volume(wrong),
        Code::AlreadyExists,
        &["another way", "ext4", "xfs"],
    );
    csi.unstage(&id, &staging).expect("unstaged");
    csi.delete(&id).expect("deleted");
    rig.assert_clean();
}

#[test]
fn a_volume_handed_out_raw_is_never_formatted() {
    let rig = rig();
    let csi = Csi::new(&rig);
    let either = |name: &str| CreateVolumeRequest {
        volume_capabilities: vec![writer(), block(Mode::SingleNodeMultiWriter)],
        ..volume(name)
    };
    let staging = dir(&rig, "staging");
    for written in [false, true] {
        let id = csi.create_volume(either("v")).expect("a volume").volume_id;
        let raw = || block(Mode::SingleNodeMultiWriter);
        csi.stage(&id, &staging, raw());
        csi.publish(&id, &staging, &rig.path("device"), raw());
        if written {
            support::uses::scribble(&rig.path("device"), 40 << 20, b"the consumer's own format");
        }
        csi.unpublish(&id, &rig.path("device"))
            .expect("unpublished");
        csi.unstage(&id, &staging).expect("unstaged");
        let as_fs = staging_of(&id, &staging, writer());
        refused(
            csi.node_stage_volume(as_fs),
            Code::FailedPrecondition,
            &["raw device", "not formatted"],
        );
        csi.stage(&id, &staging, raw());
        csi.publish(&id, &staging, &rig.path("device"), raw());
        let all = std::fs::read(rig.path("device")).expect("readable");
        let found = all.iter().any(|b| *b != 0);
        assert_eq!(found, written, "what was on it is still there, and no more");
        if written {
            // Its consumer may make the file system itself; then it can be mounted.
            tool("mkfs.ext4", &["-q", "-F", &rig.text("device")]);
            csi.unpublish(&id, &rig.path("device"))
                .expect("unpublished");
            csi.unstage(&id, &staging).expect("unstaged");
            csi.stage(&id, &staging, writer());
            put(&staging.join("file"), "fits");
        } else {
            csi.unpublish(&id, &rig.path("device"))
                .expect("unpublished");
        }
        csi.unstage(&id, &staging).expect("unstaged");
        csi.delete(&id).expect("deleted");
    }
    rig.assert_clean();
}

// Inline volumes.

#[test]
fn an_inline_volume_lives_as_long_as_its_pod() {
    let mut rig = rig();
    let mut csi = Csi::new(&rig);
    let target = rig.path("t");
    for (context, size, restart) in [
        // The article's, its volume group being a pool here.
        (&[("size", "1536Mi"), ("pool", "p")][..], 3_u64 << 29, ""),
        (&[][..], 1 << 30, "stop"),
        (&[("size", "64Mi")][..], 64 << 20, "kill"),
    ] {
        let want = inline("csi-0123", &target, context);
        csi.node_publish_volume(want.clone()).expect("published");
        csi.node_publish_volume(want).expect("published already");
        put(&target.join("file"), "scratch");
        let listed = rig.ok(&["volume", "list"]);
        assert_eq!(listed.as_array().map(Vec::len), Some(1));
        assert_eq!(listed[0]["ephemeral"], json!(true));
        assert_eq!(listed[0]["size"], json!(size));
        assert_eq!(listed[0]["used-at"], json!([rig.text("t")]));
        let usage = csi.stats("csi-0123", &target).expect("usage");
        assert!(usage[0].total > 0);
        match restart {
            "stop" => rig.stop(),
            "kill" => rig.kill(),
            _ => {}
        }
        if !restart.is_empty() {
            assert_eq!(get(&target.join("file")), "scratch");
            rig.start();
            csi = Csi::new(&rig);
            assert_eq!(get(&target.join("file")), "scratch");
        }
        csi.unpublish("csi-0123", &target).expect("unpublished");
        csi.unpublish("csi-0123", &target).expect("gone already");
        assert!(!target.exists());
        assert_eq!(rig.ok(&["volume", "list"]), json!([]));
        rig.assert_clean();
    }
}

#[test]
fn a_bad_inline_volume_leaves_nothing() {
    let rig = rig();
    let csi = Csi::new(&rig);
    for (context, code, word) in [
        (("vgName", "nowhere"), Code::InvalidArgument, "nowhere"),
        (("pool", "nowhere"), Code::InvalidArgument, "nowhere"),
        (("size", "-1Gi"), Code::InvalidArgument, "-1Gi"),
        (("size", "0"), Code::InvalidArgument, "0"),
        (("size", "16Ei"), Code::OutOfRange, "16Ei"),
        (("size", "65Gi"), Code::OutOfRange, "max-size"),
        (("size", "3Gi"), Code::ResourceExhausted, "max-share"),
        (("colour", "red"), Code::InvalidArgument, "colour"),
        (("volumeType", "File"), Code::InvalidArgument, "volumeType"),
        (("mediaType", "ssd"), Code::InvalidArgument, "mediaType"),
        (("lvmType", "striping"), Code::InvalidArgument, "lvmType"),
        (
            ("provisioning", "thin"),
            Code::InvalidArgument,
            "provisioning",
        ),
        (
            ("mkfsOptions", "-m 0"),
            Code::InvalidArgument,
            "mkfsOptions",
        ),
        (("bps", "0"), Code::InvalidArgument, "lifts"),
    ] {
        let want = inline("csi-1", &rig.path("t"), &[context]);
        refused(csi.node_publish_volume(want), code, &[word]);
        csi.unpublish("csi-1", &rig.path("t"))
            .expect("nothing there");
        assert!(!rig.path("t").exists());
        rig.assert_clean();
    }
}

// Slow work.

/// A second pool whose file system stands still until dropped: everything that writes to it waits.
/// The rig is dropped before it, since its daemon keeps the file system in use.
struct Slow {
    fs: LoopFs,
    frozen: bool,
}

impl Slow {
    fn new(rig: &Rig) -> Self {
        let fs = LoopFs::new(FsKind::Xfs, 2 << 30).expect("a file system");
        let path = text(&fs.path().join("pool"));
        rig.ok(&["pool", "create", "slow", "--kind", "file", "--path", &path]);
        Self { fs, frozen: false }
    }

    fn freeze(&mut self) {
        tool("fsfreeze", &["-f", &text(self.fs.path())]);
        self.frozen = true;
    }

    fn thaw(&mut self) {
        if std::mem::take(&mut self.frozen) {
            tool("fsfreeze", &["-u", &text(self.fs.path())]);
        }
    }

    fn volumes(&self) -> usize {
        entries(&self.fs.path().join("pool/volumes"))
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.thaw();
    }
}

/// Thaws, also where an assertion fails: a scope waits for its threads.
struct Thaws<'a>(&'a mut Slow);

impl Drop for Thaws<'_> {
    fn drop(&mut self) {
        self.0.thaw();
    }
}

fn slow_volume(name: &str) -> CreateVolumeRequest {
    CreateVolumeRequest {
        parameters: map(&[("pool", "slow")]),
        ..volume(name)
    }
}

#[test]
fn a_slow_mkfs_delays_nobody_else_and_is_not_repeated() {
    let rig = rig();
    let csi = Csi::new(&rig);
    let mut slow = Slow::new(&rig);
    let (staging, other_staging) = (dir(&rig, "staging"), dir(&rig, "other-staging"));
    let stuck = csi
        .create_volume(slow_volume("stuck"))
        .expect("a volume")
        .volume_id;
    let other = CreateVolumeRequest {
        parameters: map(&[("pool", "p")]),
        ..volume("other")
    };
    slow.freeze();
    let began = Instant::now();
    std::thread::scope(|scope| {
        let thaws = Thaws(&mut slow);
        let first = scope.spawn(|| csi.node_stage_volume(staging_of(&stuck, &staging, writer())));
        // A whole life of another volume goes by meanwhile.
        let other = csi.create_volume(other).expect("a volume").volume_id;
        csi.stage(&other, &other_staging, writer());
        csi.publish(&other, &other_staging, &rig.path("t"), writer());
        let asked = Instant::now();
        csi.stats(&other, &rig.path("t")).expect("usage");
        assert!(
            asked.elapsed() < Duration::from_secs(9),
            "stats had to wait"
        );
        csi.list_volumes(Default::default()).expect("a list");
        csi.unpublish(&other, &rig.path("t")).expect("unpublished");
        csi.unstage(&other, &other_staging).expect("unstaged");
        csi.delete(&other).expect("deleted");
        assert!(
            !first.is_finished(),
            "mkfs was not held up: nothing was shown"
        );
        assert!(
            began.elapsed() < Duration::from_secs(9),
            "another volume had to wait"
        );
        // The same volume is busy, and says so in time for a caller of 10 s.
        let asked = Instant::now();
        refused(
            csi.node_stage_volume(staging_of(&stuck, &staging, writer())),
            Code::Aborted,
            &["staging"],
        );
        assert!(asked.elapsed() < Duration::from_secs(9));
        assert!(!first.is_finished());
        drop(thaws);
        first.join().expect("no panic").expect("staged after all");
    });
    put(&staging.join("file"), "kept");
    let device = mounts()
        .expect("a mount table")
        .into_iter()
        .find(|(_, target)| *target == staging)
        .expect("mounted")
        .0;
    let made = uuid_of(&device);
    csi.stage(&stuck, &staging, writer());
    assert_eq!(mounted(&staging), 1);
    assert_eq!(uuid_of(&device), made);
    assert_eq!(get(&staging.join("file")), "kept");
    csi.unstage(&stuck, &staging).expect("unstaged");
    csi.delete(&stuck).expect("deleted");
    rig.assert_clean();
    drop(rig);
}

#[test]
fn work_outlives_its_caller_and_the_retry_finds_it() {
    let rig = rig();
    let csi = Csi::new(&rig);
    let mut slow = Slow::new(&rig);
    slow.freeze();
    let hurried = csi.within(Duration::from_millis(500));
    let given_up = hurried
        .create_volume(slow_volume("v"))
        .expect_err("too slow");
    assert!(
        matches!(given_up.code(), Code::DeadlineExceeded | Code::Cancelled),
        "{given_up:?}"
    );
    slow.thaw();
    // Nobody asks, and yet the work ends.
    let deadline = Instant::now() + Duration::from_secs(30);
    while rig
        .ok(&["volume", "list"])
        .as_array()
        .expect("a list")
        .is_empty()
    {
        assert!(Instant::now() < deadline, "the work was given up too");
        std::thread::sleep(Duration::from_millis(20));
    }
    let before = rig.ok(&["volume", "show", "v"]);
    let found = csi.create_volume(slow_volume("v")).expect("the same");
    assert_eq!(before["id"], json!(found.volume_id));
    assert_eq!(rig.ok(&["volume", "show", "v"]), before);
    assert_eq!(slow.volumes(), 1);
    // A snapshot likewise: its moment is that of the first call.
    slow.freeze();
    let cut = hurried.cut("s", &found.volume_id).expect_err("too slow");
    assert!(matches!(
        cut.code(),
        Code::DeadlineExceeded | Code::Cancelled
    ));
    let then = now();
    // The time is told in whole seconds: a cut by the retry must fall into a later one.
    while now() <= then {
        std::thread::sleep(Duration::from_millis(20));
    }
    slow.thaw();
    let cut = csi.cut("s", &found.volume_id).expect("the same");
    let created = cut.creation_time.expect("a time").seconds;
    assert!(
        created <= then,
        "cut again by the retry: {created} after {then}"
    );
    csi.drop_snapshot(&cut.snapshot_id).expect("deleted");
    csi.delete(&found.volume_id).expect("deleted");
    rig.assert_clean();
    drop(rig);
}

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(since.expect("after 1970").as_secs()).expect("a time")
}

// Groups.

/// Nothing can hold the writers of two loop devices at once; of one alone the cut is a moment.
#[test]
fn a_group_of_raw_files_is_cut_while_at_most_one_of_them_is_in_use() {
    let rig = rig();
    let csi = Csi::new(&rig);
    let access = || block(Mode::SingleNodeWriter);
    let raw = |name: &str| {
        let want = CreateVolumeRequest {
            capacity_range: Some(range(16 * MIB, 0)),
            volume_capabilities: vec![access()],
            ..volume(name)
        };
        let id = csi.create_volume(want).expect("a volume").volume_id;
        let staging = dir(&rig, &format!("staging-{name}"));
        csi.stage(&id, &staging, access());
        (id, staging)
    };
    let (one, other) = (raw("one"), raw("other"));
    let ids = [one.0.clone(), other.0.clone()];
    let group = |name: &str| {
        csi.create_volume_group_snapshot(CreateVolumeGroupSnapshotRequest {
            name: name.to_owned(),
            source_volume_ids: ids.to_vec(),
            ..Default::default()
        })
    };
    let words = ["\"one\"", "\"other\"", "raw devices in use", "at most one"];
    refused(group("g"), Code::FailedPrecondition, &words);
    assert_eq!(rig.ok(&["snapshot", "list"]), json!([]), "all or none");
    csi.unstage(&other.0, &other.1).expect("unstaged");
    let cut = group("g").expect("a group");
    assert_eq!(cut.snapshots.len(), 2);
    // It stays what it is, in use or not.
    csi.stage(&other.0, &other.1, access());
    assert_eq!(group("g").expect("the same"), cut);
}

#[test]
fn a_group_shows_all_its_volumes_at_one_moment() {
    let rig = rig();
    let csi = Csi::new(&rig);
    let volumes: Vec<(String, PathBuf)> = [("a", "ext4", 64), ("b", "xfs", 320)]
        .into_iter()
        .map(|(name, fs, mib)| {
            let access = || mount(fs, Mode::SingleNodeMultiWriter);
            let want = CreateVolumeRequest {
                capacity_range: Some(range(mib * MIB, 0)),
                volume_capabilities: vec![access()],
                ..volume(name)
            };
            let id = csi.create_volume(want).expect("a volume").volume_id;
            let staging = dir(&rig, &format!("staging-{name}"));
            csi.stage(&id, &staging, access());
            (id, staging)
        })
        .collect();
    let ids: Vec<String> = volumes.iter().map(|(id, _)| id.clone()).collect();
    let group = |name: &str, ids: &[String]| {
        csi.create_volume_group_snapshot(CreateVolumeGroupSnapshotRequest {
            name: name.to_owned(),
            source_volume_ids: ids.to_vec(),
            ..Default::default()
        })
    };
    let missing = format!("v-{}", "0".repeat(32));
    refused(
        group("g", &[ids[0].clone(), missing.clone()]),
        Code::NotFound,
        &[&missing],
    );
    assert_eq!(rig.ok(&["snapshot", "list"]), json!([]), "all or none");

    let writer = Writer::new(&volumes[0].1.join("n"), &volumes[1].1.join("n"));
    for round in 0..4 {
        let before = writer.done();
        let cut = group("g", &ids).expect("a group");
        let after = writer.begun();
        assert_eq!(group("g", &ids).expect("the same"), cut);
        refused(group("g", &ids[..1]), Code::AlreadyExists, &["\"g\""]);
        let mut counts = Vec::new();
        for (n, (id, _)) in volumes.iter().enumerate() {
            let member = cut
                .snapshots
                .iter()
                .find(|s| s.source_volume_id == *id)
                .expect("a member for each");
            refused(
                csi.drop_snapshot(&member.snapshot_id),
                Code::InvalidArgument,
                &[&cut.group_snapshot_id],
            );
            let want = CreateVolumeRequest {
                capacity_range: None,
                volume_capabilities: vec![mount("", Mode::SingleNodeWriter)],
                volume_content_source: from_snapshot(&member.snapshot_id),
                ..volume(&format!("restored-{n}"))
            };
            let restored = csi.create_volume(want).expect("restored").volume_id;
            let at = rig.path(&format!("restored-{round}-{n}"));
            create_dir(&at).expect("a fresh directory");
            csi.stage(&restored, &at, mount("", Mode::SingleNodeWriter));
            counts.push(records(&at.join("n")));
            csi.unstage(&restored, &at).expect("unstaged");
            csi.delete(&restored).expect("deleted");
        }
        let (a, b) = (counts[0], counts[1]);
        assert!(b == a || b + 1 == a, "no one moment: a {a}, b {b}");
        assert!((before..=after).contains(&a) && b >= before);
        let members: Vec<String> = cut.snapshots.into_iter().map(|s| s.snapshot_id).collect();
        let delete = |members: &[String]| {
            csi.delete_volume_group_snapshot(DeleteVolumeGroupSnapshotRequest {
                group_snapshot_id: cut.group_snapshot_id.clone(),
                snapshot_ids: members.to_vec(),
                ..Default::default()
            })
        };
        refused(delete(&members[..1]), Code::InvalidArgument, &["members"]);
        delete(&members).expect("deleted");
        writer.await_more(2);
    }
    writer.end();
    for (id, staging) in &volumes {
        csi.unstage(id, staging).expect("unstaged");
        csi.delete(id).expect("deleted");
    }
    rig.assert_clean();
}
