//! Making the pool, and giving it more disks.

use std::path::PathBuf;
use std::sync::Arc;

use stowage_host::Runner;
use stowage_host::failpoint::hit;
use stowage_model::id::is_plain_word;
use stowage_model::{Bytes, Error, PoolName, Reserve, Result};

use super::ThinPool;
use crate::vg::{self, Vg, lvm};

/// What a pool of thin volumes is.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Its name.
    pub name: PoolName,
    /// The volume group of its thin pool.
    pub vg: String,
    /// The thin pool in that group.
    pub thin_pool: String,
    /// How often the thin pool's size may be promised to volumes; 1 promises no more than there
    /// is.
    pub overprovision: f64,
    /// Fill of the data, in percent, from which on nothing new is made.
    pub data_limit: u8,
    /// Fill of the metadata, in percent, from which on nothing new is made.
    pub metadata_limit: u8,
    /// What is promised to nobody, and kept free of data.
    pub reserve: Reserve,
}

impl Options {
    /// [`Options::data_limit`] unless told.
    pub const DATA_LIMIT: u8 = 90;
    /// [`Options::metadata_limit`] unless told: a thin pool out of metadata needs a repair.
    pub const METADATA_LIMIT: u8 = 80;
}

pub(super) fn check(options: &Options) -> Result<()> {
    let name = &options.name;
    if !is_plain_word(&options.thin_pool) {
        return Err(Error::invalid(format!(
            "pool {name}: {:?} is no thin pool name; use letters, digits, '-', '_' or '.', \
             starting with a letter or digit",
            options.thin_pool
        )));
    }
    if !options.overprovision.is_finite() || options.overprovision <= 0.0 {
        return Err(Error::invalid(format!(
            "pool {name}: overprovision must be a number above 0, as 1.0 or 5"
        )));
    }
    for (key, limit) in [
        ("data", options.data_limit),
        ("metadata", options.metadata_limit),
    ] {
        if !(1..=100).contains(&limit) {
            return Err(Error::invalid(format!(
                "pool {name}: the {key} limit is a percentage between 1 and 100, not {limit}"
            )));
        }
    }
    Ok(())
}

/// Make a thin pool of `size`, or of all that is free; doing it twice is success. With `disks`,
/// its volume group is made of them first.
///
/// # Errors
/// [`stowage_model::Kind::Exists`] for a group or LV of that name that is not this pool's,
/// [`stowage_model::Kind::Precondition`] for disks in use or not blank,
/// [`stowage_model::Kind::Full`].
pub async fn make(
    options: &Options,
    disks: &[PathBuf],
    size: Option<Bytes>,
    force: bool,
    runner: Arc<dyn Runner>,
) -> Result<()> {
    let vg = Vg::new(options.name.clone(), options.vg.clone(), runner)?;
    check(options)?;
    if !disks.is_empty() {
        vg::setup::make_vg(&vg, disks, force).await?;
    }
    let _turn = vg.turn().await;
    let report = vg.report().await?;
    let mark = vg::setup::mark(&options.name);
    if let Some(lv) = report.lv(&options.thin_pool) {
        if lv.is_thin_pool() && lv.tags.contains(&mark) {
            return Ok(());
        }
        return Err(Error::exists(format!(
            "LV {} exists and was not made for pool {}; to use a thin pool as it is, name it in \
             the configuration instead of creating it",
            vg.path(&options.thin_pool),
            options.name
        )));
    }
    let extents = match size {
        Some(size) => [
            "-L".to_owned(),
            format!("{}b", size.round_up(report.vg.extent).0),
        ],
        None => ["-l".to_owned(), "100%FREE".to_owned()],
    };
    hit("thin.make.begin");
    let cmd = lvm("lvcreate")
        .args([
            "-y",
            "-q",
            "--type",
            "thin-pool",
            "-Zy",
            "-n",
            &options.thin_pool,
        ])
        .args(extents)
        .args(["--addtag", &mark, vg.name()]);
    let made = vg.change(cmd).await;
    hit("thin.make.made");
    made.map_err(|e| {
        vg.explain(
            e,
            &format!("make thin pool {}", vg.path(&options.thin_pool)),
        )
    })
}

impl ThinPool {
    /// Disks join the group, and the thin pool takes all of them.
    pub(super) async fn take_disks(&self, disks: &[PathBuf], force: bool) -> Result<()> {
        let names = vg::setup::extend(&self.vg, disks, force).await?;
        let _turn = self.vg.turn().await;
        let report = self.vg.report().await?;
        self.thin_pool(&report)?;
        let roomy = |name: &String| {
            report
                .pvs
                .iter()
                .any(|pv| pv.name == *name && pv.free >= report.vg.extent)
        };
        let names: Vec<_> = names.into_iter().filter(roomy).collect();
        if names.is_empty() {
            return Ok(());
        }
        hit("thin.extend.begin");
        let cmd = lvm("lvextend")
            .args(["-y", "-q", "-l", "+100%PVS", &self.location()])
            .args(names);
        let grown = self.vg.change(cmd).await;
        grown.map_err(|e| {
            self.vg
                .explain(e, &format!("extend thin pool {}", self.location()))
        })
    }
}
