//! Cutting and removing snapshots.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use stowage_host::freeze::Guard;
use stowage_host::{blocking, device, failpoint};
use stowage_model::error::Context;
use stowage_model::id::Role;
use stowage_model::volumes::Snapshot;
use stowage_model::{Error, FsType, Id, Record, Result, SnapshotRequest};

use crate::index::Entry;
use crate::local::Inner;
use crate::target::mount_at;

/// How long a file system may stay frozen at most, whatever happens to us meanwhile.
const FREEZE_BOUND: Duration = Duration::from_secs(10);

/// Frozen file systems; thawed by [`Inner::thaw_after_cut`], or by the guard's own process when
/// we die or take too long.
pub(crate) struct Frozen(Option<Guard>);

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
        let source = self
            .index
            .get(id)
            .filter(|e| !e.record.is_snapshot())
            .ok_or_else(|| Error::not_found(format!("there is no volume {id} to cut")))?;
        self.copyable(&source)?;
        source.pool.can_snapshot()?;
        Ok(source)
    }

    /// Cut `source` into `record`, frozen where it is mounted. The caller holds both.
    pub(crate) async fn cut(self: &Arc<Self>, source: &Entry, record: &Record) -> Result<()> {
        let frozen = self.freeze_for_cut(std::slice::from_ref(source)).await?;
        let cut = source.pool.snapshot(&source.record, record).await;
        let thawed = self.thaw_after_cut(frozen).await;
        if let Err(e) = cut.and(thawed) {
            self.creation_failed(&source.pool, record, &e).await;
            return Err(e);
        }
        let entry = Entry::new(record.clone(), source.size, Arc::clone(&source.pool));
        self.index.put(entry);
        Ok(())
    }

    /// Freeze the mounted ones of these volumes whose pools do not do so by themselves, and bring
    /// what raw devices hold in memory to the disk.
    pub(crate) async fn freeze_for_cut(&self, sources: &[Entry]) -> Result<Frozen> {
        let mut mounted: Vec<PathBuf> = Vec::new();
        for source in sources {
            let Some(device) = source.pool.attached(&source.record).await? else {
                continue;
            };
            let Some(path) = self.seen_mounted(source).await? else {
                let path = device.path.clone();
                blocking(move || device::sync(&path))
                    .await
                    .or_internal(|| format!("failed to flush {}", source.title()))?;
                continue;
            };
            // Device mapper does not reach btrfs, whose log of synced files would then be in the
            // cut; a copy gets a UUID of its own by btrfstune, which makes such a log unreadable.
            let btrfs = source.record.content.file_system() == Some(FsType::Btrfs);
            if btrfs || !source.pool.freezes_itself() {
                mounted.push(path);
            }
        }
        if mounted.is_empty() {
            return Ok(Frozen(None));
        }
        let exe = self.options.program.clone();
        let guard = blocking(move || -> Result<Guard> {
            let names: Vec<String> = mounted.iter().map(|p| p.display().to_string()).collect();
            let failed = || format!("failed to freeze {}", names.join(", "));
            let guard = Guard::arm(&exe, &mounted, FREEZE_BOUND).or_internal(failed)?;
            for path in &mounted {
                stowage_host::freeze::freeze(path).or_internal(failed)?;
            }
            Ok(guard)
        })
        .await?;
        failpoint::hit("node.snapshot.frozen");
        Ok(Frozen(Some(guard)))
    }

    /// A path where the volume's own file system is mounted. What we noted does not tell: somebody
    /// may have unmounted it there, and to freeze what lies beneath would stop the whole machine.
    pub(crate) async fn seen_mounted(&self, volume: &Entry) -> Result<Option<PathBuf>> {
        let noted = self.attachments.get(&volume.record.id);
        let staging = noted.staging.iter().filter(|s| !s.block).map(|s| &s.path);
        let targets = noted.targets.iter().filter(|(_, p)| !p.block);
        for path in staging.chain(targets.map(|(path, _)| path)) {
            if let Some(found) = mount_at(path).await?
                && self.is_ours(volume, &found).await?
            {
                return Ok(Some(path.clone()));
            }
        }
        Ok(None)
    }

    /// Thaw; an error says that the freeze had ended before, so the cut may not be one moment.
    pub(crate) async fn thaw_after_cut(&self, frozen: Frozen) -> Result<()> {
        let Some(guard) = frozen.0 else { return Ok(()) };
        let still = blocking(move || guard.release())
            .await
            .or_internal(|| "failed to thaw after the cut".to_owned())?;
        if still {
            return Ok(());
        }
        Err(Error::internal(format!(
            "the cut took longer than the {} s a file system may stay frozen; try again when the \
             disk is less busy",
            FREEZE_BOUND.as_secs()
        )))
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
