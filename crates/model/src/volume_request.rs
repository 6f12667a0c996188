//! A volume to make: as asked, with what a caller leaves open, and as settled, with nothing open. The one
//! comes of the other in one place, whichever door asked.

use crate::filesystem::{mkfs_options, mount_options};
use crate::request::{Layout, Placement, Provisioning, SizeRange, Source, Usage};
use crate::{Bytes, Error, FsType, Limits, Name, Result};

/// The size of a volume for which nobody names one; open-local's for inline volumes.
pub const DEFAULT_SIZE: Bytes = Bytes::gib(1);

/// The file system of a volume for which nobody names one; open-local's too.
pub const DEFAULT_FS: FsType = FsType::Ext4;

/// A volume to make, as asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeRequest {
    /// The caller's name; the same name is the same volume.
    pub name: Name,
    /// At least this much. Left open it is the size of the source, or else [`DEFAULT_SIZE`], or the
    /// limit when that is less.
    pub size: Option<Bytes>,
    /// At most this much, when the caller cares.
    pub limit: Option<Bytes>,
    /// How it may be used.
    pub usage: Wanted,
    /// Options that it is to be mounted with, to be refused now rather than at the first mount.
    pub mount_flags: Vec<Vec<String>>,
    /// Which pools may hold it.
    pub placement: Placement,
    /// Layout of a thick logical volume.
    pub layout: Layout,
    /// Thick or thin, for file pools.
    pub provisioning: Provisioning,
    /// Extra arguments of mkfs, as typed.
    pub mkfs: Option<String>,
    /// I/O limits from birth.
    pub limits: Limits,
    /// First content.
    pub source: Option<Source>,
    /// Every access mode asked only reads.
    pub read_only: bool,
}

/// How a new volume is to be used. A file system left open is that of the source, since what is copied
/// cannot be another, or else [`DEFAULT_FS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Mounted, with this file system if the caller cares.
    Mount(Option<FsType>),
    /// As a raw block device.
    Block,
    /// As either.
    Either(Option<FsType>),
    /// As its source is.
    AsSource,
}

/// What a request leaves open is taken from this: the volume that an earlier call of the same name made
/// from the same source, or the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Model {
    /// The size it was asked for, or has.
    pub size: Bytes,
    /// The file system it holds, or is made for.
    pub fs: Option<FsType>,
    /// How it may be used.
    pub usage: Usage,
}

/// A volume to make, with nothing left open and everything checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeSpec {
    /// The caller's name.
    pub name: Name,
    /// The size wanted.
    pub size: SizeRange,
    /// How it may be used.
    pub usage: Usage,
    /// Which pools may hold it.
    pub placement: Placement,
    /// Layout of a thick logical volume.
    pub layout: Layout,
    /// Thick or thin, for file pools.
    pub provisioning: Provisioning,
    /// Checked extra arguments of mkfs.
    pub mkfs: Vec<String>,
    /// I/O limits from birth.
    pub limits: Limits,
    /// First content.
    pub source: Option<Source>,
    /// Every access mode asked only reads.
    pub read_only: bool,
}

