//! The trait of doors that mount for themselves: a person at a shell, Docker, FlexVolume. They know no
//! staging, and several of their callers may share one mount.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Bytes, Error, Id, Result};

/// One of those who share a mount, by an id that its door makes up (Docker: the mount id).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Holder(String);

impl Holder {
    /// The longest one, in bytes.
    pub const LONGEST: usize = 128;

    /// Check an id: 1 to 128 visible ASCII characters.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] naming it.
    pub fn new(id: impl Into<String>) -> Result<Self> {
        let id = id.into();
        let fits = (1..=Self::LONGEST).contains(&id.len());
        if fits && id.bytes().all(|b| b.is_ascii_graphic()) {
            return Ok(Self(id));
        }
        Err(Error::invalid(format!(
            "holder {id:?} is not 1 to {} visible ASCII characters without spaces",
            Self::LONGEST
        )))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Holder {
    type Error = Error;

    fn try_from(id: String) -> Result<Self> {
        Self::new(id)
    }
}

impl From<Holder> for String {
    fn from(holder: Holder) -> Self {
        holder.0
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Who holds a mount, and how many times each: a holder may mount more than once, and unmounts as often.
pub type Holders = BTreeMap<Holder, u32>;

/// A volume to bring to one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountRequest {
    /// The volume.
    pub id: Id,
    /// Directory (or file, for a block volume) to make; its parent exists.
    pub target: PathBuf,
    /// Mount options as given; they count for the first target only.
    pub flags: Vec<String>,
    /// The consumer may only read.
    pub read_only: bool,
    /// The consumer's cgroup.
    pub cgroup: Option<PathBuf>,
    /// Who mounts it. What is mounted without a holder is not shared.
    pub holder: Option<Holder>,
}

/// A path at which a volume is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// The path.
    pub target: PathBuf,
    /// The consumer may only read.
    pub read_only: bool,
    /// Who holds it there; none where it is not shared.
    pub holders: Holders,
}

/// Mount and unmount in one step, and say where. What is noted of a holder is durable before the call is
/// answered, outlives the daemon, and ends with the machine's boot, as mounts do.
#[async_trait]
pub trait Mounts: Send + Sync {
    /// Mount a volume at a path, or, with a holder, count one more hold of the mount that is there.
    /// Without a holder a repetition is success.
    ///
    /// # Errors
    /// As [`crate::Publish::stage`] and [`crate::Publish::publish`]; [`crate::Kind::Exists`] where it is
    /// mounted there in another way, shared or not shared included.
    async fn mount(&self, want: MountRequest) -> Result<()>;

    /// End one hold of a mount, and with the last one the mount. A holder that has none ends nothing,
    /// which is success. Answers whether the volume is still mounted there.
    ///
    /// # Errors
    /// As [`crate::Publish::unpublish`] and [`crate::Publish::unstage`]; [`crate::Kind::NotFound`] when
    /// the volume is not there, or is asked for without a holder where it is not mounted;
    /// [`crate::Kind::Precondition`] naming the holders of a mount that is to end without one.
    async fn unmount(&self, id: &Id, target: &Path, holder: Option<&Holder>) -> Result<bool>;

    /// Where a volume is in use, in the order of the paths.
    ///
    /// # Errors
    /// [`crate::Kind::NotFound`].
    async fn mounted(&self, id: &Id) -> Result<Vec<Mounted>>;

    /// The volume that is in use at this path, or was before the machine or the daemon was restarted.
    async fn volume_at(&self, target: &Path) -> Option<Id>;

    /// Grow the file system of a volume to the volume's size where it is mounted, if it is; answers that
    /// size.
    ///
    /// # Errors
    /// As [`crate::Publish::expand`].
    async fn expand_mounted(&self, id: &Id) -> Result<Option<Bytes>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_is_a_short_word_whatever_its_door_makes_up() {
        Holder::new("0".repeat(64)).unwrap();
        Holder::new("pod/7f:x").unwrap();
        for bad in ["", " ", "a b", "a\n", "ü", &"x".repeat(129)] {
            assert!(Holder::new(bad).is_err(), "{bad:?}");
        }
    }
}
