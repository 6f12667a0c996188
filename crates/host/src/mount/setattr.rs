//! mount_setattr(2), Linux 5.12, which rustix does not have.

use std::ffi::{c_int, c_long, c_uint};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;

/// Sets `ro` on the mount that `tree` is open on, leaving its other options as they are, and so
/// also those that are locked (mount_namespaces(7)).
pub(super) fn set_read_only(tree: &OwnedFd) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    change(tree.as_raw_fd(), &attr).map_err(io::Error::from)
}

/// Whether the kernel has the call: it refuses the descriptor then.
pub(crate) fn is_there() -> Result<(), Errno> {
    // SAFETY: all zeros is a value of this struct of integers: change nothing.
    let nothing: libc::mount_attr = unsafe { std::mem::zeroed() };
    match change(-1, &nothing) {
        Err(Errno::BADF) => Ok(()),
        other => other,
    }
}

fn change(tree: c_int, attr: &libc::mount_attr) -> Result<(), Errno> {
    let flags = libc::AT_EMPTY_PATH.unsigned_abs() as c_uint;
    // SAFETY: the arguments have the types of the man page's prototype; the path is a C string
    // that lives as long as the program; the kernel reads `attr`, of the size given, and writes
    // nothing to our memory.
    let result: c_long = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree,
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of_val(attr),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL))
    }
}
