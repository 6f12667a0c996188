//! File systems we make, and the options a caller may pass to `mkfs` and `mount`.
//!
//! Options come from StorageClasses and, for inline volumes, from pod authors. Both end up in
//! the argv of a root process, so only listed ones pass; a list is the only defence that does not
//! age badly (compare CVE-2026-6437, mount options injected through a volume handle).

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// A file system we can make, grow and mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FsType {
    /// ext2, kept because open-local classes may name it.
    Ext2,
    /// ext3, kept because open-local classes may name it.
    Ext3,
    /// ext4, the default.
    Ext4,
    /// XFS.
    Xfs,
    /// btrfs on one device.
    Btrfs,
}

impl FsType {
    /// The name `mkfs.NAME` and mount(2) use.
    pub fn as_str(self) -> &'static str {
        match self {
            FsType::Ext2 => "ext2",
            FsType::Ext3 => "ext3",
            FsType::Ext4 => "ext4",
            FsType::Xfs => "xfs",
            FsType::Btrfs => "btrfs",
        }
    }

    /// Whether it can grow while it is not mounted (ext can; xfs and btrfs only while mounted).
    pub fn grows_unmounted(self) -> bool {
        matches!(self, FsType::Ext2 | FsType::Ext3 | FsType::Ext4)
    }

    /// These mount options, bent so that the kernel writes nothing at all to the device: a
    /// read-only mount by itself still replays the log.
    #[must_use]
    pub fn untouched(self, options: &[String]) -> Vec<String> {
        // Without its journal, ext4 refuses what is about the journal (fs/ext4/super.c).
        let ext = matches!(self, FsType::Ext2 | FsType::Ext3 | FsType::Ext4);
        let journal =
            |o: &str| o.starts_with("data=") || o.starts_with("commit=") || o == "journal_checksum";
        let kept = options
            .iter()
            .filter(|o| *o != "ro" && *o != "rw" && !(ext && journal(o.as_str())));
        let more: &[&str] = match self {
            // It has no journal.
            FsType::Ext2 => &["ro"],
            FsType::Ext3 | FsType::Ext4 => &["ro", "noload"],
            FsType::Xfs => &["ro", "norecovery"],
            FsType::Btrfs => &["ro", "rescue=nologreplay"],
        };
        kept.cloned()
            .chain(more.iter().map(|o| (*o).to_owned()))
            .collect()
    }

    /// The smallest volume its mkfs accepts, in bytes (mkfs.xfs refuses less than 300 MiB,
    /// mkfs.btrfs less than about 109 MiB; mkfs.ext4 makes no journal in less than 2048 blocks).
    pub fn smallest(self) -> crate::Bytes {
        match self {
            FsType::Ext2 => crate::Bytes::mib(1),
            FsType::Ext3 | FsType::Ext4 => crate::Bytes::mib(8),
            FsType::Xfs => crate::Bytes::mib(300),
            FsType::Btrfs => crate::Bytes::mib(110),
        }
    }
}

impl FromStr for FsType {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "ext2" => Ok(FsType::Ext2),
            "ext3" => Ok(FsType::Ext3),
            "ext4" => Ok(FsType::Ext4),
            "xfs" => Ok(FsType::Xfs),
            "btrfs" => Ok(FsType::Btrfs),
            _ => Err(Error::invalid(format!(
                "file system type {text:?} is not supported; use ext4, xfs or btrfs"
            ))),
        }
    }
}

impl fmt::Display for FsType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What may follow an mkfs flag.
enum Value {
    /// Nothing.
    None,
    /// Digits with an optional k, m or g, or a fraction (`-m 0.5`).
    Number,
    /// A plain word of at most this many bytes.
    Word(usize),
    /// Comma-separated feature words, each optionally negated by `^`.
    Features,
    /// Comma-separated `key` or `key=value` with these keys.
    Pairs(&'static [&'static str]),
}

type Flags = &'static [(&'static str, Value)];

