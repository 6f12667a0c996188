//! Thin devices that the kernel's metadata hold and LVM's do not: a power cut between the two
//! commits of one lvcreate or lvremove leaves them. LVM gives their number to the next volume. For a
//! snapshot the kernel refuses it, and none could be made any more; an empty volume gets what the
//! device holds (`ThinPool::make_new` looks for that).

use stowage_host::{Cmd, CmdError};

use stowage_model::Result;

use super::ThinPool;
use crate::vg::Lv;

impl ThinPool {
    /// Run an lvcreate in the thin pool; a thin device in its way that belongs to no LV goes.
    ///
    /// LVM's metadata say what is a volume: of what they do not name nobody has a device, and nobody
    /// could get one.
    pub(super) async fn lvcreate(&self, cmd: Cmd) -> std::result::Result<(), CmdError> {
        let made = self.vg.change(cmd.clone()).await;
        let Err(error) = &made else { return made };
        let Some(number) = in_the_way(&error.to_string()) else {
            return made;
        };
        match self.vg.report().await {
            Ok(report) if !self.names(&report, number) => {}
            _ => return made,
        }
        tracing::warn!(pool.name = %self.options.name, device = number,
            "the thin pool holds a device that is no volume; it is removed");
        match self.message(&format!("delete {number}")).await {
            Ok(()) => self.vg.change(cmd).await,
            Err(_) => made,
        }
    }

    /// Remove an LV of the thin pool, also one whose own creation a power cut cut off: LVM means to make
    /// its device still, which is there, and does nothing else until it can. Nobody has used that device:
    /// LVM activates nothing before, and the kernel deletes none that is active.
    pub(super) async fn lvremove(&self, lv: &Lv) -> Result<()> {
        let removed = self.vg.lvremove(&lv.name).await;
        let Err(error) = &removed else { return removed };
        let number = match in_the_way(&error.chain()) {
            Some(number) if lv.thin_id == Some(number) => number,
            _ => return removed,
        };
        tracing::warn!(pool.name = %self.options.name, lv = lv.name, device = number,
            "the creation of what is removed was cut off; its device is made away with first");
        match self.message(&format!("delete {number}")).await {
            Ok(()) => self.vg.lvremove(&lv.name).await,
            Err(_) => removed,
        }
    }

    /// Whether a volume has this number, or may have it.
    fn names(&self, report: &crate::vg::Report, number: u32) -> bool {
        let own = |lv: &&crate::vg::Lv| lv.pool.as_ref() == Some(&self.options.thin_pool);
        let mut numbers = report.lvs.iter().filter(own).map(|lv| lv.thin_id);
        numbers.any(|known| known.is_none_or(|known| known == number))
    }
}

/// The number that LVM found taken, by its own words (libdm-deptree.c, `_thin_pool_node_message`).
fn in_the_way(said: &str) -> Option<u32> {
    let (_, rest) = said.split_once("already contain thin device with device_id ")?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_in_the_way_is_read_from_what_lvm_says() {
        let said = "device-mapper: message ioctl on (254:6) failed: File exists; Thin pool \
                    vg-tp-tpool (254:6) already contain thin device with device_id 21.";
        assert_eq!(in_the_way(said), Some(21));
        assert_eq!(
            in_the_way("already contain thin device with device_id x"),
            None
        );
        assert_eq!(in_the_way("insufficient free space"), None);
    }
}
