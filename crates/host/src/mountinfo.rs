//! The mount table of this process: /proc/self/mountinfo, proc_pid_mountinfo(5).

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::devno::Devno;

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Unique while the mount exists; reused later.
    pub id: u64,
    /// The mount it is mounted on.
    pub parent: u64,
    /// `st_dev` of its files; for btrfs and other file systems without one block device, a number
    /// that no device has.
    pub dev: Devno,
    /// The directory of the file system that is visible at `point`; not `/` for a bind mount of a
    /// part.
    pub root: PathBuf,
    /// Where it is mounted, as seen from our root.
    pub point: PathBuf,
    /// Options of this mount: `ro`, `nosuid`, ...
    pub options: Vec<String>,
    /// Propagation: `shared:5`, `master:2`, ...
    pub optional: Vec<String>,
    pub fstype: String,
    /// What was mounted, as text of whoever mounted it; `none` for many virtual file systems.
    pub source: String,
    /// Options of the file system, the same for all its mounts.
    pub super_options: Vec<String>,
}

impl Mount {
    /// True if writes through this mount fail, by its own or by the file system's option.
    pub fn read_only(&self) -> bool {
        let ro = |options: &[String]| options.iter().any(|option| option == "ro");
        ro(&self.options) || ro(&self.super_options)
    }
}

/// All mounts, in the kernel's order.
///
/// # Errors
/// If /proc is not there or holds a line that is no mount (`InvalidData`).
pub fn table() -> io::Result<Vec<Mount>> {
    parse(&fs::read("/proc/self/mountinfo")?)
}

/// The table as it was at one moment, for who asks about many mount points: the kernel writes all of
/// it for whoever asks about one.
#[derive(Debug, Default)]
pub struct Table(HashMap<PathBuf, Vec<Mount>>);

impl Table {
    /// # Errors
    /// As [`table`].
    pub fn read() -> io::Result<Self> {
        Ok(Self::of(table()?))
    }

    fn of(all: Vec<Mount>) -> Self {
        let mut points: HashMap<PathBuf, Vec<Mount>> = HashMap::new();
        for mount in all {
            points.entry(mount.point.clone()).or_default().push(mount);
        }
        Self(points)
    }

    /// Whether anything is mounted at `point`, be it hidden by what is mounted over it or above.
    pub fn has(&self, point: &Path) -> bool {
        self.0.contains_key(point)
    }

    /// As [`at`].
    pub fn at(&self, point: &Path) -> Option<&Mount> {
        topmost(self.0.get(point)?, point)
    }
}

/// The mount whose root one sees at `point`: the topmost, if several are stacked. `None` if
/// `point` is no mount point. Symlinks are not followed; `point` must be spelled as in the table.
///
/// # Errors
/// As [`table`].
pub fn at(point: &Path) -> io::Result<Option<Mount>> {
    Ok(topmost(&table()?, point).cloned())
}

/// The mounts of a file system with this device number.
///
/// # Errors
/// As [`table`].
pub fn of_device(dev: Devno) -> io::Result<Vec<Mount>> {
    Ok(table()?
        .into_iter()
        .filter(|mount| mount.dev == dev)
        .collect())
}

/// A mount stacked on another has it as its parent, so the topmost is nobody's parent there.
pub(crate) fn topmost<'a>(table: &'a [Mount], point: &Path) -> Option<&'a Mount> {
    let here = || table.iter().filter(|mount| mount.point == point);
    here().rfind(|mount| !here().any(|other| other.parent == mount.id && other.id != mount.id))
}

