//! Handing a staged volume to one consumer.

use std::path::Path;
use std::sync::Arc;

use stowage_host::path::{TargetError, TargetKind};
use stowage_host::{Target, blocking, device, failpoint, mount};
use stowage_model::error::Context;
use stowage_model::mounts::Holders;
use stowage_model::request::{Access, AccessMode, PublishRequest, StageRequest};
use stowage_model::{Error, Holder, Result};

use crate::backing::raw::block_source;
use crate::lookup::need_volume;
use crate::mounts::{Mounted, bad_path, mount_at, mounted_here, ours_at};
use crate::publish::plan::Plan;
use crate::publish::unmount::{release, take_back};
use crate::state::Node;
use crate::state::attachments::{Attachment, Of, Publication};
use crate::state::entry::Entry;
use crate::throttle::{consumer_of, throttle};

/// Permissions of a target directory before the volume's own root covers it.
const TARGET_MODE: u32 = 0o750;

pub(crate) async fn publish(node: &Arc<Node>, want: PublishRequest) -> Result<()> {
    let _held = node.ops().begin(&want.id, "publishing").await?;
    publish_locked(node, want, None).await
}

/// As [`publish`], for a caller that holds the volume. A holder is counted with the publication.
pub(crate) async fn publish_locked(
    node: &Arc<Node>,
    want: PublishRequest,
    holder: Option<Holder>,
) -> Result<()> {
    let entry = need_volume(node, &want.id)?;
    let before = node.attachments().get(&want.id);
    let known = before.targets.get(&want.target);
    if let Err(e) = entry.understood() {
        let at = (&want.target, known.is_some_and(|known| known.block));
        return match ours_at(node, &entry, at.0, at.1).await? {
            // It stays as it is.
            Mounted::Ours if known.is_some() && holder.is_none() => Ok(()),
            _ => Err(e),
        };
    }
    let mut publication = check(&entry, &before, &want)?;
    publication.holders = with_another(&entry, known, &want.target, holder.as_ref())?;
    let known = known.is_some();
    if !known {
        vet_target(node, Some(&entry), &want.target, publication.block).await?;
    }
    let cgroup = match &want.cgroup {
        Some(path) => Some(path.clone()),
        None => consumer_of(node, &want.target).await,
    };
    let publication = Publication {
        cgroup,
        ..publication
    };
    let noted = (want.target.clone(), publication.clone());
    let of = Of::new(&entry);
    node.attachments()
        .update(&want.id, |a| {
            a.of = Some(of);
            a.left.remove(&noted.0);
            a.unmounted.remove(&noted.0);
            a.targets.insert(noted.0, noted.1);
        })
        .await?;
    failpoint::hit("node.publish.noted");
    let published = async {
        bind(&entry, &want, &publication).await?;
        failpoint::hit("node.publish.bound");
        throttle(node, &entry, &publication).await
    };
    let published = published.await;
    if published.is_err() {
        if !known {
            undo_publication(node, &entry, &want.target).await;
        } else if let Some(holder) = holder {
            release(node, &want.id, &want.target, &holder).await?;
        }
    }
    published
}

/// The holders of a publication with one hold more.
fn with_another(
    entry: &Entry,
    known: Option<&Publication>,
    target: &Path,
    holder: Option<&Holder>,
) -> Result<Holders> {
    let mut holders = known.map(|p| p.holders.clone()).unwrap_or_default();
    let how = match holder {
        Some(_) if known.is_some() && holders.is_empty() => "without a holder",
        None if !holders.is_empty() => "by holders",
        _ => {
            if let Some(holder) = holder {
                let times = holders.entry(holder.clone()).or_default();
                *times = times.saturating_add(1);
            }
            return Ok(holders);
        }
    };
    Err(Error::exists(format!(
        "{} is mounted at {} {how}; use another path, or unmount it there first",
        entry.title(),
        target.display()
    )))
}

async fn bind(entry: &Entry, want: &PublishRequest, publication: &Publication) -> Result<()> {
    let path = want.target.clone();
    if publication.block {
        let source = block_source(entry, publication.read_only).await?;
        return blocking(move || {
            let target =
                Target::create_file(&path).map_err(|e| bad_path("target path", &path, e))?;
            let failed = || format!("failed to look at {}", source.display());
            let wanted = device::devno(&source).or_internal(failed)?;
            // What is no device yet is the empty file to bind upon.
            if device::devno(&path).ok() == Some(wanted) {
                return Ok(());
            }
            failpoint::hit("node.publish.made");
            // Never a read-only bind: on a device node it would protect nothing.
            mount::bind(&source, &target, false)
                .or_internal(|| format!("failed to publish at {}", path.display()))
        })
        .await;
    }
    if mounted_here(entry, &path).await? {
        return Ok(());
    }
    if !mounted_here(entry, &want.staging).await? {
        return Err(Error::precondition(format!(
            "{} is not mounted at its staging directory {}; stage it again",
            entry.title(),
            want.staging.display()
        )));
    }
    let (source, read_only) = (want.staging.clone(), publication.read_only);
    blocking(move || {
        let target = Target::create_dir(&path, TARGET_MODE)
            .map_err(|e| bad_path("target path", &path, e))?;
        failpoint::hit("node.publish.made");
        mount::bind(&source, &target, read_only)
            .or_internal(|| format!("failed to publish at {}", path.display()))
    })
    .await
}

