//! The steps: what is done, in the order a person would do it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use stowage_testkit::disk;

use super::fio;
use super::show::Show;
use super::tour::{Args, Daemon};
use crate::process;

pub(super) struct Walk<'a> {
    pub(super) args: &'a Args,
    pub(super) show: &'a Show,
    pub(super) daemon: &'a Daemon,
}

/// What differs from one kind of pool to the next.
struct Plan {
    pool: &'static str,
    fs: &'static str,
    size: &'static str,
    grown: &'static str,
    /// Whether to show a block device and a limit, too.
    device: bool,
}

/// The example's job runs a minute; this is short enough to watch, and long enough that its start
/// and end (every thread has one read or write waiting) hardly count.
const THROTTLED: u32 = 30;
const UNTHROTTLED: u32 = 3;

/// A wipe of all volumes of a tour.
const SETTLED: Duration = Duration::from_secs(120);

impl Walk<'_> {
    pub(super) fn all(&self) -> Result<()> {
        if let Some(disk) = &self.args.file_disk {
            self.files(disk)?;
        }
        if !self.args.lvm_disk.is_empty() {
            self.lvm()?;
        }
        if let Some(disk) = &self.args.thin_disk {
            self.thin(disk)?;
        }
        Ok(())
    }

    fn files(&self, disk: &Path) -> Result<()> {
        self.show.part("volumes as files, on this machine");
        self.show.step("A pool, made on a disk");
        let mount = self.args.room.join("disk");
        fs::create_dir(&mount).context("failed to make a mount point")?;
        self.shell(&format!("mkfs.xfs -q {}", disk.display()))?;
        self.shell(&format!("mount {} {}", disk.display(), mount.display()))?;
        let plan = Plan {
            pool: "demo-file",
            // ext4 grows in use only with a capability (CAP_SYS_RESOURCE) that containers lack.
            fs: "xfs",
            size: "512Mi",
            grown: "1Gi",
            device: true,
        };
        self.stowage(&format!(
            "pool create {} --kind file --path {}/pool",
            plan.pool,
            mount.display()
        ))?;
        // The file system goes with the namespace: the pool stays until the daemon has ended.
        self.volumes(&plan)
    }

    fn lvm(&self) -> Result<()> {
        self.show.part("logical volumes (LVM)");
        if let Some(used) = &self.args.used_disk {
            self.show.step("A disk with data on it is refused");
            self.refused(&format!(
                "pool create demo-lvm --kind lvm --disk {}",
                used.display()
            ))?;
        }
        self.show.step("A pool, made from blank disks");
        let disks: String = self
            .args
            .lvm_disk
            .iter()
            .map(|disk| format!(" --disk {}", disk.display()))
            .collect();
        let plan = Plan {
            pool: "demo-lvm",
            fs: "ext4",
            size: "256Mi",
            grown: "512Mi",
            device: true,
        };
        self.stowage(&format!("pool create {} --kind lvm{disks}", plan.pool))?;
        self.volumes(&plan)
    }

    fn thin(&self, disk: &Path) -> Result<()> {
        self.show.part("thin volumes (LVM thin pool)");
        self.show.step("A pool, made from a blank disk");
        let plan = Plan {
            pool: "demo-thin",
            fs: "ext4",
            size: "256Mi",
            grown: "384Mi",
            device: false,
        };
        self.stowage(&format!(
            "pool create {} --kind thin --disk {}",
            plan.pool,
            disk.display()
        ))?;
        self.volumes(&plan)
    }

    fn volumes(&self, plan: &Plan) -> Result<()> {
        let data = self.write(plan)?;
        let mut used = vec![("data", data.clone())];
        used.extend(self.copies(&data)?);
        if plan.device {
            used.push(("raw", self.device(plan)?));
        }
        self.delete(plan, &used)
    }

    /// Create, mount, write, grow.
    fn write(&self, plan: &Plan) -> Result<PathBuf> {
        self.show.step("A volume, created and mounted");
        self.stowage(&format!(
            "volume create data --size {} --fs {} --pool {}",
            plan.size, plan.fs, plan.pool
        ))?;
        let data = self.mount("data", "")?;
        self.show.step("Written to");
        self.shell(&format!(
            "echo 'monday: all is well' > {}/diary",
            data.display()
        ))?;
        self.shell(&format!(
            "dd if=/dev/urandom of={}/blob bs=1M count=64 conv=fsync status=none",
            data.display()
        ))?;
        self.show.step("Grown while in use");
        // In use indeed: an open file is one thing an unmount would not survive.
        let held = File::open(data.join("diary")).context("failed to open the diary")?;
        self.stowage(&format!("volume grow data {}", plan.grown))?;
        self.shell(&format!(
            "df -h --output=source,fstype,size,used,target {}",
            data.display()
        ))?;
        drop(held);
        Ok(data)
    }

    /// Snapshot, restore, clone.
    fn copies(&self, data: &Path) -> Result<Vec<(&'static str, PathBuf)>> {
        let diary = data.join("diary");
        let blob = sum(&data.join("blob"))?;
        self.show.step("Snapshotted, then spoilt");
        self.stowage("snapshot create data monday")?;
        self.shell(&format!(
            "echo 'tuesday: a mistake' > {}; rm {}/blob",
            diary.display(),
            data.display()
        ))?;
        self.show.step("Restored from the snapshot");
        self.stowage("snapshot restore monday data-monday")?;
        let restored = self.mount("data-monday", "")?;
        self.shell(&format!(
            "cat {0}/diary; ls -sh {0}/blob",
            restored.display()
        ))?;
        ensure!(
            sum(&restored.join("blob"))? == blob
                && fs::read_to_string(restored.join("diary"))?.starts_with("monday"),
            "the restored volume is not what the snapshot kept"
        );
        self.show.result("(its checksum is that of the lost one)");
        self.show.step("Cloned; the clone goes its own way");
        self.stowage("volume clone data data-twin")?;
        let twin = self.mount("data-twin", "")?;
        self.shell(&format!(
            "echo 'wednesday: only here' >> {0}/diary; tail -n +1 {1} {0}/diary",
            twin.display(),
            diary.display()
        ))?;
        ensure!(
            fs::read_to_string(&diary)?.lines().count() == 1
                && fs::read_to_string(twin.join("diary"))?.lines().count() == 2,
            "the clone and its source are not independent"
        );
        Ok(vec![("data-monday", restored), ("data-twin", twin)])
    }

    /// Raw block, and a limit on it.
    fn device(&self, plan: &Plan) -> Result<PathBuf> {
        self.show.step("Handed out as a raw block device");
        self.stowage(&format!(
            "volume create raw --size 256Mi --block --pool {}",
            plan.pool
        ))?;
        let option = self
            .args
            .cgroup
            .as_ref()
            .map(|group| format!(" --cgroup {}", group.display()));
        let raw = self.mount("raw", option.as_deref().unwrap_or_default())?;
        self.shell(&format!(
            "ls -l {0}; blockdev --getsize64 {0}",
            raw.display()
        ))?;
        self.show.step("Throttled, while in use");
        let Some(group) = &self.args.cgroup else {
            self.show
                .result("not here: this machine has no control group with an I/O controller");
            return Ok(raw);
        };
        fio::run(self.show, &raw, group, UNTHROTTLED)?;
        self.stowage(&format!("volume limit raw bps={}", fio::LIMIT))?;
        let speed = fio::run(self.show, &raw, group, THROTTLED)?;
        fio::beside_the_limit(self.show, &speed)?;
        Ok(raw)
    }

    fn delete(&self, plan: &Plan, used: &[(&str, PathBuf)]) -> Result<()> {
        self.show.step("Deleted");
        for (_, path) in used {
            self.quietly(&format!("volume unmount {}", path.display()))?;
        }
        let paths: Vec<String> = used.iter().map(|(_, p)| p.display().to_string()).collect();
        self.show
            .result(&format!("(unmounted: {})", paths.join(", ")));
        self.stowage("snapshot delete monday")?;
        for (name, _) in used {
            self.stowage(&format!("volume delete {name}"))?;
        }
        self.settle()?;
        self.stowage("pool list")?;
        let pools = self.ask("pool list")?;
        let pool = pools
            .as_array()
            .and_then(|all| all.iter().find(|p| p["name"] == plan.pool))
            .context("the pool is not in the list")?;
        ensure!(
            pool["volumes"] == 0 && pool["snapshots"] == 0,
            "something is left in the pool"
        );
        Ok(())
    }

    /// Waits until deleted volumes are wiped: until then their space counts as used.
    fn settle(&self) -> Result<()> {
        let started = Instant::now();
        while self.ask("jobs")? != serde_json::json!([]) {
            ensure!(
                started.elapsed() < SETTLED,
                "the wipe of the deleted volumes does not end"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        if started.elapsed() > Duration::from_millis(300) {
            self.show.result(&format!(
                "(their blocks were wiped in the background for {:.1} s)",
                started.elapsed().as_secs_f64()
            ));
        }
        Ok(())
    }

    fn mount(&self, volume: &str, options: &str) -> Result<PathBuf> {
        let target = self.args.room.join(volume);
        self.stowage(&format!(
            "volume mount {volume} {}{options}",
            target.display()
        ))?;
        Ok(target)
    }

    fn stowage(&self, line: &str) -> Result<()> {
        let mut command = self.daemon.command(line.split(' '));
        self.show.run(&format!("stowage {line}"), &mut command)?;
        Ok(())
    }

    fn refused(&self, line: &str) -> Result<()> {
        let mut command = self.daemon.command(line.split(' '));
        self.show.refused(&format!("stowage {line}"), &mut command)
    }

    fn quietly(&self, line: &str) -> Result<String> {
        let output = self
            .daemon
            .command(line.split(' '))
            .output()
            .with_context(|| format!("failed to run stowage {line}"))?;
        ensure!(
            output.status.success(),
            "stowage {line} failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn ask(&self, line: &str) -> Result<serde_json::Value> {
        let text = self.quietly(&format!("-o json {line}"))?;
        serde_json::from_str(&text).with_context(|| format!("stowage {line} printed no JSON"))
    }

    fn shell(&self, line: &str) -> Result<()> {
        let mut command = process::command("sh", ["-c", line]);
        self.show.run(line, command.current_dir("/"))?;
        Ok(())
    }
}

fn sum(file: &Path) -> Result<String> {
    let line = disk::run("sha256sum", [file])?;
    Ok(line.split(' ').next().unwrap_or_default().to_owned())
}
