//! What LVM says about a volume group, in one call: `lvm fullreport` gives the group, its disks
//! and its volumes as one snapshot of the metadata, at the price of a single `lvs`.

use std::collections::HashMap;

use serde::Deserialize;
use stowage_host::Cmd;
use stowage_model::error::Context as _;
use stowage_model::{Bytes, Error, Result};

use super::lvm;

/// A volume group with all that is in it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Report {
    pub(crate) vg: Group,
    pub(crate) pvs: Vec<Pv>,
    /// The LVs a person sees.
    pub(crate) lvs: Vec<Lv>,
    /// The LVs that are parts of others, which LVM shows in brackets; here without them.
    pub(crate) hidden: Vec<Lv>,
    /// Where each of `lvs` is.
    by_name: HashMap<String, usize>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Group {
    pub(crate) extent: Bytes,
    pub(crate) size: Bytes,
    pub(crate) missing_pvs: u64,
    pub(crate) tags: Vec<String>,
    pub(crate) metadata: Area,
}

/// The fullest of the places where the group's metadata are written.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Area {
    /// 0 where LVM tells none.
    pub(crate) size: Bytes,
    pub(crate) free: Bytes,
}

/// What a new LV may take of it: a few hundred bytes by LVM, and a record of a long name.
const LV_BYTES: Bytes = Bytes::kib(4);

impl Area {
    /// Old and new text lie side by side, so that half of it can be used.
    fn usable(self) -> Bytes {
        Bytes(self.size.0 / 2)
    }

    /// What is kept for changes of LVs that are there: records grow, and a removal writes as well,
    /// if no more than was there before.
    fn kept(self) -> Bytes {
        let part = Bytes(self.usable().0 / 16).max(Bytes::kib(16));
        part.min(Bytes(self.usable().0 / 4))
    }

    /// Whether no new LV should be made, so that LVM never has to fail.
    pub(crate) fn is_full(self) -> bool {
        self.size > Bytes(0) && self.free < self.kept() + LV_BYTES
    }

    /// Whether so many LVs fit as are made without a look ([`super::Vg::is_roomy`]).
    pub(crate) fn is_roomy(self) -> bool {
        self.size == Bytes(0) || self.free > self.kept() + Bytes(LV_BYTES.0 * super::UNSEEN)
    }

