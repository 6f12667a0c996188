//! Making and opening a file pool.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use stowage_host::{Lock, LockError, durable, lock, reflink};
use stowage_model::error::Context;
use stowage_model::{Error, PoolName, Reserve, Result};
use tokio::sync::Semaphore;

use super::ledger::Ledger;
use super::{Claim, FilePool, Shared};
use crate::contract::claimed;

/// What a file pool is configured with.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// The pool's name.
    pub name: PoolName,
    /// Its directory: absolute.
    pub path: PathBuf,
    /// How many times the space may be promised to thin volumes; 1.0 promises what there is.
    pub overprovision: f64,
    /// What is promised to nobody.
    pub reserve: Reserve,
    /// Whether the directory may be made into a pool when it is not one yet.
    pub may_initialise: bool,
}

/// The file that marks a directory as a pool.
pub(crate) const MARKER: &str = "stowage-pool.json";

/// How often, and after which pauses, a pool that is taken is tried before that is told.
const CLAIMS: u32 = 5;
const CLAIM_AGAIN: Duration = Duration::from_millis(100);

/// How much work goes on in a pool at the same time, each piece on a thread of its own: a file
/// system that hangs keeps them all, and those of other pools must not run out.
const WORK: usize = 16;
/// The same for looks that only inform.
const LOOKS: usize = 2;

/// Entries a fresh file system may hold.
const HARMLESS: [&str; 1] = ["lost+found"];

impl FilePool {
    /// A pool that is not looked at yet: its file system may hang.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Invalid`] for a relative path.
    pub fn new(options: Options) -> Result<Self> {
        if !options.path.is_absolute() {
            return Err(Error::invalid(format!(
                "pool {}: the path {} is not absolute",
                options.name,
                options.path.display()
            )));
        }
        let ledger = Ledger::new(options.overprovision, options.reserve);
        Ok(Self {
            shared: Arc::new(Shared {
                options,
                reflink: OnceLock::new(),
                no_reflink: Mutex::default(),
                read: AtomicBool::new(false),
                claim: Mutex::default(),
                at: Mutex::default(),
                ledger,
                devices: Mutex::default(),
                kept: Mutex::default(),
                copied: Mutex::default(),
                told: Mutex::default(),
                rounds: AtomicU64::default(),
            }),
            looks: Arc::new(Semaphore::new(LOOKS)),
            work: Arc::new(Semaphore::new(WORK)),
        })
    }

    /// Make the directory into a pool if it is none yet, and open it. A pool that cannot be used
    /// (its file system is not mounted) opens all the same and says so in its status.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Invalid`] for a relative path, [`stowage_model::Kind::Precondition`]
    /// for a directory with foreign files.
    pub fn open(options: Options) -> Result<Self> {
        let pool = Self::new(options)?;
        let shared = &pool.shared;
        match check_marker(&shared.options) {
            Err(_) if shared.options.may_initialise => initialise(&shared.options)?,
            Err(_) => return Ok(pool),
            Ok(()) => {}
        }
        shared.learn_reflink();
        shared.read.store(true, Ordering::Release);
        Ok(pool)
    }
}

impl Shared {
    /// Take the directory for this daemon, made into a pool where it may be and is none: the lock
    /// is on the pool's own marker, so that whoever reaches the pool, from another container too,
    /// meets it.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Precondition`] naming the daemon that has it, for a marker that is
    /// missing or another pool's, and for a directory with foreign files.
    pub(super) fn take(&self) -> Result<()> {
        if let Err(e) = check_marker(&self.options) {
            match self.options.may_initialise && !self.read.load(Ordering::Acquire) {
                true => initialise(&self.options)?,
                false => return Err(e),
            }
        }
        let mut claim = self.claim();
        claim.wanted = true;
        if claim.lock.as_ref().is_some_and(Lock::is_in_place) {
            return Ok(());
        }
        let mut tries = 0;
        claim.lock = loop {
            match self.lock_marker() {
                Ok(lock) => break Some(lock),
                Err(e) if e.is_of_dying() && tries < CLAIMS => self.renew_marker()?,
                // A daemon that has just died may need a moment to let it go.
                Err(LockError::Held { .. }) if tries < CLAIMS => {
                    std::thread::sleep(CLAIM_AGAIN);
                }
                Err(e) => return Err(claimed(&self.options.name, e)),
            }
            tries += 1;
        };
        drop(claim);
        let at = fs::metadata(&self.options.path);
        let at = at.or_internal(|| format!("failed to look at {}", self.options.path.display()))?;
        let place = format!("file@{}@{}", at.dev(), at.ino());
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = Some(place);
        Ok(())
    }

