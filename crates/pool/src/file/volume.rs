//! Making, sharing, growing, attaching and removing the files.

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use stowage_host::{device, durable, failpoint, loopdev, probe, reflink};
use stowage_model::error::Context;
use stowage_model::filesystem::smallest_unit;
use stowage_model::request::Provisioning;
use stowage_model::{Bytes, Error, Kind, Record, Result};

use super::Shared;
use super::ledger::{Reserved, Want};
use super::scan::{is_only_files, read_record};
use crate::contract::{is_wholly, may_go};
use crate::{Attach, Device, Leftover, Removed, Written};

/// Logical block size of every device. Left to itself the kernel takes 512 for a plain file and
/// 4096 for one that shares blocks, and an xfs made on the one does not mount on the other.
pub(super) const SECTOR: u32 = 4096;

/// What statfs(2) says of btrfs (linux/magic.h).
const BTRFS_SUPER_MAGIC: i64 = 0x9123_683E;

/// How long an opener of a device is waited for: these tries, with this pause.
const DETACH_TRIES: u32 = 40;
const DETACH_PAUSE: Duration = Duration::from_millis(25);

/// The file that holds a volume's record.
pub(super) const RECORD: &str = "record.json";

/// Tells apart trash entries of one id made by one process.
static TRASHED: AtomicU64 = AtomicU64::new(0);

impl Shared {
    pub(super) fn create(&self, record: &Record, size: Bytes) -> Result<Bytes> {
        self.present()?;
        if self.known(record, Kind::Exists)?
            && let Some(present) = self.length(record)?
        {
            return Ok(present);
        }
        self.fits_sectors(record)?;
        let _room = self.reserve(Want::Own(record.provisioning, size))?;
        let made = self.make(record, |data| match record.provisioning {
            Provisioning::Thick => reflink::create_in_place(data)
                .and_then(|()| reflink::allocate(data, size.0))
                .map_err(|e| e.source),
            Provisioning::Thin => fs::File::create_new(data)?.set_len(size.0),
        });
        self.finish(record, made, size)?;
        self.ledger.enter(record, size);
        Ok(size)
    }

    /// Refuse a file system of blocks smaller than the sectors: it could never be mounted.
    fn fits_sectors(&self, record: &Record) -> Result<()> {
        match smallest_unit(&record.mkfs) {
            Some(unit) if unit < u64::from(SECTOR) => Err(Error::invalid(format!(
                "mkfsOptions ask for blocks or sectors of {unit} bytes, but a device of pool {} has \
                 sectors of {SECTOR}; leave that option out, or use a pool of another kind",
                self.name()
            ))),
            _ => Ok(()),
        }
    }

