//! What this host has told LVM about its disks: a devices file, or filters. Both are looked up
//! without reading a disk that is not asked for.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use stowage_host::{Cmd, Runner, device};
use stowage_model::error::Context as _;
use stowage_model::{Error, Result};

use crate::vg::command::lvm_with;

/// The directory of LVM's settings unless the environment names another (lvm(8)).
const LVM_DIR: &str = "/etc/lvm";

/// The host's settings that decide which disks LVM may have.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Settings {
    /// The devices file, when there is one and it counts: LVM sees the disks in it and no others,
    /// and ignores filters.
    pub(super) devices_file: Option<PathBuf>,
    /// Disks of different sectors may be in one group.
    pub(super) mixes_sectors: bool,
}

impl Settings {
    /// Ask LVM, which merges its files and knows its defaults.
    ///
    /// # Errors
    /// When it does not answer.
    pub(super) async fn read(runner: &dyn Runner) -> Result<Self> {
        let cmd = Cmd::new("lvm").args(["lvmconfig", "--type", "full"]).args([
            "devices/use_devicesfile",
            "devices/devicesfile",
            "devices/allow_mixed_block_sizes",
        ]);
        let said = runner.run(cmd).await;
        let said = said.or_internal(|| "failed to read the settings of LVM".into())?;
        let dir = std::env::var_os("LVM_SYSTEM_DIR").unwrap_or_else(|| LVM_DIR.into());
        Ok(Self::parse(&said.stdout, Path::new(&dir)))
    }

    fn parse(text: &str, dir: &Path) -> Self {
        let value = |key: &str| {
            let line = text
                .lines()
                .find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
            line.unwrap_or_default().trim_matches('"')
        };
        let file = dir.join("devices").join(value("devicesfile"));
        let counts = value("use_devicesfile") == "1" && file.is_file();
        Self {
            devices_file: counts.then_some(file),
            mixes_sectors: value("allow_mixed_block_sizes") == "1",
        }
    }
}

#[derive(Deserialize)]
struct Document {
    report: Vec<Section>,
}

#[derive(Deserialize)]
struct Section {
    pv: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    pv_name: String,
}

/// Refuse a disk that the host's filters keep from LVM. Told which disks to look at, LVM ignores
/// them; so it is asked as the host has it, once with one of the two filters and once with the
/// other replaced by "this disk and no other": no other disk is read.
///
/// # Errors
/// [`stowage_model::Kind::Precondition`] for a disk that LVM does not see.
pub(super) async fn sees(runner: &dyn Runner, disk: &Path) -> Result<()> {
    let shown = disk.display();
    let devno = device::devno(disk).or_internal(|| format!("failed to look at disk {shown}"))?;
    for filter in ["filter", "global_filter"] {
        let cmd = || lvm_with("pvs", &only(filter, disk)).arg("-a");
        let ask = async |cmd: Cmd| {
            let output = runner.run(cmd).await;
            output.or_internal(|| format!("failed to ask LVM about disk {shown}"))
        };
        // With `pv_name` alone pvs shows only what bears a label.
        let columns = ["--reportformat", "json", "-o", "pv_name,vg_name"];
        let output = ask(cmd().args(columns)).await?;
        let document: Document = serde_json::from_str(&output.stdout)
            .or_internal(|| "failed to read the report of pvs".into())?;
        let mut rows = document.report.into_iter().flat_map(|section| section.pv);
        if rows.any(|row| device::devno(Path::new(&row.pv_name)).is_ok_and(|n| n == devno)) {
            continue;
        }
        // Partitions are not what the host says but what the disk holds, which goes before LVM
        // gets it. Only LVM's own reasoning tells the two apart.
        let reasons = ask(cmd().arg("-vvvv")).await?;
        let partitioned = format!("{shown}: Skipping: Partition table signature found");
        if ![reasons.stdout, reasons.stderr]
            .iter()
            .any(|text| text.contains(&partitioned))
        {
            return Err(Error::precondition(format!(
                "LVM on this host does not take disk {shown}: a filter in lvm.conf keeps it out, \
                 or it is a member of a multipath device or an array; see `pvs -a -vvvv`"
            )));
        }
    }
    Ok(())
}

fn only(filter: &str, disk: &Path) -> String {
    // Kernel names have no character that a pattern minds but the dot.
    let name = disk.to_string_lossy().replace('.', "\\\\.");
    format!("devices{{{filter}=[\"a|^{name}$|\",\"r|.*|\"] hints=\"none\"}}")
}

/// Add a disk to the host's devices file; one that is in it stays.
///
/// # Errors
/// When that fails; LVM as the host has it then does not see the group.
pub(super) async fn list(runner: &dyn Runner, disk: &Path) -> Result<()> {
    let shown = disk.display();
    let cmd = Cmd::new("lvm").args(["lvmdevices", "--adddev"]).arg(disk);
    let added = runner.run(cmd).await;
    added.map(drop).or_internal(|| {
        format!(
            "disk {shown} was taken, but not added to LVM's devices file; run: lvmdevices \
             --adddev {shown}"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_devices_file_counts_where_it_is_used_and_there() {
        let dir = tempfile::tempdir().unwrap();
        let says = |used: &str| {
            format!(
                "use_devicesfile={used}\ndevicesfile=\"x.devices\"\nallow_mixed_block_sizes=1\n"
            )
        };
        let without = Settings::parse(&says("1"), dir.path());
        assert_eq!((without.devices_file, without.mixes_sectors), (None, true));
        std::fs::create_dir(dir.path().join("devices")).unwrap();
        let file = dir.path().join("devices/x.devices");
        std::fs::write(&file, "").unwrap();
        assert_eq!(Settings::parse(&says("0"), dir.path()).devices_file, None);
        assert_eq!(
            Settings::parse(&says("1"), dir.path()).devices_file,
            Some(file)
        );
        assert_eq!(Settings::parse("", dir.path()), Settings::default());
    }

    #[test]
    fn only_the_disk_asked_for_is_looked_at() {
        assert_eq!(
            only("filter", Path::new("/dev/sd.b")),
            r#"devices{filter=["a|^/dev/sd\\.b$|","r|.*|"] hints="none"}"#
        );
    }
}
