//! Paths below a kubelet's directory that lies behind a symbolic link.

use std::path::{Path, PathBuf};

use stowage_host::{blocking, path};

/// The directories in a kubelet's own whose contents others have a hand in: a container that runs as
/// root makes what looks like root's in them.
const SHARED: [&str; 2] = ["pods", "plugins"];

/// The path with the links in its part above those resolved, where only root can change them. Any
/// other link is refused by whoever uses the path, as it always was.
pub(crate) fn settled_now(given: &Path) -> PathBuf {
    let mut above = PathBuf::new();
    let mut components = given.components();
    while let Some(component) = components.clone().next() {
        if SHARED.iter().any(|name| component.as_os_str() == *name) {
            return path::settled(&above).join(components.as_path());
        }
        above.push(component);
        components.next();
    }
    given.to_owned()
}

/// As [`settled_now`], from async code.
pub(crate) async fn settled(given: PathBuf) -> PathBuf {
    blocking(move || settled_now(&given)).await
}