async fn undo_publication(node: &Node, entry: &Entry, target: &Path) {
    if let Err(e) = take_back(node, entry, target).await {
        tracing::warn!(volume.id = %entry.record.id, volume.path = %target.display(),
            error = %e.chain(), "failed publication not undone");
    }
}

/// Look at a target before it is noted as ours: nothing may be there, or something empty that
/// can be mounted upon. Whatever else it is belongs to somebody, and undoing a publication
/// that fails later must not find it.
pub(crate) async fn vet_target(
    node: &Node,
    entry: Option<&Entry>,
    path: &Path,
    block: bool,
) -> Result<()> {
    let ours = match entry {
        Some(entry) => ours_at(node, entry, path, block).await?,
        None => Mounted::of(mount_at(path).await?, false),
    };
    match ours {
        Mounted::Ours => return Ok(()),
        Mounted::Foreign(source) => {
            return Err(Error::exists(format!(
                "{source} is mounted at {} already; unmount it or use another path",
                path.display()
            )));
        }
        Mounted::Nothing => {}
    }
    let owned = path.to_owned();
    blocking(move || vacant(&owned, block)).await
}

/// Whether `path` is free to be mounted upon: absent, or empty and of the right kind.
fn vacant(path: &Path, block: bool) -> Result<()> {
    let bad = |e| bad_path("target path", path, e);
    let target = match Target::open(path) {
        Ok(target) => target,
        Err(TargetError::Missing { .. }) => return Ok(()),
        Err(e) => return Err(bad(e)),
    };
    let (expected, found) = match (block, target.kind()) {
        (false, TargetKind::Directory) => {
            if target.is_empty_dir().map_err(bad)? {
                return Ok(());
            }
            ("an empty directory", "a directory with something in it")
        }
        (true, TargetKind::File) => {
            let length = std::fs::metadata(target.proc_path())
                .or_internal(|| format!("failed to look at {}", path.display()))?
                .len();
            if length == 0 {
                return Ok(());
            }
            ("an empty file", "a file with something in it")
        }
        (false, _) => ("a directory", "a file or device"),
        (true, TargetKind::Directory) => ("a file", "a directory"),
        (true, TargetKind::Block) => ("a file", "a device"),
    };
    Err(Error::invalid(format!(
        "the target path {} cannot be used: it is {found}, not {expected}",
        path.display()
    )))
}

fn check(entry: &Entry, before: &Attachment, want: &PublishRequest) -> Result<Publication> {
    let title = entry.title();
    let Some(staging) = before.staging.as_ref().filter(|s| s.path == want.staging) else {
        return Err(Error::precondition(format!(
            "{title} is not staged at {}; stage it first",
            want.staging.display()
        )));
    };
    let block = want.access == Access::Block;
    if block != staging.block {
        return Err(Error::invalid(format!(
            "{title} is staged {}, so it cannot be published otherwise",
            if staging.block {
                "as a block device"
            } else {
                "as a file system"
            }
        )));
    }
    let known = before.targets.get(&want.target);
    let asked = StageRequest {
        id: want.id.clone(),
        staging: want.staging.clone(),
        access: want.access.clone(),
        mode: staging.mode,
    };
    // A bind shows the file system as it was staged, whatever is asked of it.
    if Plan::new(entry, &asked)?.staging != *staging {
        let text = format!(
            "{title} is staged with the mount options {:?} and cannot be published with others; \
             unstage it first",
            staging.options
        );
        return Err(match known {
            Some(_) => Error::exists(text),
            None => Error::invalid(text),
        });
    }
    let publication = Publication {
        block,
        read_only: want.read_only
            || entry.record.read_only
            || want.mode == AccessMode::ReaderOnly
            || staging.mode == AccessMode::ReaderOnly,
        mode: want.mode,
        cgroup: None,
        holders: Holders::new(),
    };
    if let Some(same) = known {
        let same = Publication {
            cgroup: None,
            holders: Holders::new(),
            ..same.clone()
        };
        if same != publication {
            return Err(Error::exists(format!(
                "{title} is mounted at {} in another way (read-only or not, say); unmount it there first",
                want.target.display()
            )));
        }
        return Ok(publication);
    }
    let single = |mode: AccessMode| mode == AccessMode::SingleNodeSingleWriter;
    let others = before.targets.values().map(|p| p.mode);
    if !before.targets.is_empty() && (single(want.mode) || others.into_iter().any(single)) {
        let at: Vec<String> = before
            .targets
            .keys()
            .map(|p| p.display().to_string())
            .collect();
        return Err(Error::precondition(format!(
            "{title} may have a single writer and is published at {}",
            at.join(", ")
        )));
    }
    Ok(publication)
}
