//! Snapshots, also of volumes whose writers are held.

use stowage_host::Cmd;
use stowage_host::failpoint::hit;
use stowage_model::{Bytes, Error, Record, Result};

use super::ThinPool;
use crate::Turn;
use crate::vg::{lvm, names, says, tags};

impl ThinPool {
    pub(super) async fn cut(&self, _turn: &Turn, of: &Record, snapshot: &Record) -> Result<()> {
        let (origin, name) = (names::of(&of.id), names::of(&snapshot.id));
        let new_tags = tags::of_record(snapshot)?;
        if self.vg.is_suspended(&origin)? {
            let report = self.vg.report().await?;
            if self.made_before(&report, snapshot).await?.is_some() {
                return Ok(());
            }
            let from = self.member(&report, &origin)?;
            self.has_room(&report, Bytes(0))?;
            let cut = self.cut_held(&origin, &name, from.size).await;
            if let Err(error) = cut {
                // A leftover like any other should this fail as well.
                let _ = self.vg.lvremove(&name).await;
                return Err(error);
            }
            return self.finish(&name, snapshot).await;
        }
        if self.made_or_room(snapshot, Bytes(0)).await?.is_some() {
            return Ok(());
        }
        // -ky: a snapshot that is not activated costs no device, and udev sees no second file
        // system with the UUID of the first.
        let cmd = lvm("lvcreate").args(["-y", "-q", "-s", "-ky", "-n", &name]);
        let cmd = cmd.arg(self.vg.path(&origin));
        let cmd = new_tags
            .iter()
            .fold(cmd, |cmd, tag| cmd.args(["--addtag", tag]));
        hit("thin.snapshot.begin");
        let made = self.lvcreate(cmd).await;
        hit("thin.snapshot.made");
        let Err(error) = made else {
            self.vg.note_tags(&name, new_tags);
            return Ok(());
        };
        let report = self.vg.report().await?;
        if self.made_before(&report, snapshot).await?.is_some() {
            return Ok(());
        }
        self.member(&report, &origin)?;
        let what = format!("cut a snapshot of LV {}", self.vg.path(&origin));
        if says(&error, "Unable to suspend") {
            return Err(Error::precondition(format!(
                "failed to {what}: its writers cannot be held; if its file system is frozen, \
                 thaw it (fsfreeze -u)"
            ))
            .caused_by(error));
        }
        Err(self.vg.explain(error, &what))
    }

    /// Cut a snapshot of an origin that is suspended and stays so.
    ///
    /// LVM must not be asked: it takes a suspended origin for one it suspended itself, sends the
    /// thin pool no message, and commits metadata that no longer fit the pool ("unexpected
    /// transaction id", seen with 2.03.16; the pool then refuses all changes). So LVM makes an
    /// empty volume, and the kernel puts the snapshot in its place: same number, same LV.
    async fn cut_held(&self, origin: &str, name: &str, size: Bytes) -> Result<()> {
        let cmd = lvm("lvcreate").args(["-y", "-q", "-an", "-ky", "-n", name]);
        let cmd = cmd.args(["-V", &format!("{}b", size.0), "-T", &self.location()]);
        hit("thin.snapshot.begin");
        self.make_lv(cmd, name, vec![tags::HALF.to_owned()]).await?;
        hit("thin.held.half");
        let report = self.vg.report().await?;
        let number = |lv: &str| {
            let lv = self.member(&report, lv)?;
            lv.thin_id.ok_or_else(|| {
                Error::internal(format!(
                    "lvm gives no thin id of LV {}",
                    self.vg.path(&lv.name)
                ))
            })
        };
        let (from, to) = (number(origin)?, number(name)?);
        self.message(&format!("delete {to}")).await?;
        hit("thin.held.emptied");
        self.message(&format!("create_snap {to} {from}")).await?;
        hit("thin.held.filled");
        Ok(())
    }

    /// Tell the thin-pool target something (Documentation/device-mapper/thin-provisioning.rst).
    pub(super) async fn message(&self, text: &str) -> Result<()> {
        let pool = names::dm_layer(self.vg.name(), &self.options.thin_pool, "tpool");
        let told = self
            .vg
            .poke(Cmd::new("dmsetup").args(["message", &pool, "0", text]))
            .await;
        told.map_err(|error| {
            let what = format!("failed to tell thin pool {} to {text}", self.location());
            Error::internal(what).caused_by(error)
        })
    }
}
