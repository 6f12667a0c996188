//! Disks into volume groups. Nothing on a disk is overwritten that was not looked at and allowed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use stowage_host::failpoint::hit;
use stowage_host::probe::{Content, probe};
use stowage_host::{Cmd, Runner, blocking, device};
use stowage_model::error::Context as _;
use stowage_model::{Error, PoolName, Result};

use super::{Vg, lvm, tags};

/// What a disk gives to the group's metadata. The default of 1 MiB ends at some hundreds of LVs:
/// each has about 1 KiB there, most of it the record in its tags, and old and new text lie side by
/// side.
const METADATA: &str = "16m";

/// A disk this large does not miss that: 1.6 %.
const LARGE: u64 = 1 << 30;

/// Make the volume group `vg` for a pool; one that this same call made before is success.
///
/// # Errors
/// [`stowage_model::Kind::Exists`] for a group of that name that is not this pool's,
/// [`stowage_model::Kind::Precondition`] for disks in use or not blank.
pub(crate) async fn make_vg(vg: &Vg, disks: &[PathBuf], force: bool) -> Result<()> {
    if disks.is_empty() {
        return Err(Error::invalid(
            "name at least one disk to make a volume group of",
        ));
    }
    let _turn = vg.turn().await;
    if let Ok(report) = vg.report().await {
        if !report.vg.tags.contains(&mark(vg.pool())) {
            return Err(Error::exists(format!(
                "volume group {} exists and was not made for pool {}; to use it as it is, name \
                 it in the configuration instead of creating it",
                vg.name(),
                vg.pool()
            )));
        }
        return join(vg, disks, force).await;
    }
    let owners = Owners::read(vg.runner()).await?;
    let fresh = cleared(vg, &owners, disks, force).await?;
    hit("vg.make.begin");
    let cmd = lvm("vgcreate")
        .args(["-y", "-q", "--addtag", &mark(vg.pool())])
        .args(metadata_size(&fresh).await?)
        .arg(vg.name())
        .args(&fresh);
    let made = vg.change(cmd).await;
    made.map_err(|e| vg.explain(e, &format!("make volume group {}", vg.name())))?;
    hit("vg.make.made");
    Ok(())
}

/// Add disks to the group; those that are in it already stay as they are. Returns the names LVM
/// has for all of them.
///
/// # Errors
/// As [`make_vg`].
pub(crate) async fn extend(vg: &Vg, disks: &[PathBuf], force: bool) -> Result<Vec<String>> {
    let _turn = vg.turn().await;
    vg.report().await?;
    join(vg, disks, force).await?;
    let owners = Owners::read(vg.runner()).await?;
    let names = disks
        .iter()
        .map(|disk| Ok(owners.row(disk)?.map(|row| row.pv_name.clone())));
    names.filter_map(Result::transpose).collect()
}

async fn join(vg: &Vg, disks: &[PathBuf], force: bool) -> Result<()> {
    let owners = Owners::read(vg.runner()).await?;
    let fresh = cleared(vg, &owners, disks, force).await?;
    if fresh.is_empty() {
        return Ok(());
    }
    hit("vg.extend.begin");
    let cmd = lvm("vgextend")
        .args(["-y", "-q"])
        .args(metadata_size(&fresh).await?)
        .arg(vg.name())
        .args(&fresh);
    let joined = vg.change(cmd).await;
    joined.map_err(|e| vg.explain(e, &format!("extend volume group {}", vg.name())))?;
    hit("vg.extend.made");
    Ok(())
}

/// How much of these disks is for metadata, as options of the command that takes them.
async fn metadata_size(disks: &[&PathBuf]) -> Result<&'static [&'static str]> {
    for disk in disks {
        let path = disk.to_path_buf();
        let size = blocking(move || device::size(&path)).await;
        if size.or_internal(|| format!("failed to look at disk {}", disk.display()))? < LARGE {
            return Ok(&[]);
        }
    }
    Ok(&["--metadatasize", METADATA])
}

/// The tag of a group or thin pool made for this pool.
pub(crate) fn mark(pool: &PoolName) -> String {
    format!("{}{pool}", tags::POOL)
}

