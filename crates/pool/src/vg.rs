//! A volume group, as both kinds of LVM pools see it.
//!
//! ```text
//!   report   one `lvm fullreport`: the group, its disks, its LVs       tags    records as LV tags
//!   command  every LVM command begins and runs here
//!   names    LV and device-mapper names                                dm      sysfs: active, suspended, written
//!   reach    attach, detach, suspend, resume                           setup   blank disks into groups
//!   sort     what an LV is to us                                       astray  ours, and not in its place
//! ```
//!
//! Rules kept here:
//! - every change of metadata goes through [`Vg::change`] while [`Vg::turn`] is held, so that
//!   looking for room and taking it is one step; LVM's own lock guards against other programs;
//! - a report may be a second old where it only informs (status, free space) and is taken anew
//!   where something is decided that cannot be undone;
//! - whatever is not named `stowage-…` *and* tagged `stowage.…` is foreign and never touched.

mod answer;
mod astray;
pub(crate) mod command;
pub(crate) mod disks;
pub(crate) mod dm;
mod label;
pub(crate) mod members;
pub(crate) mod names;
pub(crate) mod reach;
pub(crate) mod report;
pub(crate) mod setup;
pub(crate) mod sort;
pub(crate) mod tags;
pub(crate) mod watch;

#[cfg(test)]
pub(crate) mod samples;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use stowage_host::{Claim, Cmd, CmdError, Output, Runner, device};
use stowage_model::id::is_plain_word;
use stowage_model::request::Media;
use stowage_model::volumes::{Finding, Severity, Trouble};
use stowage_model::{Bytes, Error, PoolName, Result};
use tokio::sync::{Mutex as AsyncMutex, MutexGuard as Turn, OnceCell};

use answer::{Asked, Silence};
pub(crate) use command::lvm;
use members::{Finder, Members};
pub(crate) use report::{Lv, Report};

/// LVM only reads: half a minute means a hung disk.
const READ: Duration = Duration::from_secs(30);
/// A change waits for flushes of busy disks, and zeroes the metadata of a new thin pool.
const CHANGE: Duration = Duration::from_secs(120);
/// A report this young serves where it only informs.
const YOUNG: Duration = Duration::from_secs(1);
/// So many changes are made before the group is looked at again, by kinds that need no look to make a
/// volume.
pub(crate) const UNSEEN: u64 = 24;
/// Fill of the metadata, in percent, from which on it is told.
const WARN_METADATA: u64 = 80;
/// vgcreate's own default, until the group has been seen.
const USUAL_EXTENT: Bytes = Bytes::mib(4);

/// One volume group, on behalf of one pool.
pub(crate) struct Vg {
    pool: PoolName,
    name: String,
    /// The thin pool whose volumes are the pool's own; without it, those in none are.
    thin_pool: Option<String>,
    runner: Arc<dyn Runner>,
    finder: Finder,
    /// Whether LVM is new enough.
    checked: OnceCell<()>,
    devices: dm::Devices,
    turn: Arc<AsyncMutex<()>>,
    /// Held while a report is asked for; the last one, and when it was begun.
    asking: AsyncMutex<Option<(tokio::time::Instant, Arc<Report>)>>,
    /// Ours alone, for as long as we live.
    claim: AsyncMutex<Option<Claim>>,
    seen: Mutex<Seen>,
}

/// What is remembered between calls; nothing in it is needed for correctness but `changes` and
/// `held`.
struct Seen {
    report: Option<(Instant, Arc<Report>)>,
    /// The last look, however old.
    last: Option<Arc<Report>>,
    /// How many changes there had been at that look.
    last_at: u64,
    /// As `last`, kept while the group does not answer.
    known: Option<(Instant, Arc<Report>)>,
    /// The group could not be looked at, or lacked something, when it was last looked at.
    silence: Option<Silence>,
    /// Counts changes by us, so that a report begun before one is not kept after it.
    changes: u64,
    extent: Bytes,
    /// Tags of LVs as last read or written.
    tags: HashMap<String, Vec<String>>,
    /// LVs whose writers we hold on purpose.
    held: HashSet<String>,
    /// Devices of the group that are no whole LV of ours, when upkeep last looked.
    strangers: Option<BTreeSet<String>>,
    problem: Option<String>,
    ailing: Vec<Finding>,
}

