//! Device mapper asked directly, by linux/dm-ioctl.h: `dmsetup` does the same at the price of a
//! process, while a pod waits for its volume, or while its writers are held.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

use crate::devno::Devno;
use crate::error::{Context, FsError};

const CONTROL: &str = "/dev/mapper/control";

/// `_IOWR(DM_IOCTL, DM_TABLE_STATUS_CMD, struct dm_ioctl)`.
const TABLE_STATUS: Opcode = opcode::read_write::<Header>(0xFD, 12);

/// `_IOWR(DM_IOCTL, DM_DEV_SUSPEND_CMD, struct dm_ioctl)`; without DM_SUSPEND_FLAG it resumes.
const SUSPEND: Opcode = opcode::read_write::<Header>(0xFD, 6);

/// Interface version 4 is the only one there has been since Linux 2.6; the kernel refuses a minor
/// above its own, and 0 asks for nothing new.
const VERSION: [u32; 3] = [4, 0, 0];

/// DM_BUFFER_FULL_FLAG: the answer did not fit, so what is there is not all of it.
const BUFFER_FULL: u32 = 1 << 8;

/// `struct dm_ioctl`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Header {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_nr: u32,
    padding: u32,
    dev: u64,
    name: [u8; 128],
    uuid: [u8; 129],
    data: [u8; 7],
}

/// Where a target's type stands in `struct dm_target_spec`, and where its status text begins:
/// sector_start u64, length u64, status i32, next u32, target_type [u8; 16].
const TYPE_AT: usize = 24;
const TEXT_AT: usize = 40;

/// The header with room for the answer; one thin target's is under a hundred bytes.
#[repr(C)]
struct Request {
    header: Header,
    answer: [u8; 712],
}

/// Bytes of a thin volume (the target `thin`) that have a block of the thin pool behind them:
/// what was written since it was made, or came with its origin. 0 proves that nothing ever was.
///
/// # Errors
/// If device mapper cannot be asked, the device is not one thin target, or its pool has failed;
/// then nothing is known.
pub fn thin_mapped(device: Devno) -> Result<u64, FsError> {
    let Control(file) = Control::open()?;
    let mut request = Request::about(device);
    // SAFETY: DM_TABLE_STATUS reads one struct dm_ioctl and writes at most the `data_size` bytes
    // that it announces, which is the size of Request, all of plain integers (dm-ioctl.c,
    // ctl_ioctl and copy_params).
    unsafe { ioctl(&file, Updater::<TABLE_STATUS, Request>::new(&mut request)) }
        .context("ask device mapper about", Path::new(&device.to_string()))?;
    request.mapped().ok_or_else(|| {
        let error = io::Error::new(io::ErrorKind::InvalidData, "not a thin volume at work");
        FsError::new("read the state of", Path::new(&device.to_string()), error)
    })
}

/// The door to device mapper, open: to open it later could itself wait for a device that is held.
#[derive(Debug)]
pub(crate) struct Control(File);

impl Control {
    pub(crate) fn open() -> Result<Self, FsError> {
        let path = Path::new(CONTROL);
        let file = File::options().read(true).write(true).open(path);
        file.map(Self).context("open", path)
    }

    /// Lets the writers of a suspended device go on; harmless for one that is not (dm-ioctl.c,
    /// do_resume).
    ///
    /// # Errors
    /// ENXIO if there is no such device.
    pub(crate) fn resume(&self, device: Devno) -> Result<(), FsError> {
        let mut request = Request::about(device);
        // SAFETY: as in `thin_mapped`; do_resume writes a struct dm_ioctl and nothing behind it.
        unsafe { ioctl(&self.0, Updater::<SUSPEND, Request>::new(&mut request)) }
            .context("resume", Path::new(&device.to_string()))
    }
}

impl Request {
    fn about(device: Devno) -> Self {
        let (major, minor) = (u64::from(device.major), u64::from(device.minor));
        let header = Header {
            version: VERSION,
            data_size: u32::try_from(size_of::<Self>()).unwrap_or(0),
            data_start: u32::try_from(size_of::<Header>()).unwrap_or(0),
            target_count: 0,
            open_count: 0,
            flags: 0,
            event_nr: 0,
            padding: 0,
            // huge_encode_dev() of linux/kdev_t.h.
            dev: (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12),
            name: [0; 128],
            uuid: [0; 129],
            data: [0; 7],
        };
        Self {
            header,
            answer: [0; 712],
        }
    }

    /// The status text of a thin target is `<mapped sectors> <highest mapped sector>`, or `Fail`,
    /// or `-` for one without a table (dm-thin.c, thin_status).
    fn mapped(&self) -> Option<u64> {
        let Header {
            flags,
            target_count,
            data_start,
            ..
        } = self.header;
        let at_answer = usize::try_from(data_start).ok() == Some(size_of::<Header>());
        if flags & BUFFER_FULL != 0 || target_count != 1 || !at_answer {
            return None;
        }
        let kind = text(&self.answer[TYPE_AT..TEXT_AT])?;
        let status = text(&self.answer[TEXT_AT..])?;
        let sectors: u64 = status.split(' ').next()?.parse().ok()?;
        (kind == "thin").then(|| sectors.saturating_mul(512))
    }
}

/// What stands before the first NUL.
fn text(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    std::str::from_utf8(&bytes[..end]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(kind: &[u8], status: &[u8]) -> Request {
        let mut request = Request::about(Devno {
            major: 253,
            minor: 0x12345,
        });
        request.header.target_count = 1;
        request.answer[TYPE_AT..TYPE_AT + kind.len()].copy_from_slice(kind);
        request.answer[TEXT_AT..TEXT_AT + status.len()].copy_from_slice(status);
        request
    }

    #[test]
    fn structs_are_as_large_as_the_kernels() {
        assert_eq!(size_of::<Header>(), 312);
        assert_eq!(size_of::<Request>(), 1024);
        // What <linux/dm-ioctl.h> makes of it.
        assert_eq!(TABLE_STATUS, 0xC138_FD0C);
        assert_eq!(SUSPEND, 0xC138_FD06);
    }

    #[test]
    fn large_minors_are_encoded() {
        let dev = answered(b"thin", b"0 -").header.dev;
        assert_eq!(dev, 0x45 | (253 << 8) | (0x12300 << 12));
    }

    #[test]
    fn only_a_thin_volume_at_work_tells_what_it_has() {
        assert_eq!(answered(b"thin", b"0 -").mapped(), Some(0));
        assert_eq!(answered(b"thin", b"128 2047").mapped(), Some(65536));
        for (kind, status) in [
            (&b"thin"[..], &b"Fail"[..]),
            (b"thin", b"-"),
            (b"thin", b"Error"),
            (b"thin", b""),
            (b"thin-pool", b"0 12/1024 0/512 - rw"),
            (b"linear", b""),
        ] {
            assert_eq!(answered(kind, status).mapped(), None, "{kind:?} {status:?}");
        }
        let mut cut_short = answered(b"thin", b"0 -");
        cut_short.header.flags = BUFFER_FULL;
        assert_eq!(cut_short.mapped(), None);
        let mut several = answered(b"thin", b"0 -");
        several.header.target_count = 2;
        assert_eq!(several.mapped(), None);
    }

    #[test]
    fn what_is_no_thin_volume_is_an_error() {
        // Nobody has this number; where there is no device mapper the control node is missing.
        let nobody = Devno {
            major: 4095,
            minor: 1 << 19,
        };
        assert!(thin_mapped(nobody).is_err());
    }
}
