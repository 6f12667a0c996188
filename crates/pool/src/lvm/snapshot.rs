//! Copy-on-write snapshots.

use stowage_host::failpoint::hit;
use stowage_model::{Bytes, Error, Record, Result};

use super::LvmPool;
use crate::Turn;
use crate::contract::is_wholly;
use crate::vg::sort::{Sort, in_the_way, sort};
use crate::vg::{Lv, lvm, names, says, tags};

/// The largest store that is of use: every block of the origin, and 16 bytes for each chunk of
/// 4 KiB about where it went (dm-snap-persistent.c), and the header. LVM cuts off what is more.
pub(super) fn largest_store(origin: Bytes, extent: Bytes) -> Bytes {
    (origin + Bytes(origin.0 / 256) + Bytes::kib(8)).round_up(extent)
}

impl LvmPool {
    /// dm-snapshot holds the origin's writers and freezes its file system for the cut. An origin
    /// already held by [`crate::Hold::suspend`] is let go by lvcreate once the cut is made, which
    /// is what keeps several cuts at one moment: none of them sees a write that followed another.
    pub(super) async fn cut(&self, _turn: &Turn, of: &Record, snapshot: &Record) -> Result<()> {
        let (origin, name) = (names::of(&of.id), names::of(&snapshot.id));
        let new_tags = tags::of_record(snapshot)?;
        let report = self.vg.report().await?;
        let Some(from) = report.lv(&origin) else {
            return Err(Error::not_found(format!(
                "there is no LV {}",
                self.vg.path(&origin)
            )));
        };
        if let Some(there) = report.lv(&name) {
            if self.made_before(there, &origin, snapshot)? {
                return Ok(());
            }
            self.condemn(there).await?;
        }
        self.vg.takes_more(&report)?;
        self.vg.at_rest(from)?;
        let may = self.may(&report);
        let store = snapshot
            .growth
            .unwrap_or_default()
            .initial
            .round_up(report.vg.extent);
        let store = store.min(largest_store(from.size, report.vg.extent));
        // Where nobody asked for a size, less will do to begin with.
        let store = match snapshot.growth {
            None if may > Bytes(0) => store.min(may),
            _ => store,
        };
        if store > may {
            return Err(self.vg.full(may, store));
        }
        let cmd = lvm("lvcreate").args(["-y", "-q", "-s", "-n", &name]);
        let cmd = cmd.args(["-L", &format!("{}b", store.0)]);
        let cmd = new_tags
            .iter()
            .fold(cmd, |cmd, tag| cmd.args(["--addtag", tag]));
        hit("lvm.snapshot.begin");
        let made = self.vg.change(cmd.arg(self.vg.path(&origin))).await;
        hit("lvm.snapshot.made");
        let Err(error) = made else {
            self.vg.note_tags(&name, new_tags);
            return Ok(());
        };
        self.clear_stray(&name).await?;
        let what = format!("cut a snapshot of LV {}", self.vg.path(&origin));
        if says(&error, "Unable to suspend") {
            return Err(Error::precondition(format!(
                "failed to {what}: its writers cannot be held; if its file system is frozen, \
                 thaw it (fsfreeze -u)"
            ))
            .caused_by(error));
        }
        Err(self.vg.explain(error, &what))
    }

    /// Whether the LV is this cut of this origin (one of another moment is not); false for a stray in its place.
    fn made_before(&self, there: &Lv, origin: &str, snapshot: &Record) -> Result<bool> {
        match sort(there, true) {
            Sort::Ours(found)
                if there.origin.as_deref() == Some(origin) && is_wholly(&found, snapshot) =>
            {
                Ok(true)
            }
            Sort::Leftover => Ok(false),
            sort => Err(in_the_way(&self.vg.path(&there.name), &sort)),
        }
    }

    /// When the origin cannot be suspended, lvcreate gives up ("Aborting. Manual intervention
    /// required.") and leaves the store as a plain LV. Nothing was written to it yet.
    async fn clear_stray(&self, name: &str) -> Result<()> {
        let report = self.vg.report().await?;
        match report.lv(name) {
            Some(lv) if !lv.is_cow() && matches!(sort(lv, true), Sort::Leftover) => {
                self.vg.lvremove(name).await
            }
            _ => Ok(()),
        }
    }
}