    /// How much of it is filled.
    pub(crate) fn percent(self) -> u64 {
        let used = self.usable().minus(self.free).0;
        used.saturating_mul(100)
            .checked_div(self.usable().0)
            .unwrap_or(0)
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Pv {
    pub(crate) name: String,
    pub(crate) free: Bytes,
    pub(crate) missing: bool,
    /// LVM allocates from it; an administrator who drains a disk says no (`pvchange -xn`).
    pub(crate) allocatable: bool,
}

impl Pv {
    /// Whether new extents may come from it.
    pub(crate) fn is_open(&self) -> bool {
        self.allocatable && !self.missing
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Lv {
    pub(crate) name: String,
    /// Of a copy-on-write snapshot, the size of its store.
    pub(crate) size: Bytes,
    /// Of a copy-on-write snapshot, the size its origin had at the cut, which is its own device's.
    pub(crate) origin_size: Option<Bytes>,
    /// The ten letters of lvs(8), "lv_attr".
    attr: String,
    pub(crate) origin: Option<String>,
    pub(crate) pool: Option<String>,
    /// What an administrator put before it as a cache.
    pub(crate) cache: Option<String>,
    /// Fill of a snapshot's store, a thin volume or a thin pool; absent while inactive.
    pub(crate) data_percent: Option<f64>,
    pub(crate) metadata_percent: Option<f64>,
    pub(crate) tags: Vec<String>,
    /// The number the thin pool knows a thin volume by.
    pub(crate) thin_id: Option<u32>,
    /// Of a thin pool: new blocks are zeroed when they are taken.
    pub(crate) zeroes: bool,
    /// Over how many disks its last extents are striped, which is how it grows.
    pub(crate) stripes: u64,
}

impl Lv {
    fn letter(&self, index: usize) -> u8 {
        self.attr.as_bytes().get(index).copied().unwrap_or(b'-')
    }

    /// A copy-on-write snapshot (`S` when it is to be merged). The letter is another one while its
    /// store is converted; its origin stays.
    pub(crate) fn is_cow(&self) -> bool {
        matches!(self.letter(0), b's' | b'S') || self.origin.is_some() && self.pool.is_none()
    }

    /// Being merged into its origin.
    pub(crate) fn is_merging(&self) -> bool {
        self.letter(0) == b'S'
    }

    /// LVM changes nothing of it but its tags, as while pvmove copies it to another disk.
    pub(crate) fn is_locked(&self) -> bool {
        self.letter(2).is_ascii_uppercase()
    }

    pub(crate) fn is_thin_pool(&self) -> bool {
        self.letter(0) == b't'
    }

    /// A copy-on-write snapshot whose store overflowed.
    pub(crate) fn is_lost(&self) -> bool {
        self.is_cow() && matches!(self.letter(4), b'I' | b'S')
    }

    pub(crate) fn state(&self) -> State {
        match self.letter(4) {
            b'-' => State::Inactive,
            b'd' | b'i' | b'X' => State::Broken,
            _ => State::Active,
        }
    }

    /// Mounted, or opened by some process.
    pub(crate) fn is_open(&self) -> bool {
        self.letter(5) == b'o'
    }

    /// What is wrong with a thin pool beyond being full, when something is.
    pub(crate) fn illness(&self) -> Option<String> {
        let what = match (self.letter(4), self.letter(8)) {
            (b'c' | b'C', _) => "needs a check",
            (_, b'F') => "has failed",
            (_, b'M') => "has read-only metadata",
            _ => return None,
        };
        Some(format!(
            "thin pool {} {what}; deactivate it and run lvconvert --repair",
            self.name
        ))
    }

    /// What is wrong with a volume itself, by the ninth letter of lvs(8), "Volume Health".
    pub(crate) fn ailment(&self) -> Option<(&'static str, &'static str)> {
        match self.letter(8) {
            b'p' => Some(("lies in part on a disk that is missing", "plug the disk in")),
            b'r' if self.copies() > 1 => {
                Some(("had errors on one of its copies", "run lvchange --refresh"))
            }
            b'm' => Some(("has copies that differ", "run lvchange --syncaction repair")),
            _ => None,
        }
    }

    /// A raid1, or an older kind of mirror, takes its extents twice.
    pub(crate) fn copies(&self) -> u64 {
        match self.letter(6) {
            b'r' | b'm' => 2,
            _ => 1,
        }
    }
}

/// Whether an LV has its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Inactive,
    Active,
    /// A device without a table, as a snapshot leaves it that could not be finished.
    Broken,
}

impl Report {
    pub(crate) fn lv(&self, name: &str) -> Option<&Lv> {
        self.lvs.get(*self.by_name.get(name)?)
    }

    /// What LVM would allocate from.
    pub(crate) fn free(&self) -> Bytes {
        let open = self.pvs.iter().filter(|pv| pv.is_open());
        open.map(|pv| pv.free).sum()
    }

    /// The copy-on-write snapshots of an LV, also those that are not ours.
    pub(crate) fn cows_of<'a>(&'a self, origin: &'a str) -> impl Iterator<Item = &'a Lv> {
        self.lvs
            .iter()
            .chain(&self.hidden)
            .filter(move |lv| lv.is_cow() && lv.origin.as_deref() == Some(origin))
    }
}

/// The command whose output [`parse`] reads. `seg` and `pvseg` are cut down to what is needed:
/// `fullreport` prints them in any case.
pub(super) fn command(vg: &str) -> Cmd {
    const COLUMNS: [(&str, &str); 5] = [
        (
            "vg",
            "vg_extent_size,vg_size,vg_missing_pv_count,vg_tags,vg_mda_size,vg_mda_free",
        ),
        ("pv", "pv_name,pv_free,pv_missing,pv_allocatable"),
        (
            "lv",
            "lv_name,lv_size,origin_size,lv_attr,origin,pool_lv,data_percent,metadata_percent,lv_tags",
        ),
        ("seg", "lv_name,thin_id,zero,stripes"),
        ("pvseg", "pv_name"),
    ];
    let cmd = lvm("lvm").args([
        "fullreport",
        "-a",
        "--reportformat",
        "json",
        "--units",
        "b",
        "--nosuffix",
    ]);
    COLUMNS
        .iter()
        .fold(cmd, |cmd, (report, columns)| {
            cmd.args(["--configreport", report, "-o", columns])
        })
        .arg(vg)
}

/// All values are text in LVM's JSON; numbers that do not apply are empty.
#[derive(Deserialize)]
struct Document {
    report: Vec<Sections>,
}

#[derive(Deserialize)]
struct Sections {
    vg: Vec<VgRow>,
    #[serde(default)]
    pv: Vec<PvRow>,
    #[serde(default)]
    lv: Vec<LvRow>,
    #[serde(default)]
    seg: Vec<SegRow>,
}

#[derive(Deserialize)]
struct VgRow {
    vg_extent_size: String,
    vg_size: String,
    vg_missing_pv_count: String,
    vg_tags: String,
    #[serde(default)]
    vg_mda_size: String,
    #[serde(default)]
    vg_mda_free: String,
}

#[derive(Deserialize)]
struct PvRow {
    pv_name: String,
    pv_free: String,
    pv_missing: String,
    #[serde(default = "allocatable")]
    pv_allocatable: String,
}

fn allocatable() -> String {
    "allocatable".to_owned()
}

#[derive(Deserialize)]
struct LvRow {
    lv_name: String,
    lv_size: String,
    origin_size: String,
    lv_attr: String,
    origin: String,
    pool_lv: String,
    data_percent: String,
    metadata_percent: String,
    lv_tags: String,
}

#[derive(Deserialize)]
struct SegRow {
    lv_name: String,
    thin_id: String,
    zero: String,
    #[serde(default)]
    stripes: String,
}

/// Read the output of [`command`].
///
/// # Errors
/// [`stowage_model::Kind::Internal`] with the column that is not as it should be.
pub(super) fn parse(json: &str) -> Result<Report> {
    let document: Document =
        serde_json::from_str(json).or_internal(|| "failed to read the report of lvm".to_owned())?;
    let sections = document.report.into_iter().next();
    let Some(Sections { vg, pv, lv, seg }) = sections else {
        return Err(Error::internal("the report of lvm is empty"));
    };
    let Some(vg) = vg.first() else {
        return Err(Error::internal("the report of lvm names no volume group"));
    };
    let (hidden, lvs): (Vec<_>, Vec<_>) =
        lv.into_iter().partition(|lv| lv.lv_name.starts_with('['));
    let segments = by_lv(&seg);
    let read = |lvs: Vec<LvRow>| -> Result<Vec<Lv>> {
        let own = |lv: &LvRow| segments.get(lv.lv_name.as_str()).copied();
        lvs.into_iter()
            .map(|lv| {
                let own = own(&lv);
                read_lv(lv, own)
            })
            .collect()
    };
    let lvs = read(lvs)?;
    let names = lvs.iter().zip(0..);
    Ok(Report {
        vg: Group {
            extent: bytes("vg_extent_size", &vg.vg_extent_size)?,
            size: bytes("vg_size", &vg.vg_size)?,
            missing_pvs: bytes("vg_missing_pv_count", &vg.vg_missing_pv_count)?.0,
            tags: list(&vg.vg_tags),
            metadata: Area {
                size: optional("vg_mda_size", &vg.vg_mda_size)?,
                free: optional("vg_mda_free", &vg.vg_mda_free)?,
            },
        },
        pvs: pv
            .iter()
            .map(|pv| {
                Ok(Pv {
                    name: pv.pv_name.clone(),
                    free: bytes("pv_free", &pv.pv_free)?,
                    missing: !pv.pv_missing.is_empty(),
                    allocatable: !pv.pv_allocatable.is_empty(),
                })
            })
            .collect::<Result<_>>()?,
        by_name: names.map(|(lv, at)| (lv.name.clone(), at)).collect(),
        lvs,
        hidden: read(hidden)?,
    })
}

/// The first and the last segment of each LV.
fn by_lv(segments: &[SegRow]) -> HashMap<&str, (&SegRow, &SegRow)> {
    let mut found = HashMap::new();
    for segment in segments {
        found
            .entry(segment.lv_name.as_str())
            .and_modify(|(_, last)| *last = segment)
            .or_insert((segment, segment));
    }
    found
}

fn read_lv(row: LvRow, segments: Option<(&SegRow, &SegRow)>) -> Result<Lv> {
    let segment = segments.map(|(first, _)| first);
    let last = segments.map(|(_, last)| last);
    // A cache, and what is cached, are parts of the LV and therefore in brackets.
    let (cache, pool) = match bare(&row.pool_lv) {
        Some(cache) => (Some(cache.to_owned()), None),
        None => (None, word(row.pool_lv)),
    };
    let origin = word(row.origin).filter(|origin| bare(origin).is_none());
    Ok(Lv {
        size: bytes("lv_size", &row.lv_size)?,
        origin_size: word(row.origin_size)
            .map(|n| bytes("origin_size", &n))
            .transpose()?,
        attr: row.lv_attr,
        origin,
        pool,
        cache,
        data_percent: percent("data_percent", &row.data_percent)?,
        metadata_percent: percent("metadata_percent", &row.metadata_percent)?,
        tags: list(&row.lv_tags),
        thin_id: segment.and_then(|segment| segment.thin_id.parse().ok()),
        zeroes: segment.is_some_and(|segment| segment.zero == "zero"),
        stripes: last
            .and_then(|segment| segment.stripes.parse().ok())
            .unwrap_or(1),
        name: bare(&row.lv_name).unwrap_or(&row.lv_name).to_owned(),
    })
}

/// A name that was in brackets.
fn bare(name: &str) -> Option<&str> {
    name.strip_prefix('[')?.strip_suffix(']')
}

fn word(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

fn list(text: &str) -> Vec<String> {
    text.split(',')
        .filter(|tag| !tag.is_empty())
        .map(str::to_owned)
        .collect()
}

fn bytes(column: &str, text: &str) -> Result<Bytes> {
    text.parse()
        .map(Bytes)
        .map_err(|_| unreadable(column, text))
}

/// A number that older versions, or the recordings of tests, do not have.
fn optional(column: &str, text: &str) -> Result<Bytes> {
    match text {
        "" => Ok(Bytes(0)),
        _ => bytes(column, text),
    }
}

fn percent(column: &str, text: &str) -> Result<Option<f64>> {
    match text {
        "" => Ok(None),
        _ => text.parse().map(Some).map_err(|_| unreadable(column, text)),
    }
}

fn unreadable(column: &str, text: &str) -> Error {
    Error::internal(format!("the report of lvm holds {text:?} as {column}"))
}

#[cfg(test)]
mod tests;
