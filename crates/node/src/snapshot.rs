//! Cutting and removing snapshots.

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use stowage_host::{failpoint, mount};
use stowage_model::id::Role;
use stowage_model::volumes::Snapshot;
use stowage_model::{Error, Id, Record, Result, SnapshotRequest};

use crate::index::Entry;
use crate::local::Inner;
use crate::target::mounts;

impl Inner {
    pub(crate) async fn cut_snapshot(self: &Arc<Self>, want: SnapshotRequest) -> Result<Snapshot> {
        let id = Id::derive(Role::Snapshot, &want.name);
        let _held = self
            .ops
            .begin_all(&[want.source.clone(), id.clone()], "snapshot")
            .await?;
        if let Some(entry) = self.index.get(&id) {
            if entry.record.source.as_ref() != Some(&want.source) || entry.record.name != want.name
            {
                return Err(Error::exists(format!(
                    "{} exists and was cut from another volume; choose another name",
                    entry.title()
                )));
            }
            return Ok(self.snapshot_of(&entry));
        }
        // It can only be where its source is, and that pool is there.
        self.unread.rule_out_record(&id)?;
        self.end_failed_creation(&id).await?;
        let source = self.cuttable(&want.source)?;
        let mut record =
            source
                .record
                .snapshot(id, want.name.clone(), source.size, Timestamp::now());
        record.read_only = want.read_only;
        record.growth = Some(want.growth);
        failpoint::hit("node.snapshot.begun");
        self.cut(&source, &record).await?;
        failpoint::hit("node.snapshot.cut");
        Ok(self.snapshot_of(&self.index.need(&record.id)?))
    }

    /// A volume that can be cut now.
    pub(crate) fn cuttable(&self, id: &Id) -> Result<Entry> {
        let source = self.need_volume(id)?;
        self.copyable(&source)?;
        source.pool.can_snapshot()?;
        Ok(source)
    }

    /// Cut `source` into `record`, frozen where it is mounted. The caller holds both.
    pub(crate) async fn cut(self: &Arc<Self>, source: &Entry, record: &Record) -> Result<()> {
        let held = self.hold_writers(std::slice::from_ref(source)).await?;
        let turn = held.turn(&source.pool);
        let cut = source.pool.snapshot_in(turn, &source.record, record);
        let cut = cut.await;
        let let_go = self.let_writers_go(held).await;
        if let Err(e) = cut.and(let_go) {
            self.creation_failed(&source.pool, record, &e).await;
            return Err(e);
        }
        let entry = Entry::new(record.clone(), source.size, Arc::clone(&source.pool));
        self.index.put(entry);
        Ok(())
    }

    /// A path where the volume's own file system is mounted. What we noted does not tell: somebody
    /// may have unmounted it there, and to freeze what lies beneath would stop the whole machine.
    pub(crate) async fn seen_mounted(&self, volume: &Entry) -> Result<Option<PathBuf>> {
        self.seen_mounted_in(&mounts().await?, volume).await
    }

    /// As [`Inner::seen_mounted`], for one of many volumes.
    pub(crate) async fn seen_mounted_in(
        &self,
        mounts: &mount::Table,
        volume: &Entry,
    ) -> Result<Option<PathBuf>> {
        let noted = self.attachments.get(&volume.record.id);
        let staging = noted.staging.iter().filter(|s| !s.block).map(|s| &s.path);
        let targets = noted.targets.iter().filter(|(_, p)| !p.block);
        for path in staging.chain(targets.map(|(path, _)| path)) {
            if let Some(found) = mounts.at(path)
                && self.is_ours(volume, found).await?
            {
                return Ok(Some(path.clone()));
            }
        }
        Ok(None)
    }

    pub(crate) async fn remove_snapshot(self: &Arc<Self>, id: &Id) -> Result<()> {
        let _held = self.ops.begin(id, "deletion").await?;
        let Some(entry) = self.index.get(id) else {
            self.unread.rule_out(id)?;
            return self.end_failed_creation(id).await;
        };
        if !entry.record.is_snapshot() {
            return Err(Error::invalid(format!(
                "{} is not a snapshot",
                entry.title()
            )));
        }
        if let Some(member) = &entry.record.group {
            return Err(Error::invalid(format!(
                "{} belongs to the group {}; delete the group",
                entry.title(),
                member.group
            )));
        }
        self.remove_snapshot_locked(&entry).await
    }

    /// The snapshot as doors see it.
    pub(crate) fn snapshot_of(&self, entry: &Entry) -> Snapshot {
        Snapshot {
            record: entry.record.clone(),
            pool: entry.pool.name().clone(),
            size: crate::create::restore_size(entry),
            lost: self.is_lost(entry),
        }
    }

    /// Refuse while something is being copied from a snapshot.
    pub(crate) fn not_copied_from(&self, entry: &Entry) -> Result<()> {
        match self.jobs.reads_from(&entry.record.id) {
            false => Ok(()),
            true => Err(Error::pending(format!(
                "{} is being copied from",
                entry.title()
            ))),
        }
    }

    pub(crate) async fn remove_snapshot_locked(self: &Arc<Self>, entry: &Entry) -> Result<()> {
        self.not_copied_from(entry)?;
        failpoint::hit("node.snapshot.removing");
        self.drop_snapshot(entry).await?;
        failpoint::hit("node.snapshot.removed");
        Ok(())
    }
}
