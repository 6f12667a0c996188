//! Names of logical volumes, and what device mapper makes of them.

use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;

use stowage_model::Id;

/// Every LV of ours begins so.
pub(crate) const PREFIX: &str = "stowage-";
/// A removed LV whose blocks are still to be wiped: a name no id can have.
const CONDEMNED: &str = "stowage-x-";

/// The LV of a volume or snapshot.
pub(crate) fn of(id: &Id) -> String {
    format!("{PREFIX}{id}")
}

/// The id an LV of ours is named after.
pub(crate) fn id(lv: &str) -> Option<Id> {
    lv.strip_prefix(PREFIX)?.parse().ok()
}

/// Whether a device-mapper name, without that of its group, is of an LV of ours: the LV itself, what
/// lies under it while it has snapshots, or a copy of a mirror.
pub(crate) fn is_ordinary(dm: &str) -> bool {
    let whole = dm.replace("--", "-");
    let lv = ["-cow", "-real"]
        .iter()
        .find_map(|layer| whole.strip_suffix(layer))
        .unwrap_or(&whole);
    let lv = lv.split_once('_').map_or(lv, |(lv, part)| {
        let copy = ["rimage_", "rmeta_", "mimage_", "mlog"];
        match copy.iter().any(|copy| part.starts_with(copy)) {
            true => lv,
            false => "",
        }
    });
    id(lv).is_some() || is_condemned(lv)
}

/// A fresh name for a removed LV.
pub(crate) fn condemned() -> String {
    // std seeds every RandomState anew from the kernel; no other source of chance is at hand.
    format!(
        "{CONDEMNED}{:016x}",
        RandomState::new().hash_one(std::process::id())
    )
}

/// Whether an LV was removed by us and awaits its wipe.
pub(crate) fn is_condemned(lv: &str) -> bool {
    lv.strip_prefix(CONDEMNED)
        .is_some_and(|rest| rest.len() == 16 && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Whether an LV was removed by us, whatever became a part of its name since.
pub(crate) fn was_condemned(lv: &str) -> bool {
    lv.starts_with(CONDEMNED)
}

/// The device-mapper name of an LV: group and volume with their hyphens doubled, one between.
pub(crate) fn dm(vg: &str, lv: &str) -> String {
    format!("{}-{}", vg.replace('-', "--"), lv.replace('-', "--"))
}

/// The device-mapper name of a layer under an LV, such as `cow` or `tpool`.
pub(crate) fn dm_layer(vg: &str, lv: &str, layer: &str) -> String {
    format!("{}-{layer}", dm(vg, lv))
}

/// The node of a device-mapper device.
pub(crate) fn node(dm: &str) -> PathBuf {
    PathBuf::from("/dev/mapper").join(dm)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vg::samples;

    #[test]
    fn lvs_are_named_after_ids_and_back() {
        let id = samples::volume("v").id;
        assert_eq!(super::id(&of(&id)), Some(id));
        for other in [
            "stowage-",
            "stowage-x-0123456789abcdef",
            "root",
            "stowage-v-12",
            "v-1",
        ] {
            assert_eq!(super::id(other), None, "{other}");
        }
    }

    #[test]
    fn condemned_names_are_fresh_and_no_ids() {
        let (one, two) = (condemned(), condemned());
        assert_ne!(one, two);
        assert!(is_condemned(&one) && id(&one).is_none());
        assert!(!is_condemned("stowage-x-"));
    }

    #[test]
    fn devices_of_our_lvs_are_told_from_parts_that_others_made() {
        let lv = of(&samples::volume("v").id);
        for ours in ["", "-cow", "-real", "_rimage_0", "_rmeta_1", "_mimage_0"] {
            let dm = dm("vg", &lv);
            assert!(is_ordinary(&format!("{}{ours}", &dm[3..])), "{ours}");
        }
        for theirs in ["_wcorig", "_corig", "_tdata", "_cvol"] {
            let dm = dm("vg", &lv);
            assert!(!is_ordinary(&format!("{}{theirs}", &dm[3..])), "{theirs}");
        }
        for theirs in ["root", "pvmove0", "tp-tpool", "stowage--v--12", ""] {
            assert!(!is_ordinary(theirs), "{theirs}");
        }
    }

    #[test]
    fn hyphens_are_doubled() {
        assert_eq!(dm("vg-0", "a-b"), "vg--0-a--b");
        assert_eq!(dm_layer("vg0", "s-1", "cow"), "vg0-s--1-cow");
    }
}
