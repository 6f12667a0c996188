//! Mounts in a map; targets and staging paths are real directories and files, so that whoever
//! looks for them finds them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use stowage_model::publish::Stats;
use stowage_model::request::{Access, AccessMode, EphemeralRequest, PublishRequest, StageRequest};
use stowage_model::{Bytes, Error, Id, Publish, Result};

use crate::fake::Fake;

#[derive(Default)]
pub(crate) struct Mounts {
    pub(crate) staged: BTreeMap<Id, StageRequest>,
    pub(crate) published: BTreeMap<PathBuf, PublishRequest>,
    pub(crate) ephemeral: BTreeMap<PathBuf, EphemeralRequest>,
    /// Staging here never ends.
    pub(crate) hangs: Option<PathBuf>,
}

impl Mounts {
    pub(crate) fn uses(&self, id: &Id) -> bool {
        self.staged.contains_key(id) || self.published.values().any(|p| p.id == *id)
    }

    fn has(&self, id: &Id, path: &Path) -> bool {
        self.staged.get(id).is_some_and(|s| s.staging == path)
            || self.published.get(path).is_some_and(|p| p.id == *id)
            || self
                .ephemeral
                .get(path)
                .is_some_and(|e| Id::ephemeral(&e.volume.name) == *id)
    }
}

fn io(error: std::io::Error) -> Error {
    Error::internal("failed to touch a target").caused_by(error)
}

#[async_trait]
impl Publish for Fake {
    async fn stage(&self, want: StageRequest) -> Result<()> {
        if self.state().mounts.hangs.as_deref() == Some(&want.staging) {
            std::future::pending::<()>().await;
        }
        let mut state = self.begin()?;
        state.volume(&want.id)?;
        match state.mounts.staged.get(&want.id) {
            Some(old) if *old != want => Err(Error::exists("staged in another way")),
            _ => {
                state.mounts.staged.insert(want.id.clone(), want);
                Ok(())
            }
        }
    }

    async fn unstage(&self, id: &Id, staging: &Path) -> Result<()> {
        let mut state = self.begin()?;
        if state.mounts.published.values().any(|p| p.id == *id) {
            return Err(Error::precondition("still published"));
        }
        if state.mounts.has(id, staging) {
            state.mounts.staged.remove(id);
        }
        Ok(())
    }

    async fn publish(&self, want: PublishRequest) -> Result<()> {
        let mut state = self.begin()?;
        state.volume(&want.id)?;
        if !state.mounts.has(&want.id, &want.staging) {
            return Err(Error::precondition("not staged there"));
        }
        if let Some(old) = state.mounts.published.get(&want.target) {
            return (*old == want)
                .then_some(())
                .ok_or_else(|| Error::exists("published in another way"));
        }
        let taken = state.mounts.published.values().any(|p| p.id == want.id);
        if taken && want.mode == AccessMode::SingleNodeSingleWriter {
            return Err(Error::precondition("published at another target"));
        }
        match want.access {
            Access::Block => fs::write(&want.target, b""),
            Access::Mount { .. } => fs::create_dir_all(&want.target),
        }
        .map_err(io)?;
        state.mounts.published.insert(want.target.clone(), want);
        Ok(())
    }

    async fn unpublish(&self, id: &Id, target: &Path) -> Result<()> {
        let mut state = self.begin()?;
        if state.mounts.ephemeral.remove(target).is_some() {
            state.volumes.remove(id);
        }
        if state.mounts.published.remove(target).is_some() || target.exists() {
            if target.is_dir() {
                fs::remove_dir(target).map_err(io)?;
            } else {
                fs::remove_file(target).map_err(io)?;
            }
        }
        Ok(())
    }

    async fn publish_ephemeral(&self, want: EphemeralRequest) -> Result<()> {
        let mut state = self.begin()?;
        let id = Id::ephemeral(&want.volume.name);
        state.make(id.clone(), &want.volume.settled(None)?)?;
        if let Some(volume) = state.volumes.get_mut(&id) {
            volume.record.ephemeral = true;
        }
        fs::create_dir_all(&want.target).map_err(io)?;
        state.mounts.ephemeral.insert(want.target.clone(), want);
        Ok(())
    }

    async fn stats(&self, id: &Id, path: &Path) -> Result<Stats> {
        let state = self.begin()?;
        let total = state.volume(id)?.size;
        if !state.mounts.has(id, path) {
            return Err(Error::not_found("the volume is not there"));
        }
        let block = state
            .mounts
            .staged
            .get(id)
            .is_some_and(|s| s.access == Access::Block);
        if block {
            return Ok(Stats::Block { total });
        }
        let fixed = !path.ends_with("btrfs");
        Ok(Stats::FileSystem {
            total,
            available: Bytes(total.0 - 100),
            used: Bytes(100),
            inodes: if fixed { 1000 } else { 0 },
            inodes_free: if fixed { 990 } else { 0 },
            inodes_used: 10,
        })
    }

    async fn expand(&self, id: &Id, path: &Path, required: Option<Bytes>) -> Result<Bytes> {
        let state = self.begin()?;
        let size = state.volume(id)?.size;
        if !state.mounts.has(id, path) {
            return Err(Error::not_found("the volume is not there"));
        }
        if required.is_some_and(|required| size < required) {
            return Err(Error::out_of_range("the volume is smaller than that"));
        }
        Ok(size)
    }
}
