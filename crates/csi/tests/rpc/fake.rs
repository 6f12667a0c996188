//! Volumes in a map: all that the traits promise, no bytes.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use jiff::Timestamp;
use stowage_model::id::Role;
use stowage_model::record::{Content, Membership};
use stowage_model::request::{
    GroupRequest, Layout, Media, Placement, Provisioning, SizeRange, Source,
};
use stowage_model::volume_request::Model;
use stowage_model::volumes::{
    Capacity, Finding, Group, Grown, Job, Listing, PoolStatus, Snapshot, Volume,
};
use stowage_model::{
    Bytes, Error, Id, LimitsChange, Name, PoolKind, PoolName, Record, Result, SnapshotRequest,
    VolumeRequest, VolumeSpec, Volumes,
};

use crate::mounts::Mounts;

/// What the fake holds; tests look and meddle directly.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) volumes: BTreeMap<Id, Volume>,
    pub(crate) snapshots: BTreeMap<Id, Snapshot>,
    pub(crate) findings: Vec<Finding>,
    pub(crate) mounts: Mounts,
    /// The last volume asked for, as the door understood it.
    pub(crate) created: Option<VolumeSpec>,
    /// The next call of `Volumes` or `Publish` fails with this.
    pub(crate) fail: Option<Error>,
    /// Every volume ever asked for a change of limits.
    pub(crate) modified: usize,
    /// The members by which the last group was to be deleted.
    pub(crate) dropped: Option<Vec<Id>>,
    /// What the last question for capacity was about.
    pub(crate) measured: Option<(Layout, Provisioning)>,
    /// A pool could not be read.
    pub(crate) unread: bool,
    /// Looking at the pools never ends, as with a disk that hangs.
    pub(crate) pools_hang: bool,
}

#[derive(Default)]
pub(crate) struct Fake {
    state: Mutex<State>,
}

/// The fake's space. Less than a volume of the largest size, more than any other test needs.
pub(crate) const SPACE: Bytes = Bytes::gib(1024);

pub(crate) fn pool() -> PoolName {
    PoolName::new("fast").unwrap()
}

impl Fake {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state for a call of `Volumes` or `Publish`, unless it is to fail.
    pub(crate) fn begin(&self) -> Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        match state.fail.take() {
            Some(error) => Err(error),
            None => Ok(state),
        }
    }
}

fn listing<T>(
    state: Result<MutexGuard<'_, State>>,
    all: impl FnOnce(&State) -> Vec<T>,
) -> Listing<T> {
    let (all, gap) = match state {
        Ok(state) => (all(&state), state.whole().err()),
        Err(e) => (Vec::new(), Some(e)),
    };
    Listing {
        all,
        gaps: gap.into_iter().collect(),
    }
}

fn absent(id: &Id) -> Error {
    Error::not_found(format!("there is no {id}"))
}

impl State {
    pub(crate) fn volume(&self, id: &Id) -> Result<&Volume> {
        self.volumes.get(id).ok_or_else(|| self.absent(id))
    }

    fn absent(&self, id: &Id) -> Error {
        self.whole().err().unwrap_or_else(|| absent(id))
    }

    /// Whether there is nothing but what is here.
    fn whole(&self) -> Result<()> {
        match self.unread {
            true => Err(Error::unavailable("the pool slow could not be read")),
            false => Ok(()),
        }
    }

    fn promised(&self) -> Bytes {
        self.volumes.values().map(|v| v.size).sum()
    }

    fn settled(&self, id: &Id, want: &VolumeRequest) -> Result<VolumeSpec> {
        let Some(source) = &want.source else {
            return want.settled(None);
        };
        let of = |size, record: &Record| Model {
            size,
            fs: record.content.file_system().or(record.usage.mount),
            usage: record.usage,
        };
        let made = self.volumes.get(id).map(|volume| &volume.record);
        let made = made.filter(|record| record.source.as_ref() == Some(source.id()));
        let of_source = || match source {
            Source::Volume(id) => self.volumes.get(id).map(|v| of(v.size, &v.record)),
            Source::Snapshot(id) => self.snapshots.get(id).map(|s| of(s.size, &s.record)),
        };
        let model = made.map(|record| of(record.asked, record));
        want.settled(model.or_else(of_source).as_ref())
    }

