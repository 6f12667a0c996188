//! The node's one object: what the doors call.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use stowage_host::mount;
use stowage_model::publish::Stats;
use stowage_model::request::{
    EphemeralRequest, GroupRequest, Layout, Placement, Provisioning, PublishRequest, SizeRange,
    StageRequest,
};
use stowage_model::volumes::{
    Capacity, Finding, Group, Grown, PoolStatus, Snapshot, Volume, Volumes,
};
use stowage_model::{
    Bytes, Error, Id, LimitsChange, PoolName, Publish, Result, SnapshotRequest, VolumeRequest,
};

use crate::ephemeral::publish::publish_ephemeral;
use crate::findings::{all_findings, findings_of, missing_pools};
use crate::kubelet::{settled, settled_now};
use crate::lookup::{first_reading, known, lasts, need_volume, shown, snapshot_of};
use crate::pools::{create_pool, extend_pool};
use crate::publish::direct::{MountRequest, mount_simply, unmount_simply};
use crate::publish::stage::stage;
use crate::publish::stats::{expand, stats};
use crate::publish::target::publish;
use crate::publish::unpublish::unpublish;
use crate::publish::unstage::unstage;
use crate::snapshot::group::{cut_group, need_group, remove_group};
use crate::snapshot::single::{cut_snapshot, remove_snapshot};
use crate::state::Node;
use crate::state::attachments::Attachment;
use crate::state::index::Entry;
use crate::state::jobs::Job;
use crate::status::{rooms_known, status_of};
use crate::volume::choose::{allowed, placed};
use crate::volume::create::create_locked;
use crate::volume::grow::{change_limits, grow_volume};
use crate::volume::remove::remove_volume;
use stowage_model::PoolConfig;

/// Volumes on this machine.
#[derive(Clone)]
pub struct Local {
    pub(crate) node: Arc<Node>,
}

/// What there is, as far as that is known.
#[derive(Debug)]
pub struct Listing<T> {
    /// In the order of their ids.
    pub all: Vec<T>,
    /// What may hold more of them, each with the way out.
    pub gaps: Vec<Error>,
}

impl Local {
    /// Stage if need be, and publish.
    ///
    /// # Errors
    /// As [`stowage_model::Publish::stage`] and [`stowage_model::Publish::publish`].
    pub async fn mount(&self, mut want: MountRequest) -> Result<()> {
        want.target = settled(want.target).await;
        let me = Arc::clone(&self.node);
        self.node
            .ops()
            .detached(async move { mount_simply(&me, want).await })
            .await
    }

    /// Unpublish, and unstage after the last target.
    ///
    /// # Errors
    /// As [`stowage_model::Publish::unpublish`] and [`stowage_model::Publish::unstage`];
    /// [`stowage_model::Kind::NotFound`] when the volume is not there.
    pub async fn unmount(&self, id: &Id, target: &Path) -> Result<()> {
        let target = settled(target.to_owned()).await;
        let (me, id) = (Arc::clone(&self.node), id.clone());
        self.node
            .ops()
            .detached(async move { unmount_simply(&me, &id, &target).await })
            .await
    }

    /// The volume that is in use at this path, or was before the machine or the daemon was restarted.
    pub fn volume_at(&self, target: &Path) -> Option<Id> {
        let target = settled_now(target);
        let all = self.node.attachments().all();
        let used = |a: &Attachment| a.targets.contains_key(&target);
        let ended = |a: &Attachment| a.left.contains(&target);
        let found = all.iter().find(|(_, a)| used(a)).or_else(|| {
            // What somebody else has mounted there since is not ours to unmount.
            let free = matches!(mount::at(&target), Ok(None));
            all.iter().find(|(_, a)| free && ended(a))
        });
        found.map(|(id, _)| id.clone())
    }

    /// Whether a volume is larger than its pool would make it of this size.
    ///
    /// # Errors
    /// [`stowage_model::Kind::NotFound`] when the volume is not there; those of
    /// [`stowage_pool::Pool::rounded`].
    pub async fn exceeds(&self, id: &Id, size: Bytes) -> Result<bool> {
        let entry = need_volume(&self.node, id)?;
        Ok(entry.size > entry.pool.rounded(&entry.record, size).await?)
    }