/// The disks that are not in the group yet, made blank where that was allowed. All are looked at
/// before the first is touched.
async fn cleared<'a>(
    vg: &Vg,
    owners: &Owners,
    disks: &'a [PathBuf],
    force: bool,
) -> Result<Vec<&'a PathBuf>> {
    let mut fresh = Vec::new();
    let mut to_wipe = Vec::new();
    for disk in disks {
        match owners.of(disk)? {
            Some(owner) if owner == vg.name() => continue,
            Some(owner) if !owner.is_empty() => {
                return Err(Error::precondition(format!(
                    "disk {} belongs to volume group {owner}; take it out first (vgreduce, \
                     pvremove)",
                    disk.display()
                )));
            }
            owner => {
                unused(disk).await?;
                if !is_blank(vg.runner(), disk, owner.is_some(), force).await? {
                    to_wipe.push(disk);
                }
                fresh.push(disk);
            }
        }
    }
    for disk in to_wipe {
        hit("vg.disk.wipe");
        // LVM itself takes no disk with a partition table, whatever it is forced with.
        let cmd = Cmd::new("wipefs").args(["-a", "-q"]).arg(disk);
        let wiped = vg.runner().run(cmd).await;
        wiped.or_internal(|| format!("failed to wipe the signatures of {}", disk.display()))?;
    }
    Ok(fresh)
}

/// Even `force` takes no disk from those who use it.
async fn unused(disk: &Path) -> Result<()> {
    let path = disk.to_owned();
    let used = blocking(move || device::in_use(&path)).await;
    match used.or_internal(|| format!("failed to look at disk {}", disk.display()))? {
        None => Ok(()),
        Some(by) => Err(Error::precondition(format!(
            "disk {} is {by}; end that first",
            disk.display()
        ))),
    }
}

async fn is_blank(
    runner: &Arc<dyn Runner>,
    disk: &Path,
    orphan: bool,
    force: bool,
) -> Result<bool> {
    let content = probe(runner.as_ref(), disk)
        .await
        .or_internal(|| format!("failed to look at disk {}", disk.display()))?;
    let what = match content {
        Content::Blank => return Ok(true),
        _ if force => return Ok(false),
        _ if orphan => "an LVM physical volume without a volume group, as an interrupted attempt \
                        or a removed group leaves it"
            .to_owned(),
        other => other.describe(),
    };
    Err(Error::precondition(format!(
        "disk {} holds {what}; if nobody needs that, use --force",
        disk.display()
    )))
}

/// Which disk is in which group.
struct Owners(Vec<Row>);

#[derive(Deserialize)]
struct Document {
    report: Vec<Section>,
}

#[derive(Deserialize)]
struct Section {
    pv: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    pv_name: String,
    vg_name: String,
}

impl Owners {
    async fn read(runner: &Arc<dyn Runner>) -> Result<Self> {
        let cmd = lvm("pvs").args(["--reportformat", "json", "-o", "pv_name,vg_name"]);
        let output = runner
            .run(cmd)
            .await
            .or_internal(|| "failed to list LVM's disks".into())?;
        let document: Document = serde_json::from_str(&output.stdout)
            .or_internal(|| "failed to read the report of pvs".into())?;
        Ok(Self(
            document
                .report
                .into_iter()
                .flat_map(|section| section.pv)
                .collect(),
        ))
    }

    /// The group of a disk, empty when it is an LVM disk without one. Compared by device number:
    /// a disk has many names.
    fn of(&self, disk: &Path) -> Result<Option<&str>> {
        Ok(self.row(disk)?.map(|row| row.vg_name.as_str()))
    }

    fn row(&self, disk: &Path) -> Result<Option<&Row>> {
        let devno = device::devno(disk)
            .map_err(|e| Error::invalid(format!("{} is no disk", disk.display())).caused_by(e))?;
        let same = |row: &&Row| device::devno(Path::new(&row.pv_name)).is_ok_and(|n| n == devno);
        Ok(self.0.iter().find(same))
    }
}
