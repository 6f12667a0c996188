//! Where a volume of a layout fits, how large it really gets, and how large it could be.

use stowage_model::request::Layout;
use stowage_model::volumes::Capacity;
use stowage_model::{Bytes, Error, Record, Result};

use super::{LvmPool, reader};
use crate::vg::report::Pv;
use crate::vg::{Report, names};

/// Small enough that a few files' worth of readahead spans the stripes, as mkfs expects.
const STRIPE_SIZE: &str = "64k";

/// What lvcreate is told of a volume's place.
pub(super) struct Place {
    pub(super) kind: Vec<String>,
    pub(super) size: Bytes,
    pub(super) pvs: Vec<String>,
}

impl Place {
    pub(super) fn linear(size: Bytes) -> Self {
        Self::of(&["--type", "linear"], size)
    }

    fn of(kind: &[&str], size: Bytes) -> Self {
        Self {
            kind: kind.iter().map(ToString::to_string).collect(),
            size,
            pvs: Vec::new(),
        }
    }

    fn striped(size: Bytes, over: &[&Pv]) -> Self {
        let stripes = over.len().to_string();
        let kind = ["--type", "striped", "-i", &stripes, "-I", STRIPE_SIZE];
        Self {
            pvs: over.iter().map(|pv| pv.name.clone()).collect(),
            ..Self::of(&kind, size)
        }
    }
}

/// The disks that LVM allocates from, the emptiest first.
fn disks(report: &Report) -> Vec<&Pv> {
    let mut disks: Vec<_> = report.pvs.iter().filter(|pv| pv.is_open()).collect();
    disks.sort_by(|a, b| b.free.cmp(&a.free).then_with(|| a.name.cmp(&b.name)));
    disks
}

/// The numbers of stripes that are possible, the most first, each with its disks.
fn stripings<'a>(disks: &'a [&'a Pv]) -> impl Iterator<Item = &'a [&'a Pv]> {
    (2..=disks.len()).rev().map(|n| &disks[..n])
}

/// What the last, and fullest, of these disks has left.
fn least(report: &Report, disks: &[&Pv]) -> Bytes {
    disks
        .last()
        .map_or(Bytes(0), |pv| pv.free.round_down(report.vg.extent))
}

/// The largest volume striped over these disks, of what may be promised.
fn striped_over(report: &Report, disks: &[&Pv], may: Bytes) -> Bytes {
    let all = Bytes(least(report, disks).0 * disks.len() as u64);
    all.min(may.round_down(row(report, disks)))
}

/// The largest volume of this layout, of what may be promised.
fn largest(report: &Report, layout: Layout, may: Bytes) -> Bytes {
    let disks = disks(report);
    match layout {
        Layout::Linear => may,
        Layout::Striped => stripings(&disks)
            .map(|some| striped_over(report, some, may))
            .max()
            .unwrap_or_default(),
        Layout::Raid1 => {
            // A copy may go on on another disk, and the other copy must then be on a third. Each
            // has an extent of its own for the state of the array.
            let pairs: Bytes = disks.chunks_exact(2).map(|two| least(report, two)).sum();
            let each = Bytes(may.0 / 2).round_down(report.vg.extent);
            pairs.min(each).minus(report.vg.extent)
        }
    }
}

impl LvmPool {
    /// What may be promised: all that LVM would allocate, but for what is set aside.
    pub(super) fn may(&self, report: &Report) -> Bytes {
        let may = report.free().minus(self.reserve.of(report.vg.size));
        may.round_down(report.vg.extent)
    }

    pub(super) async fn capacity_of(&self, layout: Layout) -> Capacity {
        let largest = match self.vg.glance().await {
            Ok(report) if self.vg.takes_more(&report).is_ok() => {
                largest(&report, layout, self.may(&report))
            }
            _ => Bytes(0),
        };
        Capacity {
            available: largest,
            largest,
        }
    }

    /// The size in whole extents, and in whole stripes where there are any: LVM would round up to
    /// them, beyond what the caller may want.
    pub(super) async fn whole_extents(&self, record: &Record, size: Bytes) -> Result<Bytes> {
        let size = size.round_up(self.vg.extent());
        if record.layout != Layout::Striped || reader::snapshot_of(record).is_some() {
            return Ok(size);
        }
        let report = self.vg.glance().await?;
        match report.lv(&names::of(&record.id)) {
            Some(lv) => {
                let row = Bytes(lv.stripes * report.vg.extent.0);
                Ok(lv.size + size.minus(lv.size).round_up(row))
            }
            // Nobody is refused on a look that is a second old.
            None => match self.striped_size(&report, size) {
                Err(_) => self.striped_size(&*self.vg.report().await?, size),
                found => found,
            },
        }
    }

    /// The size over as many disks as have room for a stripe.
    fn striped_size(&self, report: &Report, size: Bytes) -> Result<Bytes> {
        self.vg.takes_more(report)?;
        self.spreads(report, Layout::Striped)?;
        let may = self.may(report);
        stripings(&disks(report))
            .map(|some| (size.round_up(row(report, some)), some))
            .find(|(size, some)| *size <= striped_over(report, some, may))
            .map(|(size, _)| size)
            .ok_or_else(|| self.vg.full(largest(report, Layout::Striped, may), size))
    }

    /// Where a volume of this layout fits.
    pub(super) fn place(&self, report: &Report, layout: Layout, size: Bytes) -> Result<Place> {
        self.vg.takes_more(report)?;
        self.spreads(report, layout)?;
        let size = size.round_up(report.vg.extent);
        let may = self.may(report);
        let most = largest(report, layout, may);
        if size > most {
            return Err(self.vg.full(most, size));
        }
        match layout {
            Layout::Linear => Ok(Place::linear(size)),
            Layout::Raid1 => Ok(Place::of(&["--type", "raid1", "-m1"], size)),
            Layout::Striped => {
                // Never larger than asked, which was rounded and compared with the caller's limit
                // when perhaps another number of disks had room.
                let disks = disks(report);
                stripings(&disks)
                    .filter(|some| size.round_up(row(report, some)) == size)
                    .find(|some| size <= striped_over(report, some, may))
                    .map(|some| Place::striped(size, some))
                    .ok_or_else(|| self.vg.full(most, size))
            }
        }
    }

    /// Refuse a layout that needs more disks than there are. Another node may have them, so it is
    /// room that is missing.
    fn spreads(&self, report: &Report, layout: Layout) -> Result<()> {
        let disks = disks(report).len();
        if layout == Layout::Linear || disks >= 2 {
            return Ok(());
        }
        Err(Error::full(format!(
            "pool {}: a {} volume needs two disks, volume group {} has {disks}; add one with \
             `stowage pool extend`",
            self.vg.pool(),
            layout.as_str(),
            self.vg.name(),
        )))
    }
}

/// One extent on each of these disks.
fn row(report: &Report, disks: &[&Pv]) -> Bytes {
    Bytes(report.vg.extent.0 * disks.len() as u64)
}