impl Vg {
    /// # Errors
    /// [`stowage_model::Kind::Invalid`] for a name that LVM or a command line could misread.
    pub(crate) fn new(pool: PoolName, name: String, runner: Arc<dyn Runner>) -> Result<Self> {
        if !is_plain_word(&name) {
            return Err(Error::invalid(format!(
                "pool {pool}: {name:?} is no volume group name; use letters, digits, '-', '_' \
                 or '.', starting with a letter or digit"
            )));
        }
        let seen = Seen {
            report: None,
            last: None,
            last_at: 0,
            known: None,
            silence: None,
            changes: 0,
            extent: USUAL_EXTENT,
            tags: HashMap::new(),
            held: HashSet::new(),
            strangers: None,
            problem: None,
            ailing: Vec::new(),
        };
        let place = disks::Place::default();
        Ok(Self {
            finder: Finder::new(pool.clone(), name.clone(), place),
            checked: OnceCell::new(),
            pool,
            name,
            thin_pool: None,
            runner,
            devices: dm::Devices::default(),
            turn: Arc::default(),
            asking: AsyncMutex::default(),
            claim: AsyncMutex::default(),
            seen: Mutex::new(seen),
        })
    }

    /// The same group, on behalf of a pool that is a thin pool in it.
    pub(crate) fn of_thin_pool(mut self, name: &str) -> Self {
        self.thin_pool = Some(name.to_owned());
        self
    }

    /// The same, known by its UUID, which is kept in this file.
    pub(crate) fn remembering(mut self, file: Option<PathBuf>) -> Self {
        if let Some(file) = file {
            self.finder = self.finder.remembering(file);
        }
        self
    }

