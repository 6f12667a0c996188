//! Every command of LVM begins and runs here.
//!
//! A host's lvm.conf may say anything about what is printed and how; what our commands print, and
//! what we read, depends on [`CONFIG`] alone.

use stowage_host::{Cmd, CmdError, Output};

use super::Vg;

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

impl Vg {
    /// Run one command about this group.
    pub(super) async fn run(&self, cmd: Cmd) -> Result<Output, CmdError> {
        self.runner.run(cmd).await
    }
}
