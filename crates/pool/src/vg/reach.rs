//! The devices of LVs: attached, detached, held still. Sysfs is asked first, so that nothing runs
//! where nothing is to be done.

use std::collections::HashSet;
use std::path::PathBuf;

use stowage_host::disks::is_node;
use stowage_host::{Cmd, blocking, device};
use stowage_model::error::Context as _;
use stowage_model::{Bytes, Error, Result};

use super::dm::Node;
use super::{Lv, Report, Vg, lvm, names, says};
use crate::Device;

/// What is wrong with an LV whose table names a disk that is gone.
pub(super) const STRANDED: &str =
    "is active on a disk that is gone, or came back under another name: nothing reads or writes it";
/// The way out.
pub(super) const STRANDED_MEND: &str =
    "end what uses it and unmount it; its next mount activates it on the disk that is there";

/// The node of an active device, which is seen to bear its number: where no udev runs, a name
/// may be left from an earlier device.
fn path_of(node: &Node) -> Result<PathBuf> {
    let named = names::node(&node.name);
    // Only a test's device has no number.
    let Some(devno) = node.devno() else {
        return Ok(named);
    };
    let mut paths = [named, node.plain()].into_iter();
    paths.find(|path| is_node(path, devno)).ok_or_else(|| {
        Error::internal(format!(
            "device {devno} of {} has no node in /dev/mapper or /dev; run: dmsetup mknodes",
            node.name
        ))
    })
}

impl Vg {
    fn dm(&self, lv: &str) -> String {
        names::dm(self.name(), lv)
    }

    /// The device of an LV, when it is active.
    pub(crate) fn attached(&self, lv: &str) -> Result<Option<Device>> {
        // A device without a table, left by an activation that failed, has no size.
        let node = self.node(lv)?.filter(|node| node.size() > Bytes(0));
        node.map(|node| Ok(Device::new(path_of(&node)?, node.size())))
            .transpose()
    }

    /// The active device of an LV of this group. Another group of this name may be active too,
    /// under the same names: a host may activate what a tenant made up in a raw volume.
    fn node(&self, lv: &str) -> Result<Option<Node>> {
        let node = self.devices().find(&self.dm(lv))?;
        Ok(node.filter(|node| self.is_ours(node)))
    }

    fn is_ours(&self, node: &Node) -> bool {
        let group = self.finder().uuid();
        group.is_none_or(|group| node.is_of(&group))
    }

    /// The active devices of this group whose names begin so.
    pub(crate) fn nodes(&self, prefix: &str) -> Result<Vec<Node>> {
        let group = self.finder().uuid();
        let mut nodes = self.devices().beginning(prefix)?;
        nodes.retain(|node| group.as_ref().is_none_or(|group| node.is_of(group)));
        Ok(nodes)
    }

    /// Whether an active LV lies on a disk that is no more, perhaps because it left and came back
    /// under another name. Nothing reaches its blocks then.
    fn is_stranded(&self, lv: &str) -> Result<bool> {
        let node = self.node(lv)?;
        Ok(node.is_some_and(|node| !self.lost(vec![node]).is_empty()))
    }

    /// The names of all devices of which that is so.
    pub(super) fn stranded(&self) -> HashSet<String> {
        let ours = self.nodes(&names::dm(self.name(), names::PREFIX));
        self.lost(ours.unwrap_or_default()).into_iter().collect()
    }

    fn lost(&self, nodes: Vec<Node>) -> Vec<String> {
        // Of a disk that is missing LVM itself tells which volumes lie on it.
        let Some(last) = self.finder().last().filter(|last| last.absent.is_empty()) else {
            return Vec::new();
        };
        let disks = last.devnos();
        let lost = nodes.into_iter().filter(|node| !node.rests_on(&disks));
        lost.map(|node| node.name).collect()
    }

    /// The device of an LV, activated where it is not.
    ///
    /// # Errors
    /// [`stowage_model::Kind::NotFound`] when there is no such LV.
    pub(crate) async fn attach(&self, lv: &str) -> Result<Device> {
        if let Some(device) = self.attached(lv)?
            && !self.is_stranded(lv)?
        {
            return Ok(device);
        }
        let _turn = self.turn().await;
        if self.attached(lv)?.is_some() && self.is_stranded(lv)? {
            // The disk may have changed its name without leaving.
            self.find().await?;
        }
        if self.is_stranded(lv)? {
            let path = self.path(lv);
            tracing::warn!(
                lv = path,
                "active on a disk that is gone; activating it anew"
            );
            self.detach(lv).await.map_err(|error| {
                Error::precondition(format!("LV {path} {STRANDED}; {STRANDED_MEND}"))
                    .caused_by(error)
            })?;
        }
        self.activate(lv).await
    }

    /// Activate an LV, also one that skips activation as thin snapshots do.
    ///
    /// # Errors
    /// As [`Vg::attach`].
    pub(crate) async fn activate(&self, lv: &str) -> Result<Device> {
        let cmd = lvm("lvchange")
            .args(["-y", "-q", "-ay", "-K"])
            .arg(self.path(lv));
        if let Err(error) = self.switch(cmd).await {
            if says(&error, "Failed to find logical volume") {
                return Err(Error::not_found(format!(
                    "there is no LV {}",
                    self.path(lv)
                )));
            }
            return Err(self.explain(error, &format!("activate LV {}", self.path(lv))));
        }
        self.attached(lv)?.ok_or_else(|| {
            Error::internal(format!(
                "LV {} has no device after its activation",
                self.path(lv)
            ))
        })
    }

