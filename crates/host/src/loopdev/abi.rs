//! The ioctls of linux/loop.h (drivers/block/loop.c) and their structs.

use std::ffi::c_void;
use std::fs::File;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::{Errno, Result};
use rustix::ioctl::{Getter, Ioctl, IoctlOutput, NoArg, Opcode, Setter, ioctl};

use crate::devno::Devno;

const LOOP_CLR_FD: Opcode = 0x4C01;
const LOOP_SET_STATUS64: Opcode = 0x4C04;
const LOOP_GET_STATUS64: Opcode = 0x4C05;
const LOOP_SET_CAPACITY: Opcode = 0x4C07;
const LOOP_CONFIGURE: Opcode = 0x4C0A;
const LOOP_CTL_REMOVE: Opcode = 0x4C81;
const LOOP_CTL_GET_FREE: Opcode = 0x4C82;

pub(super) const READ_ONLY: u32 = 1;
pub(super) const AUTOCLEAR: u32 = 4;
pub(super) const DIRECT_IO: u32 = 16;

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Info {
    device: u64,
    pub(super) inode: u64,
    pub(super) rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    pub(super) flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

impl Info {
    /// Whether it shows the file from its first byte to its last.
    pub(super) fn is_whole(&self) -> bool {
        self.offset == 0 && self.sizelimit == 0
    }

    /// The device the attached file lies on, decoded from huge_encode_dev() of linux/kdev_t.h.
    pub(super) fn devno(&self) -> Devno {
        let low = |value: u64| u32::try_from(value & 0xffff_ffff).unwrap_or(0);
        Devno {
            major: low((self.device & 0xf_ff00) >> 8),
            minor: low((self.device & 0xff) | ((self.device >> 12) & 0xf_ff00)),
        }
    }
}

/// `struct loop_config`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Config {
    fd: u32,
    block_size: u32,
    pub(super) info: Info,
    reserved: [u64; 8],
}

impl Config {
    /// All of the file at `name`, which is only for people: LOOP_GET_STATUS64 shows it.
    pub(super) fn new(fd: RawFd, block_size: u32, name: &Path) -> Self {
        let mut file_name = [0; 64];
        // One byte stays NUL.
        for (to, from) in file_name[..63].iter_mut().zip(name.as_os_str().as_bytes()) {
            *to = *from;
        }
        let info = Info {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            sizelimit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: 0,
            file_name,
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        };
        // A descriptor in use is never negative.
        Self {
            fd: fd.unsigned_abs(),
            block_size,
            info,
            reserved: [0; 8],
        }
    }
}

/// LOOP_CTL_GET_FREE answers with its return value.
struct GetFree;

// SAFETY: LOOP_CTL_GET_FREE takes no argument and touches no user memory (loop_control_ioctl).
unsafe impl Ioctl for GetFree {
    type Output = i32;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        LOOP_CTL_GET_FREE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> Result<i32> {
        Ok(out)
    }
}

pub(super) fn free(control: &File) -> Result<i32> {
    // SAFETY: see the implementation of Ioctl above.
    unsafe { ioctl(control, GetFree) }
}

/// LOOP_CTL_REMOVE takes the number itself as its argument.
struct Remove(i32);

// SAFETY: LOOP_CTL_REMOVE takes a number and touches no user memory (loop_control_remove).
unsafe impl Ioctl for Remove {
    type Output = ();

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        LOOP_CTL_REMOVE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::without_provenance_mut(usize::try_from(self.0).unwrap_or(usize::MAX))
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> Result<()> {
        Ok(())
    }
}

pub(super) fn remove(control: &File, number: i32) -> Result<()> {
    // SAFETY: see the implementation of Ioctl above.
    unsafe { ioctl(control, Remove(number)) }
}

pub(super) fn configure(device: &File, config: Config) -> std::result::Result<(), Errno> {
    // SAFETY: LOOP_CONFIGURE reads one struct loop_config, which Config mirrors (its size is
    // tested below); the descriptor in it is open for the time of the call.
    unsafe { ioctl(device, Setter::<LOOP_CONFIGURE, Config>::new(config)) }
}

pub(super) fn status(device: &File) -> Result<Info> {
    // SAFETY: LOOP_GET_STATUS64 fills one struct loop_info64, all of it, with plain integers.
    unsafe { ioctl(device, Getter::<LOOP_GET_STATUS64, Info>::new()) }
}

pub(super) fn set_status(device: &File, info: Info) -> Result<()> {
    // SAFETY: LOOP_SET_STATUS64 reads one struct loop_info64.
    unsafe { ioctl(device, Setter::<LOOP_SET_STATUS64, Info>::new(info)) }
}

pub(super) fn set_capacity(device: &File) -> Result<()> {
    // SAFETY: LOOP_SET_CAPACITY takes no argument.
    unsafe { ioctl(device, NoArg::<LOOP_SET_CAPACITY>::new()) }
}

pub(super) fn clear(device: &File) -> Result<()> {
    // SAFETY: LOOP_CLR_FD takes no argument.
    unsafe { ioctl(device, NoArg::<LOOP_CLR_FD>::new()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structs_are_as_large_as_the_kernels() {
        assert_eq!(size_of::<Info>(), 232);
        assert_eq!(size_of::<Config>(), 304);
    }

    #[test]
    fn large_minors_are_decoded() {
        let mut info = Config::new(0, 0, Path::new("/x")).info;
        // new_encode_dev(MKDEV(253, 0x12345))
        info.device = 0x45 | (253 << 8) | (0x12300 << 12);
        assert_eq!(
            info.devno(),
            Devno {
                major: 253,
                minor: 0x12345
            }
        );
    }
}
