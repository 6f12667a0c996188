//! Taking volumes and snapshots away.

use stowage_host::failpoint::hit;
use stowage_model::{Error, Record, Result};

use super::ThinPool;
use crate::vg::sort::{self, Sort};
use crate::vg::{Lv, Report, names};
use crate::{Leftover, Removed};

impl ThinPool {
    pub(super) async fn take_away(&self, record: &Record) -> Result<Removed> {
        let name = names::of(&record.id);
        let _turn = self.vg.turn().await;
        let report = self.vg.report().await?;
        let Some(lv) = report.lv(&name) else {
            self.vg.is_gone(&report, record)?;
            return Ok(Removed::Gone);
        };
        self.unneeded(&report, lv, record).await?;
        hit("thin.remove.begin");
        if let Err(e) = self.lvremove(lv).await {
            // Where the kernel takes no changes, as without metadata, LVM forgets the volume and tells
            // the kernel later.
            let report = self.vg.report().await?;
            if report.lv(&name).is_some() {
                return Err(e);
            }
            self.vg.is_gone(&report, record)?;
            tracing::warn!(lv = name, error = %e.chain(), "removed, but for its blocks");
        }
        hit("thin.remove.made");
        Ok(Removed::Gone)
    }

    pub(super) async fn check_removable(&self, record: &Record) -> Result<()> {
        let report = self.vg.report().await?;
        match report.lv(&names::of(&record.id)) {
            Some(lv) => self.unneeded(&report, lv, record).await,
            None => self.vg.is_gone(&report, record),
        }
    }

    /// Refuse what is not the volume to be removed, or is needed.
    async fn unneeded(&self, report: &Report, lv: &Lv, record: &Record) -> Result<()> {
        let name = &lv.name;
        let other = match sort::may_go(lv, false, record) {
            Ok(()) if lv.pool.as_ref() == Some(&self.options.thin_pool) => None,
            Ok(()) => Some(format!("it is not in thin pool {}", self.location())),
            Err(why) => Some(why),
        };
        if let Some(why) = other {
            return Err(Error::precondition(format!(
                "LV {} is not the one to be removed, and is kept: {why}",
                self.vg.path(name)
            )));
        }
        // Thin snapshots need nothing of their origin, copy-on-write ones somebody made do.
        if let Some(cow) = report.cows_of(name).next() {
            return Err(Error::precondition(format!(
                "LV {} is the origin of LV {}; remove that first",
                self.vg.path(name),
                cow.name
            )));
        }
        self.vg.at_rest(lv)?;
        self.vg.unused(name).await
    }

    pub(super) async fn clear_leftover(&self, leftover: &Leftover) -> Result<()> {
        let name = &leftover.handle;
        let _turn = self.vg.turn().await;
        let report = self.vg.report().await?;
        let Some(lv) = report.lv(name) else {
            return self.vg.not_hidden(&report, name);
        };
        // The name may have become a volume's since the leftover was seen.
        if lv.pool.as_ref() != Some(&self.options.thin_pool)
            || !matches!(sort::sort(lv, false), Sort::Leftover)
        {
            return Err(Error::not_found(format!(
                "LV {} is no leftover; it is kept",
                self.vg.path(name)
            )));
        }
        hit("thin.purge.begin");
        self.lvremove(lv).await?;
        hit("thin.purge.made");
        Ok(())
    }
}
