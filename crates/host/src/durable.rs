//! Files and directories that are there after a power cut, or were never there.
//!
//! A rename is atomic but not durable: the new name reaches the disk with the directory, so every
//! change of a directory here ends with fsync(2) of that directory (its man page says why).

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Context, FsError};

/// Tells the temporary files of one process apart.
static SERIAL: AtomicU64 = AtomicU64::new(0);

/// Ends every temporary name, so that [`sweep`] knows them.
const TEMPORARY: &str = ".stowage-tmp";

/// Replaces `path` by a file (mode 0600) with `bytes`: readers see the old or the new content, and
/// after a return of `Ok` it is the new one, also after a power cut.
///
/// # Errors
/// `path` is unchanged and no temporary file is left, unless the last fsync failed: then `path`
/// has the new content, but may go back after a power cut.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), FsError> {
    write_temporary(path, bytes, true)?;
    fsync_dir(parent(path))
}

/// As [`write_atomic`], without waiting for the disk: readers see the old or the new content also
/// when the process is killed, but after a power cut it may be either, or empty. For notes about
/// what a power cut undoes anyway, such as mounts.
///
/// # Errors
/// `path` is unchanged and no temporary file is left.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), FsError> {
    write_temporary(path, bytes, false)
}

fn write_temporary(path: &Path, bytes: &[u8], sync: bool) -> Result<(), FsError> {
    let temporary = temporary(path).context("write", path)?;
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            if sync { file.sync_all() } else { Ok(()) }
        })
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The cause is what the caller needs; a leftover is swept at the next start.
        let _ = fs::remove_file(&temporary);
    }
    written.context("write", path)
}

/// Removes the temporary files that a killed [`write_atomic`] left in `dir`; for the start of a
/// daemon, before anything writes.
///
/// # Errors
/// If `dir` cannot be read or a leftover not removed.
pub fn sweep(dir: &Path) -> Result<(), FsError> {
    for entry in fs::read_dir(dir).context("read", dir)? {
        let path = entry.context("read", dir)?.path();
        let leftover = path.file_name().is_some_and(|name| {
            let name = name.to_string_lossy();
            name.starts_with('.') && name.ends_with(TEMPORARY)
        });
        if leftover {
            remove_file(&path)?;
        }
    }
    Ok(())
}

/// Renames, replacing a file or an empty directory at `to`, and syncs both directories.
///
/// # Errors
/// As rename(2); both must be on the same file system.
pub fn rename(from: &Path, to: &Path) -> Result<(), FsError> {
    fs::rename(from, to).context("rename", from)?;
    fsync_dir(parent(to))?;
    if parent(from) != parent(to) {
        fsync_dir(parent(from))?;
    }
    Ok(())
}

/// Makes the entries of `path`, a directory, durable.
///
/// # Errors
/// As open(2) and fsync(2).
pub fn fsync_dir(path: &Path) -> Result<(), FsError> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .context("sync the directory", path)
}

/// Removes a file, durably; a missing one is fine.
///
/// # Errors
/// As unlink(2), but not for a missing file.
pub fn remove_file(path: &Path) -> Result<(), FsError> {
    match fs::remove_file(path) {
        Ok(()) => fsync_dir(parent(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(FsError::new("remove", path, error)),
    }
}

/// Removes a directory and all in it, durably; a missing one is fine. Follows no symlinks.
///
/// # Errors
/// What stopped the removal; some entries may be gone by then.
pub fn remove_dir_all(path: &Path) -> Result<(), FsError> {
    match fs::remove_dir_all(path) {
        Ok(()) => fsync_dir(parent(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(FsError::new("remove", path, error)),
    }
}

/// Makes the directory `path` (mode 0700), durably; one that exists is fine. Its parent must
/// exist.
///
/// # Errors
/// As mkdir(2); also if `path` exists and is no directory.
pub fn create_dir(path: &Path) -> Result<(), FsError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => fsync_dir(parent(path)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(FsError::new("create the directory", path, error)),
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => Path::new("/"),
    }
}

fn temporary(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    // The process number too: a command-line tool may write beside the daemon.
    let (pid, serial) = (std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed));
    hidden.push(format!(".{pid}.{serial}{TEMPORARY}"));
    Ok(path.with_file_name(hidden))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn write_replaces_with_mode_0600_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        fs::write(&path, "old and longer").unwrap();
        write_atomic(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(names(dir.path()), ["state.json"]);
    }

    #[test]
    fn a_failed_write_leaves_the_old_and_no_leftover() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), "kept").unwrap();
        let error = write_atomic(&path, b"new").unwrap_err();
        assert!(
            error.to_string().starts_with("failed to write /"),
            "{error}"
        );
        assert_eq!(names(dir.path()), ["state"]);
    }

    #[test]
    fn parallel_writers_never_mix() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        std::thread::scope(|scope| {
            for letter in b'a'..=b'd' {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..20 {
                        write_atomic(path, &[letter; 5000]).unwrap();
                        let seen = fs::read(path).unwrap();
                        assert!(seen.len() == 5000 && seen.iter().all(|byte| *byte == seen[0]));
                    }
                });
            }
        });
        assert_eq!(names(dir.path()), ["state"]);
    }

    #[test]
    fn sweep_removes_leftovers_only() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        fs::write(temporary(&state).unwrap(), "half").unwrap();
        write_atomic(&state, b"whole").unwrap();
        sweep(dir.path()).unwrap();
        assert_eq!(names(dir.path()), ["state"]);
    }

    #[test]
    fn removals_and_create_may_be_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let (file, tree) = (dir.path().join("file"), dir.path().join("tree"));
        create_dir(&tree).unwrap();
        create_dir(&tree).unwrap();
        assert_eq!(
            fs::metadata(&tree).unwrap().permissions().mode() & 0o777,
            0o700
        );
        write_atomic(&tree.join("inner"), b"x").unwrap();
        rename(&tree.join("inner"), &file).unwrap();
        assert_eq!(names(&tree), Vec::<String>::new());
        for _ in 0..2 {
            remove_file(&file).unwrap();
            remove_dir_all(&tree).unwrap();
        }
        assert!(names(dir.path()).is_empty());
        fs::write(&file, "").unwrap();
        assert!(create_dir(&file).is_err());
    }
}
