//! Intentions written down before a step that a kill could leave half done, one small file per
//! volume under `<state>/journal`. Where a pool's own record would cost a command (an LV tag), a
//! changed record is written here first and carried into the pool in the background.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stowage_host::{FsError, durable};
use stowage_model::error::Context;
use stowage_model::{Error, Id, PoolName, Record, Result};

/// What was about to happen, or has happened and is not yet in the pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Intent {
    /// The volume or snapshot is being made in this pool, and nobody was told that it exists: what
    /// is there of it may not be blank yet, and goes.
    Create {
        /// The pool.
        pool: PoolName,
        /// The flat form of its record. By the moment in it is it told from another of its name.
        pairs: BTreeMap<String, String>,
    },
    /// As [`Intent::Mkfs`], by a version that did not note of which volume of the name.
    Format,
    /// mkfs is running on a volume that was provably blank; whatever it left may be overwritten.
    Mkfs {
        /// The pool.
        pool: PoolName,
        /// The flat form of its record.
        pairs: BTreeMap<String, String>,
    },
    /// This record is true, whatever the pool says.
    Record {
        /// The pool; versions before did not note it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pool: Option<PoolName>,
        /// The record's flat form.
        pairs: BTreeMap<String, String>,
    },
    /// Noted by the id of a group of snapshots: it is being cut, and nobody was told that it exists, or
    /// is being removed. What is there of these goes.
    Group {
        /// Its members.
        members: Vec<Member>,
    },
}

/// One snapshot of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Member {
    pool: PoolName,
    /// The flat form of its record.
    pairs: BTreeMap<String, String>,
}

impl Intent {
    /// The intent to carry this record into the pool.
    pub(crate) fn record(pool: &PoolName, record: &Record) -> Self {
        Intent::Record {
            pool: Some(pool.clone()),
            pairs: owned(record),
        }
    }

    /// That mkfs is about to run on this volume.
    pub(crate) fn mkfs(pool: &PoolName, record: &Record) -> Self {
        Intent::Mkfs {
            pool: pool.clone(),
            pairs: owned(record),
        }
    }

    /// That these snapshots, a group, are about to be cut or removed.
    pub(crate) fn group<'a>(members: impl IntoIterator<Item = (&'a PoolName, &'a Record)>) -> Self {
        let member = |(pool, record): (&PoolName, &Record)| Member {
            pool: pool.clone(),
            pairs: owned(record),
        };
        Intent::Group {
            members: members.into_iter().map(member).collect(),
        }
    }

    /// The pools that it is about, where it says so.
    pub(crate) fn pools(&self) -> Vec<&PoolName> {
        match self {
            Intent::Create { pool, .. } | Intent::Mkfs { pool, .. } => vec![pool],
            Intent::Record { pool, .. } => pool.iter().collect(),
            Intent::Group { members } => members.iter().map(|member| &member.pool).collect(),
            Intent::Format => Vec::new(),
        }
    }

    /// Whether this is one of the snapshots of the group that it is about.
    pub(crate) fn names(&self, snapshot: &Record) -> bool {
        let Intent::Group { members } = self else {
            return false;
        };
        members.iter().any(|member| {
            Record::from_pairs(&member.pairs)
                .is_ok_and(|noted| noted.id == snapshot.id && noted.created == snapshot.created)
        })
    }

    /// Whether it is about this very volume, and not another of its name.
    pub(crate) fn is_of(&self, record: &Record) -> bool {
        match self {
            Intent::Create { pairs, .. }
            | Intent::Mkfs { pairs, .. }
            | Intent::Record { pairs, .. } => {
                Record::from_pairs(pairs).is_ok_and(|noted| noted.created == record.created)
            }
            Intent::Format => true,
            Intent::Group { .. } => false,
        }
    }

    /// The intent to make what this record tells of in this pool.
    pub(crate) fn create(pool: &PoolName, record: &Record) -> Self {
        Intent::Create {
            pool: pool.clone(),
            pairs: owned(record),
        }
    }
}

fn owned(record: &Record) -> BTreeMap<String, String> {
    let pairs = record.to_pairs().into_iter();
    pairs.map(|(k, v)| (k.to_owned(), v)).collect()
}

/// The directory of intentions.
pub(crate) struct Journal {
    dir: PathBuf,
}

impl Journal {
    /// The journal in this directory, which [`Journal::prepare`] makes.
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Make the directory; at the start, before anything is written.
    ///
    /// # Errors
    /// Internal when it cannot be made, or what a kill left half written not removed.
    pub(crate) fn prepare(&self) -> Result<()> {
        let dir = &self.dir;
        durable::create_dir(dir).or_internal(|| format!("failed to make {}", dir.display()))?;
        durable::sweep(dir).or_internal(|| format!("failed to clean {}", dir.display()))
    }

