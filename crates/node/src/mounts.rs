//! Questions about mounts. What is noted says what was asked; the kernel's table says what is. Here the
//! two are compared, and nothing is mounted.

use std::path::{Path, PathBuf};

use stowage_host::{blocking, mount};
use stowage_model::error::Context;
use stowage_model::{Error, Result};

use crate::backing::device::attached;
use crate::backing::recognise::{is_ours, is_own_device};
use crate::own_staging::own_staging_path;
use crate::state::Node;
use crate::state::entry::Entry;

/// What is mounted somewhere, on top.
pub(crate) enum Mounted {
    Nothing,
    Ours,
    /// Somebody else's: its source.
    Foreign(String),
}

impl Mounted {
    pub(crate) fn of(found: Option<mount::Mount>, ours: bool) -> Self {
        match found {
            None => Self::Nothing,
            Some(_) if ours => Self::Ours,
            Some(foreign) => Self::Foreign(foreign.source),
        }
    }
}

/// What is mounted anywhere, for who asks about many places.
pub(crate) async fn mounts() -> Result<mount::Table> {
    blocking(mount::Table::read)
        .await
        .or_internal(|| "failed to read the mount table".to_owned())
}

pub(crate) async fn mount_at(path: &Path) -> Result<Option<mount::Mount>> {
    let path = path.to_owned();
    blocking(move || mount::at(&path))
        .await
        .or_internal(|| "failed to read the mount table".to_owned())
}

/// Where a volume is in use: what we noted and the mount table confirms.
pub(crate) fn used_at(node: &Node, entry: &Entry) -> Result<Vec<PathBuf>> {
    let noted = node.attachments().get(&entry.record.id);
    let own = own_staging_path(node, &entry.record.id);
    let mut paths: Vec<PathBuf> = noted.paths().map(Path::to_owned).collect();
    if !paths.is_empty() {
        let mounts = mount::Table::read();
        let mounts = mounts.or_internal(|| "failed to read the mount table".into())?;
        paths.retain(|path| mounts.at(path).is_some());
    }
    // People know the targets they named, not the directory we stage at for them.
    if paths.len() > 1 {
        paths.retain(|path| *path != own);
    }
    Ok(paths)
}

/// Whether the volume's own device is mounted at `path`; something else there is an error.
pub(crate) async fn mounted_here(entry: &Entry, path: &Path) -> Result<bool> {
    let Some(found) = mount_at(path).await? else {
        return Ok(false);
    };
    if is_ours(entry, &found).await? {
        return Ok(true);
    }
    Err(Error::exists(format!(
        "{} is mounted at {} already; unmount it or use another path",
        found.source,
        path.display()
    )))
}

/// What is mounted at `path`, on top.
pub(crate) async fn ours_at(
    node: &Node,
    entry: &Entry,
    path: &Path,
    block: bool,
) -> Result<Mounted> {
    let Some(found) = mount_at(path).await? else {
        return Ok(Mounted::Nothing);
    };
    let Some(device) = attached(entry).await? else {
        // Its device cannot be told any more (the pool went away under it); our notes can.
        let noted = node.attachments().get(&entry.record.id);
        let ours = noted.paths().any(|known| known == path);
        return Ok(Mounted::of(Some(found), ours));
    };
    let ours = match block {
        true => is_own_device(entry, &device, path).await?,
        false => is_ours(entry, &found).await?,
    };
    Ok(Mounted::of(Some(found), ours))
}

/// A path where the volume's own file system is mounted. What we noted does not tell: somebody
/// may have unmounted it there, and to freeze what lies beneath would stop the whole machine.
pub(crate) async fn seen_mounted(node: &Node, volume: &Entry) -> Result<Option<PathBuf>> {
    seen_mounted_in(node, &mounts().await?, volume).await
}

/// As [`seen_mounted`], for one of many volumes.
pub(crate) async fn seen_mounted_in(
    node: &Node,
    mounts: &mount::Table,
    volume: &Entry,
) -> Result<Option<PathBuf>> {
    let noted = node.attachments().get(&volume.record.id);
    let staging = noted.staging.iter().filter(|s| !s.block).map(|s| &s.path);
    let targets = noted.targets.iter().filter(|(_, p)| !p.block);
    for path in staging.chain(targets.map(|(path, _)| path)) {
        if let Some(found) = mounts.at(path)
            && is_ours(volume, found).await?
        {
            return Ok(Some(path.clone()));
        }
    }
    Ok(None)
}

/// Whether the volume is handed out as a block device at `path`.
pub(crate) fn block_at(node: &Node, entry: &Entry, path: &Path) -> Result<bool> {
    let attachment = node.attachments().get(&entry.record.id);
    let staged = attachment
        .staging
        .as_ref()
        .is_some_and(|s| s.block && s.path == path);
    Ok(staged || attachment.targets.get(path).is_some_and(|p| p.block))
}

/// # Errors
/// [`stowage_model::Kind::NotFound`] unless the volume's file system is mounted at `path`.
pub(crate) async fn must_be_at(node: &Node, entry: &Entry, path: &Path) -> Result<()> {
    match ours_at(node, entry, path, false).await? {
        Mounted::Ours => Ok(()),
        Mounted::Nothing | Mounted::Foreign(_) => Err(Error::not_found(format!(
            "{} is not at {}",
            entry.title(),
            path.display()
        ))),
    }
}

/// A path the caller gave that cannot be used: its own fault, said with the reason.
pub(crate) fn bad_path(
    what: &str,
    path: &Path,
    e: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    Error::invalid(format!("the {what} {} cannot be used", path.display())).caused_by(e)
}