    pub(crate) fn make(&mut self, id: Id, want: &VolumeSpec) -> Result<Volume> {
        if let Some(old) = self.volumes.get(&id) {
            let same = old.record.fingerprint.is_of(want) && want.size.contains(old.size);
            return same
                .then(|| old.clone())
                .ok_or_else(|| Error::exists(format!("{} exists and differs", want.name)));
        }
        let least = match &want.source {
            None => Bytes(0),
            Some(Source::Volume(id)) => self.volume(id)?.size,
            Some(Source::Snapshot(id)) => self.snapshots.get(id).ok_or_else(|| absent(id))?.size,
        };
        if want.size.required < least {
            return Err(Error::out_of_range("smaller than its source"));
        }
        if self.promised() + want.size.required > SPACE {
            return Err(Error::full("the pool is full"));
        }
        let volume = Volume {
            record: Record::for_volume(id.clone(), want, Timestamp::now()),
            pool: pool(),
            kind: PoolKind::Lvm,
            vg: Some("vg0".into()),
            size: want.size.required,
            used_at: Vec::new(),
            away: false,
        };
        self.volumes.insert(id, volume.clone());
        Ok(volume)
    }

    fn cut(&mut self, id: Id, want: &SnapshotRequest) -> Result<Snapshot> {
        if let Some(old) = self.snapshots.get(&id) {
            return (old.source() == Some(&want.source))
                .then(|| old.clone())
                .ok_or_else(|| Error::exists(format!("{} is of another volume", want.name)));
        }
        let source = self.volume(&want.source)?;
        let snapshot = Snapshot {
            record: source.record.snapshot(
                id.clone(),
                want.name.clone(),
                source.size,
                Timestamp::now(),
            ),
            pool: pool(),
            size: source.size,
            lost: false,
            away: false,
        };
        self.snapshots.insert(id, snapshot.clone());
        Ok(snapshot)
    }

    fn members(&self, group: &Id) -> Vec<Snapshot> {
        self.snapshots
            .values()
            .filter(|s| s.record.group.as_ref().is_some_and(|m| m.group == *group))
            .cloned()
            .collect()
    }
}

#[async_trait]
impl Volumes for Fake {
    async fn create(&self, want: VolumeRequest) -> Result<Volume> {
        let mut state = self.begin()?;
        let id = Id::derive(Role::Volume, &want.name);
        let want = state.settled(&id, &want)?;
        state.created = Some(want.clone());
        state.make(id, &want)
    }

    async fn delete(&self, id: &Id) -> Result<()> {
        let mut state = self.begin()?;
        if state.mounts.uses(id) {
            return Err(Error::precondition(format!("{id} is in use")));
        }
        state.volumes.remove(id);
        Ok(())
    }

    async fn grow(&self, id: &Id, size: SizeRange) -> Result<Grown> {
        let mut state = self.begin()?;
        let volume = state.volumes.get_mut(id).ok_or_else(|| absent(id))?;
        if size.limit.is_some_and(|limit| volume.size > limit) {
            return Err(Error::out_of_range("larger than that already"));
        }
        volume.size = volume.size.max(size.required);
        Ok(Grown {
            size: volume.size,
            was_larger: false,
            file_system_pending: volume.record.usage.mount.is_some(),
        })
    }

    async fn modify(&self, id: &Id, change: LimitsChange) -> Result<Volume> {
        let mut state = self.begin()?;
        let volume = state.volumes.get_mut(id).ok_or_else(|| absent(id))?;
        volume.record.limits = change.applied_to(volume.record.limits);
        let volume = volume.clone();
        state.modified += 1;
        Ok(volume)
    }

    async fn volume(&self, id: &Id) -> Result<Volume> {
        self.begin()?.volume(id).cloned()
    }

    async fn volumes(&self) -> Listing<Volume> {
        listing(self.begin(), |state| {
            state.volumes.values().cloned().collect()
        })
    }

    async fn find(&self, role: Role, text: &str) -> Result<Id> {
        Ok(Id::derive(role, &Name::new(text)?))
    }

    async fn snapshot(&self, want: SnapshotRequest) -> Result<Snapshot> {
        self.begin()?
            .cut(Id::derive(Role::Snapshot, &want.name), &want)
    }

    async fn delete_snapshot(&self, id: &Id) -> Result<()> {
        let mut state = self.begin()?;
        if state
            .snapshots
            .get(id)
            .is_some_and(|s| s.record.group.is_some())
        {
            return Err(Error::invalid(format!("{id} is a member of a group")));
        }
        state.snapshots.remove(id);
        Ok(())
    }

