//! Volumes made of snapshots or volumes without copying.

use stowage_host::failpoint::hit;
use stowage_model::{Bytes, Record, Result};

use super::ThinPool;
use crate::Turn;
use crate::vg::{lvm, names, tags};

impl ThinPool {
    /// One lvcreate where the size stays. A larger clone is half-made until it has its size, so
    /// that a retry never meets one that is too small.
    pub(super) async fn make_clone(
        &self,
        _turn: &Turn,
        source: &Record,
        new: &Record,
        size: Bytes,
    ) -> Result<Bytes> {
        let (from, name) = (names::of(&source.id), names::of(&new.id));
        let new_tags = tags::of_record(new)?;
        let report = self.vg.report().await?;
        if let Some(size) = self.made_before(&report, new).await? {
            return Ok(size);
        }
        let there = self.member(&report, &from)?.size;
        let size = size.round_up(report.vg.extent).max(there);
        self.has_room(&report, size)?;
        // -kn: without it every activation would have to override the flag of a snapshot.
        let cmd = lvm("lvcreate").args(["-y", "-q", "-s", "-kn", "-n", &name]);
        let cmd = cmd.arg(self.vg.path(&from));
        hit("thin.clone.begin");
        if size == there {
            self.make_lv(cmd, &name, new_tags).await?;
        } else {
            self.make_lv(cmd, &name, vec![tags::HALF.to_owned()])
                .await?;
            hit("thin.clone.half");
            self.lvextend(&name, size).await?;
            hit("thin.clone.grown");
            self.finish(&name, new).await?;
        }
        self.promise(size);
        hit("thin.clone.made");
        Ok(size)
    }
}