fn parse(text: &[u8]) -> io::Result<Vec<Mount>> {
    text.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            parse_line(line).ok_or_else(|| {
                let line = String::from_utf8_lossy(line);
                io::Error::new(io::ErrorKind::InvalidData, format!("not a mount: {line}"))
            })
        })
        .collect()
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mut text = || {
        fields
            .next()
            .map(|field| String::from_utf8_lossy(field).into_owned())
    };
    let id = text()?.parse().ok()?;
    let parent = text()?.parse().ok()?;
    let dev = text()?.parse().ok()?;
    let root = path(fields.next()?);
    let point = path(fields.next()?);
    let options = list(fields.next()?);
    let mut optional = Vec::new();
    loop {
        match fields.next()? {
            b"-" => break,
            field => optional.push(string(field)),
        }
    }
    let fstype = string(fields.next()?);
    // An empty source is written as nothing between two spaces.
    let source = string(fields.next()?);
    let super_options = fields.next().map(list).unwrap_or_default();
    Some(Mount {
        id,
        parent,
        dev,
        root,
        point,
        options,
        optional,
        fstype,
        source,
        super_options,
    })
}

fn path(field: &[u8]) -> PathBuf {
    OsString::from_vec(unescape(field)).into()
}

fn string(field: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(field)).into_owned()
}

fn list(field: &[u8]) -> Vec<String> {
    string(field).split(',').map(str::to_owned).collect()
}

/// Space, tab, newline, backslash and `#` are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        match rest {
            [
                b'\\',
                a @ b'0'..=b'3',
                b @ b'0'..=b'7',
                c @ b'0'..=b'7',
                tail @ ..,
            ] => {
                plain.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = tail;
            }
            _ => {
                plain.push(*first);
                rest = tail;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &[u8] = b"23 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
        30 23 7:0 /a\\040b /mnt/x\\134\\011y ro,nosuid master:1 propagate_from:2 - xfs /dev/loop0 rw,attr2\n\
        31 23 0:40 / /mnt/s rw - tmpfs  rw,size=1k\n\
        32 31 0:41 / /mnt/s rw - tmpfs none rw\n";

    #[test]
    fn escapes_optional_fields_and_an_empty_source_are_read() {
        let table = parse(LINES).unwrap();
        let bound = &table[1];
        assert_eq!(bound.root, Path::new("/a b"));
        assert_eq!(bound.point, Path::new("/mnt/x\\\ty"));
        assert_eq!(bound.optional, ["master:1", "propagate_from:2"]);
        assert!(bound.read_only() && !table[0].read_only());
        assert_eq!(
            (table[2].source.as_str(), table[2].fstype.as_str()),
            ("", "tmpfs")
        );
        assert_eq!(table[2].super_options, ["rw", "size=1k"]);
    }

    #[test]
    fn the_topmost_of_a_stack_is_found_in_any_order() {
        let mut table = parse(LINES).unwrap();
        assert_eq!(topmost(&table, Path::new("/mnt/s")).unwrap().id, 32);
        table.swap(2, 3);
        assert_eq!(topmost(&table, Path::new("/mnt/s")).unwrap().id, 32);
        assert!(topmost(&table, Path::new("/mnt")).is_none());
    }

    #[test]
    fn a_table_shows_at_each_point_what_one_sees_there() {
        let mut lines = LINES.to_vec();
        lines.extend(b"33 23 7:1 / /mnt/x\\134\\011y/below rw - xfs /dev/loop1 rw\n");
        let all = parse(&lines).unwrap();
        let table = Table::of(all.clone());
        for mount in &all {
            assert_eq!(table.at(&mount.point), topmost(&all, &mount.point));
        }
        assert_eq!(table.at(Path::new("/mnt/s")).unwrap().id, 32);
        assert_eq!(table.at(Path::new("/mnt")), None);
    }

    #[test]
    fn a_mount_that_is_its_own_parent_is_found() {
        let table = parse(b"1 1 0:2 / / rw - rootfs none rw\n").unwrap();
        assert_eq!(topmost(&table, Path::new("/")).unwrap().id, 1);
    }

    #[test]
    fn garbage_is_an_error() {
        assert_eq!(
            parse(b"1 2 3\n").unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }

    #[test]
    fn the_real_table_has_proc() {
        let proc = at(Path::new("/proc")).unwrap().unwrap();
        assert_eq!(proc.fstype, "proc");
        assert!(of_device(proc.dev).unwrap().contains(&proc));
    }
}
