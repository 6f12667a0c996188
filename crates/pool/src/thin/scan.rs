//! Reading back what is there.

use stowage_model::volumes::PoolStatus;
use stowage_model::{Bytes, PoolKind, Result};

use super::ThinPool;
use crate::vg::sort::{Sort, names_of, sort};
use crate::vg::{media, names};
use crate::{Defect, Found, Leftover, Pool, Scan};

impl ThinPool {
    pub(super) async fn scan_pool(&self) -> Result<Scan> {
        let report = self.vg.report().await?;
        self.thin_pool(&report)?;
        let mut scan = Scan {
            defects: self.vg.astray_defects(&report),
            ..Scan::default()
        };
        let astray = names_of(&scan.defects);
        for lv in self
            .members(&report)
            .filter(|lv| !astray.contains(&lv.name))
        {
            match sort(lv, false) {
                Sort::Ours(record) => scan.found.push(Found {
                    record: *record,
                    size: lv.size,
                }),
                Sort::Leftover => {
                    scan.leftovers.push(Leftover {
                        handle: lv.name.clone(),
                        size: Bytes(0),
                    });
                }
                Sort::Unreadable(why) => {
                    scan.defects.push(Defect::Unreadable {
                        what: lv.name.clone(),
                        id: names::id(&lv.name),
                        why,
                    });
                }
                Sort::Foreign => scan.defects.push(Defect::Foreign(lv.name.clone())),
            }
        }
        Ok(scan)
    }

    pub(super) async fn status_now(&self) -> Result<PoolStatus> {
        let mut status = PoolStatus {
            name: self.name().clone(),
            kind: PoolKind::Thin,
            location: format!("thin pool {}", self.location()),
            media: None,
            total: Bytes(0),
            free: Bytes(0),
            largest: Bytes(0),
            promised: Bytes(0),
            data_percent: None,
            metadata_percent: None,
            volumes: 0,
            snapshots: 0,
            problem: None,
            age: None,
        };
        let report = match self.vg.glance().await {
            Ok(report) => report,
            Err(error) => {
                status.problem = Some(error.chain());
                match self.vg.known() {
                    Some((age, report)) => {
                        status.age = Some(age.as_secs());
                        report
                    }
                    None => return Ok(status),
                }
            }
        };
        status.media = media(&report);
        let pool = match self.thin_pool(&report) {
            Ok(pool) => pool,
            Err(error) => {
                status.problem = Some(error.chain());
                return Ok(status);
            }
        };
        let zeroing = self.zeroing(pool).err().map(|e| e.chain());
        status.problem = status
            .problem
            .or_else(|| self.vg.problem())
            .or_else(|| pool.illness())
            .or(zeroing);
        status.total = pool.size;
        let room = self.room(&report, pool);
        status.promised = room.promised;
        if status.problem.is_none() {
            status.free = room.free;
            status.largest = room.free;
        }
        status.data_percent = pool.data_percent.map(rounded);
        status.metadata_percent = pool.metadata_percent.map(rounded);
        for lv in self.members(&report) {
            if let Sort::Ours(record) = sort(lv, false) {
                match record.is_snapshot() {
                    true => status.snapshots += 1,
                    false => status.volumes += 1,
                }
            }
        }
        Ok(status)
    }
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "a percentage with two decimals"
)]
fn rounded(percent: f64) -> f32 {
    percent as f32
}