    #[cfg(test)]
    pub(crate) fn with_devices(mut self, devices: dm::Devices) -> Self {
        self.devices = devices;
        self
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn pool(&self) -> &PoolName {
        &self.pool
    }

    pub(super) fn finder(&self) -> &Finder {
        &self.finder
    }

    pub(crate) fn runner(&self) -> &Arc<dyn Runner> {
        &self.runner
    }

    pub(crate) fn devices(&self) -> &dm::Devices {
        &self.devices
    }

    /// `vg/lv`, as LVM's commands take it.
    pub(crate) fn path(&self, lv: &str) -> String {
        format!("{}/{lv}", self.name)
    }

    /// The unit every LV is a multiple of.
    pub(crate) fn extent(&self) -> Bytes {
        self.seen().extent
    }

    /// Why the group cannot be used, as far as the last look showed.
    pub(crate) fn problem(&self) -> Option<String> {
        self.seen().problem.clone()
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to change the group; never held while blocks are wiped.
    pub(crate) async fn turn(&self) -> Turn<'_, ()> {
        self.turn.lock().await
    }

    /// As [`Vg::turn`], for whoever holds writers over several calls.
    pub(crate) async fn turn_to_cut(&self) -> crate::Turn {
        Arc::clone(&self.turn).lock_owned().await.into()
    }

    /// The group as it is.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Precondition`] when the group is not there.
    pub(crate) async fn report(&self) -> Result<Arc<Report>> {
        let (mut asked, begun) = match self.ask().await? {
            Asked::Known(report) => return Ok(report),
            Asked::Turn(asked, begun) => (asked, begun),
        };
        let changes = self.seen().changes;
        let read = self.read().await;
        let mut seen = self.seen();
        match read {
            Ok(report) => {
                let report = Arc::new(report);
                *asked = Some((begun, Arc::clone(&report)));
                seen.known = Some((Instant::now(), Arc::clone(&report)));
                seen.extent = report.vg.extent;
                seen.problem = self.lacks(&report);
                let lacking = seen.problem.is_some();
                seen.silence = lacking.then(|| Silence::after(seen.silence.as_ref(), false));
                seen.ailing = self.ailing(&report);
                if seen.changes == changes {
                    seen.tags = report
                        .lvs
                        .iter()
                        .map(|lv| (lv.name.clone(), lv.tags.clone()))
                        .collect();
                    seen.report = Some((Instant::now(), Arc::clone(&report)));
                    seen.last = Some(Arc::clone(&report));
                    seen.last_at = changes;
                }
                Ok(report)
            }
            Err((error, hangs)) => {
                seen.report = None;
                seen.last = None;
                seen.problem = Some(error.chain());
                seen.silence = Some(Silence::after(seen.silence.as_ref(), hangs));
                Err(error)
            }
        }
    }

    /// The group as it was at most a second ago.
    ///
    /// # Errors
    /// As [`Vg::report`].
    pub(crate) async fn glance(&self) -> Result<Arc<Report>> {
        let young = match &self.seen().report {
            Some((at, report)) if at.elapsed() < YOUNG => Some(Arc::clone(report)),
            _ => None,
        };
        match young {
            Some(report) => Ok(report),
            None => self.report().await,
        }
    }

    /// What LVM says, else why it says nothing, and whether that is since it hangs.
    async fn read(&self) -> Result<Report, (Error, bool)> {
        let report = self.read_once().await?;
        let absent = self.finder.last().map(|members| members.absent.len());
        if absent.is_none_or(|absent| report.vg.missing_pvs <= absent as u64) {
            return Ok(report);
        }
        // Somebody added a disk between our look at the group and LVM's.
        self.finder.forget();
        self.read_once().await
    }

    async fn read_once(&self) -> Result<Report, (Error, bool)> {
        let members = self.find().await.map_err(|e| (e, false))?;
        if members.is_none() && !self.finder.is_scripted() {
            return Err((missing(&self.name), false));
        }
        let paths = members.iter().flat_map(|members| members.paths());
        let cmd = report::command(&self.name).timeout(READ);
        let cmd = cmd.locked(self.read_lock(), answer::READ_TURN);
        match self.runner.run(command::looking_at(cmd, paths)).await {
            Ok(output) => report::parse(&output.stdout).map_err(|e| (e, false)),
            Err(error) if says(&error, "not found") => Err((missing(&self.name), false)),
            Err(error) => {
                let hangs = answer::hangs(&error);
                let what = match hangs {
                    true => "does not answer",
                    false => "cannot be looked at",
                };
                let what = format!("volume group {} {what}", self.name);
                Err((Error::internal(what).caused_by(error), hangs))
            }
        }
    }

    /// The group's disks as they are now; none when there is no such group.
    ///
    /// # Errors
    /// As [`Finder::find`], and when LVM is too old to be told where to look.
    pub(crate) async fn find(&self) -> Result<Option<Arc<Members>>> {
        if self.finder.is_scripted() {
            return Ok(None);
        }
        self.checked
            .get_or_try_init(|| command::new_enough(self.runner.as_ref()))
            .await?;
        self.finder.find().await
    }

    fn lacks(&self, report: &Report) -> Option<String> {
        let name = &self.name;
        if report.vg.missing_pvs == 0 {
            return None;
        }
        let last = self.finder.last().filter(|last| last.absent.is_empty());
        if let Some(path) = last.iter().flat_map(|last| last.distrusted()).next() {
            let path = path.display();
            return Some(format!(
                "disk {path} of volume group {name} is there, but LVM counts it as missing since \
                 the group was changed without it; if nothing else wrote to it, run: vgextend \
                 --restoremissing {name} {path}"
            ));
        }
        Some(format!(
            "{} disk(s) of volume group {name} are missing, and LVM allows no change to it; plug \
             them in, or see vgreduce(8) --removemissing",
            report.vg.missing_pvs
        ))
    }

    /// Run one command that changes the group. It is never killed: LVM that dies between
    /// suspending a device and resuming it leaves whoever uses the device hanging.
    pub(crate) async fn change(&self, cmd: Cmd) -> Result<(), CmdError> {
        self.forget_report();
        let unarchived = cmd.clone().also_set("backup{backup=0 archive=0}");
        let mut ran = self.run_on(self.alone(cmd), true, &[]).await;
        if ran.as_ref().is_err_and(lacks_an_archive) {
            // On a disk of the host's that is full; the group is not on it, and is to give back what
            // it holds all the same.
            tracing::warn!(
                vg = self.name,
                "no room for the host's archive of LVM's metadata"
            );
            ran = self.run_on(self.alone(unarchived), true, &[]).await;
        }
        self.changed(ran).await
    }

    /// As [`Vg::change`], with disks that join the group.
    pub(crate) async fn take(&self, cmd: Cmd, disks: &[PathBuf]) -> Result<(), CmdError> {
        self.forget_report();
        let ran = self.run_on(self.alone(cmd), true, disks).await;
        self.changed(ran).await
    }

    /// As [`Vg::change`], for one that changes no metadata: a missing disk stops what lies on it,
    /// and nothing else.
    pub(crate) async fn switch(&self, cmd: Cmd) -> Result<(), CmdError> {
        self.forget_report();
        let ran = self.run_on(self.alone(cmd), false, &[]).await;
        self.changed(ran).await
    }

    /// As [`Vg::switch`], for a command that is not LVM's.
    pub(crate) async fn poke(&self, cmd: Cmd) -> Result<(), CmdError> {
        self.forget_report();
        let ran = self.runner.run(self.alone(cmd)).await;
        self.changed(ran).await
    }

    /// A change: the only one of the group at a time, and never killed.
    fn alone(&self, cmd: Cmd) -> Cmd {
        let cmd = cmd.locked(self.change_lock(), answer::CHANGE_TURN);
        cmd.timeout(CHANGE).spared()
    }

    async fn changed(&self, ran: Result<Output, CmdError>) -> Result<(), CmdError> {
        self.forget_report();
        if ran.is_err() {
            self.let_go().await;
        }
        ran.map(drop)
    }

    /// Note that the writers of an LV are held on purpose, or are so no longer.
    pub(crate) fn note_held(&self, lv: &str, held: bool) {
        let mut seen = self.seen();
        if held {
            seen.held.insert(lv.to_owned());
        } else {
            seen.held.remove(lv);
        }
    }

    /// The group as it was when last looked at, however long ago; changes by us since are not in
    /// it. For what LVM itself refuses should it have become wrong.
    pub(crate) fn recall(&self) -> Option<Arc<Report>> {
        self.seen().last.clone()
    }

    /// Whether the last look at the group found nothing wrong with it, and room in its metadata for
    /// all that may have been made since.
    pub(crate) fn is_roomy(&self) -> bool {
        let seen = self.seen();
        let roomy = |last: &Arc<Report>| last.vg.metadata.is_roomy();
        seen.problem.is_none()
            && seen.last.as_ref().is_none_or(roomy)
            && seen.changes - seen.last_at < UNSEEN
    }

    /// How often the group was changed by us.
    pub(crate) fn changes(&self) -> u64 {
        self.seen().changes
    }

    fn forget_report(&self) {
        let mut seen = self.seen();
        seen.changes += 1;
        seen.report = None;
    }

    /// The tags an LV has, from memory or else from the disk.
    ///
    /// # Errors
    /// [`stowage_model::Kind::NotFound`] when there is no such LV.
    pub(crate) async fn tags_of(&self, lv: &str) -> Result<Vec<String>> {
        if let Some(tags) = self.seen().tags.get(lv) {
            return Ok(tags.clone());
        }
        let report = self.report().await?;
        let found = report.lv(lv).map(|lv| lv.tags.clone());
        found.ok_or_else(|| Error::not_found(format!("there is no LV {}", self.path(lv))))
    }

    /// The tags an LV has as far as they are known without asking: by memory, or as the group was last
    /// seen.
    pub(crate) fn known_tags(&self, lv: &str) -> Vec<String> {
        if let Some(tags) = self.seen().tags.get(lv) {
            return tags.clone();
        }
        let last = self.recall();
        let lv = last.as_ref().and_then(|report| report.lv(lv));
        lv.map(|lv| lv.tags.clone()).unwrap_or_default()
    }

    /// Remember the tags an LV was just given.
    pub(crate) fn note_tags(&self, lv: &str, tags: Vec<String>) {
        self.seen().tags.insert(lv.to_owned(), tags);
    }

    /// Forget what an LV was tagged with: it is gone, renamed, or a change of it failed.
    pub(crate) fn forget_tags(&self, lv: &str) {
        self.seen().tags.remove(lv);
    }

    /// Replace tags of an LV in one commit of LVM's metadata; nothing runs when none differ.
    ///
    /// # Errors
    /// When lvchange fails; the LV then has its old tags or its new ones.
    pub(crate) async fn retag(&self, lv: &str, gone: &[String], new: &[String]) -> Result<()> {
        // lvchange takes a tag away after it added it, so no tag may be in both lists.
        let del: Vec<_> = gone.iter().filter(|tag| !new.contains(tag)).collect();
        let add: Vec<_> = new.iter().filter(|tag| !gone.contains(tag)).collect();
        if del.is_empty() && add.is_empty() {
            return Ok(());
        }
        let mut tags = self.tags_of(lv).await?;
        let cmd = lvm("lvchange").args(["-y", "-q"]);
        let cmd = del.iter().fold(cmd, |cmd, tag| cmd.args(["--deltag", tag]));
        let cmd = add.iter().fold(cmd, |cmd, tag| cmd.args(["--addtag", tag]));
        if let Err(error) = self.change(cmd.arg(self.path(lv))).await {
            self.forget_tags(lv);
            return Err(self.explain(error, &format!("write the record of LV {}", self.path(lv))));
        }
        tags.retain(|tag| !del.contains(&tag));
        tags.extend(add.into_iter().cloned());
        self.note_tags(lv, tags);
        Ok(())
    }

    /// Turn a failed command into an error that says what to do: by exit code first, LVM's one
    /// code for all, and by its text second.
    pub(crate) fn explain(&self, error: CmdError, what: &str) -> Error {
        let (vg, pool) = (&self.name, &self.pool);
        if let CmdError::Refused { why, .. } = &error {
            return Error::precondition(format!("failed to {what}: {why}"));
        }
        if let CmdError::Busy { by, .. } = &error {
            let by = crate::contract::named(by);
            return Error::pending(format!(
                "failed to {what}: {by} is still at work in volume group {vg}; ask again"
            ));
        }
        let text = if says(&error, "unexpected transaction id") {
            return Error::internal(format!(
                "failed to {what}: LVM and the kernel disagree about a thin pool of volume group \
                 {vg}; see lvmthin(7), \"Metadata repair\""
            ))
            .caused_by(error);
        } else if says(&error, "exceeds maximum metadata size") {
            return Error::full(format!(
                "failed to {what}: the metadata area of volume group {vg} is full; {}",
                self.more_metadata()
            ))
            .caused_by(error);
        } else if says(&error, "nsufficient")
            || says(&error, "reached threshold")
            || says(&error, "Maximum number of logical volumes")
        {
            return Error::full(format!("failed to {what}: pool {pool} has no room left"))
                .caused_by(error);
        } else if says(&error, "locked") && !says(&error, "lock manager") {
            return Error::pending(format!(
                "failed to {what}: LVM is moving it to another disk; if no pvmove runs, run it \
                 again or `pvmove --abort`"
            ))
            .caused_by(error);
        } else if says(&error, "PVs are missing") {
            format!("failed to {what}: disks of volume group {vg} are missing; plug them in")
        } else if says(&error, "Volume group") && says(&error, "not found") {
            format!("failed to {what}: volume group {vg} is missing; plug in its disks")
        } else if says(&error, "filesystem in use") || says(&error, "is used by another device") {
            format!("failed to {what}: it is in use; unmount it first")
        } else {
            return Error::internal(format!("failed to {what}")).caused_by(error);
        };
        Error::precondition(text).caused_by(error)
    }

    /// The error of a pool without room for `asked`.
    pub(crate) fn full(&self, free: Bytes, asked: Bytes) -> Error {
        Error::full(format!(
            "pool {} has no room: {asked} asked, {free} of volume group {} free",
            self.pool, self.name
        ))
    }

    /// Refuse to work on a group of which disks are missing.
    pub(crate) fn whole(&self, report: &Report) -> Result<()> {
        match self.lacks(report) {
            None => Ok(()),
            Some(problem) => Err(Error::precondition(format!(
                "pool {}: {problem}",
                self.pool
            ))),
        }
    }

    /// Refuse to make anything in a group of which disks are missing, or whose metadata area is
    /// nearly full: LVM fails then halfway, with some disks written. Removal needs no room there.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Precondition`], [`stowage_model::Kind::Full`].
    pub(crate) fn takes_more(&self, report: &Report) -> Result<()> {
        self.whole(report)?;
        match report.vg.metadata.is_full() {
            false => Ok(()),
            true => Err(Error::full(format!(
                "pool {} has no room: the metadata area of volume group {} is {} % full; {}",
                self.pool,
                self.name,
                report.vg.metadata.percent(),
                self.more_metadata()
            ))),
        }
    }

    fn more_metadata(&self) -> String {
        format!(
            "delete volumes or snapshots, or add a disk with a larger one (`stowage pool extend`) \
             and take those of the others out of use (`pvchange --metadataignore y DISK`, as \
             `pvs -o+pv_mda_free` shows them for {})",
            self.name
        )
    }

    /// The metadata area, when it is nearly full.
    fn short_of_metadata(&self, report: &Report) -> Option<Finding> {
        let area = report.vg.metadata;
        let severity = match (area.is_full(), area.percent()) {
            (true, _) => Severity::Error,
            (false, WARN_METADATA..) => Severity::Warning,
            _ => return None,
        };
        Some(Finding {
            severity,
            trouble: Trouble::PoolFull,
            subject: self.pool.to_string(),
            what: format!(
                "the metadata area of volume group {} is {} % full; when it is full, nothing new \
                 is made",
                self.name,
                area.percent()
            ),
            mend: self.more_metadata(),
        })
    }

    /// Take an LV away for good.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Precondition`] while it is in use.
    pub(crate) async fn lvremove(&self, lv: &str) -> Result<()> {
        let cmd = lvm("lvremove").args(["-y", "-q", "-f"]).arg(self.path(lv));
        let removed = self.change(cmd).await;
        self.forget_tags(lv);
        match removed {
            Err(error) if says(&error, "Failed to find logical volume") => Ok(()),
            Err(error) => Err(self.explain(error, &format!("remove LV {}", self.path(lv)))),
            Ok(()) => Ok(()),
        }
    }

    /// Look at the group where its devices show that somebody else changed LVs: a part of another
    /// LV, or one of another name, came or went. Starts no process otherwise.
    pub(crate) async fn look_if_disturbed(&self) -> Result<()> {
        let group = names::dm(&self.name, "");
        let all = self.devices.beginning(&group)?.into_iter();
        let strange = |name: &String| !names::is_ordinary(&name[group.len()..]);
        let now: BTreeSet<String> = all.map(|node| node.name).filter(strange).collect();
        let before = self.seen().strangers.replace(now.clone());
        if before.is_some_and(|before| before != now)
            && let Err(error) = self.report().await
        {
            tracing::warn!(vg = self.name, "{}", error.chain());
        }
        Ok(())
    }

    /// What is wrong with the group and its volumes, as far as the last look showed.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        let missing = |problem: String| Finding {
            severity: Severity::Error,
            trouble: Trouble::PoolMissing,
            subject: self.pool.to_string(),
            what: problem,
            mend: format!("look at `vgs {}` and `pvs`", self.name),
        };
        let missing = self.problem().map(missing);
        missing
            .into_iter()
            .chain(self.seen().ailing.clone())
            .collect()
    }

    /// The pool's volumes and snapshots whose disks fail them.
    fn ailing(&self, report: &Report) -> Vec<Finding> {
        let own = report.lvs.iter().filter(|lv| lv.pool == self.thin_pool);
        let stranded = self.stranded();
        let ill = own.clone().filter_map(|lv| {
            let dm = names::dm(&self.name, &lv.name);
            let stranded = || {
                let stranded = stranded.contains(&dm);
                stranded.then_some((reach::STRANDED, reach::STRANDED_MEND))
            };
            let (what, mend) = lv.ailment().or_else(stranded)?;
            Some(Finding {
                severity: Severity::Error,
                trouble: Trouble::DeviceError,
                subject: names::id(&lv.name)?.to_string(),
                what: format!("LV {} {what}", lv.name),
                mend: mend.to_owned(),
            })
        });
        let cached = own.filter_map(|lv| {
            let cache = lv.cache.as_ref()?;
            Some(Finding {
                severity: Severity::Warning,
                trouble: Trouble::Foreign,
                subject: names::id(&lv.name)?.to_string(),
                what: format!(
                    "LV {} was given the cache {cache}: it is served, and can neither grow nor be \
                     cut or deleted",
                    self.path(&lv.name)
                ),
                mend: self.uncache(lv),
            })
        });
        let ailing = ill.chain(cached);
        ailing
            .chain(self.astray_findings(report))
            .chain(self.short_of_metadata(report))
            .collect()
    }

    /// How to take an administrator's cache off an LV.
    fn uncache(&self, lv: &Lv) -> String {
        format!(
            "take it off: lvconvert --splitcache {}",
            self.path(&lv.name)
        )
    }

    /// Refuse to grow, cut or remove an LV on which somebody else is at work.
    ///
    /// What is wiped through a cache may not reach the disk beneath, LVM removes the cache with the
    /// LV, and not all versions grow or cut what is cached.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Pending`] while LVM moves it, [`stowage_model::Kind::Precondition`]
    /// while it has a cache.
    pub(crate) fn at_rest(&self, lv: &Lv) -> Result<()> {
        let path = self.path(&lv.name);
        if lv.is_locked() {
            return Err(Error::pending(format!(
                "LV {path} is being moved to another disk, and LVM changes nothing of it until \
                 then; if no pvmove runs, run it again or `pvmove --abort`"
            )));
        }
        match &lv.cache {
            None => Ok(()),
            Some(cache) => Err(Error::precondition(format!(
                "LV {path} has the cache {cache}, with which it can neither grow nor be cut or \
                 deleted; {}",
                self.uncache(lv)
            ))),
        }
    }
}

