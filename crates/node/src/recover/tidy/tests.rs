use crate::state::attachments::{Attachment, Attachments, Of};
use crate::state::journal::{Intent, Journal};
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use stowage_model::record::Content;
use stowage_model::{FsType, Name, Record, id::Role};

use super::*;
use crate::testing::{Bench, wanted};

fn id(name: &str) -> Id {
    Id::derive(Role::Volume, &Name::new(name).unwrap())
}

/// A state directory with notes of what these volumes were in the middle of.
fn noted(names: &[&str]) -> (tempfile::TempDir, Journal) {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::new(dir.path().join("journal"));
    journal.prepare().unwrap();
    for name in names {
        journal.write(&id(name), &Intent::Format).unwrap();
    }
    (dir, journal)
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_comes_late_is_looked_after_though_a_volume_elsewhere_is_busy() {
    let (dir, journal) = noted(&["a", "b", "c", "d", "e", "f"]);
    let bench = Bench::at(dir, |_, b| b.away.store(true, Ordering::SeqCst)).await;
    // The first of them is busy, as e2fsck of a large file system is, or a mount on a disk that hangs.
    let busy = bench
        .local
        .node
        .before()
        .intents()
        .keys()
        .next()
        .unwrap()
        .clone();
    let held = bench.local.node.ops().begin(&busy, "staging").await;
    bench.b.away.store(false, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(bench.b.tended.load(Ordering::SeqCst) > 100);
    // What is noted of others does not wait for it either.
    assert_eq!(journal.load().unwrap().0.len(), 1);
    assert!(journal.read(&busy).unwrap().is_some());
    drop(held);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(journal.read(&busy).unwrap().is_none());
}

fn pool(name: &str) -> PoolName {
    PoolName::new(name).unwrap()
}

/// The record of a volume that holds a file system, made at this second.
fn record(name: &str, second: i64) -> Record {
    let made = Timestamp::from_second(second).unwrap();
    let mut record = Record::for_volume(
        id(name),
        &wanted(name, "a", None).settled(None).unwrap(),
        made,
    );
    record.content = Content::FileSystem(FsType::Ext4);
    record
}

/// As when an administrator takes a pool out for a while.
#[tokio::test(start_paused = true)]
async fn what_is_noted_of_a_pool_that_is_not_configured_is_kept_for_it() {
    for was_there in [true, false] {
        let (dir, journal) = noted(&["old"]);
        std::fs::create_dir(dir.path().join("pools")).unwrap();
        if was_there {
            std::fs::write(dir.path().join("pools/c.seen"), "").unwrap();
        }
        let (a, c) = (pool("a"), pool("c"));
        let notes = [
            ("used", Intent::record(&c, &record("used", 1))),
            ("formatting", Intent::mkfs(&c, &record("formatting", 1))),
            ("making", Intent::create(&c, &record("making", 1))),
            ("gone", Intent::record(&a, &record("gone", 1))),
            ("never-made", Intent::create(&a, &record("never-made", 1))),
        ];
        for (name, intent) in &notes {
            journal.write(&id(name), intent).unwrap();
        }
        let uses = Attachments::new(dir.path().join("attachments"), "an earlier boot".into());
        uses.load().unwrap();
        for (name, pool) in [("used", c.clone()), ("gone", a.clone())] {
            let note = move |at: &mut Attachment| {
                let created = record(name, 1).created.to_string();
                at.of = Some(Of { pool, created });
                at.ending = true;
            };
            uses.update(&id(name), note).await.unwrap();
        }
        let bench = Bench::at(dir, |_, _| ()).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        for (name, intent) in &notes[..3] {
            let left = journal.read(&id(name)).unwrap();
            assert_eq!(left.as_ref(), Some(intent), "{name}");
        }
        for name in ["gone", "never-made"] {
            assert_eq!(journal.read(&id(name)).unwrap(), None, "{name}");
        }
        // What an earlier version noted is of any pool that was ever there.
        assert_eq!(journal.read(&id("old")).unwrap().is_some(), was_there);
        let left = bench.local.node.attachments().all();
        assert_eq!(left.keys().collect::<Vec<_>>(), [&id("used")]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_note_is_of_one_volume_and_of_no_other_of_its_name() {
    let c = pool("c");
    let earlier = record("v", 1);
    for noted_before in [
        Intent::record(&c, &earlier),
        Intent::mkfs(&c, &earlier),
        Intent::create(&c, &earlier),
    ] {
        let (dir, journal) = noted(&[]);
        journal.write(&earlier.id, &noted_before).unwrap();
        let mut served = record("v", 2);
        served.content = Content::Blank;
        let bench = Bench::at(dir, |a, _| a.holds(&served)).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        let entry = bench.entry(&served.id).unwrap();
        assert_eq!(entry.record, served, "{noted_before:?}");
        assert!(!entry.half_formatted, "{noted_before:?}");
        assert_eq!(journal.read(&served.id).unwrap(), Some(noted_before));
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_kill_cut_off_in_a_pool_is_ended_though_the_pool_has_another_name() {
    let c = pool("c");
    for (intent, content) in [
        (Intent::record(&c, &record("v", 1)), Some("ext4")),
        (Intent::mkfs(&c, &record("v", 1)), None),
        (Intent::create(&c, &record("v", 1)), None),
    ] {
        let (dir, journal) = noted(&[]);
        journal.write(&id("v"), &intent).unwrap();
        let mut found = record("v", 1);
        found.content = Content::Blank;
        let bench = Bench::at(dir, |a, _| a.holds(&found)).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        let entry = bench.entry(&id("v"));
        let making = matches!(intent, Intent::Create { .. });
        assert_eq!(entry.is_none(), making, "{intent:?}");
        if let Some(entry) = entry {
            let held = entry.record.content.file_system().map(FsType::as_str);
            assert_eq!(held, content, "{intent:?}");
            assert_eq!(entry.half_formatted, content.is_none(), "{intent:?}");
        }
    }
}
