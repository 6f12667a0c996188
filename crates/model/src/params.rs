//! StorageClass, snapshot-class and inline-volume parameters: from text as typed to values as
//! meant. Keys and values are open-local's (its YAML must apply unmodified) plus our own; an
//! unknown key is refused by name, because a misspelt limit that silently does nothing is worse
//! than an error.

use std::collections::BTreeMap;

use crate::limits;
use crate::request::{Layout, Media, Placement, PoolKind, Provisioning, SnapshotGrowth};
use crate::{Bytes, Error, FsType, Limits, LimitsChange, PoolName, Result};

/// Parameters as a CSI call carries them.
pub type Map = BTreeMap<String, String>;

/// Keys the Kubernetes sidecars add; they say nothing about how to make the volume.
const SIDECAR_PREFIX: &str = "csi.storage.k8s.io/";

/// What a StorageClass (or the attributes of an inline volume) asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClassParams {
    /// Which pools may hold the volume.
    pub placement: Placement,
    /// Layout of a thick logical volume.
    pub layout: Layout,
    /// Thick or thin, for file pools.
    pub provisioning: Provisioning,
    /// File system, when the class names one.
    pub fs: Option<FsType>,
    /// mkfs options as typed; checked once the file system is known.
    pub mkfs_options: Option<String>,
    /// I/O limits.
    pub limits: Limits,
    /// Size, which only inline volumes name here.
    pub size: Option<Bytes>,
}

/// Whether a parameter set belongs to a class or to an inline volume of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Written by an administrator.
    Class,
    /// Written by a pod's author: `size` is allowed, and no limit can be lifted. What else is not
    /// for a pod's author is for the node to say, whose rules they are.
    Inline,
}

impl ClassParams {
    /// Read parameters; `mutable` ones (VolumeAttributesClass) win over the class's own.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] naming the unknown key or bad value.
    pub fn parse(params: &Map, mutable: &Map, origin: Origin) -> Result<Self> {
        let mut out = Self::default();
        let mut limit_keys = Map::new();
        for (key, value) in params {
            out.take(key, value, origin, &mut limit_keys)?;
        }
        let base = LimitsChange::from_map(&limit_keys)?.applied_to(Limits::default());
        out.limits = LimitsChange::from_map(mutable)?.applied_to(base);
        Ok(out)
    }

    fn take(&mut self, key: &str, value: &str, origin: Origin, limits: &mut Map) -> Result<()> {
        match key {
            "volumeType" => self.placement.kind = volume_type(value)?,
            "vgName" => {
                if !crate::id::is_plain_word(value) || value.len() > 127 {
                    return Err(bad(key, value, "a volume group name"));
                }
                self.placement.vg = Some(value.to_owned());
            }
            "pool" => self.placement.pool = Some(PoolName::new(value)?),
            "mediaType" => {
                self.placement.media = Some(match value {
                    "ssd" => Media::Ssd,
                    "hdd" => Media::Hdd,
                    _ => return Err(bad(key, value, "ssd or hdd")),
                });
            }
            "lvmType" => self.layout = value.parse()?,
            "provisioning" => self.provisioning = value.parse()?,
            "mkfsOptions" => self.mkfs_options = Some(value.to_owned()),
            "fsType" | "csi.storage.k8s.io/fstype" if value.is_empty() => {}
            "fsType" | "csi.storage.k8s.io/fstype" => self.fs = Some(value.parse()?),
            "spdk" | "direct" => match value {
                "false" | "" => {}
                _ => {
                    return Err(Error::invalid(format!(
                        "parameter {key}: {value:?} is not supported by this driver; remove it or \
                         set it to \"false\""
                    )));
                }
            },
            "size" if origin == Origin::Inline => self.size = Some(value.parse()?),
            _ if limits::KEYS.contains(&key) => {
                let lifts = value == "max" || value.parse().is_ok_and(|n: Bytes| n.0 == 0);
                if lifts && origin == Origin::Inline {
                    return Err(Error::invalid(format!(
                        "parameter {key}: {value:?} lifts a limit, which is not for the author of a \
                         pod; leave it out or name a limit"
                    )));
                }
                limits.insert(key.to_owned(), value.to_owned());
            }
            _ if key.starts_with(SIDECAR_PREFIX) => {}
            _ => return Err(unknown(key, origin)),
        }
        Ok(())
    }
}

fn volume_type(value: &str) -> Result<Option<PoolKind>> {
    match value {
        "LVM" => Ok(Some(PoolKind::Lvm)),
        "Thin" => Ok(Some(PoolKind::Thin)),
        "File" => Ok(Some(PoolKind::File)),
        "MountPoint" | "Device" | "Quota" => Err(Error::invalid(format!(
            "parameter volumeType: {value:?} has no pool on this node; use LVM, Thin or File"
        ))),
        _ => Err(bad("volumeType", value, "LVM, Thin or File")),
    }
}

fn bad(key: &str, value: &str, want: &str) -> Error {
    Error::invalid(format!("parameter {key}: {value:?} is not {want}"))
}

fn unknown(key: &str, origin: Origin) -> Error {
    let keys = match origin {
        Origin::Class => {
            "volumeType, vgName, pool, mediaType, lvmType, provisioning, fsType, mkfsOptions"
        }
        Origin::Inline => "size, fsType, pool, vgName",
    };
    Error::invalid(format!(
        "unknown parameter {key:?}; known are {keys}, {}",
        limits::KEYS.join(", ")
    ))
}

