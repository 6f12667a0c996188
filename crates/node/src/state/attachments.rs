//! Where each volume was handed out and how: the arguments behind the kernel's mount table, kept
//! under `<state>/attachments` so that they are known after a restart of the daemon. The mount
//! table stays the truth about what *is* mounted; this says what was *asked*. Written before the
//! act, and taken back after it; where that cannot be written, as on a disk that is full, it is known
//! in memory and written when it can be: what a start finds noted and not mounted is over (see
//! `ended`). After a reboot nothing is mounted and what lies at the old paths is somebody else's; only
//! the targets of ephemeral volumes still matter: they tell whether the consumer may return.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use stowage_host::{FsError, blocking, durable};
use stowage_model::error::Context;
use stowage_model::mounts::{Holder, Holders};
use stowage_model::request::{Access, AccessMode};
use stowage_model::{Id, PoolName, Result};

use crate::state::entry::Entry;
use crate::state::ground::Ground;
use crate::state::journal::unwritten;

/// How a volume was staged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Staging {
    pub(crate) path: PathBuf,
    pub(crate) block: bool,
    /// Checked mount options, in the order given.
    pub(crate) options: Vec<String>,
    pub(crate) mode: AccessMode,
}

impl Staging {
    /// Whether nothing can be written to its file system.
    pub(crate) fn is_read_only(&self) -> bool {
        self.options.iter().any(|option| option == "ro")
    }

    /// What was asked when it was staged so.
    pub(crate) fn access(&self) -> Access {
        match self.block {
            true => Access::Block,
            false => Access::Mount {
                fs: None,
                flags: self.options.clone(),
            },
        }
    }
}

/// The directory below the state directory where we stage for people.
pub(crate) const OWN_STAGING: &str = "staging";

/// A mount that somebody made and a restart of the machine ended: how to make it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Unmounted {
    pub(crate) options: Vec<String>,
    pub(crate) read_only: bool,
    pub(crate) cgroup: Option<PathBuf>,
}

impl Unmounted {
    fn of(staging: &Staging, publication: &Publication) -> Self {
        Self {
            options: staging.options.clone(),
            read_only: publication.read_only,
            cgroup: publication.cgroup.clone(),
        }
    }

    /// The command that makes it again.
    pub(crate) fn command(&self, name: &str, target: &Path) -> String {
        let word = |text: &str| match text
            .contains(|c: char| !c.is_ascii_graphic() || "'\"\\$`".contains(c))
        {
            true => format!("'{}'", text.replace('\'', "'\\''")),
            false => text.to_owned(),
        };
        let mut words = vec![word(name), word(&target.display().to_string())];
        for option in &self.options {
            words.extend(["--option".to_owned(), word(option)]);
        }
        words.extend(self.read_only.then(|| "--read-only".to_owned()));
        if let Some(cgroup) = &self.cgroup {
            words.extend(["--cgroup".to_owned(), word(&cgroup.display().to_string())]);
        }
        format!("stowage volume mount {}", words.join(" "))
    }
}

/// How a volume was handed to one consumer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Publication {
    pub(crate) block: bool,
    pub(crate) read_only: bool,
    pub(crate) mode: AccessMode,
    /// The consumer's cgroup, once known.
    pub(crate) cgroup: Option<PathBuf>,
    /// Who holds it; nobody where it is not shared.
    #[serde(default, skip_serializing_if = "Holders::is_empty")]
    pub(crate) holders: Holders,
}

impl Publication {
    /// Whether it is as `before`, but for holds that have ended.
    fn is_at_most(&self, before: &Self) -> bool {
        let mut holders = self.holders.iter();
        let counted = |holder: &Holder| before.holders.get(holder).copied().unwrap_or_default();
        holders.all(|(holder, times)| *times <= counted(holder))
            && Self {
                holders: before.holders.clone(),
                ..self.clone()
            } == *before
    }
}

/// Which volume of its name is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Of {
    pub(crate) pool: PoolName,
    /// The moment it was made.
    pub(crate) created: String,
}

