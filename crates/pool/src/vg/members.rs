//! Which group is meant, and which disks are in it.
//!
//! A group is known by its UUID from the first time it was seen, and that is kept in the state
//! directory: another one of its name is not taken for it. LVM is told to look at the group's own
//! disks and at nothing else; a disk it is not told of counts as missing, so the disks are
//! compared with the metadata before every command.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use stowage_host::device::Devno;
use stowage_host::{blocking, durable};
use stowage_model::{Error, PoolName, Result};
use tokio::sync::Mutex as AsyncMutex;

use super::disks::{self, Disk, Place, Survey};
use super::label::{Member, Metadata};
use super::setup::mark;

/// A group's disks.
#[derive(Debug, Clone)]
pub(crate) struct Members {
    pub(crate) group: Metadata,
    pub(crate) disks: Vec<Disk>,
    /// Disks of the group that are not there.
    pub(crate) absent: Vec<Member>,
}

impl Members {
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.disks.iter().map(|disk| disk.path.as_path())
    }

    pub(crate) fn devnos(&self) -> Vec<Devno> {
        self.disks.iter().filter_map(|disk| disk.devno).collect()
    }

    /// Disks that are there, and that LVM does not trust because it wrote to the group while they
    /// were not.
    pub(crate) fn distrusted(&self) -> Vec<&Path> {
        let distrusted = self.group.members.iter().filter(|member| member.missing);
        distrusted
            .filter_map(|member| {
                let there = |disk: &&Disk| disk.label.uuid == member.uuid;
                self.disks
                    .iter()
                    .find(there)
                    .map(|disk| disk.path.as_path())
            })
            .collect()
    }
}

/// Finds the disks of one group, and remembers them.
pub(crate) struct Finder {
    pool: PoolName,
    name: String,
    place: Place,
    /// The file in which the group's UUID is kept.
    memory: Option<PathBuf>,
    known: Mutex<Known>,
    looking: AsyncMutex<()>,
}

#[derive(Default)]
struct Known {
    uuid: Option<String>,
    members: Option<Arc<Members>>,
}

impl Finder {
    pub(crate) fn new(pool: PoolName, name: String, place: Place) -> Self {
        Self {
            pool,
            name,
            place,
            memory: None,
            known: Mutex::default(),
            looking: AsyncMutex::new(()),
        }
    }

