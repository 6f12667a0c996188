//! Records and reports for tests.

use stowage_model::id::Role;
use stowage_model::record::Content;
use stowage_model::request::{Layout, Provisioning, SnapshotGrowth, Usage};
use stowage_model::{Bytes, Id, Limits, Name, Record};

/// The record of a blank volume of this name.
pub(crate) fn volume(name: &str) -> Record {
    let name = Name::new(name).unwrap();
    Record {
        id: Id::derive(Role::Volume, &name),
        name,
        asked: Bytes::mib(60),
        created: "2026-11-21T10:00:00Z".parse().unwrap(),
        usage: Usage {
            mount: None,
            block: true,
        },
        content: Content::Blank,
        fs_bytes: Bytes(0),
        mkfs: Vec::new(),
        layout: Layout::Linear,
        provisioning: Provisioning::Thick,
        limits: Limits::default(),
        source: None,
        fingerprint: "00ff".into(),
        read_only: false,
        ephemeral: false,
        group: None,
        growth: None,
    }
}

/// The record of a snapshot of `of`, with a store that starts at 16Mi.
pub(crate) fn snapshot(name: &str, of: &Record) -> Record {
    let name = Name::new(name).unwrap();
    let id = Id::derive(Role::Snapshot, &name);
    let growth = SnapshotGrowth {
        initial: Bytes::mib(16),
        threshold: 50,
        step: Bytes::mib(8),
    };
    Record {
        growth: Some(growth),
        ..of.snapshot(id, name, of.asked, of.created)
    }
}

/// The record of a volume that reads `of` in place.
pub(crate) fn reader(name: &str, of: &Record) -> Record {
    Record {
        source: Some(of.id.clone()),
        read_only: true,
        ..volume(name)
    }
}
