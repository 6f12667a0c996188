//! I/O limits of control groups, version 1 (blkio) and 2 (io.max).
//!
//! Documentation/admin-guide/cgroup-v1/blkio-controller.rst and cgroup-v2.rst of the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::devno::Devno;

mod limits;
mod pods;

pub use limits::IoLimits;

const ROOT: &str = "/sys/fs/cgroup";

/// Which version limits I/O on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

/// Why a limit could not be set or read.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("failed to find an I/O controller below {}: neither version 2 with io nor version 1 with blkio", root.display())]
    NoController { root: PathBuf },
    #[error("failed to use the control group {}: it is not below {}", cgroup.display(), root.display())]
    Outside { cgroup: PathBuf, root: PathBuf },
    #[error("failed to find the control group {}; make it first", cgroup.display())]
    Missing { cgroup: PathBuf },
    #[error("failed to enable the io controller: write +io to {} failed", file.display())]
    NotEnabled { file: PathBuf, source: io::Error },
    #[error("failed to find the device {devno} for a limit in {}", file.display())]
    NoDevice { devno: Devno, file: PathBuf },
    #[error("failed to {verb} {}", file.display())]
    Io {
        verb: &'static str,
        file: PathBuf,
        source: io::Error,
    },
}

/// The tree of control groups in which I/O is limited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    root: PathBuf,
    version: Version,
}

impl Hierarchy {
    /// Finds it at /sys/fs/cgroup.
    ///
    /// # Errors
    /// `NoController`.
    pub fn detect() -> Result<Self, CgroupError> {
        Self::detect_at(Path::new(ROOT))
    }

    /// Finds it at another root.
    ///
    /// A controller belongs to one version at a time; on a hybrid machine (version 2 at `unified`)
    /// io is there only if blkio is not mounted.
    ///
    /// # Errors
    /// `NoController`.
    pub fn detect_at(root: &Path) -> Result<Self, CgroupError> {
        for tree in [root.to_owned(), root.join("unified")] {
            let controllers = fs::read_to_string(tree.join("cgroup.controllers"));
            if controllers.is_ok_and(|names| names.split_whitespace().any(|name| name == "io")) {
                return Ok(Self {
                    root: tree,
                    version: Version::V2,
                });
            }
        }
        // Some distributions mount controllers together and link the names; some do not link.
        let names = ["blkio", "io,blkio", "cpu,cpuacct,blkio"];
        for tree in names.map(|name| root.join(name)) {
            if tree.join("blkio.throttle.read_bps_device").exists() {
                return Ok(Self {
                    root: tree,
                    version: Version::V1,
                });
            }
        }
        Err(CgroupError::NoController {
            root: root.to_owned(),
        })
    }

    pub fn version(&self) -> Version {
        self.version
    }

    /// The directory of the root group.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Sets all four limits for one device; `None` removes that limit. Reads and writes that are
    /// under way finish unlimited.
    ///
    /// `cgroup` is the group's directory or its path below the root, as /proc/PID/cgroup has it.
    ///
    /// # Errors
    /// `Outside`, `Missing`, `NoDevice`; version 2 also `NotEnabled`.
    pub fn apply(&self, cgroup: &Path, dev: Devno, limits: &IoLimits) -> Result<(), CgroupError> {
        let dir = self.resolve(cgroup)?;
        match self.version {
            Version::V1 => limits::V1_FILES.iter().try_for_each(|(name, field)| {
                // 0 means no limit; blkio-controller.rst.
                let line = format!("{dev} {}", field(limits).unwrap_or(0));
                write(&dir.join(name), &line, dev)
            }),
            Version::V2 => {
                let file = dir.join("io.max");
                if !file.exists() {
                    self.enable(&dir)?;
                }
                write(&file, &limits.to_v2(dev), dev)
            }
        }
    }

    /// The limits in force for one device.
    ///
    /// # Errors
    /// `Outside`, `Missing`.
    pub fn read(&self, cgroup: &Path, dev: Devno) -> Result<IoLimits, CgroupError> {
        let dir = self.resolve(cgroup)?;
        match self.version {
            Version::V1 => {
                let mut values = [None; 4];
                for (value, (name, _)) in values.iter_mut().zip(limits::V1_FILES) {
                    *value = limits::from_v1(&read(&dir.join(name))?, dev);
                }
                let [read_bps, write_bps, read_iops, write_iops] = values;
                Ok(IoLimits {
                    read_bps,
                    write_bps,
                    read_iops,
                    write_iops,
                })
            }
            Version::V2 => {
                let file = dir.join("io.max");
                if file.exists() {
                    Ok(IoLimits::from_v2(&read(&file)?, dev))
                } else {
                    Ok(IoLimits::default())
                }
            }
        }
    }

