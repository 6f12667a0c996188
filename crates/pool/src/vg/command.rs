//! Every command of LVM begins and runs here.
//!
//! A host's lvm.conf may say anything about what is printed and how; what our commands print, and
//! what we read, depends on [`CONFIG`] alone.

use std::path::{Path, PathBuf};

use stowage_host::{Cmd, CmdError, Output, Runner};
use stowage_model::error::Context as _;
use stowage_model::{Error, Result as Answer};

use super::{Vg, missing};

/// Given with `--config`, which outweighs lvm.conf, its local part and its profiles. All that
/// shapes output is named, also where this is the default; what a host decides for itself
/// (allocation, backups, where it logs) is not.
///
/// `test` would turn every change into a success that did nothing.
pub(super) const CONFIG: &str = concat!(
    "config{checks=0}",
    "log{prefix=\"\" command_names=0 indent=0 verbose=0 silent=0 report_command_log=0}",
    "global{test=0 units=\"b\" suffix=0 si_unit_consistency=1 lvdisplay_shows_full_device_path=0}",
    "report{output_format=\"basic\" compact_output=0 compact_output_cols=\"\" aligned=0 buffered=1 ",
    "headings=1 separator=\" \" list_item_separator=\",\" prefixes=0 quoted=1 columns_as_rows=0 ",
    "binary_values_as_numeric=0 mark_hidden_devices=1 two_word_unknown_device=0 ",
    "vgs_sort_full=\"vg_name\" pvs_sort_full=\"pv_name\" lvs_sort_full=\"vg_name,lv_name\" ",
    "segs_sort_full=\"lv_uuid,seg_start\" pvsegs_sort_full=\"pv_uuid,pvseg_start\"}",
);

/// A command of LVM, such as `lvcreate`, that minds [`CONFIG`] before the host's own.
pub(crate) fn lvm(program: &str) -> Cmd {
    Cmd::new(program).settings(["--config", CONFIG])
}

/// The same, with more settings.
pub(super) fn lvm_with(program: &str, more: &str) -> Cmd {
    Cmd::new(program).settings(["--config".to_owned(), format!("{CONFIG} {more}")])
}

impl Vg {
    /// Run one command of LVM, with the group's own disks and `more` as all that it may look at.
    /// `whole` says that it needs all of the group's disks.
    pub(super) async fn run_on(
        &self,
        cmd: Cmd,
        whole: bool,
        more: &[PathBuf],
    ) -> Result<Output, CmdError> {
        let members = match self.find().await {
            Ok(None) if more.is_empty() && !self.finder.is_scripted() => Err(missing(self.name())),
            found => found,
        };
        let members = members.map_err(|error| CmdError::refused(&cmd, error.chain()))?;
        let mut absent = members.iter().flat_map(|members| &members.absent);
        if let Some(absent) = absent.find(|_| whole) {
            let (name, disk) = (self.name(), &absent.hint);
            let why = format!("a disk of volume group {name} is missing, last seen as {disk}");
            return Err(CmdError::refused(&cmd, why));
        }
        let own = members.iter().flat_map(|members| members.paths());
        let cmd = looking_at(cmd, own.chain(more.iter().map(PathBuf::as_path)));
        self.runner.run(cmd).await
    }
}

/// LVM opens no other device than these; without any, as a test has it, all there are.
pub(super) fn looking_at<'a>(cmd: Cmd, disks: impl Iterator<Item = &'a Path>) -> Cmd {
    disks.fold(cmd, |cmd, disk| {
        cmd.settings(["--devices".as_ref(), disk.as_os_str()])
    })
}

/// The first LVM that can be told which disks to look at (`--devices`).
const OLDEST: [u32; 3] = [2, 3, 12];

/// Refuse an LVM that would look at every device of the machine, whatever it was told.
///
/// # Errors
/// [`stowage_model::Kind::Precondition`] with its version.
pub(super) async fn new_enough(runner: &dyn Runner) -> Answer<()> {
    let said = runner.run(Cmd::new("lvm").arg("version")).await;
    let said = said.or_internal(|| "failed to ask for LVM's version".into())?;
    let version = version(&said.stdout).ok_or_else(|| {
        let line = said.stdout.lines().next().unwrap_or_default();
        Error::internal(format!("the version of LVM is not understood: {line:?}"))
    })?;
    if version >= OLDEST {
        return Ok(());
    }
    let [major, minor, patch] = version;
    Err(Error::precondition(format!(
        "LVM {major}.{minor:02}.{patch:02} cannot be told which disks to look at, and would read \
         what tenants write to raw volumes; install LVM 2.03.12 or newer"
    )))
}

/// `  LVM version:     2.03.16(2) (2022-05-18)`
fn version(text: &str) -> Option<[u32; 3]> {
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("LVM version:"))?;
    let mut numbers = line
        .trim()
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse().ok());
    Some([numbers.next()??, numbers.next()??, numbers.next()??])
}

#[cfg(test)]
mod tests {
    use super::*;
    use stowage_host::fake::Script;

    #[tokio::test]
    async fn an_lvm_that_cannot_be_told_where_to_look_is_refused() {
        let says = |text: &str| Script::new().ok(&["lvm", "version"], text);
        let asked = async |text: &str| new_enough(&says(text)).await;
        for new in [
            "  LVM version:     2.03.16(2) (2022-05-18)\n  Library",
            "LVM version: 2.3.12",
            "LVM version: 3.0.0",
        ] {
            asked(new).await.unwrap();
        }
        for old in [
            "  LVM version:     2.03.11(2) (2021-01-08)\n",
            "LVM version: 2.02.188",
        ] {
            let refused = asked(old).await.unwrap_err();
            assert_eq!(refused.kind(), stowage_model::Kind::Precondition);
            assert!(refused.message().contains("2.03.12"), "{refused}");
        }
        assert!(asked("  LVM version:     soon").await.is_err());
    }
}
