//! Volumes: made, grown, let go.

use stowage_host::failpoint::hit;
use stowage_host::{blocking, device};
use stowage_model::error::Context as _;
use stowage_model::record::Content;
use stowage_model::request::Layout;
use stowage_model::{Bytes, Error, Record, Result};

use super::LvmPool;
use super::reader;
use super::room::Place;
use crate::Device;
use crate::contract::is_wholly;
use crate::vg::report::State;
use crate::vg::sort::{Sort, in_the_way, sort};
use crate::vg::{Lv, Report, lvm, names, says, tags};

impl LvmPool {
    pub(super) async fn create_volume(&self, record: &Record, size: Bytes) -> Result<Bytes> {
        let lv = names::of(&record.id);
        let new_tags = tags::of_record(record)?;
        let _turn = self.vg.turn().await;
        let place =
            if record.layout == Layout::Linear && self.reserve.is_none() && self.vg.is_roomy() {
                // Needs no plan: LVM knows whether it fits and whether its name is taken, and a look
                // at the group would cost half as much as the making itself.
                Place::linear(size.round_up(self.vg.extent()))
            } else {
                let report = self.vg.glance().await?;
                if let Some(there) = report.lv(&lv) {
                    return self.existing(there, record);
                }
                // Nobody is refused on a look that is a second old.
                match self.place(&report, record.layout, size) {
                    Ok(place) => place,
                    Err(_) => self.place(&*self.vg.report().await?, record.layout, size)?,
                }
            };
        let mut cmd = lvm("lvcreate")
            .args(["-y", "-q", "-Wy", "-Zy"])
            .args(place.kind);
        cmd = cmd.args(["-n", &lv, "-L", &format!("{}b", place.size.0)]);
        cmd = new_tags
            .iter()
            .fold(cmd, |cmd, tag| cmd.args(["--addtag", tag]));
        hit("lvm.create.begin");
        let made = self
            .vg
            .change(cmd.arg(self.vg.name()).args(place.pvs))
            .await;
        hit("lvm.create.made");
        match made {
            Ok(()) => {
                self.vg.note_tags(&lv, new_tags);
                self.blank(&lv).await?;
                Ok(place.size)
            }
            Err(error) if says(&error, "already exists") => {
                let report = self.vg.report().await?;
                match report.lv(&lv) {
                    Some(there) => self.existing(there, record),
                    None => Err(self.vg.explain(error, &format!("create LV {lv}"))),
                }
            }
            Err(error) => {
                // The look that was saved above tells why, with figures.
                self.place(&*self.vg.report().await?, record.layout, size)?;
                Err(self
                    .vg
                    .explain(error, &format!("create LV {}", self.vg.path(&lv))))
            }
        }
    }

    /// The LV of a volume to be made is there already: fine when it is that very volume.
    fn existing(&self, lv: &Lv, record: &Record) -> Result<Bytes> {
        match sort(lv, true) {
            Sort::Ours(found) if lv.pool.is_none() && is_wholly(&found, record) => Ok(lv.size),
            sort => Err(in_the_way(&self.vg.path(&lv.name), &sort)),
        }
    }

    /// Whatever others left on the extents (a group used before, volumes deleted without a wipe)
    /// would look like content, and lvcreate removes the signatures it knows and 4 KiB, no more.
    async fn blank(&self, lv: &str) -> Result<()> {
        let Some(device) = self.vg.attached(lv)? else {
            return Ok(());
        };
        blocking(move || device::zero_ends(&device.path))
            .await
            .map_err(|e| {
                let what = format!("failed to blank LV {}", self.vg.path(lv));
                Error::internal(what).caused_by(e)
            })
    }

    pub(super) async fn grow_volume(&self, record: &Record, size: Bytes) -> Result<Bytes> {
        let _turn = self.vg.turn().await;
        let size = self.extend_lv(record, size).await?;
        if let Some(device) = self.vg.attached(&names::of(&record.id))? {
            self.end_growth(record, device).await?;
        }
        Ok(size)
    }

    /// Make a volume that grew before anything was on it look blank at its new end, where a file system
    /// will be looked for. What its record says is not all there is to know: a note may be lost, or
    /// somebody have used the LV without us. So nothing is written to what the volume was before it
    /// grew. A growth that was cut off, or done while it was inactive, is ended when it is attached. The
    /// caller has the turn.
    async fn end_growth(&self, record: &Record, device: Device) -> Result<()> {
        let name = names::of(&record.id);
        let from = tags::grown_from(&self.vg.known_tags(&name));
        let Some(from) = from.filter(|_| record.content == Content::Blank) else {
            return Ok(());
        };
        let path = self.vg.path(&name);
        let blank = blocking(move || device::zero_grown(&device.path, from.0))
            .await
            .or_internal(|| format!("failed to blank what LV {path} grew by"))?;
        if !blank {
            tracing::warn!(lv = path, "its record says that it is blank, and it is not");
        }
        hit("lvm.grow.blanked");
        self.vg.retag(&name, &[tags::grown(from)], &[]).await
    }

