use super::*;
use crate::backing::format::without_discard;
use crate::records::noted;
use crate::state::attachments::{Attachments, Staging};
use crate::state::journal::Intent;
use std::path::Path;
use stowage_model::FsType;
use stowage_model::record::Content;
use stowage_model::request::Access;
use stowage_model::volume_request::Wanted;
use stowage_model::volumes::Volumes;
use stowage_model::{Bytes, Id};
use stowage_model::{Name, Publish, Record, VolumeRequest};

use crate::testing::{Bench, wanted};

const EITHER: Wanted = Wanted::Either(Some(FsType::Btrfs));

fn raw(id: &Id, staging: &Path, mode: AccessMode) -> StageRequest {
    StageRequest {
        id: id.clone(),
        staging: staging.to_owned(),
        access: Access::Block,
        mode,
    }
}

#[test]
fn mkfs_of_a_file_that_keeps_its_blocks_is_told_not_to_discard() {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    for (fs, given, expected) in [
        (FsType::Ext4, "-b 4096", "-b 4096 -E nodiscard"),
        (
            FsType::Ext3,
            "-E stride=4 -b 4096",
            "-E stride=4,nodiscard -b 4096",
        ),
        (FsType::Xfs, "-s size=4096", "-s size=4096 -K"),
        (FsType::Btrfs, "-m single", "-m single -K"),
    ] {
        assert_eq!(without_discard(fs, words(given)), words(expected));
    }
}

#[tokio::test]
async fn whatever_is_handed_out_raw_is_its_consumers_from_then_on() {
    let bench = Bench::new().await;
    let dir = tempfile::tempdir().unwrap();
    let kept = Content::FileSystem(FsType::Ext4);
    for (n, (content, mode, after)) in [
        (Content::Blank, AccessMode::SingleNodeWriter, Content::Raw),
        (kept, AccessMode::SingleNodeWriter, Content::Raw),
        (
            Content::Twin(FsType::Btrfs),
            AccessMode::SingleNodeSingleWriter,
            Content::Raw,
        ),
        (kept, AccessMode::ReaderOnly, kept),
    ]
    .into_iter()
    .enumerate()
    {
        let want = VolumeRequest {
            usage: EITHER,
            ..wanted(&format!("v{n}"), "a", None)
        };
        let id = bench.local.create(want).await.unwrap().record.id;
        bench.alter(&id, |e| {
            e.record.content = content;
            e.record.fs_bytes = Bytes::mib(16);
            e.half_formatted = content == Content::Blank;
        });
        bench.local.stage(raw(&id, dir.path(), mode)).await.unwrap();
        let now = bench.entry(&id).unwrap();
        assert_eq!(now.record.content, after, "{content:?}");
        assert_eq!(now.record.fs_bytes == Bytes(0), after == Content::Raw);
        // Also after a restart, and for whoever makes something of it.
        let noted = noted(&bench.local.node, &id).await.unwrap();
        let raw = (after == Content::Raw).then(|| Intent::record(now.pool.name(), &now.record));
        assert_eq!(noted, raw);
        let cut = bench.snapshot(&id, &format!("s{n}")).await;
        assert_eq!(bench.entry(&cut).unwrap().record.content, after);
        bench.local.unstage(&id, dir.path()).await.unwrap();
    }
}

#[tokio::test]
async fn what_an_older_daemon_has_handed_out_raw_is_its_consumers_too() {
    let dir = tempfile::tempdir().unwrap();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let notes = Attachments::new(dir.path().join("attachments"), boot.trim().to_owned());
    notes.load().unwrap();
    let mut records = std::collections::BTreeMap::new();
    for (name, block) in [("raw", true), ("mounted", false)] {
        let name = Name::new(name).unwrap();
        let id = Id::derive(stowage_model::id::Role::Volume, &name);
        let want = wanted(name.as_str(), "a", None).settled(None).unwrap();
        let mut record = Record::for_volume(id.clone(), &want, jiff::Timestamp::now());
        record.content = Content::FileSystem(FsType::Ext4);
        let staging = Staging {
            path: dir.path().join("staging").join(id.as_str()),
            block,
            options: Vec::new(),
            mode: AccessMode::SingleNodeWriter,
        };
        notes
            .update(&id, |a| a.staging = Some(staging))
            .await
            .unwrap();
        records.insert(id, record);
    }
    let of = |content| {
        let mut expected = records.clone();
        let id = Id::derive(stowage_model::id::Role::Volume, &Name::new("raw").unwrap());
        expected.get_mut(&id).unwrap().content = content;
        expected
    };
    let bench = Bench::at(dir, |a, _| *a.written.lock().unwrap() = records.clone()).await;
    assert_eq!(*bench.a.written.lock().unwrap(), of(Content::Raw));
}
