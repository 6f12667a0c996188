//! Reading a file pool back.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;

use stowage_model::error::Context;
use stowage_model::request::{Media, Provisioning};
use stowage_model::volumes::{Capacity, PoolStatus};
use stowage_model::{Bytes, Id, PoolKind, Record, Result};

use super::Shared;
use super::ledger::Space;
use super::volume::is_hollow;
use crate::{Defect, Found, Leftover, Scan};

impl Shared {
    pub(super) fn scan(&self) -> Result<Scan> {
        self.in_place()?;
        self.learn_reflink();
        let mut scan = Scan::default();
        for folder in ["volumes", "snapshots"] {
            for name in self.names(folder)? {
                self.read(folder, &name, &mut scan);
            }
        }
        // What is half made would be in the way of a volume of its name, whose own making a purge
        // by that name could meet.
        for name in self.names("making")? {
            let place = self.options.path.join("making").join(&name);
            match stowage_model::id::is_plain_word(&name) && is_only_files(&place) {
                // On a file system that turned read-only it stays, and is in nobody's way: nothing is
                // made there.
                true => match self.throw_away(&place, &name) {
                    Ok(_) => {}
                    Err(e) => scan.defects.push(Defect::Unreadable {
                        what: place.display().to_string(),
                        id: None,
                        why: format!("half made, and cannot be thrown away: {}", e.chain()),
                    }),
                },
                false => scan
                    .defects
                    .push(Defect::Foreign(place.display().to_string())),
            }
        }
        for name in self.names("trash")? {
            let place = self.options.path.join("trash").join(&name);
            match stowage_model::id::is_plain_word(&name) && is_only_files(&place) {
                true => scan.leftovers.push(Leftover {
                    handle: format!("trash/{name}"),
                    size: allocated(&place.join("data")),
                }),
                false => scan
                    .defects
                    .push(Defect::Foreign(place.display().to_string())),
            }
        }
        for found in &scan.found {
            self.ledger.enter(&found.record, found.size);
        }
        self.survey();
        self.note_copied_on_write(&scan.found);
        self.see_attached();
        // From now on the pool is used; only here is it known what it holds.
        self.read.store(true, Ordering::Release);
        Ok(scan)
    }

    fn read(&self, folder: &str, name: &str, scan: &mut Scan) {
        let dir = self.options.path.join(folder).join(name);
        let shown = dir.display().to_string();
        let Ok(id) = name.parse::<Id>() else {
            scan.defects.push(Defect::Foreign(shown));
            return;
        };
        if is_hollow(&dir) && is_only_files(&dir) {
            // The removal was decided, and its bytes are gone.
            match self.throw_away(&dir, name) {
                Ok(_) => tracing::info!(volume.id = %id, "a removal that was cut off is ended"),
                Err(e) => scan.defects.push(Defect::Unreadable {
                    what: shown,
                    id: Some(id),
                    why: format!("removed, but for its name: {}", e.chain()),
                }),
            }
            return;
        }
        match read_record(&dir).and_then(|record| {
            if record.id != id {
                return Err(stowage_model::Error::internal(
                    "its record bears another id",
                ));
            }
            let size = fs::metadata(dir.join("data"))
                .or_internal(|| "its data cannot be looked at".to_owned())?
                .len();
            Ok(Found {
                record,
                size: Bytes(size),
            })
        }) {
            Ok(found) => scan.found.push(found),
            Err(e) => scan.defects.push(Defect::Unreadable {
                what: shown,
                id: Some(id),
                why: e.chain(),
            }),
        }
    }

    pub(super) fn names(&self, folder: &str) -> Result<Vec<String>> {
        let dir = self.options.path.join(folder);
        let failed = || format!("failed to read {}", dir.display());
        let mut names = Vec::new();
        for entry in fs::read_dir(&dir).or_internal(failed)? {
            names.push(
                entry
                    .or_internal(failed)?
                    .file_name()
                    .to_string_lossy()
                    .into_owned(),
            );
        }
        names.sort();
        Ok(names)
    }

    pub(super) fn space(&self) -> Result<Space> {
        let usage = stowage_host::filesystem::size(&self.options.path)
            .or_internal(|| format!("failed to ask how full pool {} is", self.options.name))?;
        Ok(Space {
            total: Bytes(usage.total),
            available: Bytes(usage.available),
        })
    }

    /// How much of a volume's file has blocks; nothing, should it be missing.
    pub(super) fn allocated(&self, id: &Id) -> Bytes {
        allocated(&self.place(id).join("data"))
    }

    pub(super) fn capacity(&self, provisioning: Provisioning) -> Capacity {
        let space = self.present().and_then(|()| self.space());
        let available = space.map_or(Bytes(0), |space| self.ledger.room(provisioning, space));
        Capacity {
            available,
            largest: available.round_down(super::STEP),
        }
    }

    pub(super) fn status(&self) -> PoolStatus {
        let space = self.present().and_then(|()| self.space());
        let (space, problem) = match space {
            Ok(space) => (space, None),
            Err(e) => (
                Space {
                    total: Bytes(0),
                    available: Bytes(0),
                },
                Some(e.chain()),
            ),
        };
        let free = self.ledger.room(Provisioning::Thick, space);
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            reason = "a percentage for people"
        )]
        let data_percent = (space.total.0 > 0).then(|| {
            (space.total.minus(space.available).0 as f64 * 100.0 / space.total.0 as f64) as f32
        });
        PoolStatus {
            name: self.options.name.clone(),
            kind: PoolKind::File,
            location: self.options.path.display().to_string(),
            media: media(&self.options.path),
            total: space.total,
            free,
            largest: free.round_down(super::STEP),
            promised: self.ledger.promised(),
            data_percent,
            metadata_percent: None,
            volumes: 0,
            snapshots: 0,
            problem,
            age: None,
        }
    }
}

/// The record in a volume's directory.
pub(super) fn read_record(dir: &Path) -> Result<Record> {
    let text = fs::read(dir.join(super::volume::RECORD))
        .or_internal(|| "its record.json cannot be read".to_owned())?;
    let pairs: BTreeMap<String, String> =
        serde_json::from_slice(&text).or_internal(|| "its record.json is damaged".to_owned())?;
    Record::from_pairs(&pairs)
}

/// Whether this is what we make: a file, or a directory with nothing but files in it. What is below
/// another directory or on another file system is somebody's, another pool's perhaps, and must not
/// go with it.
pub(super) fn is_only_files(place: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let looked = || -> std::io::Result<bool> {
        let own = fs::symlink_metadata(place)?;
        if !own.is_dir() {
            return Ok(true);
        }
        let around = fs::symlink_metadata(place.parent().unwrap_or(place))?;
        for entry in fs::read_dir(place)? {
            if entry?.file_type()?.is_dir() {
                return Ok(false);
            }
        }
        Ok(own.dev() == around.dev())
    };
    looked().unwrap_or(false)
}

fn allocated(data: &Path) -> Bytes {
    Bytes(stowage_host::reflink::allocated_bytes(data).unwrap_or(0))
}

/// The medium under a directory, where its file system sits on one disk the kernel knows.
fn media(path: &Path) -> Option<Media> {
    use std::os::unix::fs::MetadataExt;
    let dev = stowage_host::Devno::from_stat(fs::metadata(path).ok()?.dev());
    stowage_host::device::rotational(dev)
        .ok()
        .map(|r| if r { Media::Hdd } else { Media::Ssd })
}