    /// Set room aside. What the book says is owed may be more than is: before anybody is refused
    /// for it, the files are asked.
    fn reserve(&self, want: Want<'_>) -> Result<Reserved<'_>> {
        let first = self.ledger.reserve(want, self.space()?, self.name());
        if first.is_ok() || self.ledger.owed() == Bytes(0) {
            return first;
        }
        self.survey();
        self.ledger.reserve(want, self.space()?, self.name())
    }

    /// Make a snapshot or clone that shares the blocks of `source`, at least `size` long.
    pub(super) fn share(&self, source: &Record, new: &Record, size: Bytes) -> Result<Bytes> {
        self.present()?;
        if self.known(new, Kind::Exists)?
            && let Some(present) = self.length(new)?
        {
            return Ok(present);
        }
        let from = self.data(source);
        let length = self.length(source)?.ok_or_else(|| {
            Error::not_found(format!(
                "{} is missing from pool {}",
                source.id,
                self.name()
            ))
        })?;
        let size = size.max(length);
        // A thick volume must be able to own all its blocks one day, be it the source or the copy.
        let _room = self.reserve(Want::Share { source, new, size })?;
        let made = self.make(new, |data| {
            reflink::clone_file(&from, data).map_err(|e| e.source)?;
            // What the source had allocated and never written is a hole in the copy (xfs), and a
            // thick volume must never run out of blocks.
            if !new.is_snapshot() && new.provisioning == Provisioning::Thick {
                reflink::allocate(data, size.0).map_err(|e| e.source)?;
            } else if size > length {
                fs::OpenOptions::new()
                    .write(true)
                    .open(data)?
                    .set_len(size.0)?;
            }
            Ok(())
        });
        self.finish(new, made, size)?;
        self.ledger.enter_shared(source, new, size);
        Ok(size)
    }

    /// Build the directory of a volume aside, then rename it into place.
    fn make(
        &self,
        record: &Record,
        fill: impl FnOnce(&Path) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        let making = self.options.path.join("making").join(record.id.as_str());
        if making.exists() {
            if !is_only_files(&making) {
                let what = format!("{} holds a directory that is not ours", making.display());
                return Err(std::io::Error::other(what));
            }
            fs::remove_dir_all(&making)?;
        }
        fs::create_dir(&making)?;
        let data = making.join("data");
        let built = fill(&data).and_then(|()| {
            failpoint::hit("file.make.data");
            // Nobody sees the directory before its rename, so the record needs no rename of its
            // own. Its fsync brings the journal of the file system to the disk, and with it most
            // of what the fsync of the data would wait for.
            let mut text = fs::File::create_new(making.join(RECORD))?;
            text.write_all(&encode(record)?)?;
            text.sync_all()?;
            fs::File::open(&data)?.sync_all()?;
            failpoint::hit("file.make.recorded");
            let place = self.dir(record);
            fs::rename(&making, &place)?;
            failpoint::hit("file.make.renamed");
            // The rename is on the disk once the directory it went to is (both lie on one file
            // system, whose journal orders the removal with the addition).
            durable::fsync_dir(place.parent().unwrap_or(&place)).map_err(|e| e.source)
        });
        if built.is_err() {
            // What cannot be removed here is a leftover that the next start removes.
            let _ = fs::remove_dir_all(&making);
        }
        built
    }

    fn finish(&self, record: &Record, made: std::io::Result<()>, size: Bytes) -> Result<()> {
        match made {
            Ok(()) => Ok(()),
            Err(e) if out_of_space(&e) => Err(Error::full(format!(
                "pool {} is full: the file system under {} has no room for {size}",
                self.name(),
                self.options.path.display()
            ))
            .caused_by(e)),
            Err(e) => Err(Error::internal(format!(
                "failed to make {} in pool {}",
                record.id,
                self.name()
            ))
            .caused_by(e)),
        }
    }

    pub(super) fn rewrite(&self, record: &Record) -> Result<()> {
        self.present()?;
        write_record(&self.dir(record), record)
            .or_internal(|| format!("failed to write the record of {}", record.id))
    }

    /// A loop device reads what its file holds, so the file tells of every byte of it.
    pub(super) fn written(&self, record: &Record) -> Written {
        match reflink::first_data(&self.data(record)) {
            Ok(None) => Written::Nothing,
            Ok(Some(offset)) => Written::Something(probe::Content::Unknown { offset }.describe()),
            Err(error) => {
                tracing::debug!(volume.id = %record.id, %error, "must be read to be seen blank");
                Written::Unknown
            }
        }
    }

    pub(super) fn grow(&self, record: &Record, size: Bytes) -> Result<Bytes> {
        self.present()?;
        let present = self.length(record)?.ok_or_else(|| missing(record))?;
        let data = self.data(record);
        if present < size {
            let more = size.minus(present);
            let _room = self.reserve(Want::Own(record.provisioning, more))?;
            let grown = match record.provisioning {
                Provisioning::Thick => reflink::allocate(&data, size.0).map_err(|e| e.source),
                Provisioning::Thin => fs::OpenOptions::new()
                    .write(true)
                    .open(&data)
                    .and_then(|f| f.set_len(size.0)),
            };
            grown
                .and_then(|()| fs::File::open(&data)?.sync_all())
                .map_err(|e| {
                    match out_of_space(&e) {
                        true => Error::full(format!("pool {} has no room to grow", self.name())),
                        false => Error::internal(format!("failed to grow {}", record.id)),
                    }
                    .caused_by(e)
                })?;
            failpoint::hit("file.grow.grown");
            self.ledger.enter(record, size);
        }
        // Also when the file was grown before and a kill came in between.
        for path in self.loops(record)?.own {
            loopdev::set_capacity(&path)
                .or_internal(|| format!("failed to grow the device {}", path.display()))?;
        }
        Ok(present.max(size))
    }

    pub(super) fn remove(&self, record: &Record) -> Result<Removed> {
        self.present()?;
        let place = self.dir(record);
        if !is_hollow(&place) && !self.known(record, Kind::Precondition)? {
            self.ledger.strike(&record.id);
            return Ok(Removed::Gone);
        }
        self.unattached(record)?;
        self.nothing_foreign(&place)?;
        let size = Bytes(reflink::allocated_bytes(&self.data(record)).unwrap_or(0));
        let removed = self.throw_away(&place, record.id.as_str())?;
        self.ledger.strike(&record.id);
        self.forget_device(&record.id);
        Ok(match removed {
            Some(handle) => Removed::ToPurge(Leftover { handle, size }),
            None => Removed::Gone,
        })
    }

    /// Move something to the trash, under a name nothing else will have; answers its handle there. On
    /// a file system that has no room for a name it is removed at once, which needs none.
    pub(super) fn throw_away(&self, place: &Path, name: &str) -> Result<Option<String>> {
        let unique = (std::process::id(), TRASHED.fetch_add(1, Ordering::Relaxed));
        let handle = format!("trash/{name}.{}-{}", unique.0, unique.1);
        let failed = || format!("failed to remove {name} from pool {}", self.name());
        match durable::rename(place, &self.options.path.join(&handle)) {
            Ok(()) => return Ok(Some(handle)),
            Err(e) if e.is_no_space() => {}
            Err(e) => return Err(Error::internal(failed()).caused_by(e)),
        }
        tracing::info!(path = %place.display(), "no room for a name in the trash");
        discard(place).map_err(|e| match out_of_space(&e) {
            true => Error::full(format!(
                "{}: the file system under {} is full; make room there outside of the pool",
                failed(),
                self.options.path.display()
            ))
            .caused_by(e),
            false => Error::internal(failed()).caused_by(e),
        })?;
        self.ledger.parted();
        self.reclaim().or_internal(failed)?;
        Ok(None)
    }

    pub(super) fn check_removable(&self, record: &Record) -> Result<()> {
        self.present()?;
        let place = self.dir(record);
        if !is_hollow(&place) && !self.known(record, Kind::Precondition)? {
            return Ok(());
        }
        self.unattached(record)?;
        self.nothing_foreign(&place)
    }

    /// What somebody put into a volume's directory must not go with it.
    fn nothing_foreign(&self, place: &Path) -> Result<()> {
        match is_only_files(place) {
            true => Ok(()),
            false => Err(Error::precondition(format!(
                "{} holds a directory that is not ours; move that out of pool {} first",
                place.display(),
                self.name()
            ))),
        }
    }

    fn unattached(&self, record: &Record) -> Result<()> {
        let loops = self.loops(record)?;
        loops.only_own(record)?;
        match loops.own.first() {
            None => Ok(()),
            Some(path) => Err(Error::precondition(format!(
                "{} is still attached as {}; unmount it first",
                record.id,
                path.display()
            ))),
        }
    }

    pub(super) fn purge(&self, leftover: &Leftover) -> Result<()> {
        self.present()?;
        let failed = || {
            format!(
                "failed to remove {} from pool {}",
                leftover.handle,
                self.name()
            )
        };
        let (folder, name) = leftover
            .handle
            .split_once('/')
            .filter(|(folder, name)| *folder == "trash" && stowage_model::id::is_plain_word(name))
            .ok_or_else(|| Error::not_found(failed()))?;
        let path = self.options.path.join(folder).join(name);
        if path.exists() {
            self.nothing_foreign(&path)?;
        }
        let is_dir = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir());
        if is_dir && let Err(error) = free_now(&path.join("data")) {
            // btrfs needs room to make a file shorter, and none to remove it.
            tracing::debug!(path = %path.display(), %error, "its blocks are freed with it");
        }
        let removed = match is_dir {
            true => durable::remove_dir_all(&path),
            false => durable::remove_file(&path),
        };
        removed.or_internal(failed)?;
        // Whoever shared its blocks may have them for itself now.
        self.ledger.parted();
        self.reclaim().or_internal(failed)
    }

