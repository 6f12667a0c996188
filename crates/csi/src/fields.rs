//! Rules that hold for fields of every message: required ones, the specification's size limits,
//! ids and paths. Every refusal names the field.

use std::path::Path;

use stowage_model::id::Role;
use stowage_model::params::Map;
use stowage_model::{Error, Id, Kind, Result};

/// The longest string (CSI spec, "Size Limits").
pub(crate) const TEXT: usize = 128;
/// The largest map, keys and values together (same place).
const MAP: usize = 4096;
/// The largest list of mount flags (VolumeCapability.MountVolume.mount_flags).
const FLAGS: usize = 4096;
/// The longest path: Linux's PATH_MAX, its final NUL included.
const PATH: usize = 4096;

fn within(field: &str, length: usize, most: usize) -> Result<()> {
    if length <= most {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{field} is {length} bytes long; at most {most} are allowed"
    )))
}

pub(crate) fn missing(field: &str) -> Error {
    Error::invalid(format!("{field} is missing; it is required"))
}

/// A string that may be empty.
pub(crate) fn text(field: &str, value: &str) -> Result<()> {
    within(field, value.len(), TEXT)
}

/// A string that must be there.
pub(crate) fn needed(field: &str, value: &str) -> Result<()> {
    if value.is_empty() {
        return Err(missing(field));
    }
    text(field, value)
}

pub(crate) fn map(field: &str, value: &Map) -> Result<()> {
    within(
        field,
        value.iter().map(|(k, v)| k.len() + v.len()).sum(),
        MAP,
    )
}

pub(crate) fn flags(field: &str, value: &[String]) -> Result<()> {
    within(field, value.iter().map(String::len).sum(), FLAGS)
}

/// A path that may be absent. What it looks like is [`absolute`]'s business, after the id's: an
/// unknown volume is NOT_FOUND even when the path beside it is nonsense.
pub(crate) fn path(field: &str, value: &str) -> Result<()> {
    within(field, value.len(), PATH - 1)
}

pub(crate) fn needed_path(field: &str, value: &str) -> Result<()> {
    if value.is_empty() {
        return Err(missing(field));
    }
    path(field, value)
}

/// A path as the specification has it, and one that cannot leave the directory it seems to be in.
pub(crate) fn absolute<'a>(field: &str, value: &'a str) -> Result<&'a Path> {
    let path = Path::new(value);
    let climbs = path
        .components()
        .any(|c| matches!(c, std::path::Component::ParentDir));
    if path.is_absolute() && !climbs && !value.contains('\0') {
        return Ok(path);
    }
    Err(Error::invalid(format!(
        "{field} {value:?} must be an absolute path without \"..\""
    )))
}

/// A path at which the caller supposes a volume. No volume of ours is at a path that is not even
/// absolute, and the specification's code for that is NOT_FOUND (csi-sanity asks for `some/path`).
pub(crate) fn where_it_is<'a>(field: &str, value: &'a str) -> Result<&'a Path> {
    absolute(field, value).map_err(|e| Error::not_found(e.message()))
}

fn id(role: Role, what: &str, text: &str) -> Result<Id> {
    match text.parse::<Id>() {
        Ok(id) if id.role() == role => Ok(id),
        _ => Err(Error::not_found(format!(
            "there is no {what} with the id {text:?}"
        ))),
    }
}

/// The id of a volume; whatever this driver never made up is NOT_FOUND.
pub(crate) fn volume_id(text: &str) -> Result<Id> {
    id(Role::Volume, "volume", text)
}

pub(crate) fn snapshot_id(text: &str) -> Result<Id> {
    id(Role::Snapshot, "snapshot", text)
}

pub(crate) fn group_id(text: &str) -> Result<Id> {
    id(Role::Group, "group snapshot", text)
}

/// What is not there needs no removing.
pub(crate) fn gone_is_fine(outcome: Result<()>) -> Result<()> {
    match outcome {
        Err(e) if e.kind() == Kind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_the_specs_to_the_byte() {
        text("f", &"x".repeat(128)).unwrap();
        assert!(text("f", &"x".repeat(129)).is_err());
        path("f", &"x".repeat(4095)).unwrap();
        assert!(path("f", &"x".repeat(4096)).is_err());
        let mut m = Map::from([("k".to_owned(), "v".repeat(4095))]);
        map("f", &m).unwrap();
        m.insert("l".into(), String::new());
        assert!(map("f", &m).is_err());
        flags("f", &["x".repeat(4000), "y".repeat(96)]).unwrap();
        assert!(flags("f", &["x".repeat(4000), "y".repeat(97)]).is_err());
    }

    #[test]
    fn an_id_of_another_role_is_unknown() {
        let hex = "0".repeat(32);
        volume_id(&format!("v-{hex}")).unwrap();
        for other in [format!("s-{hex}"), format!("g-{hex}"), "../x".to_owned()] {
            assert_eq!(volume_id(&other).unwrap_err().kind(), Kind::NotFound);
        }
        assert!(snapshot_id(&format!("v-{hex}")).is_err());
        assert!(group_id(&format!("s-{hex}")).is_err());
    }

    #[test]
    fn paths_that_climb_or_end_early_are_refused() {
        absolute("p", "/a/b..c/.d").unwrap();
        for bad in ["", "a", "./a", "/a/../b", "/..", "/a\0/b"] {
            assert!(absolute("p", bad).is_err(), "{bad:?}");
        }
    }
}
