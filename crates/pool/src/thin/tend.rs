//! Upkeep: the fill of the thin pool is watched. It is not grown: how much of the group belongs
//! to it is a person's choice.

use std::sync::PoisonError;
use std::time::Duration;

use stowage_model::Result;
use stowage_model::volumes::{Finding, Severity, Trouble};

use tokio::time::Instant;

use super::ThinPool;
use crate::vg::{Lv, names};

/// A pool filled to less than this, in percent, is looked at again only after a while: each look is
/// a command that everybody who changes the group waits for.
const CALM: f64 = 50.0;
const CALM_FOR: Duration = Duration::from_secs(15);

/// Fill, in percent, from which data and metadata are warned of: well below their limits
/// ([`super::Options`]), so that a person has time before creation is refused.
const WARN_DATA: f64 = 80.0;
const WARN_METADATA: f64 = 65.0;
/// Fill of either that is an error.
const ALARM: f64 = 95.0;

impl ThinPool {
    pub(super) async fn watch_fill(&self) -> Result<Vec<Finding>> {
        self.vg.look_if_disturbed().await?;
        let written = self.sectors_written()?;
        if let Some(findings) = self.watch.unchanged(&written) {
            return Ok([findings, self.vg.findings()].concat());
        }
        if let Some(findings) = self.calm() {
            return Ok([findings, self.vg.findings()].concat());
        }
        let report = self.vg.report().await;
        let findings = match report.as_deref().map(|report| self.thin_pool(report)) {
            Ok(Ok(pool)) => self.judge(pool),
            Ok(Err(error)) => vec![self.finding(
                Severity::Error,
                Trouble::PoolMissing,
                error.chain(),
                format!("look at `lvs {}`", self.vg.name()),
            )],
            // The group is missing: Vg::findings says so.
            Err(_) => Vec::new(),
        };
        self.watch.note(written, findings.clone());
        let seen = report
            .as_deref()
            .ok()
            .and_then(|report| self.thin_pool(report).ok());
        let until = seen
            .filter(|pool| is_calm(pool))
            .map(|_| Instant::now() + CALM_FOR);
        *self
            .calm_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = until.map(|until| (until, findings.clone()));
        Ok([findings, self.vg.findings()].concat())
    }

    /// What was found last, while the pool needs no other look.
    fn calm(&self) -> Option<Vec<Finding>> {
        let calm = self
            .calm_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (until, findings) = calm.as_ref()?;
        (Instant::now() < *until).then(|| findings.clone())
    }

    fn sectors_written(&self) -> Result<Vec<u64>> {
        ["_tdata", "_tmeta"]
            .iter()
            .map(|layer| {
                let lv = format!("{}{layer}", self.options.thin_pool);
                let node = self.vg.devices().find(&names::dm(self.vg.name(), &lv))?;
                Ok(node.map_or(0, |node| node.written()))
            })
            .collect()
    }

    fn judge(&self, pool: &Lv) -> Vec<Finding> {
        let place = self.location();
        let fills = [
            ("data", pool.data_percent, WARN_DATA),
            ("metadata", pool.metadata_percent, WARN_METADATA),
        ];
        let mut findings: Vec<_> = fills
            .into_iter()
            .filter_map(|(what, percent, warn)| {
                let percent = percent.filter(|percent| *percent >= warn)?;
                let severity = if percent >= ALARM {
                    Severity::Error
                } else {
                    Severity::Warning
                };
                Some(self.finding(
                    severity,
                    Trouble::PoolFull,
                    format!(
                        "the {what} of thin pool {place} are filled to {percent:.0} %; when they \
                         are full, its volumes stop"
                    ),
                    self.more_of(what),
                ))
            })
            .collect();
        findings.extend(pool.illness().map(|what| {
            let mend = format!("see lvmthin(7), \"Metadata repair\", for {place}");
            self.finding(Severity::Error, Trouble::DeviceError, what, mend)
        }));
        findings
    }

    /// How to get more room. The pool takes all of its group where it was made by us, so that its
    /// data grow by a disk only; LVM sets space aside for the metadata.
    fn more_of(&self, what: &str) -> String {
        let name = &self.options.name;
        let more = match what {
            "metadata" => format!(
                "add a disk with `vgextend {}` and run `lvextend --poolmetadatasize +SIZE {}`",
                self.vg.name(),
                self.location()
            ),
            _ => format!("add a disk with `stowage pool extend {name} DISK`"),
        };
        format!("delete volumes or snapshots, or {more}")
    }

    fn finding(&self, severity: Severity, trouble: Trouble, what: String, mend: String) -> Finding {
        Finding {
            severity,
            trouble,
            subject: self.options.name.to_string(),
            what,
            mend,
        }
    }
}

/// Whether the pool is far from full, so that what is known of it may be a little old.
pub(super) fn is_calm(pool: &Lv) -> bool {
    [pool.data_percent, pool.metadata_percent]
        .iter()
        .all(|fill| fill.is_some_and(|percent| percent < CALM))
}
