//! Which kernel a guest boots: a newer User Mode Linux where `make setup` got one, else the
//! machine's own package.
//!
//! The newer one runs a guest's processes under seccomp instead of ptrace, which makes forks and
//! system calls 2 to 3 times as fast. It lies in a folder of the user's, complete with its
//! modules and the C library it wants, and is taken only when its marker is there: that is
//! written last, after a guest has booted on it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// `stock` makes guests boot the machine's own kernel also where a newer one is there.
pub const VARIABLE: &str = "STOWAGE_GUEST_KERNEL";

/// The value of [`VARIABLE`] for the machine's own kernel.
pub const STOCK: &str = "stock";

/// A kernel for guests, with its modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    pub(super) program: PathBuf,
    pub(super) modules: PathBuf,
    pub(super) options: &'static [&'static str],
    version: String,
}

impl Kernel {
    /// The one that guests boot unless told otherwise.
    #[must_use]
    pub fn chosen() -> Self {
        let stock = std::env::var_os(VARIABLE).is_some_and(|value| value == STOCK);
        let newer = (!stock).then(|| Self::newer_in(&folder())).flatten();
        newer.unwrap_or_else(Self::stock)
    }

    /// The machine's own package, which `require` finds missing like any other program.
    #[must_use]
    pub fn stock() -> Self {
        Self {
            program: "linux.uml".into(),
            modules: "/usr/lib/uml/modules".into(),
            options: &[],
            version: "of this machine's package".to_owned(),
        }
    }

    /// The newer kernel in `folder`, if all of it is there.
    #[must_use]
    pub fn newer_in(folder: &Path) -> Option<Self> {
        let version = std::fs::read_to_string(folder.join(MARKER)).ok()?;
        let kernel = Self::unpacked_in(folder, version.trim());
        kernel.is_whole().then_some(kernel)
    }

    /// The same before its marker is there, to be tried.
    #[must_use]
    pub fn unpacked_in(folder: &Path, version: &str) -> Self {
        Self {
            program: folder.join(PROGRAM),
            modules: folder.join(MODULES),
            options: &["seccomp=on"],
            version: version.to_owned(),
        }
    }

    /// What a person is told: a version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    pub(super) fn is_stock(&self) -> bool {
        self.program.as_os_str() == OsStr::new("linux.uml")
    }

    fn is_whole(&self) -> bool {
        self.program.is_file() && self.modules.is_dir()
    }
}

/// Whole and seen to boot; holds the version.
pub const MARKER: &str = "ready";
/// The kernel itself.
pub const PROGRAM: &str = "linux";
/// Where a folder named like the kernel's release has its modules.
pub const MODULES: &str = "usr/lib/uml/modules";

/// Where the newer kernel lies: once for all clones of a user's, since it is the same for all.
#[must_use]
pub fn folder() -> PathBuf {
    let variable =
        |name| std::env::var_os(name).filter(|value: &std::ffi::OsString| !value.is_empty());
    variable("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(variable("HOME")?).join(".cache")))
        .filter(|dir| dir.is_absolute())
        .unwrap_or_else(crate::scratch::target)
        .join("stowage/guest-kernel")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_newer_only_when_all_of_it_is_there() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join(MODULES)).unwrap();
        std::fs::write(dir.path().join(PROGRAM), "").unwrap();
        assert_eq!(
            Kernel::newer_in(dir.path()),
            None,
            "no marker: never seen to boot"
        );
        std::fs::write(dir.path().join(MARKER), "7.2um1\n").unwrap();
        assert_eq!(Kernel::newer_in(dir.path()).unwrap().version(), "7.2um1");
        std::fs::remove_file(dir.path().join(PROGRAM)).unwrap();
        assert_eq!(Kernel::newer_in(dir.path()), None, "cleaned away in part");
    }
}
