//! The truth about a volume or snapshot, as it is kept on the disk beside its bytes: LV tags in a
//! volume group, a small file in a file pool. Every index is rebuilt from these records, so they
//! carry all that cannot be read off the device itself (the real size can, and is not here).
//!
//! The wire form is a flat map of text to text, with a version. Readers ignore keys they do not
//! know within a version; a new version means an old reader would get it wrong.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::id::Door;
use crate::request::{Layout, Provisioning, SnapshotGrowth, Usage};
use crate::{Bytes, Error, Fingerprint, FsType, Id, Limits, Name, Result, VolumeSpec};

/// The version of the wire form written here.
pub const VERSION: &str = "1";

/// What the bytes of a volume are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Never handed out: made blank by us and nobody has written to it.
    Blank,
    /// Holds this file system; it must never be made again.
    FileSystem(FsType),
    /// Holds a copy of another volume's file system that still bears the same UUID, which keeps
    /// it from being mounted beside its source (btrfs); it gets its own before its first mount.
    Twin(FsType),
    /// Handed out as a raw device, so its bytes belong to the consumer whatever they look like.
    Raw,
    /// Being filled from its source; not usable, and made anew when the filling was interrupted.
    Filling,
}

impl Content {
    /// The file system on the volume, if there is one.
    pub fn file_system(self) -> Option<FsType> {
        match self {
            Content::FileSystem(fs) | Content::Twin(fs) => Some(fs),
            Content::Blank | Content::Raw | Content::Filling => None,
        }
    }

    /// What a copy of these bytes holds.
    #[must_use]
    pub fn copied(self) -> Self {
        match self {
            Content::FileSystem(FsType::Btrfs) => Content::Twin(FsType::Btrfs),
            same => same,
        }
    }

    fn to_text(self) -> String {
        match self {
            Content::Blank => "blank".to_owned(),
            Content::FileSystem(fs) => fs.to_string(),
            Content::Twin(fs) => format!("twin-{fs}"),
            Content::Raw => "raw".to_owned(),
            Content::Filling => "filling".to_owned(),
        }
    }

    fn from_text(text: &str) -> Result<Self> {
        Ok(match text {
            "blank" => Content::Blank,
            "raw" => Content::Raw,
            "filling" => Content::Filling,
            fs => match fs.strip_prefix("twin-") {
                Some(fs) => Content::Twin(fs.parse()?),
                None => Content::FileSystem(fs.parse()?),
            },
        })
    }
}

/// The group a snapshot was cut in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The group.
    pub group: Id,
    /// How many members it must have; fewer on the disk means the cut was interrupted.
    pub of: usize,
}

/// All that is written about one volume or snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its id; says whether it is a volume or a snapshot.
    pub id: Id,
    /// The name its caller gave.
    pub name: Name,
    /// The size its caller asked for when it was made.
    pub asked: Bytes,
    /// When it was made or cut; never moves.
    pub created: Timestamp,
    /// How it may be used.
    pub usage: Usage,
    /// What its bytes are.
    pub content: Content,
    /// Device size the file system was last made or grown for; 0 when there is none.
    pub fs_bytes: Bytes,
    /// Checked mkfs arguments.
    pub mkfs: Vec<String>,
    /// Layout of a thick logical volume.
    pub layout: Layout,
    /// Thick or thin in a file pool.
    pub provisioning: Provisioning,
    /// I/O limits.
    pub limits: Limits,
    /// Where its first bytes came from, or the volume a snapshot was cut from.
    pub source: Option<Id>,
    /// Of the request that made it.
    pub fingerprint: Fingerprint,
    /// Only ever read.
    pub read_only: bool,
    /// Lives and dies with one target path.
    pub ephemeral: bool,
    /// The group of a snapshot.
    pub group: Option<Membership>,
    /// Growth of a copy-on-write snapshot's store.
    pub growth: Option<SnapshotGrowth>,
    /// Why this build knows only a part of it: a newer one wrote it, or some of it is damaged. Who it is
    /// is known, nothing else is believed, and it is never written back.
    pub beyond: Option<String>,
}

