//! Which I/O limits are in force, and which consumers lack theirs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use stowage_host::Devno;
use stowage_model::Id;
use tokio::time::Instant;

/// What is known of limits beside what is noted on the disk.
#[derive(Default)]
pub(crate) struct Watch(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// The devices limited for a volume in a control group.
    devices: BTreeMap<(Id, PathBuf), Vec<Devno>>,
    /// Consumers without their limits, by their targets.
    missing: BTreeMap<(Id, PathBuf), Missing>,
}

struct Missing {
    since: Instant,
    what: String,
    mend: String,
}

impl Watch {
    /// These devices have the limits of this volume in this group.
    pub(crate) fn are_set(&self, id: &Id, cgroup: &Path, devices: Vec<Devno>) {
        let key = (id.clone(), cgroup.to_owned());
        self.lock().devices.insert(key, devices);
    }

    /// They are lifted, or about to be.
    pub(crate) fn are_lifted(&self, id: &Id, cgroup: &Path) {
        let key = (id.clone(), cgroup.to_owned());
        self.lock().devices.remove(&key);
    }

    /// The devices that have the limits of this volume in this group.
    pub(crate) fn devices(&self, id: &Id, cgroup: &Path) -> Vec<Devno> {
        let known = self.lock();
        let set = known.devices.get(&(id.clone(), cgroup.to_owned()));
        set.cloned().unwrap_or_default()
    }

    /// The consumer of this volume at this target is without its limits.
    pub(crate) fn missing(&self, id: &Id, target: &Path, what: String, mend: &str) {
        let mut known = self.lock();
        let missing = known
            .missing
            .entry((id.clone(), target.to_owned()))
            .or_insert_with(|| Missing {
                since: Instant::now(),
                what: String::new(),
                mend: String::new(),
            });
        if missing.what != what {
            tracing::warn!(volume.id = %id, volume.path = %target.display(), "{what}");
        }
        (missing.what, missing.mend) = (what, mend.to_owned());
    }

    /// It has them.
    pub(crate) fn not_missing_any_more(&self, id: &Id, target: &Path) {
        let key = (id.clone(), target.to_owned());
        self.lock().missing.remove(&key);
    }

    /// Keep of those that lack their limits only these.
    pub(crate) fn retain_missing(&self, keep: impl Fn(&Id, &Path) -> bool) {
        let mut known = self.lock();
        known.missing.retain(|(id, target), _| keep(id, target));
    }

    /// Of the consumers of this volume that lack their limits for so long: what is told of each, and
    /// what a person can do.
    pub(crate) fn missing_for(&self, id: &Id, long: Duration) -> Vec<(String, String)> {
        let known = self.lock();
        let of_it = known.missing.range((id.clone(), PathBuf::new())..);
        let of_it = of_it.take_while(|((of, _), _)| of == id);
        of_it
            .filter(|(_, missing)| missing.since.elapsed() >= long)
            .map(|(_, missing)| (missing.what.clone(), missing.mend.clone()))
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