    /// Put the marker there anew: the one that is there is locked by a daemon that runs no more and
    /// cannot end.
    fn renew_marker(&self) -> Result<()> {
        let (dir, path) = (&self.options.path, self.options.path.join(MARKER));
        tracing::warn!(pool.name = %self.options.name, "a daemon that was killed cannot end");
        let renewed = lock::clear_of_dying(dir, &path, || {
            let text = fs::read(&path)?;
            durable::write_atomic(&path, &text).map_err(io::Error::other)
        });
        renewed.or_internal(|| format!("failed to take over pool {}", self.options.name))
    }

    fn lock_marker(&self) -> Result<Lock, LockError> {
        let path = self.options.path.join(MARKER);
        let file = fs::File::open(&path);
        let file = file.map_err(|source| LockError::Io {
            path: path.clone(),
            source,
        })?;
        Lock::on(file, &path)
    }

    /// Whether the directory is this pool, and, where it was taken for this daemon, still is: it
    /// may be another one that was mounted there since. What was unmounted is let go.
    pub(super) fn in_place(&self) -> Result<()> {
        let there = check_marker(&self.options);
        let mut claim = self.claim();
        if claim.wanted && !claim.lock.as_ref().is_some_and(Lock::is_in_place) {
            claim.lock = None;
            if there.is_ok() {
                let taken = self.lock_marker();
                claim.lock = Some(taken.map_err(|e| claimed(&self.options.name, e))?);
            }
        }
        there
    }

    pub(super) fn claim(&self) -> MutexGuard<'_, Claim> {
        self.claim.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Find out whether files can share blocks here, unless that is known. It cannot be found out
    /// while no file can be made.
    pub(super) fn learn_reflink(&self) {
        if self.reflink.get().is_some() {
            return;
        }
        let mut why = self
            .no_reflink
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match try_reflink(&self.options) {
            Ok(known) => {
                self.reflink.get_or_init(|| known);
                *why = None;
            }
            Err(e) => *why = Some(e.chain()),
        }
    }
}

/// Whether files can share blocks here. A kill may have left the files of an earlier trial.
fn try_reflink(options: &Options) -> Result<bool> {
    let making = options.path.join("making");
    let failed = || format!("failed to try reflink in {}", options.path.display());
    for entry in fs::read_dir(&making).or_internal(failed)? {
        let entry = entry.or_internal(failed)?;
        let name = entry.file_name();
        if name.to_string_lossy().starts_with(reflink::TRIAL) {
            durable::remove_file(&entry.path()).or_internal(failed)?;
        }
    }
    reflink::supported(&making).or_internal(failed)
}

/// Whether the directory is this pool.
pub(super) fn check_marker(options: &Options) -> Result<()> {
    let path = options.path.join(MARKER);
    let text = fs::read_to_string(&path).map_err(|e| {
        let what = match e.kind() {
            ErrorKind::NotFound => "is missing; is the file system of the pool mounted?",
            _ => "cannot be read; look for device errors in the kernel log",
        };
        Error::precondition(format!("{} {what}", path.display())).caused_by(e)
    })?;
    let marker: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    match marker.get("name").and_then(serde_json::Value::as_str) {
        Some(name) if name == options.name.as_str() => Ok(()),
        found => Err(Error::precondition(format!(
            "{} belongs to the pool {:?}, not to {}",
            options.path.display(),
            found.unwrap_or("?"),
            options.name
        ))),
    }
}

fn initialise(options: &Options) -> Result<()> {
    let path = &options.path;
    let shown = path.display();
    let failed = || format!("failed to make the pool directory {shown}");
    fs::create_dir_all(path).or_internal(failed)?;
    if path.join(MARKER).exists() {
        return check_marker(options);
    }
    let ours = ["volumes", "snapshots", "making", "trash"];
    for entry in fs::read_dir(path).or_internal(failed)? {
        let name = entry.or_internal(failed)?.file_name();
        let name = name.to_string_lossy();
        // Our own empty folders are what a first start that was cut off leaves.
        let empty_of_ours = ours.contains(&name.as_ref())
            && fs::read_dir(path.join(name.as_ref())).is_ok_and(|mut d| d.next().is_none());
        if !HARMLESS.contains(&name.as_ref()) && !empty_of_ours {
            return Err(Error::precondition(format!(
                "{shown} holds {name:?}, which is not ours; give the pool {} an empty directory",
                options.name
            )));
        }
    }
    for folder in ours {
        durable::create_dir(&path.join(folder)).or_internal(failed)?;
    }
    let marker = serde_json::json!({"version": 1, "kind": "file", "name": options.name});
    durable::write_atomic(&path.join(MARKER), marker.to_string().as_bytes()).or_internal(failed)
}