    /// btrfs gives the blocks of a removed file back when its transaction is committed, up to half
    /// a minute later, and counts them as used until then.
    fn reclaim(&self) -> std::io::Result<()> {
        if rustix::fs::statfs(&self.options.path)?.f_type == BTRFS_SUPER_MAGIC {
            rustix::fs::syncfs(fs::File::open(&self.options.path)?)?;
        }
        Ok(())
    }

    pub(super) fn attach(&self, record: &Record, how: Attach) -> Result<Device> {
        self.present()?;
        let data = self.data(record);
        let failed = || format!("failed to attach {}", record.id);
        let size = self.length(record)?.ok_or_else(|| missing(record))?;
        let keeps = keeps_blocks(record);
        if keeps {
            self.fill(&record.id);
        }
        let loops = self.loops(record)?;
        if loops.own.is_empty() {
            loops.only_own(record)?;
        }
        if let Some(present) = loops.own.into_iter().next() {
            // Holding it open keeps it from clearing itself before it is mounted.
            let file = fs::File::open(&present).or_internal(failed)?;
            if how == Attach::Held {
                loopdev::set_autoclear(&present, false).or_internal(failed)?;
            }
            if device::size(&present).or_internal(failed)? < size.0 {
                loopdev::set_capacity(&present).or_internal(failed)?;
            }
            if keeps && let Err(error) = self.keep_blocks(&present) {
                tracing::warn!(volume.id = %record.id, %error, "discards reach its file");
            }
            // A device that went away between the look and the open has no file behind it.
            if self.is_on(&present, record)? {
                self.note_device(&record.id, &present);
                return Ok(Device {
                    path: present,
                    size,
                    hold: Some(Arc::new(OwnedFd::from(file))),
                });
            }
        }
        let options = loopdev::Options {
            read_only: false,
            autoclear: how == Attach::UntilUnused,
            block_size: Some(SECTOR),
            keep_blocks: keeps,
        };
        let attached = loopdev::attach(&data, options).or_internal(failed)?;
        self.note_device(&record.id, &attached.path);
        if keeps {
            self.remember_kept(&attached.path);
        }
        failpoint::hit("file.attach.attached");
        if !attached.direct_io {
            tracing::debug!(volume.id = %record.id, "no direct I/O on this file system");
        }
        let hold = std::os::fd::AsFd::as_fd(&attached)
            .try_clone_to_owned()
            .or_internal(failed)?;
        Ok(Device {
            path: attached.path.clone(),
            size,
            hold: Some(Arc::new(hold)),
        })
    }