    async fn one_snapshot(&self, id: &Id) -> Result<Snapshot> {
        let state = self.begin()?;
        let found = state.snapshots.get(id).cloned();
        found.ok_or_else(|| state.absent(id))
    }

    async fn snapshots(&self) -> Listing<Snapshot> {
        listing(self.begin(), |state| {
            state.snapshots.values().cloned().collect()
        })
    }

    async fn snapshot_group(&self, want: GroupRequest) -> Result<Group> {
        let mut state = self.begin()?;
        for source in &want.sources {
            state.volume(source)?;
        }
        let id = Id::derive(Role::Group, &want.name);
        let mut members = Vec::new();
        for source in &want.sources {
            let one = SnapshotRequest {
                name: want.name.clone(),
                source: source.clone(),
                read_only: want.read_only,
                growth: want.growth,
            };
            let member = Id::group_member(&want.name, source);
            state.cut(member.clone(), &one)?;
            if let Some(cut) = state.snapshots.get_mut(&member) {
                cut.record.group = Some(Membership {
                    group: id.clone(),
                    of: want.sources.len(),
                });
                members.push(cut.clone());
            }
        }
        Ok(Group { id, members })
    }

    async fn delete_group(&self, id: &Id, members: &[Id]) -> Result<()> {
        let mut state = self.begin()?;
        state.dropped = Some(members.to_vec());
        let real = state.members(id);
        let same =
            members.len() == real.len() && real.iter().all(|s| members.contains(&s.record.id));
        if !real.is_empty() && !members.is_empty() && !same {
            return Err(Error::invalid("those are not the group's members"));
        }
        for member in real {
            state.snapshots.remove(&member.record.id);
        }
        Ok(())
    }

    async fn group(&self, id: &Id) -> Result<Group> {
        let members = self.begin()?.members(id);
        if members.is_empty() {
            return Err(absent(id));
        }
        Ok(Group {
            id: id.clone(),
            members,
        })
    }

    async fn capacity(
        &self,
        choice: &Placement,
        layout: Layout,
        provisioning: Provisioning,
    ) -> Result<Capacity> {
        let mut state = self.begin()?;
        state.measured = Some((layout, provisioning));
        if choice.pool.as_ref().is_some_and(|p| *p != pool())
            || choice.kind.is_some_and(|k| k != PoolKind::Lvm)
        {
            return Ok(Capacity::default());
        }
        let available = SPACE.minus(state.promised());
        Ok(Capacity {
            available,
            largest: Bytes(available.0 / 2),
        })
    }

    async fn pools(&self) -> Result<Vec<PoolStatus>> {
        if self.state().pools_hang {
            std::future::pending::<()>().await;
        }
        let state = self.begin()?;
        Ok(vec![PoolStatus {
            name: pool(),
            kind: PoolKind::Lvm,
            location: "volume group vg0".into(),
            media: Some(Media::Ssd),
            total: SPACE,
            free: SPACE.minus(state.promised()),
            largest: SPACE.minus(state.promised()),
            promised: state.promised(),
            data_percent: None,
            metadata_percent: None,
            volumes: state.volumes.len(),
            snapshots: state.snapshots.len(),
            problem: None,
            age: None,
        }])
    }

    async fn health(&self, id: &Id) -> Result<Vec<Finding>> {
        let state = self.begin()?;
        state.volume(id)?;
        let about = |f: &&Finding| f.subject == id.as_str();
        Ok(state.findings.iter().filter(about).cloned().collect())
    }

    async fn health_of_all(&self, ids: &[Id]) -> Result<BTreeMap<Id, Vec<Finding>>> {
        let state = self.begin()?;
        let there = ids.iter().filter(|id| state.volumes.contains_key(id));
        let told = there.map(|id| {
            let about = |f: &&Finding| f.subject == id.as_str();
            let found = state.findings.iter().filter(about).cloned().collect();
            (id.clone(), found)
        });
        Ok(told.collect())
    }

    async fn findings(&self) -> Result<Vec<Finding>> {
        Ok(self.begin()?.findings.clone())
    }

    fn jobs(&self) -> Vec<Job> {
        Vec::new()
    }
}

impl State {
    /// Turn a volume into one still being filled from its source.
    pub(crate) fn unfinish(&mut self, id: &Id) {
        if let Some(volume) = self.volumes.get_mut(id) {
            volume.record.content = Content::Filling;
        }
    }
}