impl VolumeRequest {
    /// Settle what is left open.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] naming the option off its list, [`crate::Kind::OutOfRange`] for a size
    /// above its own limit.
    pub fn settled(&self, model: Option<&Model>) -> Result<VolumeSpec> {
        let fs = |named: Option<FsType>| {
            let open = model.and_then(|model| model.fs);
            named.or(open).unwrap_or(DEFAULT_FS)
        };
        let usage = match self.usage {
            Wanted::Mount(named) => Usage {
                mount: Some(fs(named)),
                block: false,
            },
            Wanted::Block => Usage {
                mount: None,
                block: true,
            },
            Wanted::Either(named) => Usage {
                mount: Some(fs(named)),
                block: true,
            },
            Wanted::AsSource => model.map(|model| model.usage).ok_or_else(|| {
                Error::invalid(format!(
                    "there is no source from which {:?} could be made",
                    self.name.to_string()
                ))
            })?,
        };
        // Options are checked for block volumes too, so that a class is right or wrong whoever uses it
        // first.
        let checked_for = usage.mount.unwrap_or_else(|| fs(None));
        for flags in &self.mount_flags {
            mount_options(checked_for, flags)?;
        }
        let mkfs = match &self.mkfs {
            None => Vec::new(),
            Some(typed) => mkfs_options(checked_for, typed)?,
        };
        let most = self.limit.unwrap_or(DEFAULT_SIZE);
        let open = model.map_or_else(|| DEFAULT_SIZE.min(most), |model| model.size);
        Ok(VolumeSpec {
            name: self.name.clone(),
            size: SizeRange::new(self.size.unwrap_or(open), self.limit)?,
            usage,
            placement: self.placement.clone(),
            layout: self.layout,
            provisioning: self.provisioning,
            mkfs: if usage.mount.is_some() {
                mkfs
            } else {
                Vec::new()
            },
            limits: self.limits,
            source: self.source.clone(),
            read_only: self.read_only,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    fn request() -> VolumeRequest {
        VolumeRequest {
            name: Name::new("v").unwrap(),
            size: None,
            limit: None,
            usage: Wanted::Mount(None),
            mount_flags: Vec::new(),
            placement: Placement::default(),
            layout: Layout::default(),
            provisioning: Provisioning::default(),
            mkfs: None,
            limits: Limits::default(),
            source: None,
            read_only: false,
        }
    }

    fn model(size: Bytes) -> Model {
        Model {
            size,
            fs: Some(FsType::Xfs),
            usage: Usage {
                mount: Some(FsType::Xfs),
                block: false,
            },
        }
    }

    #[test]
    fn an_open_size_is_the_sources_or_the_default_within_the_limit() {
        let mib = Bytes::mib;
        for (size, limit, source, want) in [
            (None, None, None, Bytes::gib(1)),
            (None, None, Some(Bytes::gib(5)), Bytes::gib(5)),
            (None, Some(mib(64)), None, mib(64)),
            (None, Some(mib(4096)), None, Bytes::gib(1)),
            (None, Some(mib(64)), Some(mib(32)), mib(32)),
            (Some(mib(7)), Some(mib(7)), Some(mib(3)), mib(7)),
        ] {
            let asked = VolumeRequest {
                size,
                limit,
                ..request()
            };
            let spec = asked.settled(source.map(model).as_ref()).unwrap();
            assert_eq!(spec.size.required, want, "{size:?} {limit:?} {source:?}");
            assert_eq!(spec.size.limit, limit);
        }
        let too_small = VolumeRequest {
            limit: Some(mib(1)),
            ..request()
        };
        let e = too_small.settled(Some(&model(mib(2)))).unwrap_err();
        assert_eq!(e.kind(), Kind::OutOfRange);
    }

    #[test]
    fn an_open_file_system_is_the_sources_or_the_default() {
        let source = model(Bytes::gib(1));
        let of = |usage, model: Option<&Model>| {
            let asked = VolumeRequest { usage, ..request() };
            asked.settled(model).map(|spec| spec.usage)
        };
        let usage = |mount, block| Usage { mount, block };
        let (ext4, xfs, btrfs) = (Some(FsType::Ext4), Some(FsType::Xfs), Some(FsType::Btrfs));
        assert_eq!(of(Wanted::Mount(None), None).unwrap(), usage(ext4, false));
        assert_eq!(
            of(Wanted::Mount(None), Some(&source)).unwrap(),
            usage(xfs, false)
        );
        assert_eq!(
            of(Wanted::Either(btrfs), Some(&source)).unwrap(),
            usage(btrfs, true)
        );
        assert_eq!(of(Wanted::Block, Some(&source)).unwrap(), usage(None, true));
        assert_eq!(of(Wanted::AsSource, Some(&source)).unwrap(), source.usage);
        assert_eq!(
            of(Wanted::AsSource, None).unwrap_err().kind(),
            Kind::Invalid
        );
    }

    #[test]
    fn options_are_checked_for_the_file_system_that_is_settled() {
        let asked = VolumeRequest {
            mkfs: Some("-K".to_owned()),
            mount_flags: vec![vec!["noatime".to_owned()]],
            ..request()
        };
        // -K is btrfs's and xfs's.
        assert!(asked.settled(None).unwrap_err().message().contains("-K"));
        let source = model(Bytes::gib(1));
        assert_eq!(asked.settled(Some(&source)).unwrap().mkfs, ["-K"]);
        let block = VolumeRequest {
            usage: Wanted::Block,
            ..asked.clone()
        };
        assert!(block.settled(None).is_err());
        assert!(block.settled(Some(&source)).unwrap().mkfs.is_empty());
        let flags = VolumeRequest {
            mount_flags: vec![vec!["suid=/x".to_owned()]],
            ..request()
        };
        assert!(flags.settled(None).is_err());
    }
}