    /// After a file system was made or mounted: what that took from a thick volume is given back.
    pub(super) fn refill(&self, record: &Record) {
        if keeps_blocks(record) {
            self.fill(&record.id);
        }
    }

    /// The kernel lets a device go with its last opener, and anybody who looks through the loop
    /// devices of the machine opens each for a moment.
    pub(super) fn detach(&self, record: &Record) -> Result<()> {
        if self.length(record)?.is_none() {
            return Ok(());
        }
        for _ in 0..DETACH_TRIES {
            let attached = self.loops(record)?.own;
            if attached.is_empty() {
                return Ok(());
            }
            for path in attached {
                loopdev::detach(&path).or_internal(|| {
                    format!("failed to detach {} from {}", path.display(), record.id)
                })?;
            }
            if self.loops(record)?.own.is_empty() {
                return Ok(());
            }
            std::thread::sleep(DETACH_PAUSE);
        }
        match self.loops(record)?.own.first() {
            None => Ok(()),
            Some(path) => Err(Error::precondition(format!(
                "{} is still open somewhere, so {} cannot be detached; end its users first",
                path.display(),
                record.id
            ))),
        }
    }

    /// Whether this very volume is in its place. Another one there, unknown because its record is
    /// damaged or could not be read at the start, must be neither taken over nor removed: that is
    /// an error of kind `otherwise`.
    fn known(&self, record: &Record, otherwise: Kind) -> Result<bool> {
        let place = self.dir(record);
        if !place.exists() {
            return Ok(false);
        }
        let shown = place.display();
        let found = read_record(&place).map_err(|e| {
            let what = "holds a volume whose record cannot be read; run `stowage doctor`";
            Error::new(otherwise, format!("{shown} {what}")).caused_by(e)
        })?;
        let same = match otherwise {
            Kind::Exists => is_wholly(&found, record),
            _ => may_go(&found, record),
        };
        if same {
            return Ok(true);
        }
        let what = "holds another volume by its record, which was not readable when the pool was \
                    read; restart the daemon";
        Err(Error::new(otherwise, format!("{shown} {what}")))
    }

