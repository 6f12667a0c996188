//! What tells a repeated CreateVolume from another one of the same name (CSI "CreateVolume",
//! idempotency): a hash over all that a request says but its name and size.
//!
//! A volume keeps the fingerprint of the request that made it for life, so what is hashed must
//! outlive every version of this program: named keys in their order, each only where it is not its
//! default. A fact that is added later does not change the fingerprint of a request that does not
//! use it. A change that does must have a version of its own, and must still tell the old ones.

use sha2::{Digest, Sha256};

use crate::VolumeSpec;
use crate::request::Source;

/// What a fingerprint of this version begins with. Version 1 had no prefix.
const VERSION_2: &str = "2-";

/// A hash over everything but the name and the size; kept in the record as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// The fingerprint that a volume made from this request gets.
    pub fn of(want: &VolumeSpec) -> Self {
        Self(format!("{VERSION_2}{}", hash(&named(want))))
    }

    /// What a record holds. Empty where nothing was asked for: in a snapshot's.
    pub fn from_text(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text kept on the disk.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this request is the one that made the volume, whichever version made it.
    pub fn is_of(&self, want: &VolumeSpec) -> bool {
        if self.0.starts_with(VERSION_2) {
            *self == Self::of(want)
        } else {
            self.0 == hash(&version_1(want))
        }
    }
}