    /// Deactivate an LV.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Precondition`] while it is in use, saying by what.
    pub(crate) async fn detach(&self, lv: &str) -> Result<()> {
        if self.node(lv)?.is_none() {
            return Ok(());
        }
        self.unused(lv).await?;
        let cmd = lvm("lvchange").args(["-y", "-q", "-an"]).arg(self.path(lv));
        match self.switch(cmd).await {
            Err(error) if says(&error, "Failed to find logical volume") => Ok(()),
            Err(error) => Err(self.explain(error, &format!("deactivate LV {}", self.path(lv)))),
            Ok(()) => Ok(()),
        }
    }

    /// Refuse while an LV is mounted or open.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Precondition`] saying by what.
    pub(crate) async fn unused(&self, lv: &str) -> Result<()> {
        let Some(attached) = self.attached(lv)? else {
            return Ok(());
        };
        let path = self.path(lv);
        match blocking(move || device::in_use(&attached.path)).await {
            Ok(None) => Ok(()),
            Ok(Some(by)) => Err(Error::precondition(format!(
                "LV {path} is {by}; end that first"
            ))),
            // It was deactivated between the two looks.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => {
                Err(Error::internal(format!("failed to see who uses LV {path}")).caused_by(error))
            }
        }
    }

    /// Hold the writers of these LVs, all or none. The caller has the turn: a change of one of them
    /// that is under way would resume it as its last step. Device mapper freezes a mounted file system
    /// as it suspends (`lock_fs`); inactive LVs have no writers.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Precondition`] where a file system was frozen before.
    pub(crate) async fn suspend(&self, lvs: &[String]) -> Result<()> {
        for lv in lvs {
            if !self.is_active(lv)? || self.is_suspended(lv)? {
                continue;
            }
            self.note_held(lv, true);
            let cmd = Cmd::new("dmsetup").args(["suspend", &self.dm(lv)]);
            if let Err(error) = self.runner().run(cmd).await {
                self.resume(lvs).await?;
                return Err(Error::precondition(format!(
                    "failed to hold the writers of LV {}; if its file system is frozen, thaw it \
                     (fsfreeze -u)",
                    self.path(lv)
                ))
                .caused_by(error));
            }
        }
        Ok(())
    }

    /// End [`Vg::suspend`]. Tries every LV even when one fails.
    ///
    /// # Errors
    /// The first failure.
    pub(crate) async fn resume(&self, lvs: &[String]) -> Result<()> {
        // Asked at every start for all volumes there are: one look at sysfs serves them all.
        let ours = self.nodes(&names::dm(self.name(), names::PREFIX))?;
        let held = ours.into_iter().filter(Node::is_suspended);
        let held: HashSet<String> = held.map(|node| node.name).collect();
        let mut first = Ok(());
        for lv in lvs {
            self.note_held(lv, false);
            let dm = self.dm(lv);
            if !held.contains(&dm) {
                continue;
            }
            let resumed = self
                .runner()
                .run(Cmd::new("dmsetup").args(["resume", &dm]))
                .await;
            let resumed = resumed
                .map(drop)
                .or_internal(|| format!("failed to let the writers of LV {} go on", self.path(lv)));
            first = first.and(resumed);
        }
        first
    }

    /// Let writers go on whom a command that failed left held. The caller has the turn.
    ///
    /// Nothing of it is an error: the command's own is what the caller hears.
    pub(super) async fn let_go(&self) {
        let group = names::dm(self.name(), "");
        let looks = || self.nodes(&group);
        if !looks().is_ok_and(|nodes| nodes.iter().any(Node::is_suspended)) {
            return;
        }
        // Waits for LVM's lock: what another command of LVM holds for its own work is not ours to
        // let go. Where it cannot be had, the one that failed may still be at it.
        let Ok(report) = self.report().await else {
            tracing::warn!(
                vg = self.name(),
                "devices are suspended and LVM does not answer"
            );
            return;
        };
        let stuck: HashSet<String> = looks()
            .into_iter()
            .flatten()
            .filter(Node::is_suspended)
            .map(|node| node.name)
            .collect();
        for dm in self.own_devices(&report) {
            if !stuck.contains(&dm) {
                continue;
            }
            tracing::warn!(
                device = dm,
                "a failed command left a device suspended; resuming it"
            );
            let resume = Cmd::new("dmsetup").args(["resume", &dm]);
            if let Err(error) = self.runner().run(resume).await {
                tracing::error!(device = dm, error = %error, "its writers stay held");
            }
        }
    }

    /// The devices of this pool's LVs, those below before those they carry, without those we hold
    /// on purpose.
    fn own_devices(&self, report: &Report) -> Vec<String> {
        let layer = |lv: &str, layer| names::dm_layer(self.name(), lv, layer);
        let mut all: Vec<_> = self.thin_pool.iter().map(|tp| layer(tp, "tpool")).collect();
        let ours = |lv: &&Lv| names::id(&lv.name).is_some() || names::is_condemned(&lv.name);
        let of_pool = report.lvs.iter().filter(|lv| lv.pool == self.thin_pool);
        for lv in of_pool.filter(ours) {
            all.extend([layer(&lv.name, "cow"), layer(&lv.name, "real")]);
            if !self.seen().held.contains(&lv.name) {
                all.push(self.dm(&lv.name));
            }
        }
        all
    }

    fn is_active(&self, lv: &str) -> Result<bool> {
        Ok(self.node(lv)?.is_some())
    }

    /// Whether writers of an LV are held.
    pub(crate) fn is_suspended(&self, lv: &str) -> Result<bool> {
        Ok(self.node(lv)?.is_some_and(|node| node.is_suspended()))
    }
}