    /// Grow the file system of a volume to the volume's size where it is mounted, if it is.
    ///
    /// # Errors
    /// As [`stowage_model::Publish::expand`].
    pub async fn expand_if_mounted(&self, id: &Id) -> Result<Option<Bytes>> {
        let Some(staging) = self.node.attachments().get(id).staging.filter(|s| !s.block) else {
            return Ok(None);
        };
        let (me, id) = (Arc::clone(&self.node), id.clone());
        let work = async move { expand(&me, &id, &staging.path, None).await };
        self.node.ops().detached(work).await.map(Some)
    }
}

impl Local {
    /// Everything that is being copied or wiped.
    pub fn jobs(&self) -> Vec<Job> {
        self.node.jobs().list()
    }

    /// Whether a volume or snapshot that is not listed is known not to exist: nothing that may hold it
    /// is unread.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Unavailable`] naming the pool it may be in, and the way out.
    pub fn rule_out(&self, id: &Id) -> Result<()> {
        self.node.unread().rule_out(id)
    }

    /// Right after the start: wait for this volume or snapshot to be read, if it may be there.
    pub async fn known(&self, id: &Id) {
        known(&self.node, id).await;
    }

    /// The volumes that are known by now. Right after the start more may be:
    /// [`Local::list_volumes`] waits for them.
    pub fn volumes_known(&self) -> Listing<Volume> {
        // Before the look: what is read meanwhile is not listed, perhaps.
        let gaps = self.node.unread().gaps();
        let volumes = self.node.index().list(|e| !e.record.is_snapshot());
        let all = volumes.into_iter().map(|e| shown(&self.node, e)).collect();
        Listing { all, gaps }
    }

    /// The volumes that are known.
    pub async fn list_volumes(&self) -> Listing<Volume> {
        first_reading(&self.node, || false).await;
        self.volumes_known()
    }

    /// The snapshots that are known.
    pub async fn list_snapshots(&self) -> Listing<Snapshot> {
        first_reading(&self.node, || false).await;
        self.snapshots_known()
    }

    /// As [`Local::volumes_known`], for snapshots.
    pub fn snapshots_known(&self) -> Listing<Snapshot> {
        // Before the look, as with volumes.
        let gaps = self.node.unread().gaps();
        let lasting = self.node.index().list(lasts);
        let all = lasting.iter().map(|e| snapshot_of(&self.node, e)).collect();
        Listing { all, gaps }
    }

    /// Make a pool from a definition and remember it across restarts.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Exists`] when the name is taken, [`stowage_model::Kind::Precondition`]
    /// for disks that are not blank.
    pub async fn create_pool(
        &self,
        config: PoolConfig,
        disks: &[PathBuf],
        force: bool,
    ) -> Result<PoolStatus> {
        let (me, disks) = (Arc::clone(&self.node), disks.to_vec());
        self.node
            .ops()
            .detached(async move { create_pool(&me, config, &disks, force).await })
            .await
    }

    /// Add disks to a pool.
    ///
    /// # Errors
    /// [`stowage_model::Kind::NotFound`] for an unknown pool, else as [`stowage_pool::Pool::extend`].
    pub async fn extend_pool(
        &self,
        name: &PoolName,
        disks: &[PathBuf],
        force: bool,
    ) -> Result<PoolStatus> {
        let (me, name, disks) = (Arc::clone(&self.node), name.clone(), disks.to_vec());
        let work = async move { extend_pool(&me, &name, &disks, force).await };
        self.node.ops().detached(work).await
    }