/// The error of a group that is not there.
pub(crate) fn missing(vg: &str) -> Error {
    Error::precondition(format!(
        "volume group {vg} is missing; plug in its disks, or make it with `vgcreate` or, for a new \
         pool, `stowage pool create … --disk DISK`"
    ))
}

/// Whether a command failed with LVM's exit code 5 (ECMD_FAILED) and this in its text.
pub(crate) fn says(error: &CmdError, text: &str) -> bool {
    error.code() == Some(5) && error.stderr().contains(text)
}

/// Whether LVM changed nothing because it could not keep a copy of the metadata from before under
/// /etc/lvm/archive (archive.c and format-text.c of LVM; lvm.conf(5), backup/archive).
fn lacks_an_archive(error: &CmdError) -> bool {
    let no_room = says(error, "/.lvm_") && says(error, "No space left on device");
    no_room || says(error, "temporary archive name")
}

/// The medium of a group: that of its disks, when they agree.
pub(crate) fn media(report: &Report) -> Option<Media> {
    let mut kinds = report.pvs.iter().map(|pv| {
        let devno = device::devno(Path::new(&pv.name)).ok()?;
        device::rotational(devno).ok()
    });
    let first = kinds.next()??;
    if !kinds.all(|kind| kind == Some(first)) {
        return None;
    }
    Some(if first { Media::Hdd } else { Media::Ssd })
}

#[cfg(test)]
mod tests;
