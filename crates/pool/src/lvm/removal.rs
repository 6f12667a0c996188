//! Taking volumes and snapshots away, and wiping what they leave.

use std::sync::Arc;

use stowage_host::failpoint::hit;
use stowage_host::{Progress, device, on_own_thread};
use stowage_model::{Error, Record, Result};

use super::LvmPool;
use super::reader;
use crate::vg::report::State;
use crate::vg::sort::{self, Sort};
use crate::vg::{Lv, Report, lvm, names};
use crate::{Leftover, Removed};
use stowage_model::pool::Wipe;

impl LvmPool {
    pub(super) async fn take_away(&self, record: &Record) -> Result<Removed> {
        let name = names::of(&record.id);
        let _turn = self.vg.turn().await;
        let report = self.vg.report().await?;
        let Some(lv) = report.lv(&name) else {
            self.vg.is_gone(&report, record)?;
            if let Some(snapshot) = reader::snapshot_of(record) {
                self.drop_reader(record, snapshot).await?;
            }
            return Ok(Removed::Gone);
        };
        self.may_go(lv, record)?;
        self.unneeded(&report, lv).await?;
        hit("lvm.remove.begin");
        if self.wipe == Wipe::None {
            self.vg.lvremove(&name).await?;
            hit("lvm.remove.gone");
            return Ok(Removed::Gone);
        }
        if lv.is_cow() {
            self.split(&name).await?;
            hit("lvm.remove.split");
        }
        let leftover = self.condemn(lv).await?;
        hit("lvm.remove.renamed");
        Ok(Removed::ToPurge(leftover))
    }

    pub(super) async fn check_removable(&self, record: &Record) -> Result<()> {
        let report = self.vg.report().await?;
        let Some(lv) = report.lv(&names::of(&record.id)) else {
            return self.vg.is_gone(&report, record);
        };
        self.may_go(lv, record)?;
        self.unneeded(&report, lv).await
    }

    /// Refuse an LV that bears the name of a volume to be removed and is not that volume.
    fn may_go(&self, lv: &Lv, record: &Record) -> Result<()> {
        let why = if lv.pool.is_some() || lv.is_thin_pool() {
            "it belongs to a thin pool".to_owned()
        } else {
            match sort::may_go(lv, true, record) {
                Ok(()) => return Ok(()),
                Err(why) => why,
            }
        };
        Err(Error::precondition(format!(
            "LV {} is not the one to be removed, and is kept: {why}",
            self.vg.path(&lv.name)
        )))
    }

    /// Refuse while others need the LV.
    async fn unneeded(&self, report: &Report, lv: &Lv) -> Result<()> {
        let path = self.vg.path(&lv.name);
        let readers = sort::readers(lv);
        if !readers.is_empty() {
            let ids: Vec<_> = readers.iter().map(ToString::to_string).collect();
            return Err(Error::precondition(format!(
                "snapshot LV {path} is read in place by volumes {}; delete those first",
                ids.join(", ")
            )));
        }
        // lvremove of an origin would take its snapshots with it, without a word.
        let snapshots: Vec<_> = report
            .cows_of(&lv.name)
            .map(|lv| names::id(&lv.name).map_or_else(|| lv.name.clone(), |id| id.to_string()))
            .collect();
        if !snapshots.is_empty() {
            return Err(Error::precondition(format!(
                "LV {path} has copy-on-write snapshots that need its blocks: {}; delete those first",
                snapshots.join(", ")
            )));
        }
        self.vg.at_rest(lv)?;
        self.vg.unused(&lv.name).await
    }

    /// Make a plain LV of a snapshot's store.
    async fn split(&self, name: &str) -> Result<()> {
        let path = self.vg.path(name);
        let cmd = lvm("lvconvert").args(["-y", "-q", "--splitsnapshot", &path]);
        let split = self.vg.change(cmd).await;
        split.map_err(|e| {
            self.vg
                .explain(e, &format!("split snapshot LV {path} from its origin"))
        })
    }

    /// Give a plain LV the name of a removed one. From then on its id is free.
    pub(super) async fn condemn(&self, lv: &Lv) -> Result<Leftover> {
        let handle = names::condemned();
        let path = self.vg.path(&lv.name);
        let cmd = lvm("lvrename").args(["-y", "-q", &path, &self.vg.path(&handle)]);
        let renamed = self.vg.change(cmd).await;
        self.vg.forget_tags(&lv.name);
        renamed.map_err(|e| self.vg.explain(e, &format!("rename removed LV {path}")))?;
        Ok(Leftover {
            handle,
            size: lv.size,
        })
    }

    pub(super) async fn wipe_leftover(
        &self,
        leftover: &Leftover,
        progress: &Arc<Progress>,
    ) -> Result<()> {
        let name = &leftover.handle;
        let path = self.vg.path(name);
        let report = self.vg.report().await?;
        let Some(lv) = report.lv(name) else {
            return self.vg.not_hidden(&report, name);
        };
        // The name may have become a volume's again since the leftover was seen.
        if !matches!(sort::sort(lv, true), Sort::Leftover) {
            return Err(Error::not_found(format!(
                "LV {path} is no leftover; it is kept"
            )));
        }
        self.unneeded(&report, lv).await?;
        hit("lvm.purge.begin");
        if self.wipe != Wipe::None {
            if lv.state() == State::Broken {
                let _turn = self.vg.turn().await;
                self.vg.detach(name).await?;
            }
            let device = self.vg.attach(name).await?;
            let (discard, progress) = (self.wipe == Wipe::Discard, Arc::clone(progress));
            let wiped = on_own_thread(move || {
                // The store of a snapshot is the device that its readers had.
                device::set_read_only(&device.path, false)?;
                if discard && device::discard(&device.path)? {
                    return Ok(());
                }
                device::zero(&device.path, &progress)
            });
            wiped.await.map_err(|error| match error.kind() {
                std::io::ErrorKind::Interrupted => Error::pending(format!(
                    "wiping LV {path} was stopped; it starts over later"
                )),
                _ => Error::internal(format!("failed to wipe LV {path}")).caused_by(error),
            })?;
            hit("lvm.purge.wiped");
        }
        let _turn = self.vg.turn().await;
        self.vg.lvremove(name).await?;
        hit("lvm.purge.removed");
        Ok(())
    }
}
