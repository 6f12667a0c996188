//! Taking volumes and snapshots away.

use stowage_host::failpoint::hit;
use stowage_model::{Error, Record, Result};

use super::ThinPool;
use crate::vg::names;
use crate::vg::sort::{Sort, sort};
use crate::{Leftover, Removed};

impl ThinPool {
    pub(super) async fn take_away(&self, record: &Record) -> Result<Removed> {
        let name = names::of(&record.id);
        let _turn = self.vg.turn().await;
        let report = self.vg.report().await?;
        let Some(lv) = report.lv(&name) else {
            return Ok(Removed::Gone);
        };
        if !matches!(sort(lv, false), Sort::Ours(_) | Sort::Leftover) {
            return Err(Error::precondition(format!(
                "LV {} has no record of ours (any more); it is kept",
                self.vg.path(&name)
            )));
        }
        // Thin snapshots need nothing of their origin, copy-on-write ones somebody made do.
        if let Some(cow) = report.cows_of(&name).next() {
            return Err(Error::precondition(format!(
                "LV {} is the origin of LV {}; remove that first",
                self.vg.path(&name),
                cow.name
            )));
        }
        self.vg.unused(&name).await?;
        hit("thin.remove.begin");
        self.vg.lvremove(&name).await?;
        hit("thin.remove.made");
        Ok(Removed::Gone)
    }

    pub(super) async fn clear_leftover(&self, leftover: &Leftover) -> Result<()> {
        let name = &leftover.handle;
        let _turn = self.vg.turn().await;
        let report = self.vg.report().await?;
        let Some(lv) = report.lv(name) else {
            return Ok(());
        };
        // The name may have become a volume's since the leftover was seen.
        if lv.pool.as_ref() != Some(&self.options.thin_pool)
            || !matches!(sort(lv, false), Sort::Leftover)
        {
            return Err(Error::precondition(format!(
                "LV {} is no leftover; it is kept",
                self.vg.path(name)
            )));
        }
        hit("thin.purge.begin");
        self.vg.lvremove(name).await?;
        hit("thin.purge.made");
        Ok(())
    }
}
