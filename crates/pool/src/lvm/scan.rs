//! Reading back what is there.

use stowage_model::volumes::PoolStatus;
use stowage_model::{Bytes, PoolKind, Result};

use super::LvmPool;
use crate::vg::sort::names_of;
use crate::vg::sort::{Sort, sort};
use crate::vg::{Lv, Report, media, names, tags};
use crate::{Defect, Found, Leftover, Pool, Scan};

/// The LVs this pool answers for. Thin volumes, and thin pools made by us, are another pool's.
fn own(report: &Report) -> impl Iterator<Item = &Lv> {
    let others = |lv: &Lv| {
        lv.pool.is_some()
            || lv.is_thin_pool() && lv.tags.iter().any(|tag| tag.starts_with(tags::POOL))
    };
    report.lvs.iter().filter(move |lv| !others(lv))
}

/// The size of the device of an LV: a copy-on-write snapshot keeps the size its origin had at
/// the cut, whatever becomes of the origin or of its own store.
pub(super) fn device_size(lv: &Lv) -> Bytes {
    if lv.is_cow() {
        lv.origin_size.unwrap_or(lv.size)
    } else {
        lv.size
    }
}

impl LvmPool {
    pub(super) async fn scan_group(&self) -> Result<Scan> {
        let report = self.vg.report().await?;
        let mut scan = Scan {
            defects: self.vg.astray_defects(&report),
            ..Scan::default()
        };
        let astray = names_of(&scan.defects);
        for lv in own(&report).filter(|lv| !astray.contains(&lv.name)) {
            match sort(lv, true) {
                Sort::Ours(record) => {
                    if lv.is_lost() {
                        scan.defects.push(Defect::LostSnapshot(record.id.clone()));
                    }
                    scan.found.push(Found {
                        record: *record,
                        size: device_size(lv),
                    });
                    scan_readers(lv, &mut scan);
                }
                Sort::Leftover => {
                    scan.leftovers.push(Leftover {
                        handle: lv.name.clone(),
                        size: lv.size,
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
            kind: PoolKind::Lvm,
            location: format!("volume group {}", self.vg.name()),
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
        status.problem = status.problem.or_else(|| self.vg.problem());
        status.media = media(&report);
        status.total = report.vg.size;
        if status.problem.is_none() {
            status.free = match self.vg.takes_more(&report) {
                Ok(()) => self.may(&report),
                Err(_) => Bytes(0),
            };
            status.largest = status.free;
        }
        for lv in own(&report) {
            let Sort::Ours(record) = sort(lv, true) else {
                continue;
            };
            if record.is_snapshot() {
                status.snapshots += 1;
                status.volumes += crate::vg::sort::readers(lv).len();
            } else {
                status.volumes += 1;
                status.promised = status.promised + lv.size;
            }
        }
        Ok(status)
    }
}

fn scan_readers(lv: &Lv, scan: &mut Scan) {
    for (id, record) in tags::readers(&lv.tags) {
        match record {
            Ok(record) => scan.found.push(Found {
                record,
                size: device_size(lv),
            }),
            Err(error) => {
                scan.defects.push(Defect::Unreadable {
                    what: format!("reader {id} of {}", lv.name),
                    id: id.parse().ok(),
                    why: error.chain(),
                });
            }
        }
    }
}
