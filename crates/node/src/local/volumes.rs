//! Volumes and snapshots come, grow and go.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::join_all;
use stowage_model::id::Role;
use stowage_model::request::{GroupRequest, Layout, Placement, Provisioning, SizeRange};
use stowage_model::volumes::{
    Capacity, Finding, Group, Grown, Job, Listing, PoolStatus, Snapshot, Volume,
};
use stowage_model::{Error, Id, LimitsChange, Result, SnapshotRequest, VolumeRequest, Volumes};

use super::Local;
use crate::findings::{all_findings, findings_of};
use crate::lookup::{
    away, first_reading, known, lasts, need_volume, shown, shown_away, snapshot_away, snapshot_of,
};
use crate::names;
use crate::snapshot::group::{cut_group, need_group, remove_group};
use crate::snapshot::single::{cut_snapshot, remove_snapshot};
use crate::state::entry::Entry;
use crate::status::{rooms_known, status_of};
use crate::volume::choose::{allowed, placed};
use crate::volume::create::create_volume;
use crate::volume::grow::{change_limits, grow_volume};
use crate::volume::remove::remove_volume;

#[async_trait]
impl Volumes for Local {
    async fn create(&self, want: VolumeRequest) -> Result<Volume> {
        let id = Id::derive(Role::Volume, &want.name);
        let node = &self.node;
        // It may be in a pool where it would be made; the others do not concern it.
        first_reading(node, || {
            let placed = placed(node, &want.placement, want.layout);
            node.index().get(&id).is_some() || !node.unread().are_coming(&placed)
        })
        .await;
        let node = Arc::clone(node);
        let work = async move { create_volume(&node, id, &want).await };
        let made = self.node.ops().detached(work).await;
        self.have_noted().await;
        made
    }

    async fn delete(&self, id: &Id) -> Result<()> {
        let work = |node, id| async move { remove_volume(&node, &id).await };
        self.on(id, work).await
    }

    async fn grow(&self, id: &Id, size: SizeRange) -> Result<Grown> {
        let work = |node, id| async move { grow_volume(&node, &id, size).await };
        self.on(id, work).await
    }

    async fn modify(&self, id: &Id, change: LimitsChange) -> Result<Volume> {
        let work = |node, id| async move { change_limits(&node, &id, change).await };
        self.on(id, work).await
    }

    async fn volume(&self, id: &Id) -> Result<Volume> {
        known(&self.node, id).await;
        match need_volume(&self.node, id) {
            Ok(entry) => Ok(shown(&self.node, entry)),
            Err(e) => match away(&self.node, id) {
                Some(known) if !known.record.is_snapshot() => Ok(shown_away(&self.node, known)),
                _ => Err(e),
            },
        }
    }

    async fn volumes(&self) -> Listing<Volume> {
        first_reading(&self.node, || false).await;
        self.volumes_known()
    }

    async fn find(&self, role: Role, text: &str) -> Result<Id> {
        names::find(&self.node, role, text).await
    }

    async fn snapshot(&self, want: SnapshotRequest) -> Result<Snapshot> {
        let source = want.source.clone();
        let work = |node, _| async move { cut_snapshot(&node, want).await };
        let made = self.on(&source, work).await;
        self.have_noted().await;
        made
    }

    async fn delete_snapshot(&self, id: &Id) -> Result<()> {
        let work = |node, id| async move { remove_snapshot(&node, &id).await };
        self.on(id, work).await
    }

    async fn one_snapshot(&self, id: &Id) -> Result<Snapshot> {
        known(&self.node, id).await;
        let gone = || format!("there is no snapshot with the id {id}");
        match self.node.index().get(id) {
            Some(entry) if lasts(&entry.record) => Ok(snapshot_of(&self.node, &entry)),
            Some(_) => Err(Error::not_found(gone())),
            None => match away(&self.node, id) {
                Some(known) if lasts(&known.record) => Ok(snapshot_away(known)),
                _ => Err(self.node.unread().absent(id, gone())),
            },
        }
    }

    async fn snapshots(&self) -> Listing<Snapshot> {
        first_reading(&self.node, || false).await;
        self.snapshots_known()
    }

    async fn snapshot_group(&self, want: GroupRequest) -> Result<Group> {
        first_reading(&self.node, || false).await;
        let node = Arc::clone(&self.node);
        let work = async move { cut_group(&node, want).await };
        let made = self.node.ops().detached(work).await;
        self.have_noted().await;
        made
    }

    async fn delete_group(&self, id: &Id, members: &[Id]) -> Result<()> {
        let members = members.to_vec();
        let work = |node, id| async move { remove_group(&node, &id, &members).await };
        self.on(id, work).await
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

    fn jobs(&self) -> Vec<Job> {
        self.node.jobs().list()
    }
}
