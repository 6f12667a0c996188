//! Volumes: made, grown, recorded.

use stowage_host::failpoint::hit;
use stowage_host::{Cmd, blocking, device, dm};
use stowage_model::{Bytes, Error, Record, Result};

use super::ThinPool;
use crate::Written;
use crate::contract::is_wholly;
use crate::vg::sort::{Sort, in_the_way, sort};
use crate::vg::{Lv, Report, lvm, names, tags};

impl ThinPool {
    pub(super) async fn create_volume(&self, record: &Record, size: Bytes) -> Result<Bytes> {
        let name = names::of(&record.id);
        let new_tags = tags::of_record(record)?;
        let _turn = self.vg.turn().await;
        if let Some(size) = self.made_or_room(record, size).await? {
            return Ok(size);
        }
        let size = size.round_up(self.vg.extent());
        let cmd = lvm("lvcreate").args(["-y", "-q", "-n", &name]);
        let cmd = cmd.args(["-V", &format!("{}b", size.0), "-T", &self.location()]);
        hit("thin.create.begin");
        let made = self.make_new(cmd, record, new_tags).await;
        hit("thin.create.made");
        let Err(error) = made else {
            self.promise(size);
            return Ok(size);
        };
        let report = self.vg.report().await?;
        self.made_before(&report, record).await?.ok_or(error)
    }

    /// The size of the volume or snapshot if it was made before; otherwise there is room for it to
    /// promise `size`.
    ///
    /// A look costs as much as half of an lvcreate. What was promised is known without one, the
    /// fill moves only by writes, upon which upkeep looks, and LVM refuses a name that something
    /// newer has: [`ThinPool::made_before`] is then to be asked again.
    ///
    /// # Errors
    /// As [`ThinPool::made_before`] and [`ThinPool::has_room`].
    pub(super) async fn made_or_room(&self, record: &Record, size: Bytes) -> Result<Option<Bytes>> {
        let (report, since) = match self.known() {
            Some(known) => known,
            None => (self.vg.glance().await?, Bytes(0)),
        };
        if report.lv(&names::of(&record.id)).is_some() {
            let report = self.vg.glance().await?;
            if let Some(size) = self.made_before(&report, record).await? {
                return Ok(Some(size));
            }
        }
        let size = size.round_up(report.vg.extent);
        // Nobody is refused on an old look.
        if self.has_room(&report, size + since).is_err() {
            self.has_room(&*self.vg.report().await?, size)?;
        }
        Ok(None)
    }

    /// The size of the volume or snapshot if it is there; a half-made one is taken out of the way.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Exists`] when something else has its name.
    pub(super) async fn made_before(
        &self,
        report: &Report,
        record: &Record,
    ) -> Result<Option<Bytes>> {
        let name = &names::of(&record.id);
        let Some(there) = report.lv(name) else {
            return Ok(None);
        };
        if there.pool.as_ref() != Some(&self.options.thin_pool) {
            return Err(Error::exists(format!(
                "LV {} is in the way and not in thin pool {}; remove or rename it",
                self.vg.path(name),
                self.location()
            )));
        }
        match sort(there, false) {
            Sort::Ours(found) if is_wholly(&found, record) => Ok(Some(there.size)),
            Sort::Leftover => {
                self.vg.lvremove(name).await?;
                Ok(None)
            }
            sort => Err(in_the_way(&self.vg.path(name), &sort)),
        }
    }

    /// Run an lvcreate with these tags on top, and see that the volume is a new one.
    async fn make_new(&self, cmd: Cmd, record: &Record, new_tags: Vec<String>) -> Result<()> {
        let name = names::of(&record.id);
        self.make_lv(cmd.clone(), &name, new_tags.clone()).await?;
        let what = match self.blocks_of(record).await {
            Ok(Written::Something(what)) => what,
            Ok(_) => return Ok(()),
            Err(e) => {
                // Nor can it be attached then, and a mount looks again.
                tracing::warn!(volume.id = %record.id, error = %e.chain(), "not looked at");
                return Ok(());
            }
        };
        // LVM takes a thin device that is there already for one that it made before an interruption:
        // somebody's bytes, see `stray`. It goes with the LV.
        tracing::warn!(pool.name = %self.options.name, volume.id = %record.id, what,
            "LVM gave a new volume an old thin device; both are removed");
        self.vg.lvremove(&name).await?;
        self.make_lv(cmd, &name, new_tags).await?;
        match self.blocks_of(record).await? {
            Written::Something(what) => {
                self.vg.lvremove(&name).await?;
                Err(Error::internal(format!(
                    "a new volume in thin pool {} holds {what}; see lvmthin(7), \"Metadata repair\"",
                    self.location()
                )))
            }
            _ => Ok(()),
        }
    }