fn hash(text: &str) -> String {
    Sha256::digest(text)
        .iter()
        .take(8)
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// `key=value` lines in the order of the keys, without defaults. No value has a line feed: all are
/// words, numbers, or arguments that were checked.
fn named(want: &VolumeSpec) -> String {
    // Exhaustive, so that who adds a field decides here.
    let VolumeSpec {
        name: _,
        size: _,
        usage,
        placement,
        layout,
        provisioning,
        mkfs,
        limits,
        source,
        read_only,
    } = want;
    let kind_of_source = |source: &Source| match source {
        Source::Snapshot(id) => format!("snapshot {id}"),
        Source::Volume(id) => format!("volume {id}"),
    };
    let yes = |set: bool| set.then(|| "yes".to_owned());
    let facts = [
        ("block", yes(usage.block)),
        ("fs", usage.mount.map(|fs| fs.to_string())),
        (
            "layout",
            (*layout != Default::default()).then(|| layout.as_str().to_owned()),
        ),
        ("limits", (!limits.is_unlimited()).then(|| limits.to_text())),
        ("mkfs", (!mkfs.is_empty()).then(|| mkfs.join(" "))),
        (
            "placement.kind",
            placement.kind.map(|k| k.as_str().to_owned()),
        ),
        (
            "placement.media",
            placement.media.map(|m| m.as_str().to_owned()),
        ),
        (
            "placement.pool",
            placement.pool.as_ref().map(|p| p.as_str().to_owned()),
        ),
        ("placement.vg", placement.vg.clone()),
        (
            "provisioning",
            (*provisioning != Default::default()).then(|| provisioning.as_str().to_owned()),
        ),
        ("read-only", yes(*read_only)),
        ("source", source.as_ref().map(kind_of_source)),
    ];
    facts
        .into_iter()
        .filter_map(|(key, value)| Some(format!("{key}={}\n", value?)))
        .collect()
}

/// What version 1 (Stowage 0.1.0) hashed: the `Debug` text of its structures, spelt out here so that
/// no change of ours reaches it.
fn version_1(want: &VolumeSpec) -> String {
    let placement = &want.placement;
    let some =
        |value: Option<String>| value.map_or_else(|| "None".to_owned(), |v| format!("Some({v})"));
    let fs = some(want.usage.mount.map(|fs| word_1(&fs.to_string())));
    let pool = some(
        placement
            .pool
            .as_ref()
            .map(|p| format!("PoolName({:?})", p.as_str())),
    );
    let vg = some(placement.vg.as_ref().map(|vg| format!("{vg:?}")));
    let kind = some(placement.kind.map(|k| word_1(k.as_str())));
    let media = some(placement.media.map(|m| word_1(m.as_str())));
    let source = some(want.source.as_ref().map(|source| match source {
        Source::Snapshot(id) => format!("Snapshot({id})"),
        Source::Volume(id) => format!("Volume({id})"),
    }));
    format!(
        "((Usage {{ mount: {fs}, block: {} }}, Placement {{ pool: {pool}, vg: {vg}, kind: {kind}, \
         media: {media} }}, {}, {}), ({mkfs:?}, {:?}, {source}, {read_only}))",
        want.usage.block,
        word_1(want.layout.as_str()),
        word_1(want.provisioning.as_str()),
        want.limits.to_text(),
        mkfs = want.mkfs,
        read_only = want.read_only,
    )
}

/// `xfs` was written `Xfs`.
fn word_1(word: &str) -> String {
    let mut letters = word.chars();
    letters
        .next()
        .into_iter()
        .flat_map(char::to_uppercase)
        .chain(letters)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Layout, Media, Placement, PoolKind, Provisioning, SizeRange, Usage};
    use crate::{Bytes, FsType, Id, Limits, Name, PoolName};

    fn plain() -> VolumeSpec {
        VolumeSpec {
            name: Name::new("data").unwrap(),
            size: SizeRange::at_least(Bytes::gib(1)),
            usage: Usage {
                mount: Some(FsType::Ext4),
                block: false,
            },
            placement: Placement::default(),
            layout: Layout::Linear,
            provisioning: Provisioning::Thick,
            mkfs: Vec::new(),
            limits: Limits::default(),
            source: None,
            read_only: false,
        }
    }

    fn full() -> VolumeSpec {
        let source = Name::new("source").unwrap();
        VolumeSpec {
            usage: Usage {
                mount: Some(FsType::Xfs),
                block: true,
            },
            placement: Placement {
                pool: Some(PoolName::new("fast").unwrap()),
                vg: Some("vg0".into()),
                kind: Some(PoolKind::Lvm),
                media: Some(Media::Ssd),
            },
            layout: Layout::Striped,
            provisioning: Provisioning::Thin,
            mkfs: vec!["-i".into(), "size=512".into()],
            limits: Limits {
                read_bps: Some(1_048_576),
                write_iops: Some(100),
                ..Limits::default()
            },
            source: Some(Source::Snapshot(Id::derive(
                crate::id::Role::Snapshot,
                &source,
            ))),
            read_only: true,
            ..plain()
        }
    }

    /// Goldens: a change of one of these makes the repeat of an older CreateVolume another request.
    #[test]
    fn fingerprints_stay_what_they_are() {
        assert_eq!(named(&plain()), "fs=ext4\n");
        assert_eq!(
            named(&full()),
            "block=yes\nfs=xfs\nlayout=striped\nlimits=rbps=1048576,wiops=100\n\
             mkfs=-i size=512\nplacement.kind=lvm\nplacement.media=ssd\nplacement.pool=fast\n\
             placement.vg=vg0\nprovisioning=thin\nread-only=yes\nsource=snapshot \
             s-41cf6794ba4200b839c53531555f0f39\n"
        );
        assert_eq!(Fingerprint::of(&plain()).as_str(), "2-dbd4a796b6aa6694");
        assert_eq!(Fingerprint::of(&full()).as_str(), "2-24c2d7e790f142da");
    }

    #[test]
    fn what_the_first_version_wrote_is_recognised() {
        for (want, written) in [(plain(), "7ba3aa809901090e"), (full(), "03de4fe34f9f750a")] {
            assert!(Fingerprint::from_text(written).is_of(&want), "{want:?}");
        }
        assert!(!Fingerprint::from_text("03de4fe34f9f750a").is_of(&plain()));
        assert!(!Fingerprint::default().is_of(&plain()));
    }

    #[test]
    fn every_fact_but_name_and_size_counts() {
        let made = Fingerprint::of(&plain());
        let other = |change: fn(&mut VolumeSpec)| {
            let mut want = plain();
            change(&mut want);
            want
        };
        let same = other(|want| {
            want.name = Name::new("other").unwrap();
            want.size = SizeRange::at_least(Bytes::gib(2));
        });
        assert!(made.is_of(&same));
        let first = Fingerprint::from_text(hash(&version_1(&plain())));
        for change in [
            (|want| want.usage.mount = None) as fn(&mut VolumeSpec),
            |want| want.usage.mount = Some(FsType::Btrfs),
            |want| want.usage.block = true,
            |want| want.placement.kind = Some(PoolKind::File),
            |want| want.placement.media = Some(Media::Hdd),
            |want| want.placement.vg = Some("fast".into()),
            |want| want.placement.pool = Some(PoolName::new("fast").unwrap()),
            |want| want.layout = Layout::Raid1,
            |want| want.provisioning = Provisioning::Thin,
            |want| want.mkfs = vec!["-K".into()],
            |want| want.limits.read_iops = Some(1),
            |want| {
                want.source = Some(Source::Volume(Id::derive(
                    crate::id::Role::Volume,
                    &want.name,
                )))
            },
            |want| {
                want.source = Some(Source::Snapshot(Id::derive(
                    crate::id::Role::Volume,
                    &want.name,
                )))
            },
            |want| want.read_only = true,
        ] {
            assert!(!made.is_of(&other(change)), "{:?}", other(change));
            assert!(!first.is_of(&other(change)), "{:?}", other(change));
        }
    }
}
