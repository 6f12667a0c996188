//! Making and opening a file pool.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock};

use stowage_host::{durable, reflink};
use stowage_model::error::Context;
use stowage_model::{Error, PoolName, Reserve, Result};

use super::ledger::Ledger;
use super::{FilePool, Shared};

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

/// Entries a fresh file system may hold.
const HARMLESS: [&str; 1] = ["lost+found"];

impl FilePool {
    /// Make the directory into a pool if it is none yet, and open it. A pool that cannot be used
    /// (its file system is not mounted) opens all the same and says so in its status.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Invalid`] for a relative path, [`stowage_model::Kind::Precondition`]
    /// for a directory with foreign files.
    pub fn open(options: Options) -> Result<Self> {
        if !options.path.is_absolute() {
            return Err(Error::invalid(format!(
                "pool {}: the path {} is not absolute",
                options.name,
                options.path.display()
            )));
        }
        let there = match check_marker(&options) {
            Ok(()) => true,
            Err(_) if options.may_initialise => {
                initialise(&options)?;
                true
            }
            Err(_) => false,
        };
        let reflink = match there {
            true => OnceLock::from(try_reflink(&options)?),
            false => OnceLock::new(),
        };
        let ledger = Ledger::new(options.overprovision, options.reserve);
        Ok(Self {
            shared: Arc::new(Shared {
                options,
                reflink,
                ledger,
                kept: Mutex::default(),
                copied: Mutex::default(),
                rounds: AtomicU64::default(),
            }),
        })
    }
}

/// Whether files can share blocks here. A kill may have left the files of an earlier trial.
pub(super) fn try_reflink(options: &Options) -> Result<bool> {
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