impl Of {
    pub(crate) fn new(entry: &Entry) -> Self {
        Self {
            pool: entry.pool.name().clone(),
            created: entry.record.created.to_string(),
        }
    }

    /// Whether this is it. It may be in a pool that was given another name.
    pub(crate) fn is(&self, entry: &Entry) -> bool {
        self.created == entry.record.created.to_string()
    }
}

/// Everything known about one volume's use on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Attachment {
    pub(crate) staging: Option<Staging>,
    pub(crate) targets: BTreeMap<PathBuf, Publication>,
    /// Targets of an earlier boot, or daemon. The volume is not in use there, but what was made for it
    /// to be mounted upon is still to be removed.
    #[serde(default)]
    pub(crate) left: BTreeSet<PathBuf>,
    /// Of those, the ones that a person mounted, whom no orchestrator mounts again.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) unmounted: BTreeMap<PathBuf, Unmounted>,
    /// Which volume of its name it is. An ephemeral one is noted before it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) of: Option<Of>,
    /// The volume lives as long as its one consumer.
    #[serde(default)]
    pub(crate) ephemeral: bool,
    /// What the target of an ephemeral volume lies on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ground: Option<Ground>,
    /// The consumer of an ephemeral volume is gone, and the volume is being removed. That no target is
    /// noted does not say so: the state directory may be an empty one, its disk not being mounted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) ending: bool,
}

impl Attachment {
    /// Whether this says of no use that `before` did not.
    fn is_less_than(&self, before: &Self) -> bool {
        let staged = self.staging.is_none() || self.staging == before.staging;
        let mut targets = self.targets.iter();
        staged
            && targets
                .all(|(path, now)| before.targets.get(path).is_some_and(|p| now.is_at_most(p)))
            && (before.ephemeral || !self.ephemeral)
    }

    /// Whether the volume is not in use.
    pub(crate) fn is_empty(&self) -> bool {
        self.staging.is_none() && self.targets.is_empty()
    }

    /// Nothing in it can have outlived the machine but what is left of targets, and those of an
    /// ephemeral volume. `own` is where we stage for people.
    fn reboot(&mut self, own: &Path) {
        let staging = self.staging.take();
        if !self.ephemeral {
            let targets = std::mem::take(&mut self.targets);
            if let Some(staging) = staging.filter(|s| s.path == own) {
                let unmounted = |(path, p): (&PathBuf, &Publication)| {
                    (path.clone(), Unmounted::of(&staging, p))
                };
                // Whoever holds one mounts it again by itself.
                let by_a_person = targets.iter().filter(|(_, p)| p.holders.is_empty());
                self.unmounted.extend(by_a_person.map(unmounted));
            }
            self.left.extend(targets.into_keys());
            self.left.retain(|path| path.symlink_metadata().is_ok());
            let left = &self.left;
            self.unmounted.retain(|path, _| left.contains(path));
        }
    }

    /// The volume is not in use at these targets.
    pub(crate) fn leave(&mut self, over: Vec<PathBuf>) {
        for target in over {
            self.targets.remove(&target);
            if target.symlink_metadata().is_ok() {
                self.left.insert(target);
            }
        }
    }

    fn says_nothing(&self) -> bool {
        self.is_empty() && self.left.is_empty() && !self.ending
    }

    /// Every path the volume was handed out at.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        let staging = self
            .staging
            .iter()
            .filter(|s| !s.block)
            .map(|s| s.path.as_path());
        staging.chain(self.targets.keys().map(PathBuf::as_path))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    boot: String,
    #[serde(flatten)]
    attachment: Attachment,
}

/// The attachments of this boot.
#[derive(Clone)]
pub(crate) struct Attachments(Arc<Notes>);

struct Notes {
    dir: PathBuf,
    boot: String,
    known: Mutex<BTreeMap<Id, Attachment>>,
    unread: Mutex<BTreeMap<PathBuf, String>>,
    /// Those of which the files say more than is known, and why.
    late: Mutex<BTreeMap<Id, String>>,
}