    /// Length of the data file; `None` when the volume is not there, or is being removed, see
    /// [`discard`].
    pub(super) fn length(&self, record: &Record) -> Result<Option<Bytes>> {
        match fs::metadata(self.data(record)) {
            Ok(meta) => Ok(Some(Bytes(meta.len())).filter(|length| *length > Bytes(0))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::internal(format!("failed to look at {}", record.id)).caused_by(e)),
        }
    }

    fn name(&self) -> &str {
        self.options.name.as_str()
    }
}

/// Removes what is one of our directories, or a file, where there is room for nothing. A volume is none
/// any more when its bytes are gone, which no other state of it looks like: its record goes after them,
/// and the empty file last, so that a directory is never taken for one whose data somebody has moved.
fn discard(place: &Path) -> std::io::Result<()> {
    if !fs::symlink_metadata(place)?.is_dir() {
        fs::remove_file(place)?;
        return durable::fsync_dir(place.parent().unwrap_or(place)).map_err(|e| e.source);
    }
    let data = place.join("data");
    free_now(&data)?;
    if let Ok(meta) = fs::symlink_metadata(&data) {
        if meta.len() > 0 {
            let why = "it has another link, which would lose its bytes as well";
            return Err(std::io::Error::other(format!("{}: {why}", data.display())));
        }
        fs::File::open(&data)?.sync_all()?;
    }
    failpoint::hit("file.discard.emptied");
    for entry in fs::read_dir(place)? {
        let path = entry?.path();
        if path != data && path.file_name().is_none_or(|name| name != RECORD) {
            fs::remove_file(path)?;
        }
    }
    for last in [place.join(RECORD), data] {
        match fs::remove_file(last) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => failpoint::hit("file.discard.unlinked"),
        }
    }
    fs::remove_dir(place)?;
    durable::fsync_dir(place.parent().unwrap_or(place)).map_err(|e| e.source)
}

/// Whether a directory of ours is what a [`discard`] that was cut off left.
pub(super) fn is_hollow(place: &Path) -> bool {
    match fs::symlink_metadata(place.join("data")) {
        Ok(meta) => meta.is_file() && meta.len() == 0,
        Err(_) => fs::read_dir(place).is_ok_and(|mut entries| entries.next().is_none()),
    }
}

/// Gives the blocks of a file back before it is removed: xfs frees those of a removed file in its own
/// time, and who is told that it is gone asks for them at once. One that somebody linked elsewhere
/// stays as it is.
fn free_now(data: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    match fs::symlink_metadata(data) {
        Ok(meta) if meta.is_file() && meta.nlink() == 1 => {
            let open = fs::OpenOptions::new().write(true).open(data);
            open.and_then(|file| file.set_len(0))
        }
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// Whether all blocks of a file are its own for life.
pub(super) fn keeps_blocks(record: &Record) -> bool {
    record.provisioning == Provisioning::Thick && !record.is_snapshot()
}

fn encode(record: &Record) -> std::io::Result<Vec<u8>> {
    Ok(serde_json::to_vec_pretty(&record.to_pairs())?)
}

fn write_record(dir: &Path, record: &Record) -> std::io::Result<()> {
    durable::write_atomic(&dir.join(RECORD), &encode(record)?).map_err(|e| e.source)
}

fn missing(record: &Record) -> Error {
    Error::not_found(format!("the file of {} is missing", record.id))
}

fn out_of_space(e: &std::io::Error) -> bool {
    matches!(
        e.kind(),
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
    ) || e.kind() == std::io::ErrorKind::FileTooLarge
}
