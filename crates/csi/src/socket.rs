//! The Unix socket. Whoever may connect may delete every volume, so nobody but the owner may, at
//! no instant.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Listen at `path`, readable and writable by the owner only. A socket left there by a dead server
/// is replaced, and that of one of which `runs_no_more` says so by its process id: a server that was
/// killed and cannot end, since a thread of it hangs in the kernel, keeps its socket open. Must be
/// called inside a tokio runtime.
///
/// bind(2) makes the socket with the process's umask and chmod(2) comes after, so the socket is
/// made in a private directory beside `path` and then renamed over it, which also means that a
/// client finds the old socket or the new one and never none.
///
/// # Errors
/// [`io::ErrorKind::AddrInUse`] while a live server answers at `path`,
/// [`io::ErrorKind::AlreadyExists`] when something other than a socket is there, and whatever the
/// file system says.
pub fn bind(
    path: &Path,
    runs_no_more: impl Fn(u32) -> bool,
) -> io::Result<tokio::net::UnixListener> {
    refuse_what_is_not_ours(path, runs_no_more)?;
    // Short, because a socket address holds only 107 bytes.
    let private = path.with_file_name(format!(".{:x}", std::process::id()));
    remove_leftover(&private)?;
    DirBuilder::new().mode(0o700).create(&private)?;
    let bound = bind_by_way_of(&private, path);
    let cleaned = remove_leftover(&private);
    let listener = bound?;
    cleaned?;
    listener.set_nonblocking(true)?;
    tokio::net::UnixListener::from_std(listener)
}

fn refuse_what_is_not_ours(path: &Path, runs_no_more: impl Fn(u32) -> bool) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!(
                "{} is there and is no socket; remove it or choose another path",
                path.display()
            ),
        ));
    }
    match UnixStream::connect(path) {
        Ok(stream) if listener(&stream)?.is_some_and(runs_no_more) => Ok(()),
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!(
                "another server answers at {}; stop it or choose another path",
                path.display()
            ),
        )),
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
            ) =>
        {
            Ok(())
        }
        Err(e) => Err(e),
    }
}

/// The process that listens at the other end.
fn listener(stream: &UnixStream) -> io::Result<Option<u32>> {
    let stream = stream.try_clone()?;
    stream.set_nonblocking(true)?;
    let peer = tokio::net::UnixStream::from_std(stream)?.peer_cred()?;
    Ok(peer.pid().and_then(|pid| u32::try_from(pid).ok()))
}

fn bind_by_way_of(private: &Path, path: &Path) -> io::Result<UnixListener> {
    let young = private.join("s");
    let listener = UnixListener::bind(&young)?;
    fs::set_permissions(&young, Permissions::from_mode(0o600))?;
    fs::rename(&young, path)?;
    Ok(listener)
}

/// Remove the private directory, also one that a killed process of the same id left behind.
fn remove_leftover(private: &Path) -> io::Result<()> {
    for gone in [fs::remove_file(private.join("s")), fs::remove_dir(private)] {
        match gone {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}
