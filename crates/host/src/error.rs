//! The error of a system call on one path.

use std::io;
use std::path::{Path, PathBuf};

/// A system call on `path` failed; reads "failed to open /dev/x", the cause is the source.
#[derive(Debug, thiserror::Error)]
#[error("failed to {verb} {}", path.display())]
pub struct FsError {
    /// What was tried, as in "read the size of".
    pub verb: &'static str,
    /// The file, directory or device it was tried on.
    pub path: PathBuf,
    /// What the kernel said.
    pub source: io::Error,
}

impl FsError {
    /// Names the thing `source` happened to.
    pub fn new(verb: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self {
            verb,
            path: path.to_owned(),
            source: source.into(),
        }
    }

    /// The kernel's errno, if it was the kernel that refused.
    pub fn errno(&self) -> Option<rustix::io::Errno> {
        rustix::io::Errno::from_io_error(&self.source)
    }

    /// Whether the file system has no block or inode left, or its user no more of a quota.
    pub fn is_no_space(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self.kind(), StorageFull | QuotaExceeded)
    }

    /// The kind of the cause.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

/// Adds the verb and the path to an I/O result.
pub(crate) trait Context<T> {
    fn context(self, verb: &'static str, path: &Path) -> Result<T, FsError>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, verb: &'static str, path: &Path) -> Result<T, FsError> {
        self.map_err(|source| FsError::new(verb, path, source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_thing_and_keeps_the_cause() {
        let error = FsError::new("open", Path::new("/dev/x"), rustix::io::Errno::BUSY);
        assert_eq!(error.to_string(), "failed to open /dev/x");
        assert_eq!(error.errno(), Some(rustix::io::Errno::BUSY));
        assert!(std::error::Error::source(&error).is_some());
    }
}
