//! Where each volume was handed out and how: the arguments behind the kernel's mount table, kept
//! under `<state>/attachments` so that they are known after a restart of the daemon. The mount
//! table stays the truth about what *is* mounted; this says what was *asked*. Written before the
//! act. After a reboot nothing is mounted, and only the targets of ephemeral volumes still matter.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use stowage_host::{FsError, durable};
use stowage_model::error::Context;
use stowage_model::request::{Access, AccessMode};
use stowage_model::{Id, Result};

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

/// How a volume was handed to one consumer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Publication {
    pub(crate) block: bool,
    pub(crate) read_only: bool,
    pub(crate) mode: AccessMode,
    /// The consumer's cgroup, once known.
    pub(crate) cgroup: Option<PathBuf>,
}

/// Everything known about one volume's use on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Attachment {
    pub(crate) staging: Option<Staging>,
    pub(crate) targets: BTreeMap<PathBuf, Publication>,
}

impl Attachment {
    pub(crate) fn is_empty(&self) -> bool {
        self.staging.is_none() && self.targets.is_empty()
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
pub(crate) struct Attachments {
    dir: PathBuf,
    boot: String,
    known: Mutex<BTreeMap<Id, Attachment>>,
}

impl Attachments {
    /// Load what is known; `boot` tells this boot of the machine from others.
    ///
    /// # Errors
    /// Internal when the directory cannot be made or read.
    pub(crate) fn open(dir: PathBuf, boot: String) -> Result<Self> {
        durable::create_dir(&dir).or_internal(|| format!("failed to make {}", dir.display()))?;
        durable::sweep(&dir).or_internal(|| format!("failed to clean {}", dir.display()))?;
        let mut known = BTreeMap::new();
        let failed = || format!("failed to read {}", dir.display());
        for entry in std::fs::read_dir(&dir).or_internal(failed)? {
            let path = entry.or_internal(failed)?.path();
            let id = path
                .file_stem()
                .and_then(|s| s.to_str())
                .and_then(|s| s.parse::<Id>().ok());
            let read = std::fs::read(&path)
                .ok()
                .and_then(|text| serde_json::from_slice::<File>(&text).ok());
            let Some((id, mut file)) = id.zip(read) else {
                tracing::warn!(path = %path.display(), "unreadable attachment record, ignored");
                continue;
            };
            if file.boot != boot {
                file.attachment.staging = None;
            }
            known.insert(id, file.attachment);
        }
        Ok(Self {
            dir,
            boot,
            known: Mutex::new(known),
        })
    }

    /// What is known about one volume.
    pub(crate) fn get(&self, id: &Id) -> Attachment {
        self.lock().get(id).cloned().unwrap_or_default()
    }

    /// What is known about every volume.
    pub(crate) fn all(&self) -> BTreeMap<Id, Attachment> {
        self.lock().clone()
    }

    /// Change what is known. It outlives the daemon, but not a power cut, which undoes the mounts
    /// it tells of as well.
    ///
    /// # Errors
    /// Internal when it cannot be written.
    pub(crate) fn update(&self, id: &Id, change: impl FnOnce(&mut Attachment)) -> Result<()> {
        self.write(id, change, durable::replace)
    }

    /// Change what is known of an ephemeral volume: after a power cut its target still tells
    /// whether its consumer may come back.
    ///
    /// # Errors
    /// Internal when it cannot be written.
    pub(crate) fn update_durably(
        &self,
        id: &Id,
        change: impl FnOnce(&mut Attachment),
    ) -> Result<()> {
        self.write(id, change, durable::write_atomic)
    }

    fn write(
        &self,
        id: &Id,
        change: impl FnOnce(&mut Attachment),
        write: impl FnOnce(&Path, &[u8]) -> std::result::Result<(), FsError>,
    ) -> Result<()> {
        let mut attachment = self.get(id);
        change(&mut attachment);
        let path = self.dir.join(format!("{id}.json"));
        let failed = || format!("failed to note where {id} is attached");
        if attachment.is_empty() {
            durable::remove_file(&path).or_internal(failed)?;
            self.lock().remove(id);
            return Ok(());
        }
        let file = File {
            boot: self.boot.clone(),
            attachment,
        };
        let text = serde_json::to_vec(&file).or_internal(failed)?;
        write(&path, &text).or_internal(failed)?;
        self.lock().insert(id.clone(), file.attachment);
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Id, Attachment>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stowage_model::{Name, id::Role};

    fn publication() -> Publication {
        Publication {
            block: false,
            read_only: true,
            mode: AccessMode::SingleNodeMultiWriter,
            cgroup: None,
        }
    }

    #[test]
    fn uses_survive_a_restart_but_staging_not_a_reboot() {
        let tmp = tempfile::tempdir().unwrap();
        let id = Id::derive(Role::Volume, &Name::new("a").unwrap());
        let open = |boot: &str| Attachments::open(tmp.path().join("a"), boot.to_owned()).unwrap();
        let staging = Staging {
            path: "/s".into(),
            block: false,
            options: vec!["noatime".into()],
            mode: AccessMode::SingleNodeWriter,
        };
        open("1")
            .update(&id, |a| {
                a.staging = Some(staging.clone());
                a.targets.insert("/t".into(), publication());
            })
            .unwrap();
        assert_eq!(open("1").get(&id).staging, Some(staging));
        let rebooted = open("2");
        assert_eq!(rebooted.get(&id).staging, None);
        assert_eq!(rebooted.get(&id).targets.len(), 1);
        rebooted.update(&id, |a| a.targets.clear()).unwrap();
        assert!(open("2").all().is_empty());
    }
}
