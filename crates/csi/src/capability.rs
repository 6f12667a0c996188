//! Volume capabilities: their form first (malformed is an error everywhere), their meaning second
//! (what cannot be served is an error for some RPCs and a plain "no" for others).

use stowage_model::filesystem::mount_options;
use stowage_model::request::{Access, AccessMode};
use stowage_model::volume_request::Wanted;
use stowage_model::{Error, FsType, Record, Result};

use crate::fields;
use crate::proto::VolumeCapability;
use crate::proto::volume_capability::AccessType;
use crate::proto::volume_capability::access_mode::Mode;

/// Refuse a capability that is malformed, whatever could be done with it.
pub(crate) fn check(field: &str, capability: &VolumeCapability) -> Result<()> {
    match &capability.access_type {
        None => {
            return Err(fields::missing(&format!(
                "{field}.access_type (block or mount)"
            )));
        }
        Some(AccessType::Block(_)) => {}
        Some(AccessType::Mount(mount)) => {
            fields::text(&format!("{field}.mount.fs_type"), &mount.fs_type)?;
            fields::flags(&format!("{field}.mount.mount_flags"), &mount.mount_flags)?;
            let group = format!("{field}.mount.volume_mount_group");
            fields::text(&group, &mount.volume_mount_group)?;
        }
    }
    let Some(mode) = &capability.access_mode else {
        return Err(fields::missing(&format!("{field}.access_mode")));
    };
    match Mode::try_from(mode.mode) {
        Ok(Mode::Unknown) | Err(_) => Err(Error::invalid(format!(
            "{field}.access_mode {} is unknown; name one of the modes of CSI",
            mode.mode
        ))),
        Ok(_) => Ok(()),
    }
}

/// [`check`] each of a list that must not be empty.
pub(crate) fn check_all(capabilities: &[VolumeCapability]) -> Result<()> {
    if capabilities.is_empty() {
        return Err(fields::missing("volume_capabilities"));
    }
    capabilities
        .iter()
        .try_for_each(|c| check("volume_capabilities", c))
}

/// [`check`] one that must be there.
pub(crate) fn needed(capability: Option<&VolumeCapability>) -> Result<&VolumeCapability> {
    let capability = capability.ok_or_else(|| fields::missing("volume_capability"))?;
    check("volume_capability", capability)?;
    Ok(capability)
}

/// Who may use the volume at once.
///
/// # Errors
/// [`stowage_model::Kind::Unsupported`] for writers on many nodes.
pub(crate) fn mode(capability: &VolumeCapability) -> Result<AccessMode> {
    let mode = capability.access_mode.as_ref().map_or(0, |m| m.mode);
    match Mode::try_from(mode).unwrap_or(Mode::Unknown) {
        Mode::SingleNodeWriter => Ok(AccessMode::SingleNodeWriter),
        Mode::SingleNodeSingleWriter => Ok(AccessMode::SingleNodeSingleWriter),
        Mode::SingleNodeMultiWriter => Ok(AccessMode::SingleNodeMultiWriter),
        // Many readers are welcome as long as they are on the node that has the bytes; topology
        // keeps them there.
        Mode::SingleNodeReaderOnly | Mode::MultiNodeReaderOnly => Ok(AccessMode::ReaderOnly),
        refused @ (Mode::MultiNodeSingleWriter | Mode::MultiNodeMultiWriter) => {
            Err(Error::unsupported(format!(
                "access mode {} needs storage that many nodes can write to; this volume's bytes \
                 live on one node, so ask for ReadWriteOnce, ReadWriteOncePod or ReadOnlyMany",
                refused.as_str_name()
            )))
        }
        Mode::Unknown => Err(Error::invalid("the access mode is unknown")),
    }
}

/// How the consumer reaches the volume, for the node.
pub(crate) fn access(capability: &VolumeCapability) -> Result<Access> {
    match &capability.access_type {
        Some(AccessType::Block(_)) => Ok(Access::Block),
        Some(AccessType::Mount(mount)) => Ok(Access::Mount {
            fs: match mount.fs_type.as_str() {
                "" => None,
                name => Some(name.parse()?),
            },
            flags: mount.mount_flags.clone(),
        }),
        None => Err(fields::missing("volume_capability.access_type")),
    }
}

/// What a volume must be able to do to serve every one of the capabilities.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Demand {
    pub(crate) usage: Wanted,
    /// Of those that mount it. The class's author reads the claim's events, not the kubelet's.
    pub(crate) mount_flags: Vec<Vec<String>>,
    /// Every mode only reads.
    pub(crate) read_only: bool,
}

/// Join capabilities into one demand on the volume. `class` is the file system the parameters
/// name, for capabilities that name none.
pub(crate) fn wanted(capabilities: &[VolumeCapability], class: Option<FsType>) -> Result<Demand> {
    let (mut mounted, mut block, mut named) = (false, false, None);
    let mut read_only = true;
    let mut mount_flags = Vec::new();
    for capability in capabilities {
        read_only &= mode(capability)? == AccessMode::ReaderOnly;
        match access(capability)? {
            Access::Block => block = true,
            Access::Mount { fs, flags } => {
                mounted = true;
                let fs = fs.or(class);
                if let (Some(fs), Some(other)) = (fs, named)
                    && fs != other
                {
                    return Err(Error::invalid(format!(
                        "volume_capabilities ask for two file systems, {other} and {fs}; a volume \
                         holds one"
                    )));
                }
                named = fs.or(named);
                mount_flags.push(flags);
            }
        }
    }
    let usage = match (mounted, block) {
        (true, false) => Wanted::Mount(named),
        (true, true) => Wanted::Either(named),
        (false, _) => Wanted::Block,
    };
    Ok(Demand {
        usage,
        mount_flags,
        read_only,
    })
}

/// Why an existing volume cannot serve a capability.
pub(crate) fn mismatch(capability: &VolumeCapability, record: &Record) -> Result<()> {
    let mode = mode(capability)?;
    if record.read_only && mode != AccessMode::ReaderOnly {
        return Err(Error::precondition("the volume can only be read"));
    }
    match access(capability)? {
        Access::Block if record.usage.block => Ok(()),
        Access::Block => Err(Error::precondition(
            "the volume was made for a file system, not as a block device",
        )),
        Access::Mount { fs, flags } => {
            let Some(own) = record.usage.mount else {
                return Err(Error::precondition(
                    "the volume was made as a block device, not for a file system",
                ));
            };
            if fs.is_some_and(|fs| fs != own) {
                return Err(Error::precondition(format!(
                    "the volume's file system is {own}"
                )));
            }
            mount_options(own, &flags).map(|_| ())
        }
    }
}