/// What a VolumeSnapshotClass asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SnapshotParams {
    /// Restored volumes read the snapshot in place.
    pub read_only: bool,
    /// Store of a copy-on-write snapshot.
    pub growth: SnapshotGrowth,
}

impl SnapshotParams {
    /// Read the parameters of a snapshot class.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] naming the unknown key or bad value.
    pub fn parse(params: &Map) -> Result<Self> {
        let mut out = Self::default();
        for (key, value) in params {
            let size = |min: Bytes| {
                value
                    .parse::<Bytes>()
                    .ok()
                    .filter(|b| *b >= min)
                    .ok_or_else(|| bad(key, value, &format!("a size of at least {min}, like 1Gi")))
            };
            match key.as_str() {
                "csi.aliyun.com/readonly" | "readOnly" => {
                    out.read_only = value
                        .parse()
                        .map_err(|_| bad(key, value, "true or false"))?;
                }
                "csi.aliyun.com/snapshot-initial-size" | "snapshotInitialSize" => {
                    out.growth.initial = size(Bytes::mib(4))?;
                }
                "csi.aliyun.com/snapshot-expansion-size" | "snapshotExpansionSize" => {
                    out.growth.step = size(Bytes::mib(4))?;
                }
                "csi.aliyun.com/snapshot-expansion-threshold" | "snapshotExpansionThreshold" => {
                    out.growth.threshold = value
                        .strip_suffix('%')
                        .unwrap_or(value)
                        .parse()
                        .ok()
                        .filter(|n| (1..=95).contains(n))
                        .ok_or_else(|| bad(key, value, "a percentage from 1% to 95%"))?;
                }
                _ if key.starts_with(SIDECAR_PREFIX) => {}
                _ => {
                    return Err(Error::invalid(format!(
                        "unknown snapshot parameter {key:?}; known are csi.aliyun.com/readonly, \
                         csi.aliyun.com/snapshot-initial-size, \
                         csi.aliyun.com/snapshot-expansion-threshold and \
                         csi.aliyun.com/snapshot-expansion-size"
                    )));
                }
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> Map {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    fn class(pairs: &[(&str, &str)]) -> Result<ClassParams> {
        ClassParams::parse(&map(pairs), &Map::new(), Origin::Class)
    }

    #[test]
    fn the_articles_throttling_class_is_understood() {
        let p = class(&[
            ("csi.storage.k8s.io/fstype", "ext4"),
            ("volumeType", "LVM"),
            ("bps", "1048576"),
            ("iops", "1024"),
        ])
        .unwrap();
        assert_eq!(p.placement.kind, Some(PoolKind::Lvm));
        assert_eq!(p.fs, Some(FsType::Ext4));
        assert_eq!(p.limits.read_bps, Some(1_048_576));
        assert_eq!(p.limits.write_iops, Some(1024));
    }

    #[test]
    fn unknown_and_bad_parameters_are_named() {
        for (key, value) in [
            ("volumetype", "LVM"),
            ("volumeType", "lvm"),
            ("vgName", "-x"),
            ("vgName", "a b"),
            ("pool", "../x"),
            ("mediaType", "nvme"),
            ("lvmType", "raid5"),
            ("bps", "-1"),
            ("iops", "many"),
            ("size", "1Gi"),
            ("spdk", "true"),
            ("fsType", "ntfs"),
        ] {
            let e = class(&[(key, value)]).unwrap_err();
            assert!(
                e.message().contains(key) || e.message().contains(value),
                "{key}: {e}"
            );
        }
    }

    #[test]
    fn mutable_parameters_win_and_are_only_limits() {
        let p = ClassParams::parse(&map(&[("bps", "5")]), &map(&[("rbps", "9")]), Origin::Class)
            .unwrap();
        assert_eq!((p.limits.read_bps, p.limits.write_bps), (Some(9), Some(5)));
        let e = ClassParams::parse(&Map::new(), &map(&[("vgName", "x")]), Origin::Class);
        assert!(e.unwrap_err().message().contains("vgName"));
    }

    #[test]
    fn the_articles_ephemeral_volume_is_understood() {
        let p = ClassParams::parse(
            &map(&[
                ("size", "2Gi"),
                ("vgName", "open-local-pool-0"),
                ("csi.storage.k8s.io/ephemeral", "true"),
                ("csi.storage.k8s.io/pod.name", "file-server"),
            ]),
            &Map::new(),
            Origin::Inline,
        )
        .unwrap();
        assert_eq!(p.size, Some(Bytes::gib(2)));
        assert_eq!(p.placement.vg.as_deref(), Some("open-local-pool-0"));
    }

    #[test]
    fn the_articles_snapshot_class_is_understood() {
        let p = SnapshotParams::parse(&map(&[
            ("csi.aliyun.com/readonly", "true"),
            ("csi.aliyun.com/snapshot-initial-size", "4Gi"),
            ("csi.aliyun.com/snapshot-expansion-threshold", "50%"),
            ("csi.aliyun.com/snapshot-expansion-size", "1Gi"),
        ]))
        .unwrap();
        assert!(p.read_only);
        assert_eq!(p.growth, SnapshotGrowth::default());
        for (k, v) in [
            ("csi.aliyun.com/readonly", "yes"),
            ("x", "1"),
            ("csi.aliyun.com/snapshot-expansion-threshold", "100%"),
            ("csi.aliyun.com/snapshot-initial-size", "0"),
        ] {
            assert!(
                SnapshotParams::parse(&map(&[(k, v)]))
                    .unwrap_err()
                    .message()
                    .contains(k)
            );
        }
    }
}