    /// Removes all limits for one device; a group or device that is gone has none, which is fine.
    ///
    /// # Errors
    /// `Outside`, or what the kernel says.
    pub fn clear(&self, cgroup: &Path, dev: Devno) -> Result<(), CgroupError> {
        match self.read(cgroup, dev) {
            // Also so that clearing does not enable a controller.
            Ok(limits) if limits == IoLimits::default() => Ok(()),
            Ok(_) => match self.apply(cgroup, dev, &IoLimits::default()) {
                Err(CgroupError::NoDevice { .. } | CgroupError::Missing { .. }) => Ok(()),
                other => other,
            },
            Err(CgroupError::Missing { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The control groups of the pods with these uids, in the layouts of kubelet's two drivers and
    /// wherever in the tree kubelet has its own.
    ///
    /// # Errors
    /// If the tree cannot be read; a pod that is not there is left out.
    pub fn find_pods(
        &self,
        uids: &BTreeSet<&str>,
    ) -> Result<BTreeMap<String, PathBuf>, CgroupError> {
        pods::find(&self.root, uids)
    }

    /// The group's directory; it must exist below the root, on a way without `..` and symlinks.
    fn resolve(&self, cgroup: &Path) -> Result<PathBuf, CgroupError> {
        let outside = || CgroupError::Outside {
            cgroup: cgroup.to_owned(),
            root: self.root.clone(),
        };
        let below = match cgroup.strip_prefix(&self.root) {
            Ok(below) => below,
            // "/kubepods/pod1", as /proc/PID/cgroup writes it, starts at the root group.
            Err(_) => cgroup.strip_prefix("/").unwrap_or(cgroup),
        };
        let mut dir = self.root.clone();
        for component in below.components() {
            let Component::Normal(name) = component else {
                return Err(outside());
            };
            dir.push(name);
            match fs::symlink_metadata(&dir) {
                Ok(found) if found.is_dir() => {}
                Ok(_) => return Err(outside()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(CgroupError::Missing {
                        cgroup: self.root.join(below),
                    });
                }
                Err(source) => {
                    return Err(CgroupError::Io {
                        verb: "look at",
                        file: dir,
                        source,
                    });
                }
            }
        }
        // The root group has no limits, and an empty path is a mistake.
        if dir == self.root {
            Err(outside())
        } else {
            Ok(dir)
        }
    }

    /// In version 2 a group has io.max only if all groups above it hand the controller down.
    fn enable(&self, dir: &Path) -> Result<(), CgroupError> {
        let mut above: Vec<&Path> = dir
            .ancestors()
            .skip(1)
            .take_while(|it| it.starts_with(&self.root))
            .collect();
        above.reverse();
        for group in above {
            let file = group.join("cgroup.subtree_control");
            if read(&file)?.split_whitespace().any(|name| name == "io") {
                continue;
            }
            fs::write(&file, "+io").map_err(|source| CgroupError::NotEnabled { file, source })?;
        }
        Ok(())
    }
}

fn read(file: &Path) -> Result<String, CgroupError> {
    fs::read_to_string(file).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => CgroupError::Missing {
            cgroup: file.to_owned(),
        },
        _ => CgroupError::Io {
            verb: "read",
            file: file.to_owned(),
            source,
        },
    })
}

fn write(file: &Path, line: &str, devno: Devno) -> Result<(), CgroupError> {
    // Not fs::write(): it would create the file where the kernel did not.
    let opened = fs::OpenOptions::new().write(true).open(file);
    let written = opened.and_then(|mut open| io::Write::write_all(&mut open, line.as_bytes()));
    written.map_err(|source| {
        let file = file.to_owned();
        match rustix::io::Errno::from_io_error(&source) {
            Some(rustix::io::Errno::NODEV | rustix::io::Errno::NXIO) => {
                CgroupError::NoDevice { devno, file }
            }
            Some(rustix::io::Errno::NOENT) => CgroupError::Missing { cgroup: file },
            _ => CgroupError::Io {
                verb: "write",
                file,
                source,
            },
        }
    })
}

#[cfg(test)]
mod tests;
