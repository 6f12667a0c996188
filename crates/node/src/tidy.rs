//! What can only be told from all pools together: a note that is about nothing. It waits until all of them were read, and operations may be under way by then: each
//! thing is looked at again while it is held.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::stream::{self, StreamExt};
use stowage_host::blocking;
use stowage_model::{Id, PoolName, Result};

use crate::attachments::Attachment;
use crate::journal::Intent;
use crate::local::Inner;
use crate::pools::all_seen;

impl Inner {
    /// Tidy up in the background.
    pub(crate) fn tidy_beside(self: &Arc<Self>) {
        let me = Arc::clone(self);
        self.ops.background(async move { me.tidy().await });
    }

    /// Tidy up, once, when every pool and every record in it could be read. Each thing is
    /// waited for by itself, however long somebody works on it; nobody is to wait for this.
    pub(crate) async fn tidy(self: &Arc<Self>) {
        // With a pool or a record unread, what seems to lack a volume or a member may well have it
        // there.
        let all_read = self.unread.pools().is_empty()
            && !self.unread.lacks_records()
            && !self.unread.lacks_definitions()
            && !self.halves.load(Ordering::Acquire);
        if !all_read || self.tidied.swap(true, Ordering::AcqRel) {
            return;
        }
        let all = async {
            tokio::join!(
                self.clear_stale_journal(),
                self.clear_stale_attachments(),
                self.unused_stagings(),
            );
        };
        tokio::select! {
            () = all => {}
            // The next start does the rest.
            () = self.stopping.cancelled() => {}
        }
    }

    /// What a note was about is gone, or never was, or was made another time. Only what was noted
    /// before this start: an operation notes what it is about to do, and what it could not undo.
    async fn clear_stale_journal(self: &Arc<Self>) {
        let all = stream::iter(&self.noted_before);
        all.for_each_concurrent(None, async |(id, before)| {
            let _held = self.ops.begin_reading(id).await;
            if let Err(e) = self.clear_if_stale(id, before).await {
                tracing::warn!(volume.id = %id, error = %e.chain(),
                    "a stale journal entry stays until the next start");
            }
        })
        .await;
    }

    async fn clear_if_stale(self: &Arc<Self>, id: &Id, before: &Intent) -> Result<()> {
        let stale = match self.index.get(id) {
            Some(entry) if before.is_of(&entry.record) => matches!(before, Intent::Create { .. }),
            _ => self.known_to_lack(&before.pools()).await?,
        };
        if stale && self.noted(id).await?.as_ref() == Some(before) {
            self.unnote(id).await?;
        }
        Ok(())
    }

    /// A use is noted before an ephemeral volume is made and forgotten after a volume is removed;
    /// a kill in between leaves a note about nothing.
    async fn clear_stale_attachments(self: &Arc<Self>) {
        let all = stream::iter(self.attachments.all().into_keys());
        all.for_each_concurrent(None, async |id| {
            let _held = self.ops.begin_reading(&id).await;
            if let Err(e) = self.forget_if_stale(&id).await {
                tracing::warn!(volume.id = %id, error = %e.chain(),
                    "a stale note of a use stays until the next start");
            }
        })
        .await;
    }

    async fn forget_if_stale(self: &Arc<Self>, id: &Id) -> Result<()> {
        let of = self.attachments.get(id).of;
        let stale = match (self.index.get(id), of) {
            (Some(entry), Some(of)) if !of.is(&entry) => self.known_to_lack(&[&of.pool]).await?,
            (Some(_), _) => false,
            (None, Some(of)) => self.known_to_lack(&[&of.pool]).await?,
            (None, None) => self.known_to_lack(&[]).await?,
        };
        match stale {
            true => {
                let forget = |a: &mut Attachment| *a = Attachment::default();
                self.attachments.update(id, forget).await
            }
            false => Ok(()),
        }
    }

    /// Whether what is noted of these pools, and not in the index, is about nothing: now that all pools
    /// were read, what is in one of them is known. One that was taken out of the configuration may come
    /// back, and its notes are the only word about what it holds. What names no pool is of any that was
    /// ever open here.
    async fn known_to_lack(self: &Arc<Self>, pools: &[&PoolName]) -> Result<bool> {
        let open = self.pools();
        let is_open = |name: &PoolName| open.iter().any(|pool| pool.name() == name);
        if !pools.is_empty() {
            return Ok(pools.iter().all(|pool| is_open(pool)));
        }
        let dir = self.pools_dir();
        let seen = blocking(move || all_seen(&dir)).await?;
        Ok(seen.iter().all(is_open))
    }
}

#[cfg(test)]
mod tests;
