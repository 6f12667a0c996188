//! File systems that somebody else froze, as a backup does with `fsfreeze -f`, and did not thaw. A
//! freeze outlives the mount: the kernel keeps the file system and its device, where nobody can reach
//! them to thaw them, and the next mount shows it frozen still.

use std::path::{Path, PathBuf};
use std::time::Duration;

use stowage_host::{Target, blocking, device, durable, freeze, mount};
use stowage_model::{FsType, Id};

use crate::backing::device::attached;
use crate::mounts::mount_at;
use crate::state::Node;
use crate::state::entry::Entry;

/// How often a device is looked at that somebody has, and how long between.
const LOOKS: u32 = 10;

const LOOK: Duration = Duration::from_millis(100);

/// Note, until the machine restarts, that we hold the writers of a volume: whoever comes after us
/// thaws what we froze, and nothing else. The guard does so by itself; this is for the case that it
/// was killed, too.
pub(crate) fn note_freeze(node: &Node, id: &Id) {
    let noted = std::fs::create_dir_all(&node.options().lock_dir)
        .and_then(|()| std::fs::write(freeze_note(node, id), ""));
    if let Err(e) = noted {
        tracing::warn!(volume.id = %id, error = %e, "a freeze is not noted");
    }
}

/// Take the note away. Answers whether there was one.
pub(crate) fn unnote_freeze(node: &Node, id: &Id) -> bool {
    std::fs::remove_file(freeze_note(node, id)).is_ok()
}

fn freeze_note(node: &Node, id: &Id) -> PathBuf {
    node.options().lock_dir.join(format!("frozen@{id}"))
}

/// Thaw what is mounted at `path` if this is its last mount: it is about to go.
pub(crate) async fn thaw_last(entry: &Entry, path: &Path) {
    let Ok(Some(found)) = mount_at(path).await else {
        return;
    };
    let mounts = blocking(move || mount::of_device(found.dev)).await;
    if mounts.is_ok_and(|mounts| mounts.len() == 1) {
        thaw_left(entry, path).await;
    }
}

/// Thaw what is mounted at `path` if it is frozen. The caller holds the volume, so the freeze is
/// nobody's who still works on it.
pub(crate) async fn thaw_left(entry: &Entry, path: &Path) {
    let owned = path.to_owned();
    let thawed = blocking(move || thaw_at(&owned)).await;
    match thawed {
        Ok(false) => {}
        Ok(true) => tracing::warn!(volume.id = %entry.record.id, path = %path.display(),
            "thawed a file system that somebody left frozen"),
        Err(e) => tracing::warn!(volume.id = %entry.record.id, path = %path.display(),
            error = e, "failed to see whether a file system is frozen"),
    }
}

/// Thaw a volume whose device is held though it is mounted nowhere: a freeze that outlived the
/// last mount holds it. Answers whether it was that.
pub(crate) async fn unwedge(node: &Node, entry: &Entry) -> bool {
    let record = &entry.record;
    let Some(fs) = record.content.file_system() else {
        return false;
    };
    let attached = match attached(entry).await {
        Ok(Some(attached)) => attached,
        Ok(None) => return false,
        Err(e) => {
            tracing::warn!(volume.id = %record.id, error = %e.chain(),
                "its device cannot be looked at");
            return false;
        }
    };
    // A full disk has no room for a directory; that of the locks is in memory.
    let dirs = [node.state_dir(), &node.options().lock_dir];
    let at = dirs.map(|dir| dir.join(format!("thaw-{}", record.id)));
    let only_read = record.read_only || node.index().in_place(entry);
    let thawed = blocking(move || {
        Ok(held_unseen(&attached.path)? && thaw_unmounted(&attached.path, fs, only_read, &at)?)
    });
    let thawed: Result<bool, String> = thawed.await;
    match thawed {
        Ok(true) => tracing::warn!(volume.id = %record.id,
            "thawed a file system that was left frozen and unmounted"),
        Ok(false) => {}
        Err(ref e) => tracing::warn!(volume.id = %record.id, error = e,
            "its device is held, and why cannot be seen"),
    }
    thawed == Ok(true)
}

/// Whether a device is held, and by nobody that can be seen. Who holds it for a moment only, as what
/// looks at all devices does, is waited for.
fn held_unseen(device: &Path) -> Result<bool, String> {
    for _ in 0..LOOKS {
        match device::in_use(device).map_err(|e| e.to_string())? {
            None => return Ok(false),
            Some(by) if by == device::InUse::default() => return Ok(true),
            Some(_) => std::thread::sleep(LOOK),
        }
    }
    Ok(false)
}

fn thaw_at(path: &Path) -> Result<bool, String> {
    let target = Target::open(path).map_err(|e| e.to_string())?;
    freeze::thaw(&target.proc_path()).map_err(|e| e.to_string())
}

/// The kernel gives a mount of the same device the file system that it still has, frozen as it is.
fn thaw_unmounted(
    device: &Path,
    fs: FsType,
    only_read: bool,
    places: &[PathBuf],
) -> Result<bool, String> {
    let mut made = Err("there is no place".to_owned());
    for at in places {
        made = durable::create_dir(at)
            .map(|()| at)
            .map_err(|e| e.to_string());
        if made.is_ok() {
            break;
        }
    }
    let at: &Path = made?;
    let nouuid = (fs == FsType::Xfs).then(|| "nouuid".to_owned());
    let writable: Vec<String> = nouuid.into_iter().collect();
    let reading = fs.untouched(&writable);
    let mounted = || -> Result<(), String> {
        let mount = |options: &[String]| {
            let target = Target::open(at).map_err(|e| e.to_string())?;
            mount::mount_device(device, &target, fs.as_str(), options).map_err(|e| e.to_string())
        };
        match only_read {
            true => mount(&reading),
            // EBUSY where it was mounted read-only.
            false => mount(&writable).or_else(|_| mount(&reading)),
        }
    };
    let thawed = mounted().and_then(|()| {
        let thawed = thaw_at(at);
        mount::unmount(at).map_err(|e| e.to_string()).and(thawed)
    });
    Target::remove(at).map_err(|e| e.to_string())?;
    thawed
}
