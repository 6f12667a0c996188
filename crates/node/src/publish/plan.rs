//! What staging comes down to, checked before anything is touched.

use stowage_model::filesystem::mount_options;
use stowage_model::record::Content;
use stowage_model::request::{Access, AccessMode, StageRequest};
use stowage_model::{Bytes, Error, FsType, Result};

use crate::state::attachments::Staging;
use crate::state::entry::Entry;

/// What staging comes down to, checked before anything is touched.
pub(crate) struct Plan {
    pub(crate) fs: Option<FsType>,
    pub(crate) staging: Staging,
}

impl Plan {
    pub(crate) fn new(entry: &Entry, want: &StageRequest) -> Result<Self> {
        let record = &entry.record;
        let staging = |block, options| Staging {
            path: want.staging.clone(),
            block,
            options,
            mode: want.mode,
        };
        let Access::Mount { fs, flags } = &want.access else {
            if !record.usage.block {
                return Err(Error::invalid(format!(
                    "{} was made to be mounted, not to be used as a block device",
                    entry.title()
                )));
            }
            return Ok(Self {
                fs: None,
                staging: staging(true, Vec::new()),
            });
        };
        let Some(made_for) = record.usage.mount else {
            return Err(Error::invalid(format!(
                "{} was made as a block device and cannot be mounted",
                entry.title()
            )));
        };
        let held = record.content.file_system();
        let fs = match (held, fs) {
            (Some(held), Some(asked)) if held != *asked => {
                return Err(Error::invalid(format!(
                    "{} holds {held}; it cannot be mounted as {asked}",
                    entry.title()
                )));
            }
            (Some(held), _) => held,
            (None, asked) => asked.unwrap_or(made_for),
        };
        let mut options = mount_options(fs, flags)?;
        if record.read_only || want.mode == AccessMode::ReaderOnly {
            options.retain(|o| o != "rw");
            if !options.iter().any(|o| o == "ro") {
                options.push("ro".to_owned());
            }
        }
        Ok(Self {
            fs: Some(fs),
            staging: staging(false, options),
        })
    }
}

/// Make the record of a volume that is handed out raw say so; tells whether it did not. Whatever file
/// system was on it, its consumer may write another one there, or half of one: it is no longer known to
/// be whole, nor made by us.
pub(crate) fn becomes_raw(entry: &mut Entry, mode: AccessMode) -> bool {
    let record = &mut entry.record;
    let becomes = match record.content {
        Content::Blank => true,
        Content::FileSystem(_) | Content::Twin(_) => {
            !record.read_only && mode != AccessMode::ReaderOnly
        }
        Content::Raw | Content::Filling => false,
    };
    if becomes {
        record.content = Content::Raw;
        record.fs_bytes = Bytes(0);
        entry.half_formatted = false;
    }
    becomes
}