impl Record {
    /// The record of a blank volume that follows from a request.
    pub fn for_volume(id: Id, want: &VolumeSpec, created: Timestamp) -> Self {
        Self {
            id,
            name: want.name.clone(),
            asked: want.size.required,
            created,
            usage: want.usage,
            content: Content::Blank,
            fs_bytes: Bytes(0),
            mkfs: want.mkfs.clone(),
            layout: want.layout,
            provisioning: want.provisioning,
            limits: want.limits,
            source: want.source.as_ref().map(|s| s.id().clone()),
            fingerprint: Fingerprint::of(want),
            read_only: want.read_only,
            ephemeral: false,
            group: None,
            growth: None,
            beyond: None,
        }
    }

    /// The record of a snapshot of this volume.
    pub fn snapshot(&self, id: Id, name: Name, size: Bytes, created: Timestamp) -> Self {
        Self {
            id,
            name,
            asked: size,
            created,
            limits: Limits::default(),
            source: Some(self.id.clone()),
            fingerprint: Fingerprint::default(),
            ephemeral: false,
            ..self.clone()
        }
    }

    /// Whether this is a snapshot.
    pub fn is_snapshot(&self) -> bool {
        self.id.role() == crate::id::Role::Snapshot
    }

    /// The flat form, sorted by key.
    pub fn to_pairs(&self) -> BTreeMap<&'static str, String> {
        let mut pairs = BTreeMap::from([
            ("version", VERSION.to_owned()),
            ("id", self.id.to_string()),
            ("name", self.name.as_str().to_owned()),
            ("asked", self.asked.0.to_string()),
            ("created", self.created.to_string()),
            ("content", self.content.to_text()),
            ("layout", self.layout.as_str().to_owned()),
            ("provisioning", self.provisioning.as_str().to_owned()),
            ("fingerprint", self.fingerprint.as_str().to_owned()),
        ]);
        let mut put = |key, value: Option<String>| {
            if let Some(value) = value.filter(|v| !v.is_empty()) {
                pairs.insert(key, value);
            }
        };
        put("door", self.name.door().word().map(str::to_owned));
        put("fs", self.usage.mount.map(|fs| fs.to_string()));
        put("block", self.usage.block.then(|| "yes".to_owned()));
        put(
            "fs-bytes",
            (self.fs_bytes.0 > 0).then(|| self.fs_bytes.0.to_string()),
        );
        put("mkfs", Some(self.mkfs.join(" ")));
        put("limits", Some(self.limits.to_text()));
        put("source", self.source.as_ref().map(ToString::to_string));
        put("read-only", self.read_only.then(|| "yes".to_owned()));
        put("ephemeral", self.ephemeral.then(|| "yes".to_owned()));
        put(
            "group",
            self.group.as_ref().map(|m| format!("{}:{}", m.group, m.of)),
        );
        put(
            "growth",
            self.growth
                .map(|g| format!("{}:{}:{}", g.initial.0, g.threshold, g.step.0)),
        );
        pairs
    }

    /// Read the flat form back. Who it is must be readable; where anything else is not, or is of a version
    /// to come, the record says so ([`Record::beyond`]) and nothing of the rest is believed.
    ///
    /// # Errors
    /// [`crate::Kind::Internal`] naming the key that is missing or unreadable; the caller reports the
    /// volume and leaves it alone.
    pub fn from_pairs(pairs: &BTreeMap<String, String>) -> Result<Self> {
        let pairs = Pairs(pairs);
        let version = pairs.need("version")?;
        let known = Self::known(&pairs)?;
        if version != VERSION {
            let beyond =
                format!("its record has version {version:?}; this build reads version {VERSION}");
            return Ok(Self {
                beyond: Some(beyond),
                ..known
            });
        }
        Ok(match Self::all(&pairs, &known) {
            Ok(record) => record,
            Err(e) => Self {
                beyond: Some(e.message().to_owned()),
                ..known
            },
        })
    }

    /// Who it is, and of the rest what does no harm.
    fn known(pairs: &Pairs<'_>) -> Result<Self> {
        let door = match pairs.get("door") {
            None => Door::default(),
            Some(word) => Door::new(word).map_err(|_| pairs.unreadable("door"))?,
        };
        Ok(Self {
            id: pairs.read("id")?,
            name: Name::at(door, pairs.need("name")?).map_err(|_| pairs.unreadable("name"))?,
            asked: Bytes(0),
            created: pairs.read("created")?,
            usage: Usage {
                mount: None,
                block: false,
            },
            // Whose bytes are never formatted, checked or grown.
            content: Content::Raw,
            fs_bytes: Bytes(0),
            mkfs: Vec::new(),
            layout: Layout::Linear,
            // Whose space counts in full.
            provisioning: Provisioning::Thick,
            limits: Limits::default(),
            source: pairs.get("source").and_then(|id| id.parse().ok()),
            fingerprint: Fingerprint::default(),
            read_only: false,
            ephemeral: false,
            group: None,
            growth: None,
            beyond: None,
        })
    }

    fn all(pairs: &Pairs<'_>, known: &Self) -> Result<Self> {
        let number = |key: &str| match pairs.get(key) {
            None => Ok(Bytes(0)),
            Some(text) => text.parse().map(Bytes).map_err(|_| pairs.unreadable(key)),
        };
        let growth = |text: &str| {
            let mut parts = text.split(':').map(str::parse::<u64>);
            let mut next = || parts.next()?.ok();
            Some(SnapshotGrowth {
                initial: Bytes(next()?),
                threshold: u8::try_from(next()?).ok()?,
                step: Bytes(next()?),
            })
        };
        let group = |text: &str| {
            let (group, of) = text.split_once(':')?;
            Some(Membership {
                group: group.parse().ok()?,
                of: of.parse().ok()?,
            })
        };
        let mkfs = pairs.get("mkfs").unwrap_or_default().split(' ');
        Ok(Self {
            id: known.id.clone(),
            name: known.name.clone(),
            asked: number("asked")?,
            created: known.created,
            usage: Usage {
                mount: pairs.read_if("fs", |fs| fs.parse().ok())?,
                block: pairs.get("block").is_some(),
            },
            content: Content::from_text(pairs.need("content")?)
                .map_err(|_| pairs.unreadable("content"))?,
            fs_bytes: number("fs-bytes")?,
            mkfs: mkfs.filter(|w| !w.is_empty()).map(str::to_owned).collect(),
            layout: pairs.read("layout")?,
            provisioning: pairs.read("provisioning")?,
            limits: Limits::from_text(pairs.get("limits").unwrap_or_default())
                .map_err(|_| pairs.unreadable("limits"))?,
            source: pairs.read_if("source", |id| id.parse().ok())?,
            fingerprint: Fingerprint::from_text(pairs.need("fingerprint")?),
            read_only: pairs.get("read-only").is_some(),
            ephemeral: pairs.get("ephemeral").is_some(),
            group: pairs.read_if("group", group)?,
            growth: pairs.read_if("growth", growth)?,
            beyond: None,
        })
    }
}