impl Attachments {
    /// The notes in this directory; `boot` tells this boot of the machine from others.
    /// [`Attachments::load`] reads them.
    pub(crate) fn new(dir: PathBuf, boot: String) -> Self {
        Self(Arc::new(Notes {
            dir,
            boot,
            known: Mutex::default(),
            unread: Mutex::default(),
            late: Mutex::default(),
        }))
    }

    /// Read what is noted and not known yet, making the directory; for the start, and again while
    /// something could not be read. What is known then is newer than what is written.
    ///
    /// # Errors
    /// Internal when the directory cannot be made or read.
    pub(crate) fn load(&self) -> Result<()> {
        self.0.load()
    }

    /// The notes that cannot be read, and why.
    pub(crate) fn unread(&self) -> Vec<(PathBuf, String)> {
        let unread = self.0.unread().clone();
        unread.into_iter().collect()
    }

    /// Whether there is a note about this volume that cannot be read.
    pub(crate) fn is_unread(&self, id: &Id) -> bool {
        self.0.unread().contains_key(&self.0.path(id))
    }

    /// What is known about one volume.
    pub(crate) fn get(&self, id: &Id) -> Attachment {
        self.0.lock().get(id).cloned().unwrap_or_default()
    }

    /// What is known about every volume.
    pub(crate) fn all(&self) -> BTreeMap<Id, Attachment> {
        self.0.lock().clone()
    }

    /// The volumes whose uses ended and whose notes could not be written since, and why.
    pub(crate) fn late(&self) -> BTreeMap<Id, String> {
        self.0.late().clone()
    }

    /// Change what is known. It outlives the daemon, but a power cut only for an ephemeral volume,
    /// whose target then tells whether its consumer may return; the mounts that the others tell of
    /// are undone by the power cut as well.
    ///
    /// The end of a use cannot fail for the want of a block: it has happened. Where it cannot be
    /// written, the volume is [`Attachments::late`].
    ///
    /// # Errors
    /// Full or Internal when a use that begins cannot be written; nothing is changed then.
    pub(crate) async fn update(
        &self,
        id: &Id,
        change: impl FnOnce(&mut Attachment) + Send + 'static,
    ) -> Result<()> {
        let (notes, id) = (Arc::clone(&self.0), id.clone());
        blocking(move || notes.update(&id, change)).await
    }
}

impl Notes {
    fn load(&self) -> Result<()> {
        let dir = &self.dir;
        let failed = || format!("failed to read {}", dir.display());
        durable::create_dir(dir).or_internal(|| format!("failed to make {}", dir.display()))?;
        let mut unread = BTreeMap::new();
        for entry in std::fs::read_dir(dir).or_internal(failed)? {
            let path = entry.or_internal(failed)?.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            match self.read(&path) {
                Ok((id, file)) => self.enter(&path, &id, file),
                Err(e) => {
                    unread.insert(path, e.chain());
                }
            }
        }
        *self.unread() = unread;
        Ok(())
    }

    fn read(&self, path: &Path) -> Result<(Id, File)> {
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let id: Id = stem.unwrap_or_default().parse()?;
        let text = std::fs::read(path).or_internal(|| "it cannot be read".to_owned())?;
        if text.is_empty() {
            // What a power cut may leave of a note that was not synced; it undid the mounts, too.
            let (boot, attachment) = (String::new(), Attachment::default());
            return Ok((id, File { boot, attachment }));
        }
        let file = serde_json::from_slice(&text).or_internal(|| "it is damaged".to_owned())?;
        Ok((id, file))
    }