    /// Whether the node can serve: one pool at least is there. Those that are not are told by
    /// [`Volumes::findings`]; their trouble must not keep the others' volumes from being used.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Precondition`] when no pool is configured, or none is there,
    /// [`stowage_model::Kind::Pending`] right after the start.
    pub fn ready(&self) -> Result<()> {
        let pools = self.node.pools();
        if pools.is_empty() && !self.node.unread().lacks_definitions() {
            return Err(Error::precondition("no pool is configured"));
        }
        let missing = missing_pools(&self.node);
        if pools.iter().all(|pool| missing.contains(pool.name())) && self.node.unread().is_coming()
        {
            return Err(Error::pending("the pools are being read"));
        }
        if pools.iter().all(|pool| missing.contains(pool.name())) {
            return Err(Error::precondition(
                "none of the pools is there; run `stowage doctor`",
            ));
        }
        Ok(())
    }

    /// Stop: no new background work, copies and wipes stop at the next chunk (they are taken up
    /// again at the next start), operations under way get until `bound`. Mounts stay.
    pub async fn stop(&self, bound: Duration) {
        self.node.stopping().cancel();
        self.node.jobs().stop_all();
        if !self.node.ops().drain(bound).await {
            tracing::warn!("operations still under way are left to the next start");
        }
    }
}

impl<T> Listing<T> {
    /// All there is.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Unavailable`] while there may be more.
    pub fn whole(self) -> Result<Vec<T>> {
        match self.gaps.into_iter().next() {
            None => Ok(self.all),
            Some(gap) => Err(gap),
        }
    }
}

/// Run an operation on this volume or snapshot to its end even if the caller goes away.
macro_rules! detached {
    ($self:ident, $id:expr, |$me:ident| $work:expr) => {{
        let $me = Arc::clone(&$self.node);
        known(&$self.node, $id).await;
        $self.node.ops().detached(async move { $work.await }).await
    }};
}

#[async_trait]
impl Volumes for Local {
    async fn create(&self, want: VolumeRequest) -> Result<Volume> {
        let id = Id::derive(stowage_model::id::Role::Volume, &want.name);
        let me = &self.node;
        // It may be in a pool where it would be made; the others do not concern it.
        first_reading(me, || {
            let placed = placed(me, &want.placement, want.layout);
            me.index().get(&id).is_some() || !me.unread().are_coming(&placed)
        })
        .await;
        let me = Arc::clone(me);
        let work = async move {
            let _held = me.ops().begin(&id, "creation").await?;
            create_locked(&me, id, &want, None).await
        };
        self.node.ops().detached(work).await
    }

    async fn delete(&self, id: &Id) -> Result<()> {
        let id = id.clone();
        detached!(self, &id.clone(), |me| remove_volume(&me, &id))
    }

    async fn grow(&self, id: &Id, size: SizeRange) -> Result<Grown> {
        let id = id.clone();
        detached!(self, &id.clone(), |me| grow_volume(&me, &id, size))
    }

    async fn modify(&self, id: &Id, change: LimitsChange) -> Result<Volume> {
        let id = id.clone();
        detached!(self, &id.clone(), |me| change_limits(&me, &id, change))
    }

    async fn volume(&self, id: &Id) -> Result<Volume> {
        known(&self.node, id).await;
        Ok(shown(&self.node, need_volume(&self.node, id)?))
    }

    async fn volumes(&self) -> Result<Vec<Volume>> {
        self.list_volumes().await.whole()
    }

    async fn known_volumes(&self) -> Result<Vec<Volume>> {
        Ok(self.list_volumes().await.all)
    }

    async fn snapshot(&self, want: SnapshotRequest) -> Result<Snapshot> {
        detached!(self, &want.source.clone(), |me| cut_snapshot(&me, want))
    }

    async fn delete_snapshot(&self, id: &Id) -> Result<()> {
        let id = id.clone();
        detached!(self, &id.clone(), |me| remove_snapshot(&me, &id))
    }

    async fn one_snapshot(&self, id: &Id) -> Result<Snapshot> {
        known(&self.node, id).await;
        let gone = || format!("there is no snapshot with the id {id}");
        match self.node.index().get(id) {
            Some(entry) if lasts(&entry) => Ok(snapshot_of(&self.node, &entry)),
            Some(_) => Err(Error::not_found(gone())),
            None => Err(self.node.unread().absent(id, gone())),
        }
    }