/// The flat form, and the errors of reading it.
struct Pairs<'a>(&'a BTreeMap<String, String>);

impl Pairs<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    fn need(&self, key: &str) -> Result<&str> {
        let lacks = || Error::internal(format!("its record lacks the key {key:?}"));
        self.get(key).ok_or_else(lacks)
    }

    fn unreadable(&self, key: &str) -> Error {
        let value = self.get(key).unwrap_or_default();
        Error::internal(format!("its record holds an unreadable {key:?}: {value:?}"))
    }

    /// A key that must be there.
    fn read<T: std::str::FromStr>(&self, key: &str) -> Result<T> {
        self.need(key)?.parse().map_err(|_| self.unreadable(key))
    }

    /// A key that may be left out.
    fn read_if<T>(&self, key: &str, read: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>> {
        self.get(key)
            .map(|text| read(text).ok_or_else(|| self.unreadable(key)))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Role;

    fn sample() -> Record {
        let name = Name::at(Door::new("docker").unwrap(), "pvc ü $(x)").unwrap();
        Record {
            id: Id::derive(Role::Snapshot, &name),
            asked: Bytes::gib(3),
            created: "2026-11-21T10:00:00.123456789Z".parse().unwrap(),
            usage: Usage {
                mount: Some(FsType::Xfs),
                block: true,
            },
            content: Content::FileSystem(FsType::Xfs),
            fs_bytes: Bytes::gib(1),
            mkfs: vec!["-K".into(), "-i".into(), "size=512".into()],
            layout: Layout::Raid1,
            provisioning: Provisioning::Thin,
            limits: Limits {
                read_bps: Some(1),
                ..Limits::default()
            },
            source: Some(Id::derive(Role::Volume, &name)),
            fingerprint: Fingerprint::from_text("00ff"),
            read_only: true,
            ephemeral: true,
            group: Some(Membership {
                group: Id::derive(Role::Group, &name),
                of: 2,
            }),
            growth: Some(SnapshotGrowth::default()),
            beyond: None,
            name,
        }
    }

    fn owned(record: &Record) -> BTreeMap<String, String> {
        record
            .to_pairs()
            .into_iter()
            .map(|(k, v)| (k.to_owned(), v))
            .collect()
    }

    #[test]
    fn a_record_survives_the_disk() {
        let full = sample();
        assert_eq!(Record::from_pairs(&owned(&full)).unwrap(), full);
        let bare = Record {
            usage: Usage {
                mount: None,
                block: false,
            },
            content: Content::Twin(FsType::Btrfs),
            fs_bytes: Bytes(0),
            mkfs: vec![],
            limits: Limits::default(),
            source: None,
            fingerprint: Fingerprint::default(),
            read_only: false,
            ephemeral: false,
            group: None,
            growth: None,
            ..full
        };
        assert_eq!(Record::from_pairs(&owned(&bare)).unwrap(), bare);
    }

    #[test]
    fn whoever_cannot_be_told_is_no_record_and_the_key_is_named() {
        let good = owned(&sample());
        for key in ["version", "id", "name", "door", "created"] {
            let mut bad = good.clone();
            if key != "version" {
                bad.insert(key.to_owned(), "\u{1}?".into());
                let e = Record::from_pairs(&bad).unwrap_err();
                assert!(e.message().contains(key), "{key}: {e}");
            }
            bad.remove(key);
            if key != "door" {
                let e = Record::from_pairs(&bad).unwrap_err();
                assert!(e.message().contains(key), "{key}: {e}");
            }
        }
    }

    #[test]
    fn of_what_is_damaged_or_of_a_version_to_come_only_who_it_is_is_believed() {
        let good = owned(&sample());
        let only_who = |pairs: &BTreeMap<String, String>, why: &str| {
            let record = Record::from_pairs(pairs).unwrap();
            let told = record.beyond.clone().unwrap();
            assert!(told.contains(why), "{why}: {told}");
            let sample = sample();
            assert_eq!((&record.id, &record.name), (&sample.id, &sample.name));
            assert_eq!(record.created, sample.created);
            // Nothing that would format it, promise its space to others or take it away.
            assert_eq!(record.content, Content::Raw);
            assert_eq!(record.provisioning, Provisioning::Thick);
            assert!(!record.ephemeral && record.mkfs.is_empty());
        };
        let words = ["version", "id", "name", "door", "created"];
        let any = ["block", "read-only", "ephemeral", "mkfs", "fingerprint"];
        for key in good.keys() {
            let key = key.as_str();
            if words.contains(&key) || any.contains(&key) {
                continue;
            }
            let mut bad = good.clone();
            bad.insert(key.to_owned(), "f2fs".into());
            only_who(&bad, key);
        }
        for key in ["content", "layout", "provisioning", "fingerprint"] {
            let mut bad = good.clone();
            bad.remove(key);
            only_who(&bad, key);
        }
        let mut newer = good;
        newer.insert("version".into(), "2".into());
        only_who(&newer, "version \"2\"");
    }

    #[test]
    fn unknown_keys_are_left_for_later_readers() {
        let mut pairs = owned(&sample());
        pairs.insert("colour".into(), "blue".into());
        assert!(Record::from_pairs(&pairs).is_ok());
    }
}