    fn enter(&self, path: &Path, id: &Id, mut file: File) {
        let mut known = self.lock();
        if known.contains_key(id) || self.late().contains_key(id) {
            return;
        }
        let attachment = &mut file.attachment;
        if attachment.ephemeral && attachment.targets.is_empty() && attachment.staging.is_some() {
            // Left by a version that noted no ending: the target was taken from the note first.
            attachment.ending = true;
        }
        if file.boot != self.boot {
            let staging = self.dir.parent().unwrap_or_else(|| Path::new("/"));
            let own = staging.join(OWN_STAGING).join(id.as_str());
            file.attachment.reboot(&own);
        }
        if !file.attachment.says_nothing() {
            known.insert(id.clone(), file.attachment);
        } else if let Err(e) = durable::remove_file(path) {
            // It says nothing the next time as well.
            tracing::warn!(path = %path.display(), error = %e, "a note that is over stays");
        }
    }

    fn path(&self, id: &Id) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }

    fn unread(&self) -> std::sync::MutexGuard<'_, BTreeMap<PathBuf, String>> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn late(&self) -> std::sync::MutexGuard<'_, BTreeMap<Id, String>> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, id: &Id, change: impl FnOnce(&mut Attachment)) -> Result<()> {
        let before = self.lock().get(id).cloned().unwrap_or_default();
        let mut attachment = before.clone();
        change(&mut attachment);
        let path = self.path(id);
        match self.write(&path, &attachment) {
            Ok(()) => {
                self.late().remove(id);
                self.unread().remove(&path);
            }
            Err(e) if attachment.is_less_than(&before) => {
                tracing::warn!(volume.id = %id, error = %e, source = %e.source, "the end of a use is not noted yet");
                // Better no note than one that tells of uses that are over; unlinking needs no block. Of an
                // inline volume that ends it stays: its target tells the next start that the pod is gone.
                if attachment.is_empty() && !attachment.ending {
                    let _ = durable::remove_file(&path);
                }
                self.late().insert(id.clone(), format!("{e}: {}", e.source));
            }
            Err(e) => {
                let what = format!("failed to note where {id} is attached");
                return Err(unwritten(e, &self.dir, what));
            }
        }
        let mut known = self.lock();
        match attachment.says_nothing() {
            true => drop(known.remove(id)),
            false => drop(known.insert(id.clone(), attachment)),
        }
        Ok(())
    }

    fn write(&self, path: &Path, attachment: &Attachment) -> Result<(), FsError> {
        if attachment.says_nothing() {
            return durable::remove_file(path);
        }
        let file = File {
            boot: self.boot.clone(),
            attachment: attachment.clone(),
        };
        let text = serde_json::to_vec(&file).map_err(|e| FsError::new("write", path, e))?;
        match attachment.ephemeral {
            true => durable::write_atomic(path, &text),
            false => durable::replace(path, &text),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Id, Attachment>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use stowage_model::{Name, id::Role};

    fn handed_out(a: &mut Attachment) {
        a.staging = Some(Staging {
            path: "/s".into(),
            block: false,
            options: vec!["noatime".into()],
            mode: AccessMode::SingleNodeWriter,
        });
        let publication = Publication {
            block: false,
            read_only: true,
            mode: AccessMode::SingleNodeMultiWriter,
            cgroup: None,
            holders: Holders::new(),
        };
        a.targets.insert("/t".into(), publication.clone());
        a.targets.insert("/dev/null".into(), publication);
    }

    #[tokio::test]
    async fn uses_survive_a_restart_and_a_reboot_only_the_targets_of_ephemeral_volumes() {
        let tmp = tempfile::tempdir().unwrap();
        let id = |name| Id::derive(Role::Volume, &Name::new(name).unwrap());
        let (lasting, ephemeral) = (id("a"), id("e"));
        let open = |boot: &str| {
            let notes = Attachments::new(tmp.path().join("a"), boot.to_owned());
            notes.load().unwrap();
            notes
        };
        let first = open("1");
        first.update(&lasting, handed_out).await.unwrap();
        let inline = |a: &mut Attachment| {
            handed_out(a);
            a.ephemeral = true;
        };
        first.update(&ephemeral, inline).await.unwrap();
        assert_eq!(open("1").all(), first.all());
        let rebooted = open("2");
        assert!(rebooted.get(&lasting).is_empty());
        assert_eq!(rebooted.get(&lasting).left, ["/dev/null".into()].into());
        assert!(
            rebooted.get(&lasting).unmounted.is_empty(),
            "not by a person"
        );
        assert_eq!(rebooted.get(&ephemeral).staging, None);
        assert_eq!(rebooted.get(&ephemeral).targets.len(), 2);
        // What is being removed goes on being removed.
        let end = |a: &mut Attachment| {
            a.targets.clear();
            a.ending = true;
        };
        rebooted.update(&ephemeral, end).await.unwrap();
        assert!(open("2").get(&ephemeral).ending && open("3").get(&ephemeral).ending);
        for id in [lasting, ephemeral] {
            let forget = |a: &mut Attachment| *a = Attachment::default();
            rebooted.update(&id, forget).await.unwrap();
        }
        assert!(open("2").all().is_empty());
    }

    #[tokio::test]
    async fn a_use_ends_though_that_cannot_be_written_and_none_begins() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("a");
        let notes = Attachments::new(dir.clone(), "1".to_owned());
        notes.load().unwrap();
        let id = Id::derive(Role::Volume, &Name::new("a").unwrap());
        notes.update(&id, handed_out).await.unwrap();
        let (note, away) = (dir.join(format!("{id}.json")), tmp.path().join("note"));
        // A directory with something in it is replaced by no file.
        let block = || {
            std::fs::rename(&note, &away).unwrap();
            std::fs::create_dir_all(note.join("x")).unwrap();
        };
        let unblock = || {
            std::fs::remove_dir_all(&note).unwrap();
            std::fs::rename(&away, &note).unwrap();
        };
        block();
        let more = |a: &mut Attachment| {
            let publication = a.targets.values().next().cloned().unwrap();
            a.targets.insert("/more".into(), publication);
        };
        notes.update(&id, more).await.unwrap_err();
        assert_eq!(notes.get(&id).targets.len(), 2);
        let less = |a: &mut Attachment| drop(a.targets.remove(Path::new("/t")));
        notes.update(&id, less).await.unwrap();
        assert_eq!(notes.get(&id).targets.len(), 1);
        assert_eq!(notes.late().len(), 1);
        unblock();
        // It is not known anew by what is written.
        notes.load().unwrap();
        assert_eq!(notes.get(&id).targets.len(), 1);
        notes.update(&id, |_| ()).await.unwrap();
        assert!(notes.late().is_empty());
        block();
        let none = |a: &mut Attachment| *a = Attachment::default();
        notes.update(&id, none).await.unwrap();
        unblock();
        notes.load().unwrap();
        assert!(notes.all().is_empty());
        notes.update(&id, |_| ()).await.unwrap();
        assert!(notes.late().is_empty() && !note.exists());
    }

    #[test]
    fn an_inline_volume_that_an_earlier_version_was_removing_is_known_to_end() {
        let tmp = tempfile::tempdir().unwrap();
        let id = Id::derive(Role::Volume, &Name::new("e").unwrap());
        std::fs::create_dir(tmp.path().join("a")).unwrap();
        let note = r#"{"boot":"1","staging":{"path":"/s","block":false,"options":[],
            "mode":"single-node-writer"},"targets":{},"left":[],"ephemeral":true}"#;
        for boot in ["1", "2"] {
            std::fs::write(tmp.path().join(format!("a/{id}.json")), note).unwrap();
            let notes = Attachments::new(tmp.path().join("a"), boot.to_owned());
            notes.load().unwrap();
            assert!(notes.get(&id).ending, "{boot}: {:?}", notes.unread());
        }
    }

    #[test]
    fn a_mount_that_a_person_made_is_made_again_by_the_command_that_is_told() {
        let mut a = Attachment::default();
        handed_out(&mut a);
        a.reboot(Path::new("/s"));
        let all: Vec<String> = a
            .unmounted
            .iter()
            .map(|(t, u)| u.command("my v", t))
            .collect();
        let told = "stowage volume mount 'my v' /dev/null --option noatime --read-only";
        assert_eq!(all, [told], "and none at /t, which is not there");
    }
}
