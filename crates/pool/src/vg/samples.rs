//! Records, recorded reports and scripted groups for tests.

use std::sync::Arc;

use stowage_host::fake::Script;
use stowage_model::id::Role;
use stowage_model::record::Content;
use stowage_model::request::{Layout, Provisioning, SnapshotGrowth, Usage};
use stowage_model::{Bytes, Id, Limits, Name, PoolName, Record};

use super::{Vg, dm, report};

/// Recorded in a guest, see testdata/lvm/README.md.
pub(crate) const GROUP: &str = include_str!("../../testdata/lvm/group.json");
pub(crate) const EMPTY: &str = include_str!("../../testdata/lvm/empty.json");
pub(crate) const PARTIAL: &str = include_str!("../../testdata/lvm/partial.json");
pub(crate) const FULL: &str = include_str!("../../testdata/lvm/full.txt");
pub(crate) const MISSING: &str = include_str!("../../testdata/lvm/missing.txt");
pub(crate) const EXISTS: &str = include_str!("../../testdata/lvm/exists.txt");
pub(crate) const FROZEN: &str = include_str!("../../testdata/lvm/frozen.txt");

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
        fingerprint: stowage_model::Fingerprint::from_text("00ff"),
        read_only: false,
        ephemeral: false,
        group: None,
        growth: None,
        beyond: None,
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

/// What a script is made of, with the long report call spelled once.
pub(crate) trait Steps: Sized {
    /// Expects the report of `vg-0`.
    fn report(self, json: &str) -> Self;
    /// Expects a call written as one line, its words parted by blanks.
    fn does(self, line: &str) -> Self;
    /// Expects a call that fails with LVM's exit code.
    fn refuses(self, line: &str, stderr: &str) -> Self;
}

impl Steps for Script {
    fn report(self, json: &str) -> Self {
        let argv = report::command("vg-0").argv();
        self.ok(&argv.iter().map(String::as_str).collect::<Vec<_>>(), json)
    }

    fn does(self, line: &str) -> Self {
        self.ok(&line.split(' ').collect::<Vec<_>>(), "")
    }

    fn refuses(self, line: &str, stderr: &str) -> Self {
        self.fails(&line.split(' ').collect::<Vec<_>>(), 5, stderr)
    }
}

/// The group `vg-0` of pool `fast`, on a script and a sysfs of the test's own.
pub(crate) fn vg(script: Script, devices: dm::Devices) -> Vg {
    let pool = PoolName::new("fast").unwrap();
    Vg::new(pool, "vg-0".into(), Arc::new(script))
        .unwrap()
        .with_devices(devices)
}

/// The options of lvcreate or lvchange that give an LV these tags.
pub(crate) fn flags(flag: &str, tags: &[String]) -> String {
    tags.iter()
        .map(|tag| format!("{flag} {tag}"))
        .collect::<Vec<_>>()
        .join(" ")
}
