//! Volumes and snapshots that are not where they are looked for: their LV was renamed, or LVM put it
//! below another one (a cache, a thin pool, a merge). None of them is taken for gone.

use std::collections::HashSet;

use stowage_model::volumes::{Finding, Severity, Trouble};
use stowage_model::{Error, Id, Record, Result};

use super::{Lv, Report, Vg, names, tags};
use crate::Defect;
use crate::contract::is_same;

/// One of them.
pub(crate) struct Astray<'a> {
    lv: &'a Lv,
    /// Whose records its tags hold.
    ids: Vec<Id>,
    why: String,
    mend: String,
}

impl Astray<'_> {
    fn finding(&self, vg: &str) -> Finding {
        let named = self.ids.first().map(ToString::to_string);
        Finding {
            severity: Severity::Error,
            trouble: Trouble::BadRecord,
            subject: named.unwrap_or_else(|| self.lv.name.clone()),
            what: format!("LV {vg}/{} {}", self.lv.name, self.why),
            mend: self.mend.clone(),
        }
    }

    /// Whether this very volume, snapshot or reader may be in it. One that cannot be read may.
    fn holds(&self, record: &Record) -> bool {
        let other = |found: Result<Record>| found.is_ok_and(|found| !is_same(&found, record));
        let own = self.ids.contains(&record.id)
            && tags::id(&self.lv.tags).is_some_and(|id| id == record.id);
        let mut readers = tags::readers(&self.lv.tags).into_iter();
        own && !other(tags::record(&self.lv.tags))
            || readers.any(|(id, found)| id == record.id.as_str() && !other(found))
    }
}

