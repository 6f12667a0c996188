//! LVM's disks of this machine, looked up without LVM: which are a group's own.
//!
//! A tenant who writes a label and the metadata of a group into a raw volume makes up an LVM disk,
//! and LVM, left to look for itself, reads it. So only the machine's own disks are read here
//! ([`own_disks`]), and LVM is told which of them to look at.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use stowage_host::device::{self, Devno};
use stowage_host::disks::{OwnDisk, own_disks, read};
use stowage_host::{FsError, blocking};
use stowage_model::error::Context as _;
use stowage_model::{Error, Result};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::label::{self, HEAD, HEADER, Label, Location, Metadata};
use crate::file::setup::MARKER;

/// A disk that sleeps takes this long to answer. One that was asked so long ago and has not answered is
/// not waited for any more.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
/// So long the disks of others are waited for when the group's own have answered.
const OTHERS: Duration = Duration::from_millis(if cfg!(test) { 200 } else { 2000 });
/// LVM may write while we read; then the next attempt sees what it wrote.
const TRIES: usize = 3;
/// More than any group's metadata: LVM itself takes no area larger than 4 GiB, and none of ours
/// is.
const MAX_TEXT: u64 = 256 << 20;

/// A disk with a label of LVM's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) path: PathBuf,
    pub(crate) devno: Option<Devno>,
    pub(crate) label: Label,
    /// Where the texts lie. The same as before, and nothing was changed.
    stamp: Vec<Location>,
    /// The group, where the disk bears its metadata.
    pub(crate) group: Option<Metadata>,
}

/// What disks hold.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    pub(crate) disks: Vec<Disk>,
    /// Those that do not answer.
    pub(crate) silent: Vec<PathBuf>,
}

/// Where disks are looked for.
#[derive(Debug, Clone, Default)]
pub(crate) enum Place {
    #[cfg_attr(not(test), default)]
    #[cfg_attr(test, allow(dead_code, reason = "tests have disks of their own"))]
    Machine,
    /// These files stand for the machine's disks.
    #[cfg(test)]
    Files(Vec<PathBuf>),
    /// A test's script answers whatever LVM is told to look at.
    #[cfg(test)]
    #[default]
    Scripted,
}

/// Whether the file below a loop device is a volume of a file pool.
pub(crate) fn is_volume(file: &Path) -> bool {
    file.ancestors().any(|dir| dir.join(MARKER).exists())
}

impl Place {
    async fn disks(&self) -> Result<Vec<OwnDisk>> {
        match self {
            Self::Machine => blocking(|| own_disks(is_volume))
                .await
                .or_internal(|| "failed to list this machine's disks".into()),
            #[cfg(test)]
            Self::Files(files) => Ok(files
                .iter()
                .zip(0..)
                .filter(|(path, _)| path.exists())
                .map(|(path, minor)| OwnDisk {
                    path: path.clone(),
                    devno: Devno { major: 0, minor },
                })
                .collect()),
            #[cfg(test)]
            Self::Scripted => Ok(Vec::new()),
        }
    }

    /// What all disks hold, as soon as `enough` of them have answered and the others had some time
    /// to.
    ///
    /// # Errors
    /// When the machine cannot list its disks.
    pub(crate) async fn survey(&self, enough: impl Fn(&[Disk]) -> bool) -> Result<Survey> {
        let paths = self.disks().await?.into_iter().map(|disk| disk.path);
        Ok(look_at(paths.collect(), Vec::new(), enough).await)
    }
}

/// What these disks hold by now, without reading again what has not changed.
pub(crate) async fn again(disks: &[Disk]) -> Survey {
    let paths = disks.iter().map(|disk| disk.path.clone()).collect();
    let known = disks.iter().filter_map(Disk::learnt).collect();
    look_at(paths, known, |_| false).await
}

type Known = Vec<(Location, Metadata)>;

async fn look_at(
    paths: Vec<PathBuf>,
    mut known: Known,
    enough: impl Fn(&[Disk]) -> bool,
) -> Survey {
    let (hung, paths): (Vec<_>, Vec<_>) = paths.into_iter().partition(|path| Busy::hangs(path));
    let mut waiting: BTreeSet<PathBuf> = paths.iter().cloned().collect();
    let mut asked = JoinSet::new();
    for path in paths {
        asked.spawn(alone(path.clone(), move || (head(&path), path)));
    }
    let begun = Instant::now();
    let mut survey = Survey::default();
    let mut deadline = begun + OTHERS;
    loop {
        match timeout_at(deadline, asked.join_next()).await {
            Ok(None) => break,
            // Nothing in it panics or is cancelled while we wait.
            Ok(Some(Err(_))) => {}
            Ok(Some(Ok((Ok(None), path)))) => _ = waiting.remove(&path),
            Ok(Some(Ok((Err(error), path)))) => {
                waiting.remove(&path);
                // An empty drive, a disk that is going: LVM could not read it either.
                tracing::debug!(disk = %path.display(), %error, "disk not read");
            }
            Ok(Some(Ok((Ok(Some(disk)), path)))) => {
                // One text serves all disks that bear it.
                let task = alone(path.clone(), {
                    let known = known.clone();
                    move || body(disk, &known)
                });
                let Ok(disk) = timeout_at(begun + PATIENCE, task).await else {
                    continue;
                };
                waiting.remove(&path);
                known.extend(disk.learnt());
                survey.disks.push(disk);
            }
            Err(_) if begun.elapsed() >= PATIENCE || enough(&survey.disks) => break,
            Err(_) => deadline = Instant::now() + Duration::from_millis(250),
        }
    }
    survey.disks.sort_by(|a, b| a.path.cmp(&b.path));
    survey.silent = waiting.into_iter().chain(hung).collect();
    survey
}