    /// Run an lvcreate with these tags on top.
    pub(super) async fn make_lv(&self, cmd: Cmd, name: &str, new_tags: Vec<String>) -> Result<()> {
        let cmd = new_tags
            .iter()
            .fold(cmd, |cmd, tag| cmd.args(["--addtag", tag]));
        let made = self.lvcreate(cmd).await;
        made.map_err(|e| {
            self.vg
                .explain(e, &format!("create LV {}", self.vg.path(name)))
        })?;
        self.vg.note_tags(name, new_tags);
        Ok(())
    }

    /// The LV of a volume or snapshot that must be there.
    pub(super) fn member<'a>(&self, report: &'a Report, name: &str) -> Result<&'a Lv> {
        report
            .lv(name)
            .filter(|lv| lv.pool.as_ref() == Some(&self.options.thin_pool))
            .ok_or_else(|| Error::not_found(format!("there is no LV {}", self.vg.path(name))))
    }

    /// A thin pool gives a volume its blocks as it is written to.
    pub(super) async fn blocks_of(&self, record: &Record) -> Result<Written> {
        let Some(device) = self.vg.attached(&names::of(&record.id))? else {
            return Ok(Written::Unknown);
        };
        let mapped = blocking(move || device::devno(&device.path).and_then(dm::thin_mapped)).await;
        Ok(match mapped {
            Ok(0) => Written::Nothing,
            Ok(bytes) => Written::Something(format!("{} that somebody wrote", Bytes(bytes))),
            Err(error) => {
                tracing::debug!(volume.id = %record.id, %error, "must be read to be seen blank");
                Written::Unknown
            }
        })
    }

    pub(super) async fn grow_volume(&self, record: &Record, size: Bytes) -> Result<Bytes> {
        let name = names::of(&record.id);
        let _turn = self.vg.turn().await;
        let report = self.vg.report().await?;
        let size = size.round_up(report.vg.extent);
        let lv = self.member(&report, &name)?;
        if lv.size >= size {
            return Ok(lv.size);
        }
        let more = size.minus(lv.size);
        self.has_room(&report, more)?;
        hit("thin.grow.begin");
        self.lvextend(&name, size).await?;
        self.promise(more);
        hit("thin.grow.made");
        Ok(size)
    }

    pub(super) async fn lvextend(&self, name: &str, size: Bytes) -> Result<()> {
        let path = self.vg.path(name);
        let cmd = lvm("lvextend").args(["-y", "-q", "-L", &format!("{}b", size.0), &path]);
        let grown = self.vg.change(cmd).await;
        grown.map_err(|error| self.vg.explain(error, &format!("grow LV {path}")))
    }

    pub(super) async fn rewrite_record(&self, record: &Record) -> Result<()> {
        let lv = names::of(&record.id);
        let _turn = self.vg.turn().await;
        let old = self.vg.tags_of(&lv).await?;
        let gone: Vec<_> = tags::record_part(&old).cloned().collect();
        hit("thin.rewrite.begin");
        self.vg.retag(&lv, &gone, &tags::of_record(record)?).await?;
        hit("thin.rewrite.made");
        Ok(())
    }

    /// Give a half-made LV its record: from then on it is there.
    pub(super) async fn finish(&self, name: &str, record: &Record) -> Result<()> {
        self.vg
            .retag(name, &[tags::HALF.to_owned()], &tags::of_record(record)?)
            .await
    }
}
