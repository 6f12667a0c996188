//! Disks into volume groups. Nothing on a disk is overwritten that was not looked at and allowed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use stowage_host::disks::{self, OwnDisk, is_tenants_device};
use stowage_host::failpoint::hit;
use stowage_host::probe::{Content, probe};
use stowage_host::{Cmd, Runner, blocking, device};
use stowage_model::error::Context as _;
use stowage_model::{Bytes, Error, PoolName, Result};

use super::disks::is_volume;
use super::{Vg, lvm, tags};
use host::Settings;
use owner::{Owner, owner};

mod host;
mod owner;

/// Below, a disk has no room for LVM's metadata and an extent.
const SMALLEST: u64 = 8 << 20;

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
    if vg.find().await?.is_some() {
        let report = vg.report().await?;
        if !report.vg.tags.contains(&mark(vg.pool())) {
            return Err(Error::exists(format!(
                "volume group {} exists and was not made for pool {}; to use it as it is, name \
                 it in the configuration instead of creating it",
                vg.name(),
                vg.pool()
            )));
        }
        return join(vg, disks, force).await.map(drop);
    }
    let taken = cleared(vg, disks, force).await?;
    hit("vg.make.begin");
    let cmd = lvm("vgcreate")
        .args(["-y", "-q", "--addtag", &mark(vg.pool())])
        .args(metadata_size(&taken.fresh).await?)
        .arg(vg.name())
        .args(&taken.fresh);
    let made = vg.take(cmd, &taken.fresh).await;
    made.map_err(|e| vg.explain(e, &format!("make volume group {}", vg.name())))?;
    hit("vg.make.made");
    taken.listed(vg).await
}

/// Add disks to the group; those that are in it already stay as they are. Returns the names LVM
/// has for all of them.
///
/// # Errors
/// As [`make_vg`].
pub(crate) async fn extend(vg: &Vg, disks: &[PathBuf], force: bool) -> Result<Vec<String>> {
    let _turn = vg.turn().await;
    vg.report().await?;
    let taken = join(vg, disks, force).await?;
    let report = vg.report().await?;
    let named = report.pvs.iter().filter(|pv| {
        let devno = device::devno(Path::new(&pv.name));
        devno.is_ok_and(|devno| taken.all.iter().any(|disk| disk.devno == devno))
    });
    Ok(named.map(|pv| pv.name.clone()).collect())
}

async fn join(vg: &Vg, disks: &[PathBuf], force: bool) -> Result<Taken> {
    let taken = cleared(vg, disks, force).await?;
    if !taken.fresh.is_empty() {
        hit("vg.extend.begin");
        let cmd = lvm("vgextend")
            .args(["-y", "-q"])
            .args(metadata_size(&taken.fresh).await?)
            .arg(vg.name())
            .args(&taken.fresh);
        let joined = vg.take(cmd, &taken.fresh).await;
        joined.map_err(|e| vg.explain(e, &format!("extend volume group {}", vg.name())))?;
        hit("vg.extend.made");
    }
    taken.listed(vg).await?;
    Ok(taken)
}

