//! A pool that cannot be read when the daemon starts: what it holds is not taken for gone.

mod support;

use std::fs::rename;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use stowage_csi::proto::CreateVolumeRequest;
use stowage_testkit::disk::FsKind;
use support::calls::{Code, Csi, Mode, map, mount, refused, text, volume};
use support::uses as on;
use support::{Rig, Storage, get, put};

/// A daemon with two file pools on one xfs, `p` and `q`.
fn two_pools() -> (Rig, PathBuf) {
    let rig = Rig::stopped(Storage::file(FsKind::Xfs));
    let Storage::File(fs) = &rig.storage else {
        unreachable!("made above")
    };
    let (p, q) = (fs.path().join("pool"), fs.path().join("pool-q"));
    rig.configure(&format!(
        "[[pool]]\nname = \"q\"\nkind = \"file\"\npath = \"{}\"\n",
        q.display()
    ));
    (rig, p)
}

fn in_pool(name: &str, pool: &str) -> CreateVolumeRequest {
    CreateVolumeRequest {
        parameters: map(&[("pool", pool)]),
        ..volume(name)
    }
}

/// Where a pool lies while it is away.
fn away(pool: &Path) -> PathBuf {
    pool.with_file_name("unplugged")
}

#[test]
fn what_a_pool_holds_that_was_not_there_at_the_start_is_not_taken_for_gone() {
    let (mut rig, pool) = two_pools();
    rig.start();
    let csi = Csi::new(&rig);
    let writer = || mount("ext4", Mode::SingleNodeMultiWriter);
    let id = csi
        .create_volume(in_pool("v", "p"))
        .expect("made")
        .volume_id;
    let (staging, target) = (rig.path("staging"), rig.path("target"));
    std::fs::create_dir(&staging).expect("a writable directory");
    csi.stage(&id, &staging, writer());
    csi.publish(&id, &staging, &target, writer());
    put(&target.join("file"), "kept");
    let cut = csi.cut("s", &id).expect("a snapshot").snapshot_id;
    rig.stop();
    rename(&pool, away(&pool)).expect("unplugged");

    rig.start();
    let csi = Csi::new(&rig);
    let named = ["pool p", "bring it back"];
    refused(csi.delete(&id), Code::FailedPrecondition, &named);
    refused(csi.drop_snapshot(&cut), Code::FailedPrecondition, &named);
    refused(
        csi.unpublish(&id, &target),
        Code::FailedPrecondition,
        &named,
    );
    refused(csi.unstage(&id, &staging), Code::FailedPrecondition, &named);
    // It may be the very volume that is in there, whoever may hold it as well.
    refused(
        csi.create_volume(volume("v")),
        Code::FailedPrecondition,
        &named,
    );
    refused(
        csi.create_volume(in_pool("w", "p")),
        Code::FailedPrecondition,
        &named,
    );
    assert_eq!(rig.ok(&["volume", "list"]), json!([]));
    let found = rig.run(&["doctor"]);
    assert!(found.stdout.contains("\"p\""), "{}", found.stdout);
    // Who asks for another pool is not concerned, nor are its volumes.
    let other = csi
        .create_volume(in_pool("w", "q"))
        .expect("made")
        .volume_id;
    let its = csi.cut("t", &other).expect("a snapshot").snapshot_id;
    csi.drop_snapshot(&its).expect("deleted");
    csi.delete(&other).expect("deleted");
    assert_eq!(get(&target.join("file")), "kept");
    rig.stop();
    rename(away(&pool), &pool).expect("plugged in");

    rig.start();
    let csi = Csi::new(&rig);
    assert_eq!(rig.ok(&["volume", "show", "v"])["id"], json!(id));
    assert_eq!(
        rig.ok(&["volume", "show", "v"])["used-at"],
        json!([text(&target)])
    );
    csi.unpublish(&id, &target).expect("unpublished");
    csi.unstage(&id, &staging).expect("unstaged");
    csi.drop_snapshot(&cut).expect("deleted");
    csi.delete(&id).expect("deleted");
    rig.assert_clean();
}

#[test]
fn a_pool_that_comes_back_is_read_without_a_restart() {
    let (mut rig, pool) = two_pools();
    rig.start();
    let unplug = || rename(&pool, away(&pool)).expect("unplugged");
    let plug = || rename(away(&pool), &pool).expect("plugged in");
    on::pool_comes_back(&mut rig, &unplug, &plug);
}

#[test]
fn a_volume_that_is_there_twice_is_told_and_the_first_is_kept() {
    let (mut rig, pool) = two_pools();
    rig.start();
    rig.ok(&["volume", "create", "v", "--pool", "p", "--size", "32Mi"]);
    rig.ok(&["volume", "mount", "v", &rig.text("m")]);
    put(&rig.path("m/file"), "kept");
    rig.ok(&["volume", "unmount", &rig.text("m")]);
    rig.stop();
    // A pool that was copied, as people do with directories.
    let q = pool.with_file_name("pool-q");
    let id = std::fs::read_dir(pool.join("volumes"))
        .expect("a pool")
        .map(|entry| entry.expect("an entry").file_name())
        .next()
        .expect("a volume");
    support::tool(
        "cp",
        &[
            "-r",
            &text(&pool.join("volumes").join(&id)),
            &text(&q.join("volumes").join(&id)),
        ],
    );
    rig.start();
    let all = rig.ok(&["volume", "list"]);
    assert_eq!(all.as_array().map(Vec::len), Some(1), "{all}");
    assert_eq!(all[0]["pool"], json!("p"));
    let found: Value = serde_json::from_str(&rig.run(&["doctor"]).stdout).expect("JSON");
    let told = found.to_string();
    assert!(told.contains(&id.to_string_lossy().into_owned()), "{told}");
    rig.ok(&["volume", "mount", "v", &rig.text("m")]);
    assert_eq!(get(&rig.path("m/file")), "kept");
    rig.ok(&["volume", "unmount", &rig.text("m")]);
    rig.ok(&["volume", "delete", "v"]);
    assert!(q.join("volumes").join(&id).exists(), "not ours to remove");
}