    /// The same, keeping the group's UUID in this file.
    pub(crate) fn remembering(mut self, file: PathBuf) -> Self {
        match std::fs::read_to_string(&file) {
            Ok(uuid) => {
                self.known
                    .get_mut()
                    .unwrap_or_else(PoisonError::into_inner)
                    .uuid = Some(uuid.trim().to_owned()).filter(|uuid| uuid.len() == 32)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            // It is found by its name then, as before there was such a file.
            Err(error) => tracing::warn!(file = %file.display(), %error, "group's UUID not read"),
        }
        self.memory = Some(file);
        self
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disks as they were when last looked at.
    pub(crate) fn last(&self) -> Option<Arc<Members>> {
        self.known().members.clone()
    }

    /// The group's UUID, once it was seen.
    pub(crate) fn uuid(&self) -> Option<String> {
        self.known().uuid.clone()
    }

    /// Forget where the disks are: something was seen that does not fit.
    pub(crate) fn forget(&self) {
        self.known().members = None;
    }

    /// Whether a test's script stands for LVM.
    pub(crate) fn is_scripted(&self) -> bool {
        #[cfg(test)]
        return matches!(self.place, Place::Scripted);
        #[cfg(not(test))]
        false
    }

    /// The group's disks as they are now; none when there is no such group.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Precondition`] when the group is another one of its name, or one of
    /// its disks is there twice; [`stowage_model::Kind::Internal`] when one does not answer.
    pub(crate) async fn find(&self) -> Result<Option<Arc<Members>>> {
        let _one = self.looking.lock().await;
        if let Some(last) = self.last() {
            let survey = disks::again(&last.disks).await;
            if let Some(path) = survey.silent.first() {
                return Err(disks::silent(path));
            }
            if last.absent.is_empty() && survey.disks == last.disks {
                return Ok(Some(last));
            }
            if let Ok(Some(now)) = self.resolve(&survey.disks)
                && now.absent.is_empty()
            {
                return Ok(Some(self.keep(now)));
            }
        }
        let whole = |disks: &[Disk]| {
            let now = self.resolve(disks);
            now.is_ok_and(|now| now.is_some_and(|now| now.absent.is_empty()))
        };
        let survey = self.place.survey(whole).await?;
        let now = self.resolve(&survey.disks).inspect_err(|_| self.forget())?;
        self.answers(now.as_ref(), &survey)?;
        let Some(now) = now else {
            self.forget();
            return Ok(None);
        };
        let first = self.known().uuid.is_none();
        let now = self.keep(now);
        if first {
            self.write(&now.group.uuid).await;
        }
        Ok(Some(now))
    }

    fn keep(&self, now: Members) -> Arc<Members> {
        let now = Arc::new(now);
        let mut known = self.known();
        known.uuid = Some(now.group.uuid.clone());
        known.members = Some(Arc::clone(&now));
        now
    }

    /// A disk of the group that hangs is no missing disk.
    fn answers(&self, now: Option<&Members>, survey: &Survey) -> Result<()> {
        if now.is_some_and(|now| now.absent.is_empty()) {
            return Ok(());
        }
        let last = self.last();
        let absent = now.into_iter().flat_map(|now| &now.absent);
        let hints = absent.map(|member| Path::new(&member.hint));
        let before = last.iter().flat_map(|last| last.paths());
        let known: Vec<_> = before.chain(hints).collect();
        let mut silent = survey.silent.iter();
        // Where the whole group is not to be seen, any disk that hangs may be of it.
        match silent.find(|path| now.is_none() || known.contains(&path.as_path())) {
            Some(path) => Err(disks::silent(path)),
            None => Ok(()),
        }
    }

    /// Nothing is lost where it cannot be written: the group is found by its name again.
    async fn write(&self, uuid: &str) {
        let (Some(file), text) = (self.memory.clone(), format!("{uuid}\n")) else {
            return;
        };
        let shown = file.display().to_string();
        let written = blocking(move || durable::write_atomic(&file, text.as_bytes())).await;
        if let Err(error) = written {
            tracing::warn!(file = shown, %error, "the UUID of a volume group was not kept");
        }
    }

    /// The group among what disks bear.
    fn resolve(&self, disks: &[Disk]) -> Result<Option<Members>> {
        let Some(group) = self.choose(&newest(disks))? else {
            return Ok(None);
        };
        let (mut found, mut absent) = (Vec::new(), Vec::new());
        for member in &group.members {
            let mut there = disks.iter().filter(|disk| disk.label.uuid == member.uuid);
            match (there.next(), there.next()) {
                (None, _) => absent.push(member.clone()),
                (Some(disk), None) => found.push(disk.clone()),
                (Some(one), Some(other)) => {
                    return Err(Error::precondition(format!(
                        "{} and {} are both disk {} of volume group {}: one is a copy, or a path \
                         of a multipath device or a part of an array that is not assembled; \
                         assemble that, or take the copy away",
                        one.path.display(),
                        other.path.display(),
                        member.uuid,
                        self.name
                    )));
                }
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Some(Members {
            group,
            disks: found,
            absent,
        }))
    }

    fn choose(&self, groups: &[&Metadata]) -> Result<Option<Metadata>> {
        let name = &self.name;
        let mut named = groups.iter().copied().filter(|group| group.name == *name);
        if let Some(uuid) = self.uuid() {
            let file = self.memory.as_ref().map(|file| file.display().to_string());
            let file = file.unwrap_or_default();
            return match (groups.iter().find(|group| group.uuid == uuid), named.next()) {
                (Some(group), _) if group.name == *name => Ok(Some((*group).clone())),
                (Some(group), _) => Err(Error::precondition(format!(
                    "volume group {name} of pool {} was renamed to {}; name it so in the \
                     configuration, or rename it back (vgrename)",
                    self.pool, group.name
                ))),
                (None, Some(other)) => Err(Error::precondition(format!(
                    "volume group {name} is not the one pool {} is on: its UUID is {}, and was \
                     {uuid}; plug in the disks of the right one and take the other away, or, to \
                     use this one from now on, remove {file} and restart the daemon",
                    self.pool, other.uuid
                ))),
                (None, None) => Ok(None),
            };
        }
        let named: Vec<_> = named.collect();
        let ours = mark(&self.pool);
        let marked = named.iter().filter(|group| group.tags.contains(&ours));
        let marked: Vec<_> = marked.copied().collect();
        match (named.as_slice(), marked.as_slice()) {
            ([], _) => Ok(None),
            ([one], _) | (_, [one]) => Ok(Some((*one).clone())),
            _ => Err(Error::precondition(format!(
                "there are {} volume groups {name}; rename all but that of pool {} by their UUIDs \
                 (vgs -o+uuid; vgrename UUID NAME)",
                named.len(),
                self.pool
            ))),
        }
    }
}

/// The groups that disks bear, each by its newest text.
pub(super) fn newest(disks: &[Disk]) -> Vec<&Metadata> {
    let mut newest: Vec<&Metadata> = Vec::new();
    for group in disks.iter().filter_map(|disk| disk.group.as_ref()) {
        match newest.iter_mut().find(|other| other.uuid == group.uuid) {
            Some(other) if other.seqno < group.seqno => *other = group,
            Some(_) => {}
            None => newest.push(group),
        }
    }
    newest
}

#[cfg(test)]
mod tests;