const EXT: Flags = &[
    ("-b", Value::Number),
    ("-i", Value::Number),
    ("-I", Value::Number),
    ("-m", Value::Number),
    ("-N", Value::Number),
    ("-g", Value::Number),
    ("-G", Value::Number),
    ("-T", Value::Word(32)),
    ("-L", Value::Word(16)),
    ("-O", Value::Features),
    ("-J", Value::Pairs(&["size", "fast_commit_size"])),
    (
        "-E",
        Value::Pairs(&[
            "stride",
            "stripe_width",
            "stripe-width",
            "lazy_itable_init",
            "lazy_journal_init",
            "nodiscard",
            "discard",
            "packed_meta_blocks",
            "num_backup_sb",
        ]),
    ),
];

const XFS: Flags = &[
    ("-b", Value::Pairs(&["size"])),
    (
        "-d",
        Value::Pairs(&[
            "agcount", "agsize", "su", "sw", "sunit", "swidth", "noalign",
        ]),
    ),
    (
        "-i",
        Value::Pairs(&["size", "maxpct", "sparse", "align", "nrext64"]),
    ),
    (
        "-l",
        Value::Pairs(&["size", "su", "sunit", "lazy-count", "version"]),
    ),
    (
        "-m",
        Value::Pairs(&[
            "crc",
            "finobt",
            "reflink",
            "rmapbt",
            "bigtime",
            "inobtcount",
        ]),
    ),
    ("-n", Value::Pairs(&["size", "ftype"])),
    ("-s", Value::Pairs(&["size"])),
    ("-L", Value::Word(12)),
    ("-K", Value::None),
];

const BTRFS: Flags = &[
    ("-d", Value::Word(8)),
    ("-m", Value::Word(8)),
    ("-n", Value::Number),
    ("-s", Value::Number),
    ("-O", Value::Features),
    ("-R", Value::Features),
    ("-L", Value::Word(255)),
    ("--csum", Value::Word(16)),
    ("-K", Value::None),
];

impl Value {
    fn accepts(&self, text: &str) -> bool {
        match self {
            Value::None => false,
            Value::Number => is_number(text),
            Value::Word(max) => text.len() <= *max && crate::id::is_plain_word(text),
            Value::Features => text
                .split(',')
                .all(|f| is_feature(f.strip_prefix('^').unwrap_or(f))),
            Value::Pairs(keys) => text.split(',').all(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, "1"));
                keys.contains(&key) && crate::id::is_plain_word(value)
            }),
        }
    }
}

fn is_number(text: &str) -> bool {
    let digits = text
        .strip_suffix(['k', 'm', 'g', 'K', 'M', 'G'])
        .unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    !whole.is_empty()
        && !fraction.is_empty()
        && [whole, fraction]
            .iter()
            .all(|s| s.bytes().all(|b| b.is_ascii_digit()))
}

