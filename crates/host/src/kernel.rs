//! Whether the kernel is new enough.
//!
//! Asked call by call and not by version: distributions carry newer calls back, and a container's
//! seccomp profile may refuse what the kernel has.

use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::mount::has_setattr;

/// What has all that is called here. LOOP_CONFIGURE (5.8) and STATX_MNT_ID (5.8) are older than the
/// youngest of them, mount_setattr.
pub const NEEDED: &str = "Linux 5.12";

/// The version in words, as uname(2) tells it.
pub fn release() -> String {
    let name = rustix::system::uname();
    format!(
        "{} {}",
        name.sysname().to_string_lossy(),
        name.release().to_string_lossy()
    )
}

/// The system calls that are needed and not to be had.
pub fn lacking() -> Vec<&'static str> {
    let top = Path::new("/");
    let openat2 = openat2(
        CWD,
        top,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::NO_SYMLINKS,
    );
    let open_tree = open_tree(CWD, top, OpenTreeFlags::OPEN_TREE_CLOEXEC);
    let asked = [
        ("openat2", openat2.err()),
        ("open_tree", open_tree.err()),
        ("mount_setattr", has_setattr().err()),
    ];
    asked
        .into_iter()
        // EPERM: from a seccomp profile that is older than the call.
        .filter(|(_, refused)| matches!(refused, Some(Errno::NOSYS | Errno::PERM)))
        .map(|(call, _)| call)
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_kernel_lacks_nothing() {
        crate::testing::require_root();
        assert_eq!(super::lacking(), Vec::<&str>::new());
        assert!(super::release().starts_with("Linux "));
    }
}
