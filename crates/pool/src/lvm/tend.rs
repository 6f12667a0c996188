//! Upkeep: the stores of snapshots grow before they overflow.

use std::collections::BTreeMap;

use stowage_host::failpoint::hit;
use stowage_model::volumes::{Finding, Severity, Trouble};
use stowage_model::{Bytes, Error, Kind, Record, Result};

use super::LvmPool;
use super::snapshot::largest_store;
use crate::vg::sort::{Sort, sort};
use crate::vg::{Lv, Report, lvm, names};

/// A writer that fills stores faster than this many steps are made wins; the next call goes on.
const ROUNDS: usize = 8;

impl LvmPool {
    /// A store is written to whenever a block of its origin is overwritten for the first time, or
    /// the snapshot itself is written to: its own counter tells all.
    pub(super) async fn tend_stores(&self) -> Result<Vec<Finding>> {
        self.vg.look_if_disturbed().await?;
        let written = self.written()?;
        if written.is_empty() {
            return Ok(self.vg.findings());
        }
        // Our own changes may have made room for a store that found none.
        let seen = (written, self.vg.changes());
        if let Some(findings) = self.watch.unchanged(&seen) {
            return Ok([findings, self.vg.findings()].concat());
        }
        let (findings, all_tried) = self.grow_stores().await?;
        if all_tried {
            self.watch
                .note((seen.0, self.vg.changes()), findings.clone());
        }
        Ok([findings, self.vg.findings()].concat())
    }

    fn written(&self) -> Result<BTreeMap<String, u64>> {
        let ours = names::dm(self.vg.name(), names::PREFIX);
        let nodes = self.vg.nodes(&ours)?;
        let stores = nodes.iter().filter(|node| node.name.ends_with("-cow"));
        Ok(stores
            .map(|node| (node.name.clone(), node.written()))
            .collect())
    }

    /// What is wrong with the stores, and whether every one that had to grow could be tried: one
    /// that fails keeps no other from growing, and is tried again.
    async fn grow_stores(&self) -> Result<(Vec<Finding>, bool)> {
        let mut findings = Vec::new();
        let mut all_tried = true;
        for _ in 0..ROUNDS {
            let _turn = self.vg.turn().await;
            let report = self.vg.report().await?;
            findings.clear();
            all_tried = true;
            let mut grown = false;
            // What is set aside for nobody is there for them: they were promised.
            let mut free = report.free();
            for lv in &report.lvs {
                let Sort::Ours(record) = sort(lv, true) else {
                    continue;
                };
                if lv.is_lost() {
                    findings.push(lost(&record));
                    continue;
                }
                let Some(want) = wanted(&report, lv, &record) else {
                    continue;
                };
                // LVM would let a held origin go; its group of snapshots is being cut.
                if self
                    .vg
                    .is_suspended(lv.origin.as_deref().unwrap_or_default())?
                {
                    continue;
                }
                let more = want.minus(lv.size).min(free.round_down(report.vg.extent));
                if more == Bytes(0) {
                    findings.push(self.no_room(&record, lv));
                    continue;
                }
                match self.grow_store(lv, lv.size + more).await {
                    Ok(()) => (grown, free) = (true, free.minus(more)),
                    Err(error) if error.kind() == Kind::Full => {
                        findings.push(self.no_room(&record, lv));
                    }
                    Err(error) => {
                        all_tried = false;
                        findings.push(not_grown(&record, &error));
                    }
                }
            }
            if !grown {
                break;
            }
        }
        Ok((findings, all_tried))
    }

    async fn grow_store(&self, lv: &Lv, size: Bytes) -> Result<()> {
        let path = self.vg.path(&lv.name);
        tracing::info!(snapshot.lv = %path, from = %lv.size, to = %size, "growing a snapshot store");
        let cmd = lvm("lvextend").args(["-y", "-q", "-L", &format!("{}b", size.0), &path]);
        let grown = self.vg.change(cmd).await;
        hit("lvm.tend.grown");
        grown.map_err(|e| {
            self.vg
                .explain(e, &format!("grow the store of snapshot LV {path}"))
        })
    }

    fn no_room(&self, record: &Record, lv: &Lv) -> Finding {
        Finding {
            severity: Severity::Error,
            trouble: Trouble::PoolFull,
            subject: record.id.to_string(),
            what: format!(
                "the store of snapshot {} is {:.0} % full and volume group {} has no room for it \
                 to grow; when it overflows, the snapshot is lost",
                record.name,
                lv.data_percent.unwrap_or(100.0),
                self.vg.name()
            ),
            mend: "delete the snapshot or other volumes, or add a disk with `stowage pool extend`"
                .to_owned(),
        }
    }
}

/// The size the store of a snapshot should have by now, if that is more than it has: as many
/// steps as bring it below its threshold, and no more than can ever be used.
fn wanted(report: &Report, lv: &Lv, record: &Record) -> Option<Bytes> {
    let growth = record.growth.unwrap_or_default();
    let percent = lv.is_cow().then_some(lv.data_percent)??;
    let threshold = f64::from(growth.threshold.clamp(1, 100));
    let most = largest_store(lv.origin_size?, report.vg.extent);
    if percent < threshold || lv.size >= most {
        return None;
    }
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a fill level is good to two decimals at best"
    )]
    let enough = Bytes((lv.size.0 as f64 * percent / threshold) as u64 + 1);
    let step = growth.step.0.max(report.vg.extent.0);
    let steps = enough.minus(lv.size).0.div_ceil(step);
    let want = lv.size + Bytes(steps.saturating_mul(step)).round_up(report.vg.extent);
    Some(want.min(most))
}

fn not_grown(record: &Record, error: &Error) -> Finding {
    Finding {
        severity: Severity::Error,
        trouble: Trouble::DeviceError,
        subject: record.id.to_string(),
        what: format!(
            "the store of snapshot {} cannot grow: {}; when it overflows, the snapshot is lost",
            record.name,
            error.chain()
        ),
        mend: "mend that; it is tried again every few seconds".to_owned(),
    }
}

fn lost(record: &Record) -> Finding {
    Finding {
        severity: Severity::Error,
        trouble: Trouble::SnapshotLost,
        subject: record.id.to_string(),
        what: format!(
            "the store of snapshot {} overflowed; its content is lost",
            record.name
        ),
        mend: "delete it and cut a new one, with a larger initial store or step".to_owned(),
    }
}