impl Vg {
    /// Of these LVs of the group, those that are not where they are looked for.
    fn astray<'a>(&self, report: &'a Report, own: impl Fn(&Lv) -> bool) -> Vec<Astray<'a>> {
        let wholes = Wholes::of(report);
        let seen = report.lvs.iter().map(|lv| (lv, false));
        let hidden = report.hidden.iter().map(|lv| (lv, true));
        seen.chain(hidden)
            .filter(|(lv, _)| own(lv) && tags::any_record(&lv.tags))
            .filter_map(|(lv, is_hidden)| {
                let (why, mend) = match is_hidden {
                    true if wholes.have(lv) => return None,
                    true => self.below_another(lv),
                    false => self.elsewhere(report, lv)?,
                };
                let mut ids: Vec<Id> = tags::id(&lv.tags).into_iter().collect();
                // Removed, and renamed for it: its id is free.
                if names::was_condemned(&lv.name) {
                    ids.clear();
                }
                let readers = tags::readers(&lv.tags).into_iter();
                ids.extend(readers.filter_map(|(id, _)| id.parse().ok()));
                Some(Astray { lv, ids, why, mend })
            })
            .collect()
    }

    /// An LV that nobody can use by itself.
    fn below_another(&self, lv: &Lv) -> (String, String) {
        let vg = self.name();
        if lv.is_merging() {
            return (
                "is being merged into the volume it was cut from, and is no snapshot any more"
                    .to_owned(),
                format!(
                    "unmount that volume and deactivate it (lvchange -an {vg}/{}), and the merge \
                     begins; then restart the daemon",
                    lv.origin.as_deref().unwrap_or_default()
                ),
            );
        }
        (
            "was made a part of another LV, and cannot be used".to_owned(),
            format!(
                "find that LV with `lvs -a -o+devices {vg}` and undo it (lvconvert --splitcache, \
                 for a cache); then restart the daemon"
            ),
        )
    }

    /// An LV whose name is not what its record says; `None` where it is.
    fn elsewhere(&self, report: &Report, lv: &Lv) -> Option<(String, String)> {
        if names::is_condemned(&lv.name) {
            return None;
        }
        let Some(id) = tags::id(&lv.tags) else {
            // With a name of ours it is unreadable, or half made.
            return (!lv.name.starts_with(names::PREFIX)).then(|| {
                (
                    "has tags of ours and no name of ours".to_owned(),
                    "copy its bytes out, or take its tags off (lvchange --deltag)".to_owned(),
                )
            });
        };
        let right = names::of(&id);
        let vg = self.name();
        if let Some(converted) = lv.pool.as_ref().filter(|pool| is_made_of_ours(pool)) {
            return Some((
                format!("was made a thin volume of {vg}/{converted}, which is no pool of ours"),
                "copy its bytes out, then remove both by hand".to_owned(),
            ));
        }
        if lv.name == right {
            return None;
        }
        let mend = match report.lv(&right) {
            None => format!(
                "rename it back (lvrename {vg}/{} {vg}/{right}) and restart the daemon",
                lv.name
            ),
            Some(_) => format!(
                "LV {vg}/{right} is there too; if this one is a copy of it, take its tags off \
                 (lvchange --deltag) and restart the daemon"
            ),
        };
        Some((format!("holds {id} and is not named after it"), mend))
    }

    fn is_own(&self, lv: &Lv) -> bool {
        lv.pool == self.thin_pool
            || self.thin_pool.is_none() && lv.pool.as_deref().is_some_and(is_made_of_ours)
    }

    /// What is astray among the LVs of this pool, as its scan tells it.
    pub(crate) fn astray_defects(&self, report: &Report) -> Vec<Defect> {
        let found = self.astray(report, |lv| self.is_own(lv)).into_iter();
        let defect = |astray: Astray<'_>| Defect::Astray {
            finding: astray.finding(self.name()),
            lv: astray.lv.name.clone(),
            ids: astray.ids,
        };
        found.map(defect).collect()
    }

    pub(super) fn astray_findings(&self, report: &Report) -> Vec<Finding> {
        let found = self.astray(report, |lv| self.is_own(lv)).into_iter();
        found.map(|astray| astray.finding(self.name())).collect()
    }

    /// Refuse to call a leftover gone that is a part of another LV.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Precondition`] with the way out.
    pub(crate) fn not_hidden(&self, report: &Report, name: &str) -> Result<()> {
        let part = |lv: &&Lv| {
            let rest = lv.name.strip_prefix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
        };
        match report.hidden.iter().find(part) {
            None => Ok(()),
            Some(lv) => {
                let (why, mend) = self.below_another(lv);
                let path = self.path(&lv.name);
                Err(Error::precondition(format!("LV {path} {why}; {mend}")))
            }
        }
    }

    /// Refuse to call something gone, whose own LV is not there, that is in another.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Precondition`] naming the LV and the way out.
    pub(crate) fn is_gone(&self, report: &Report, record: &Record) -> Result<()> {
        // Whatever pool it may be in by now.
        let all = self.astray(report, |_| true);
        match all.into_iter().find(|astray| astray.holds(record)) {
            None => Ok(()),
            Some(astray) => Err(Error::precondition(format!(
                "{} is not gone: LV {} {}; {}",
                record.id,
                self.path(&astray.lv.name),
                astray.why,
                astray.mend
            ))),
        }
    }
}

/// The visible LVs that hold records.
struct Wholes<'a> {
    ids: HashSet<Id>,
    names: HashSet<&'a str>,
}

impl<'a> Wholes<'a> {
    fn of(report: &'a Report) -> Self {
        let records = report.lvs.iter().filter(|lv| tags::any_record(&lv.tags));
        Self {
            ids: report
                .lvs
                .iter()
                .filter_map(|lv| tags::id(&lv.tags))
                .collect(),
            names: records.map(|lv| lv.name.as_str()).collect(),
        }
    }

    /// Whether a hidden LV is a part of the visible one that holds the record: lvcreate gives the
    /// tags of a raid1 to the places where its state is kept as well.
    fn have(&self, part: &Lv) -> bool {
        match tags::id(&part.tags) {
            Some(id) => self.ids.contains(&id),
            None => {
                let mut marks = part.name.match_indices('_');
                marks.any(|(at, _)| self.names.contains(&part.name[..at]))
            }
        }
    }
}

/// Whether a thin pool was made of an LV of ours (lvconvert --type thin): LVM names it after that.
fn is_made_of_ours(pool: &str) -> bool {
    pool.starts_with(names::PREFIX)
}

#[cfg(test)]
mod tests;