    /// Write an intention down; it is on the disk when this returns.
    ///
    /// # Errors
    /// Full or Internal when it cannot be written.
    pub(crate) fn write(&self, id: &Id, intent: &Intent) -> Result<()> {
        let text = serde_json::to_vec(intent).or_internal(|| format!("failed to note {id}"))?;
        durable::write_atomic(&self.path(id), &text).map_err(|e| {
            let what = format!("failed to write the journal entry of {id}");
            unwritten(e, &self.dir, what)
        })
    }

    /// Forget an intention, if there is one.
    ///
    /// # Errors
    /// Internal when it cannot be removed.
    pub(crate) fn clear(&self, id: &Id) -> Result<()> {
        durable::remove_file(&self.path(id))
            .or_internal(|| format!("failed to clear the journal entry of {id}"))
    }

    /// What is written down about one volume.
    ///
    /// # Errors
    /// Internal when there is something that cannot be read.
    pub(crate) fn read(&self, id: &Id) -> Result<Option<Intent>> {
        let failed = || format!("failed to read the journal entry of {id}");
        match std::fs::read(self.path(id)) {
            Ok(text) => serde_json::from_slice(&text).map(Some).or_internal(failed),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::internal(failed()).caused_by(e)),
        }
    }

    /// Everything written down. Entries that cannot be read are answered as their paths.
    ///
    /// # Errors
    /// Internal when the directory cannot be read.
    pub(crate) fn load(&self) -> Result<(BTreeMap<Id, Intent>, Vec<String>)> {
        let failed = |e| FsError::new("read directory", &self.dir, e);
        let entries = match std::fs::read_dir(&self.dir) {
            // It could not be made.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Default::default()),
            entries => entries
                .map_err(failed)
                .or_internal(|| "failed to read the journal".to_owned())?,
        };
        let mut intents = BTreeMap::new();
        let mut unreadable = Vec::new();
        for entry in entries {
            let entry = entry.or_internal(|| "failed to read the journal".to_owned())?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let read = name
                .strip_suffix(".json")
                .and_then(|stem| stem.parse::<Id>().ok())
                .zip(std::fs::read(entry.path()).ok())
                .and_then(|(id, text)| Some((id, serde_json::from_slice(&text).ok()?)));
            match read {
                Some((id, intent)) => {
                    intents.insert(id, intent);
                }
                None => unreadable.push(entry.path().display().to_string()),
            }
        }
        Ok((intents, unreadable))
    }

    fn path(&self, id: &Id) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }
}

/// The error of a write below the state directory.
pub(crate) fn unwritten(e: FsError, dir: &Path, what: String) -> Error {
    match e.is_no_space() {
        true => Error::full(format!(
            "{what}: the file system of {} is full. Volumes can be unmounted and deleted all the \
             same; make room there, then ask again",
            dir.display()
        ))
        .caused_by(e),
        false => Error::internal(what).caused_by(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stowage_model::{Name, id::Role};

    #[test]
    fn what_earlier_versions_noted_is_read() {
        let tmp = tempfile::tempdir().unwrap();
        let journal = Journal::new(tmp.path().join("journal"));
        journal.prepare().unwrap();
        let id = Id::derive(Role::Volume, &Name::new("a").unwrap());
        let pairs = BTreeMap::from([("name".to_owned(), "a".to_owned())]);
        for (text, intent) in [
            (r#""format""#, Intent::Format),
            (
                r#"{"record":{"pairs":{"name":"a"}}}"#,
                Intent::Record { pool: None, pairs },
            ),
        ] {
            std::fs::write(journal.path(&id), text).unwrap();
            assert_eq!(journal.read(&id).unwrap(), Some(intent));
        }
    }

    #[test]
    fn intentions_survive_a_restart_and_damage_is_reported() {
        let tmp = tempfile::tempdir().unwrap();
        let journal = Journal::new(tmp.path().join("journal"));
        assert!(journal.load().unwrap().0.is_empty());
        journal.prepare().unwrap();
        let id = Id::derive(Role::Volume, &Name::new("a").unwrap());
        journal
            .write(
                &id,
                &Intent::Create {
                    pool: PoolName::new("p").unwrap(),
                    pairs: BTreeMap::new(),
                },
            )
            .unwrap();
        journal.write(&id, &Intent::Format).unwrap();
        std::fs::write(tmp.path().join("journal/junk.json"), "{").unwrap();
        let again = Journal::new(tmp.path().join("journal"));
        again.prepare().unwrap();
        let (intents, unreadable) = again.load().unwrap();
        assert_eq!(intents.get(&id), Some(&Intent::Format));
        assert_eq!(unreadable.len(), 1);
        assert_eq!(again.read(&id).unwrap(), Some(Intent::Format));
        again.clear(&id).unwrap();
        again.clear(&id).unwrap();
        assert!(again.load().unwrap().0.is_empty());
    }
}