    async fn snapshots(&self) -> Result<Vec<Snapshot>> {
        self.list_snapshots().await.whole()
    }

    async fn snapshot_group(&self, want: GroupRequest) -> Result<Group> {
        first_reading(&self.node, || false).await;
        let me = Arc::clone(&self.node);
        self.node
            .ops()
            .detached(async move { cut_group(&me, want).await })
            .await
    }

    async fn delete_group(&self, id: &Id, members: &[Id]) -> Result<()> {
        let (id, members) = (id.clone(), members.to_vec());
        detached!(self, &id.clone(), |me| remove_group(&me, &id, &members))
    }

    async fn group(&self, id: &Id) -> Result<Group> {
        first_reading(&self.node, || false).await;
        need_group(&self.node, id)
    }

    async fn capacity(
        &self,
        choice: &Placement,
        layout: Layout,
        provisioning: Provisioning,
    ) -> Result<Capacity> {
        let mut capacity = Capacity::default();
        let pools = allowed(&self.node, choice, layout).await;
        if self.node.unread().among_allowed(choice, &pools).is_err() {
            // Nothing new is made there meanwhile.
            return Ok(capacity);
        }
        for room in rooms_known(&self.node, &pools, layout, provisioning).await {
            capacity.available = capacity.available + room.available;
            capacity.largest = capacity.largest.max(room.largest);
        }
        Ok(capacity)
    }

    async fn pools(&self) -> Result<Vec<PoolStatus>> {
        let pools = self.node.pools();
        let all = pools.iter().map(|pool| status_of(&self.node, pool));
        Ok(join_all(all).await)
    }

    async fn health(&self, id: &Id) -> Result<Vec<Finding>> {
        known(&self.node, id).await;
        let entry = need_volume(&self.node, id)?;
        let mut found = findings_of(&self.node, &[entry]).await;
        Ok(found.remove(id).unwrap_or_default())
    }

    async fn health_of_all(&self, ids: &[Id]) -> Result<BTreeMap<Id, Vec<Finding>>> {
        let there = ids.iter().filter_map(|id| self.node.index().get(id));
        let volumes: Vec<Entry> = there.filter(|e| !e.record.is_snapshot()).collect();
        Ok(findings_of(&self.node, &volumes).await)
    }

    async fn findings(&self) -> Result<Vec<Finding>> {
        Ok(all_findings(&self.node).await)
    }
}

#[async_trait]
impl Publish for Local {
    async fn stage(&self, mut want: StageRequest) -> Result<()> {
        want.staging = settled(want.staging).await;
        detached!(self, &want.id.clone(), |me| stage(&me, want))
    }

    async fn unstage(&self, id: &Id, staging: &Path) -> Result<()> {
        let (id, staging) = (id.clone(), settled(staging.to_owned()).await);
        detached!(self, &id.clone(), |me| unstage(&me, &id, &staging))
    }

    async fn publish(&self, mut want: PublishRequest) -> Result<()> {
        want.staging = settled(want.staging).await;
        want.target = settled(want.target).await;
        detached!(self, &want.id.clone(), |me| publish(&me, want))
    }

    async fn unpublish(&self, id: &Id, target: &Path) -> Result<()> {
        let (id, target) = (id.clone(), settled(target.to_owned()).await);
        detached!(self, &id.clone(), |me| unpublish(&me, &id, &target))
    }

    async fn publish_ephemeral(&self, mut want: EphemeralRequest) -> Result<()> {
        want.target = settled(want.target).await;
        let id = Id::ephemeral(&want.volume.name);
        detached!(self, &id, |me| publish_ephemeral(&me, want))
    }

    async fn stats(&self, id: &Id, path: &Path) -> Result<Stats> {
        stats(&self.node, id, &settled(path.to_owned()).await).await
    }

    async fn expand(&self, id: &Id, path: &Path, required: Option<Bytes>) -> Result<Bytes> {
        let (id, path) = (id.clone(), settled(path.to_owned()).await);
        detached!(self, &id.clone(), |me| expand(&me, &id, &path, required))
    }
}
