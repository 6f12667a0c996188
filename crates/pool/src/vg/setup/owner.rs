//! Whose a disk is, by what LVM wrote on it. LVM itself is not asked: it hides groups of other
//! hosts, of lock managers, and those outside its devices file.

use std::path::Path;

use stowage_host::device::{self, Devno};
use stowage_model::{Error, Result};

use crate::vg::disks::{Disk, Survey, silent};
use crate::vg::label::Metadata;
use crate::vg::members::{Members, newest};

/// Whose a disk is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// The group it is to join.
    This,
    /// An LVM disk without a group.
    Orphan,
    /// It is no LVM disk.
    Nobody,
}

/// Tell whose the disk is that was named `shown`.
///
/// # Errors
/// [`stowage_model::Kind::Precondition`] when it, or a partition of it, is in another group.
pub(super) fn owner(
    survey: &Survey,
    this: Option<&Members>,
    shown: &Path,
    devno: Devno,
) -> Result<Owner> {
    let mut found = Owner::Nobody;
    for disk in &survey.disks {
        let Some(number) = disk.devno else {
            continue;
        };
        let below = || device::backing_chain(number).is_ok_and(|below| below.contains(&devno));
        if number == devno {
            found = of(survey, this, disk, shown)?;
        } else if below() {
            of(survey, None, disk, &disk.path)?;
        }
    }
    let is_silent = |path: &&std::path::PathBuf| device::devno(path).is_ok_and(|n| n == devno);
    match survey.silent.iter().find(is_silent) {
        Some(path) => Err(silent(path)),
        None => Ok(found),
    }
}

fn of(survey: &Survey, this: Option<&Members>, disk: &Disk, shown: &Path) -> Result<Owner> {
    let uuid = &disk.label.uuid;
    let lists = |group: &Metadata| group.members.iter().any(|member| member.uuid == *uuid);
    if this.is_some_and(|this| lists(&this.group)) {
        return Ok(Owner::This);
    }
    let groups = newest(&survey.disks);
    let listed = groups.iter().find(|group| lists(group));
    if let Some(group) = listed {
        return Err(refused(shown, &described(group), &way_out(group, shown)));
    }
    let wipe = format!(
        "if nobody needs that, run: wipefs -a {shown}",
        shown = shown.display()
    );
    match &disk.group {
        Some(group) => Err(refused(
            shown,
            &format!("{}, by the metadata on it", described(group)),
            &wipe,
        )),
        None if disk.label.used => Err(refused(
            shown,
            "whose metadata are on other disks, which are not here",
            &wipe,
        )),
        None => Ok(Owner::Orphan),
    }
}

fn refused(disk: &Path, group: &str, way_out: &str) -> Error {
    Error::precondition(format!(
        "disk {} belongs to volume group {group}; {way_out}",
        disk.display()
    ))
}

fn described(group: &Metadata) -> String {
    let name = &group.name;
    if !group.system_id.is_empty() {
        return format!("{name} of the host with system id {:?}", group.system_id);
    }
    if !group.lock_type.is_empty() {
        return format!("{name}, shared through {}", group.lock_type);
    }
    if group.exported {
        return format!("{name}, which was exported");
    }
    name.clone()
}

fn way_out(group: &Metadata, disk: &Path) -> String {
    let (name, disk) = (&group.name, disk.display());
    let take_out = match group.members.len() {
        0 | 1 => format!("vgremove {name}"),
        _ => format!("vgreduce {name} {disk}; pvremove {disk}"),
    };
    if !group.system_id.is_empty() {
        return format!(
            "take it out there ({take_out}), or, if that host needs it no more, run: wipefs -a \
             {disk}"
        );
    }
    if !group.lock_type.is_empty() {
        return format!(
            "take it out where that runs ({take_out}), or, if nobody needs it, run: wipefs -a {disk}"
        );
    }
    if group.exported {
        return format!("take it out first: vgimport {name}; {take_out}");
    }
    format!(
        "take it out first: {take_out} (where LVM has a devices file without it, before that: \
         lvmdevices --adddev {disk})"
    )
}

#[cfg(test)]
mod tests;