/// Disks that are being read, and since when. One that hangs holds a thread for as long; another look
/// at it would cost another.
static BUSY: Mutex<BTreeMap<PathBuf, Instant>> = Mutex::new(BTreeMap::new());

fn busy() -> MutexGuard<'static, BTreeMap<PathBuf, Instant>> {
    BUSY.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Busy(PathBuf);

impl Busy {
    fn with(path: &Path) -> Option<Self> {
        match busy().entry(path.to_owned()) {
            Entry::Occupied(_) => None,
            Entry::Vacant(free) => {
                free.insert(Instant::now());
                Some(Self(path.to_owned()))
            }
        }
    }

    fn hangs(path: &Path) -> bool {
        busy()
            .get(path)
            .is_some_and(|since| since.elapsed() >= PATIENCE)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        busy().remove(&self.0);
    }
}

/// Read a disk when nobody else does. Should it hang, this waits and no thread does.
async fn alone<T: Send + 'static>(path: PathBuf, work: impl FnOnce() -> T + Send + 'static) -> T {
    let busy = loop {
        match Busy::with(&path) {
            Some(busy) => break busy,
            None => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    blocking(move || {
        let _busy = busy;
        work()
    })
    .await
}

/// The label of a disk, and where its texts lie.
fn head(path: &Path) -> Result<Option<Disk>, FsError> {
    let Some(label) = label::label(&read(path, 0, HEAD)?) else {
        return Ok(None);
    };
    let mut stamp = Vec::new();
    for area in &label.areas {
        match label::location(&read(path, area.start, HEADER)?) {
            Ok(location) => stamp.extend(location),
            Err(why) => tracing::warn!(disk = %path.display(), "LVM's metadata: {why}"),
        }
    }
    Ok(Some(Disk {
        path: path.to_owned(),
        devno: device::devno(path).ok(),
        label,
        stamp,
        group: None,
    }))
}

/// The same with the group. LVM may write while we read; then another attempt sees what it wrote.
fn body(mut disk: Disk, known: &Known) -> Disk {
    for _ in 0..TRIES {
        let problem = match disk.read_group(known) {
            Ok(None) => return disk,
            Ok(Some(why)) => why.to_owned(),
            Err(error) => error.to_string(),
        };
        tracing::debug!(disk = %disk.path.display(), problem, "LVM's metadata not read");
        match head(&disk.path) {
            Ok(Some(now)) => disk = now,
            Ok(None) | Err(_) => break,
        }
    }
    disk
}

impl Disk {
    /// Finds the newest of its texts; what is in the way of reading one where there is no other.
    fn read_group(&mut self, known: &Known) -> Result<Option<&'static str>, FsError> {
        let mut problem = None;
        let mut newest: Option<Metadata> = None;
        for location in &self.stamp {
            let found = match known.iter().find(|(at, _)| at == location) {
                Some((_, found)) => Ok(found.clone()),
                None => self.text(location)?,
            };
            match found {
                Ok(found) if newest.as_ref().is_none_or(|old| old.seqno < found.seqno) => {
                    newest = Some(found);
                }
                Ok(_) => {}
                Err(why) => problem = Some(why),
            }
        }
        self.group = newest;
        Ok(problem.filter(|_| self.group.is_none()))
    }

    /// The text at a place; the inner error is about what is there.
    fn text(&self, location: &Location) -> Result<Result<Metadata, &'static str>, FsError> {
        // Areas of one disk have texts of their own; a text elsewhere has another checksum.
        let mut problem = "it is nowhere";
        for area in &self.label.areas {
            let parts = match location.parts(*area) {
                Ok(parts) if location.size <= MAX_TEXT => parts,
                Ok(_) => return Ok(Err("its text is too long")),
                Err(why) => {
                    problem = why;
                    continue;
                }
            };
            let mut bytes = Vec::new();
            for (from, size) in parts {
                bytes.extend(read(&self.path, from, usize::try_from(size).unwrap_or(0))?);
            }
            match location.read(&bytes) {
                Ok(found) => return Ok(Ok(found)),
                Err(why) => problem = why,
            }
        }
        Ok(Err(problem))
    }

    /// What need not be read of others. With two texts it is not known which is the group's.
    fn learnt(&self) -> Option<(Location, Metadata)> {
        match (&self.stamp[..], &self.group) {
            ([location], Some(group)) => Some((*location, group.clone())),
            _ => None,
        }
    }
}

/// The error of a disk that hangs.
pub(crate) fn silent(path: &Path) -> Error {
    Error::internal(format!(
        "disk {} does not answer; look for errors of it in the kernel log",
        path.display()
    ))
}

#[cfg(test)]
mod tests;