    /// The caller has the turn.
    async fn extend_lv(&self, record: &Record, size: Bytes) -> Result<Bytes> {
        let name = names::of(&record.id);
        let path = self.vg.path(&name);
        let size = size.round_up(self.vg.extent());
        let report = self.vg.report().await?;
        let Some(lv) = report.lv(&name) else {
            if let Some(snapshot) = reader::snapshot_of(record) {
                return Err(Error::precondition(format!(
                    "volume {} reads snapshot {snapshot} in place and cannot grow",
                    record.id
                )));
            }
            return Err(Error::not_found(format!("there is no LV {path}")));
        };
        if lv.size >= size {
            return Ok(lv.size);
        }
        self.vg.takes_more(&report)?;
        self.vg.at_rest(lv)?;
        let more = Bytes(size.minus(lv.size).0 * lv.copies());
        let may = self.may(&report);
        if more > may {
            return Err(self.vg.full(may, more));
        }
        let reactivate = self.free_of_snapshots(&report, lv).await?;
        let grown = self.lvextend(record, lv, size).await;
        if reactivate {
            self.vg.activate(&name).await?;
        }
        grown?;
        // A striped LV is rounded to whole stripes.
        let report = self.vg.report().await?;
        report
            .lv(&name)
            .map(|lv| lv.size)
            .ok_or_else(|| Error::internal(format!("LV {path} vanished while it grew")))
    }

    async fn lvextend(&self, record: &Record, lv: &Lv, size: Bytes) -> Result<()> {
        if record.content == Content::Blank && tags::grown_from(&lv.tags).is_none() {
            self.vg.note_tags(&lv.name, lv.tags.clone());
            let mark = [tags::grown(lv.size)];
            self.vg.retag(&lv.name, &[], &mark).await?;
        }
        hit("lvm.grow.begin");
        let path = self.vg.path(&lv.name);
        let cmd = lvm("lvextend").args(["-y", "-q", "-L", &format!("{}b", size.0), &path]);
        let grown = self.vg.change(cmd).await;
        hit("lvm.grow.made");
        grown.map_err(|error| self.vg.explain(error, &format!("grow LV {path}")))
    }

    /// LVM grows the origin of copy-on-write snapshots only while it is inactive. Returns whether
    /// it was active before.
    async fn free_of_snapshots(&self, report: &Report, lv: &Lv) -> Result<bool> {
        let snapshots: Vec<_> = report.cows_of(&lv.name).collect();
        if snapshots.is_empty() || lv.state() == State::Inactive {
            return Ok(false);
        }
        let names: Vec<_> = snapshots.iter().map(|lv| lv.name.as_str()).collect();
        if let Some(open) = std::iter::once(lv)
            .chain(snapshots.iter().copied())
            .find(|lv| lv.is_open())
        {
            return Err(Error::precondition(format!(
                "LV {} has copy-on-write snapshots ({}), and LVM grows such a volume only while \
                 it and they are unused, but {} is in use; delete the snapshots or unmount it \
                 (volumes of a thin pool have no such limit)",
                self.vg.path(&lv.name),
                names.join(", "),
                open.name
            )));
        }
        self.vg.detach(&lv.name).await?;
        hit("lvm.grow.inactive");
        Ok(true)
    }

    pub(super) async fn rewrite_record(&self, record: &Record) -> Result<()> {
        let lv = self.lv_of(record).await?;
        let _turn = self.vg.turn().await;
        let old = self.vg.tags_of(&lv).await?;
        let (gone, new) = if lv == names::of(&record.id) {
            let mut gone: Vec<_> = tags::record_part(&old).cloned().collect();
            if record.content != Content::Blank {
                gone.extend(tags::grown_from(&old).map(tags::grown));
            }
            (gone, tags::of_record(record)?)
        } else {
            (
                tags::reader_part(&old, &record.id).cloned().collect(),
                tags::of_reader(record)?,
            )
        };
        hit("lvm.rewrite.begin");
        self.vg.retag(&lv, &gone, &new).await?;
        hit("lvm.rewrite.made");
        Ok(())
    }

    /// The device of a volume or snapshot. That of a snapshot, for its readers as well, takes no
    /// writes: they would go to its store, and be what it shows from then on.
    pub(super) async fn reach(&self, record: &Record) -> Result<Device> {
        let lv = self.lv_of(record).await?;
        let device = self.vg.attach(&lv).await?;
        // Only an active one tells, and only errors are read from one that overflowed.
        self.not_lost(record).await?;
        if tags::grown_from(&self.vg.known_tags(&names::of(&record.id))).is_some() {
            let _turn = self.vg.turn().await;
            self.end_growth(record, device.clone()).await?;
        }
        if record.is_snapshot() || lv != names::of(&record.id) {
            let path = device.path.clone();
            blocking(move || device::set_read_only(&path, true))
                .await
                .or_internal(|| format!("failed to make LV {} read-only", self.vg.path(&lv)))?;
        }
        Ok(device)
    }

    /// A snapshot is active exactly as long as its origin is: neither goes while the other may be
    /// read, and readers share the device of their snapshot.
    pub(super) async fn let_go(&self, record: &Record) -> Result<()> {
        let lv = names::of(&record.id);
        if record.is_snapshot() || self.lv_of(record).await? != lv {
            return Ok(());
        }
        let _turn = self.vg.turn().await;
        self.vg.unused(&lv).await?;
        // The layer under an origin that has active snapshots.
        let real = names::dm_layer(self.vg.name(), &lv, "real");
        if self.vg.devices().find(&real)?.is_some() {
            return Ok(());
        }
        self.vg.detach(&lv).await
    }
}
