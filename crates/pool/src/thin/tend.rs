//! Upkeep: the fill of the thin pool is watched. It is not grown: how much of the group belongs
//! to it is a person's choice.

use stowage_model::Result;
use stowage_model::volumes::{Finding, Severity, Trouble};

use super::ThinPool;
use crate::vg::{Lv, names};

/// Fill, in percent, of data or metadata.
const WARN: f64 = 80.0;
const ALARM: f64 = 95.0;

impl ThinPool {
    pub(super) async fn watch_fill(&self) -> Result<Vec<Finding>> {
        let written = self.written()?;
        if let Some(findings) = self.watch.unchanged(&written) {
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
        Ok([findings, self.vg.findings()].concat())
    }

    fn written(&self) -> Result<Vec<u64>> {
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
            (
                "data",
                pool.data_percent,
                format!("lvextend -L +SIZE {place}"),
            ),
            (
                "metadata",
                pool.metadata_percent,
                format!("lvextend --poolmetadatasize +SIZE {place}"),
            ),
        ];
        let mut findings: Vec<_> = fills
            .into_iter()
            .filter_map(|(what, percent, command)| {
                let percent = percent.filter(|percent| *percent >= WARN)?;
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
                    format!("run `{command}`, or delete volumes or snapshots"),
                ))
            })
            .collect();
        findings.extend(pool.illness().map(|what| {
            let mend = format!("see lvmthin(7), \"Metadata repair\", for {place}");
            self.finding(Severity::Error, Trouble::DeviceError, what, mend)
        }));
        findings
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