/// How much of these disks is for metadata, as options of the command that takes them.
async fn metadata_size(disks: &[PathBuf]) -> Result<&'static [&'static str]> {
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

/// The disks of one request.
struct Taken {
    all: Vec<OwnDisk>,
    /// Those that were not in the group, by the kernel's names.
    fresh: Vec<PathBuf>,
    settings: Settings,
}

impl Taken {
    /// Where LVM sees only what is in a devices file, let it see these disks too.
    async fn listed(&self, vg: &Vg) -> Result<()> {
        if self.settings.devices_file.is_none() {
            return Ok(());
        }
        for disk in &self.all {
            host::list(vg.runner().as_ref(), &disk.path).await?;
        }
        Ok(())
    }
}

/// The disks of the request, made blank where that was allowed. All are looked at, in every
/// respect, before the first is touched.
async fn cleared(vg: &Vg, disks: &[PathBuf], force: bool) -> Result<Taken> {
    let this = vg.find().await?;
    let survey = vg.finder().place().survey(|_| true).await?;
    let settings = Settings::read(vg.runner().as_ref()).await?;
    let (mut all, mut fresh, mut to_wipe) = (Vec::new(), Vec::new(), Vec::new());
    for shown in disks {
        let disk = node(shown).await?;
        if all.contains(&disk) {
            continue;
        }
        all.push(disk.clone());
        let owner = owner(&survey, this.as_deref(), shown, disk.devno)?;
        if owner == Owner::This {
            continue;
        }
        unused(shown).await?;
        if settings.devices_file.is_none() {
            host::sees(vg.runner().as_ref(), &disk.path).await?;
        }
        if !is_blank(vg.runner(), shown, owner == Owner::Orphan, force).await? {
            to_wipe.push(disk.path.clone());
        }
        fresh.push(disk.path);
    }
    if !settings.mixes_sectors {
        same_sectors(
            fresh
                .iter()
                .map(PathBuf::as_path)
                .chain(this.iter().flat_map(|this| this.paths())),
        )?;
    }
    for disk in to_wipe {
        hit("vg.disk.wipe");
        // LVM itself takes no disk with a partition table, whatever it is forced with.
        let cmd = Cmd::new("wipefs").args(["-a", "-q"]).arg(&disk);
        let wiped = vg.runner().run(cmd).await;
        wiped.or_internal(|| format!("failed to wipe the signatures of {}", disk.display()))?;
    }
    Ok(Taken {
        all,
        fresh,
        settings,
    })
}

/// The disk behind a name, by the kernel's own name for it.
async fn node(shown: &Path) -> Result<OwnDisk> {
    let path = shown.to_owned();
    blocking(move || {
        let shown = path.display();
        let devno = device::devno(&path)
            .map_err(|e| Error::invalid(format!("{shown} is no disk")).caused_by(e))?;
        let failed = || format!("failed to look at disk {shown}");
        if is_tenants_device(devno, is_volume).or_internal(failed)? {
            return Err(Error::precondition(format!(
                "{shown} is a volume, or lies on one: what its user writes there would be taken \
                 for LVM's own; give a disk or a partition"
            )));
        }
        let name = device::kernel_name(devno).or_internal(failed)?;
        let disk = OwnDisk {
            path: Path::new("/dev").join(name.replace('!', "/")),
            devno,
        };
        if !disks::is_node(&disk.path, devno) {
            return Err(Error::internal(format!(
                "{} is not device {devno}, as {shown} is; is /dev mended by hand?",
                disk.path.display()
            )));
        }
        if device::read_only(devno).or_internal(failed)? {
            return Err(Error::precondition(format!("disk {shown} is read-only")));
        }
        match device::size(&path).or_internal(failed)? {
            size if size < SMALLEST => Err(Error::precondition(format!(
                "disk {shown} is too small for a volume group: {}, and at least {} are needed",
                Bytes(size),
                Bytes(SMALLEST)
            ))),
            _ => Ok(disk),
        }
    })
    .await
}

/// LVM puts no disks of different sectors into one group, and says so after it was given them.
fn same_sectors<'a>(disks: impl Iterator<Item = &'a Path>) -> Result<()> {
    let mut first: Option<(&Path, u32)> = None;
    for disk in disks {
        let shown = disk.display();
        let size = device::logical_block_size(disk)
            .or_internal(|| format!("failed to look at disk {shown}"))?;
        match first {
            None => first = Some((disk, size)),
            Some((other, others)) if others != size => {
                return Err(Error::precondition(format!(
                    "disk {shown} has sectors of {size} bytes and disk {} of {others}, and LVM \
                     puts only like ones into one group; make a pool of each kind",
                    other.display()
                )));
            }
            Some(_) => {}
        }
    }
    Ok(())
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