fn is_feature(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// Split and check the `mkfsOptions` of a class.
///
/// # Errors
/// [`crate::Kind::Invalid`] naming the first word that is not on the list of `fs`.
pub fn mkfs_options(fs: FsType, text: &str) -> Result<Vec<String>> {
    let flags = match fs {
        FsType::Ext2 | FsType::Ext3 | FsType::Ext4 => EXT,
        FsType::Xfs => XFS,
        FsType::Btrfs => BTRFS,
    };
    let refused = |word: &str| {
        let known: Vec<&str> = flags.iter().map(|(f, _)| *f).collect();
        Error::invalid(format!(
            "mkfsOptions: {word:?} is not allowed for {fs}; allowed flags are {}",
            known.join(" ")
        ))
    };
    let mut checked = Vec::new();
    let mut words = text.split_ascii_whitespace();
    while let Some(word) = words.next() {
        let (_, value) = flags
            .iter()
            .find(|(flag, _)| *flag == word)
            .ok_or_else(|| refused(word))?;
        checked.push(word.to_owned());
        if !matches!(value, Value::None) {
            let argument = words.next().ok_or_else(|| {
                Error::invalid(format!("mkfsOptions: {word} needs a value after it"))
            })?;
            if !value.accepts(argument) {
                return Err(Error::invalid(format!(
                    "mkfsOptions: {argument:?} is not allowed as the value of {word} for {fs}"
                )));
            }
            checked.push(argument.to_owned());
        }
    }
    Ok(checked)
}

const MOUNT_ANY: &[&str] = &[
    "ro",
    "rw",
    "noatime",
    "atime",
    "relatime",
    "norelatime",
    "nodiratime",
    "diratime",
    "strictatime",
    "lazytime",
    "nolazytime",
    "nodev",
    "nosuid",
    "noexec",
    "dev",
    "suid",
    "exec",
    "sync",
    "async",
    "dirsync",
    "discard",
    "nodiscard",
    "defaults",
];
const MOUNT_EXT: &[&str] = &[
    "data=ordered",
    "data=journal",
    "data=writeback",
    "barrier=1",
    "delalloc",
    "nodelalloc",
    "errors=remount-ro",
    "errors=continue",
    "journal_checksum",
    "auto_da_alloc",
    "noauto_da_alloc",
    "user_xattr",
    "acl",
    "commit=",
    "stripe=",
    "inode_readahead_blks=",
    "max_batch_time=",
    "min_batch_time=",
    "init_itable=",
    "noinit_itable",
];
const MOUNT_XFS: &[&str] = &[
    "nouuid",
    "inode64",
    "largeio",
    "nolargeio",
    "swalloc",
    "wsync",
    "noquota",
    "noalign",
    "logbufs=",
    "logbsize=",
    "allocsize=",
    "sunit=",
    "swidth=",
];
const MOUNT_BTRFS: &[&str] = &[
    "compress",
    "compress=zstd",
    "compress=lzo",
    "compress=zlib",
    "compress=no",
    "compress-force=zstd",
    "autodefrag",
    "noautodefrag",
    "ssd",
    "nossd",
    "space_cache=v2",
    "datacow",
    "nodatacow",
    "datasum",
    "nodatasum",
    "discard=async",
    "commit=",
    "max_inline=",
    "thread_pool=",
];

/// Whether checked mkfs options leave the journal of an ext file system out.
pub fn asks_for_no_journal(mkfs: &[String]) -> bool {
    let mut words = mkfs.iter().flat_map(|word| word.split(','));
    words.any(|word| word == "^has_journal")
}

/// The smallest block or sector that checked mkfs options ask for, in bytes.
pub fn smallest_unit(mkfs: &[String]) -> Option<u64> {
    let words = mkfs.iter().zip(mkfs.iter().skip(1));
    let asked = words.filter(|(flag, _)| *flag == "-b" || *flag == "-s");
    asked.filter_map(|(_, value)| in_bytes(value)).min()
}

/// A size as mkfs reads it: a plain number, or with k, m or g for powers of 1024.
fn in_bytes(value: &str) -> Option<u64> {
    let value = value.strip_prefix("size=").unwrap_or(value);
    let unit = match value.bytes().last()?.to_ascii_lowercase() {
        b'k' => 1 << 10,
        b'm' => 1 << 20,
        b'g' => 1 << 30,
        _ => return value.parse().ok(),
    };
    let number: u64 = value.get(..value.len() - 1)?.parse().ok()?;
    number.checked_mul(unit)
}

/// Check mount options (CSI `mount_flags`); a flag may hold several, separated by commas.
///
/// # Errors
/// [`crate::Kind::Invalid`] naming the first option that is not on the list of `fs`.
pub fn mount_options(fs: FsType, flags: &[String]) -> Result<Vec<String>> {
    let own = match fs {
        FsType::Ext2 | FsType::Ext3 | FsType::Ext4 => MOUNT_EXT,
        FsType::Xfs => MOUNT_XFS,
        FsType::Btrfs => MOUNT_BTRFS,
    };
    let allowed = |option: &str| {
        MOUNT_ANY
            .iter()
            .chain(own)
            .any(|known| match known.strip_suffix('=') {
                Some(key) => option
                    .strip_prefix(key)
                    .and_then(|rest| rest.strip_prefix('='))
                    .is_some_and(is_number),
                None => option == *known,
            })
    };
    let mut checked = Vec::new();
    for option in flags
        .iter()
        .flat_map(|f| f.split(','))
        .filter(|o| !o.is_empty())
    {
        if !allowed(option) {
            return Err(Error::invalid(format!(
                "mount option {option:?} is not allowed for {fs}; remove it from the mount flags"
            )));
        }
        if option != "defaults" && !checked.iter().any(|c| c == option) {
            checked.push(option.to_owned());
        }
    }
    Ok(checked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_mkfs_options_pass() {
        let ext = "-m 0.5 -i 65536 -O ^has_journal,metadata_csum -E stride=16,lazy_itable_init=0";
        assert_eq!(mkfs_options(FsType::Ext4, ext).unwrap().len(), 8);
        assert!(mkfs_options(FsType::Xfs, "-K -i size=512 -m reflink=1,rmapbt=1").is_ok());
        assert!(mkfs_options(FsType::Btrfs, "-n 16k -d single -m dup --csum xxhash").is_ok());
        assert!(mkfs_options(FsType::Ext4, "  ").unwrap().is_empty());
    }

    #[test]
    fn the_smallest_block_or_sector_is_known() {
        for (fs, text, smallest) in [
            (FsType::Ext4, "-m 0 -b 1024", Some(1024)),
            (FsType::Ext4, "-i 1024 -b 4k", Some(4096)),
            (FsType::Ext4, "-i 1024 -I 128", None),
            (FsType::Xfs, "-b size=1k -s size=512", Some(512)),
            (FsType::Xfs, "-i size=512", None),
            (FsType::Btrfs, "-s 4K", Some(4096)),
        ] {
            let words = mkfs_options(fs, text).unwrap();
            assert_eq!(smallest_unit(&words), smallest, "{text}");
        }
    }

    #[test]
    fn injected_mkfs_options_are_refused() {
        for bad in [
            "-F",
            "/dev/sda",
            "-d /etc",
            "-E root_owner=0:0;reboot",
            "-O $(id)",
            "-L -n",
            "-b",
            "-J device=/dev/sdb",
            "-U random",
            "--",
            "-m 1 /dev/sda",
            "-E offset=1",
            "-z undo",
        ] {
            assert!(mkfs_options(FsType::Ext4, bad).is_err(), "{bad}");
        }
        assert!(mkfs_options(FsType::Xfs, "-d file,name=/etc/passwd").is_err());
        assert!(mkfs_options(FsType::Xfs, "-f").is_err());
        assert!(mkfs_options(FsType::Xfs, "-l logdev=/dev/sdb").is_err());
        assert!(mkfs_options(FsType::Btrfs, "-r /etc").is_err());
    }

    #[test]
    fn what_is_left_untouched_is_mounted_without_its_log() {
        let given = ["noatime", "rw", "data=journal", "commit=5"].map(str::to_owned);
        let ext = FsType::Ext4.untouched(&given);
        assert_eq!(ext, ["noatime", "ro", "noload"]);
        let given = ["ro".to_owned(), "commit=5".to_owned()];
        let btrfs = FsType::Btrfs.untouched(&given);
        assert_eq!(btrfs, ["commit=5", "ro", "rescue=nologreplay"]);
        assert_eq!(FsType::Xfs.untouched(&given[..1]), ["ro", "norecovery"]);
    }

    #[test]
    fn mount_options_off_the_list_are_refused() {
        let ok = [
            "noatime,nodev".to_owned(),
            "commit=30".to_owned(),
            "noatime".to_owned(),
        ];
        assert_eq!(
            mount_options(FsType::Ext4, &ok).unwrap(),
            ["noatime", "nodev", "commit=30"]
        );
        for bad in [
            "bind",
            "loop",
            "journal_path=/dev/sdb",
            "commit=x",
            "commit=",
            "logdev=/x",
            "remount",
            "device=/dev/sdb",
            "errors=panic",
            "noatime ",
            "subvol=/",
        ] {
            assert!(
                mount_options(FsType::Btrfs, &[bad.to_owned()]).is_err(),
                "{bad}"
            );
            assert!(
                mount_options(FsType::Ext4, &[bad.to_owned()]).is_err(),
                "{bad}"
            );
        }
    }
}
