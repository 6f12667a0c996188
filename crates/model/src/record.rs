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

    /// Read the flat form back.
    ///
    /// # Errors
    /// [`crate::Kind::Internal`] naming the key that is missing or unreadable, and an unknown
    /// version; the caller reports the volume and leaves it alone.
    pub fn from_pairs(pairs: &BTreeMap<String, String>) -> Result<Self> {
        let get = |key: &str| pairs.get(key).map(String::as_str);
        let need = |key: &str| {
            get(key).ok_or_else(|| Error::internal(format!("its record lacks the key {key:?}")))
        };
        let unreadable = |key: &str| {
            let value = get(key).unwrap_or_default();
            Error::internal(format!("its record holds an unreadable {key:?}: {value:?}"))
        };
        let number = |key: &str| match get(key) {
            None => Ok(Bytes(0)),
            Some(text) => text.parse().map(Bytes).map_err(|_| unreadable(key)),
        };
        if need("version")? != VERSION {
            return Err(Error::internal(format!(
                "its record has version {:?}; this build reads version {VERSION}",
                need("version")?
            )));
        }
        let growth = get("growth").map(|text| {
            let mut parts = text.split(':').map(str::parse::<u64>);
            let mut next = || parts.next()?.ok();
            Some(SnapshotGrowth {
                initial: Bytes(next()?),
                threshold: u8::try_from(next()?).ok()?,
                step: Bytes(next()?),
            })
        });
        let group = get("group").map(|text| {
            let (group, of) = text.split_once(':')?;
            Some(Membership {
                group: group.parse().ok()?,
                of: of.parse().ok()?,
            })
        });
        Ok(Self {
            id: need("id")?.parse().map_err(|_| unreadable("id"))?,
            name: Name::at(
                match get("door") {
                    None => Door::default(),
                    Some(word) => Door::new(word).map_err(|_| unreadable("door"))?,
                },
                need("name")?,
            )
            .map_err(|_| unreadable("name"))?,
            asked: number("asked")?,
            created: need("created")?
                .parse()
                .map_err(|_| unreadable("created"))?,
            usage: Usage {
                mount: get("fs")
                    .map(|fs| fs.parse().map_err(|_| unreadable("fs")))
                    .transpose()?,
                block: get("block").is_some(),
            },
            content: Content::from_text(need("content")?).map_err(|_| unreadable("content"))?,
            fs_bytes: number("fs-bytes")?,
            mkfs: get("mkfs")
                .unwrap_or_default()
                .split(' ')
                .filter(|w| !w.is_empty())
                .map(str::to_owned)
                .collect(),
            layout: need("layout")?.parse().map_err(|_| unreadable("layout"))?,
            provisioning: need("provisioning")?
                .parse()
                .map_err(|_| unreadable("provisioning"))?,
            limits: Limits::from_text(get("limits").unwrap_or_default())
                .map_err(|_| unreadable("limits"))?,
            source: get("source")
                .map(|s| s.parse().map_err(|_| unreadable("source")))
                .transpose()?,
            fingerprint: Fingerprint::from_text(need("fingerprint")?),
            read_only: get("read-only").is_some(),
            ephemeral: get("ephemeral").is_some(),
            group: match group {
                None => None,
                Some(read) => Some(read.ok_or_else(|| unreadable("group"))?),
            },
            growth: match growth {
                None => None,
                Some(read) => Some(read.ok_or_else(|| unreadable("growth"))?),
            },
        })
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
    fn every_damaged_key_is_named() {
        let good = owned(&sample());
        for key in good.keys().filter(|k| {
            !["block", "read-only", "ephemeral", "mkfs", "fingerprint"].contains(&k.as_str())
        }) {
            let mut bad = good.clone();
            bad.insert(key.clone(), "\u{1}?".into());
            let e = Record::from_pairs(&bad).unwrap_err();
            assert!(e.message().contains(key.as_str()), "{key}: {e}");
        }
        for key in [
            "version",
            "id",
            "name",
            "created",
            "content",
            "layout",
            "fingerprint",
        ] {
            let mut bad = good.clone();
            bad.remove(key);
            assert!(
                Record::from_pairs(&bad)
                    .unwrap_err()
                    .message()
                    .contains(key),
                "{key}"
            );
        }
    }

    #[test]
    fn unknown_keys_are_left_for_later_readers() {
        let mut pairs = owned(&sample());
        pairs.insert("colour".into(), "blue".into());
        assert!(Record::from_pairs(&pairs).is_ok());
    }
}
