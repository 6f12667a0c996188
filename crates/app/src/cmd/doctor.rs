//! `stowage doctor` and `stowage jobs`

use std::path::Path;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};
use stowage_node::Job;

use super::Caller;
use crate::admin::protocol::Request;
use crate::cli::Output;
use crate::print::{self, Table};

/// A finding, read back from the daemon or made here.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Finding {
    severity: String,
    trouble: String,
    subject: String,
    what: String,
    mend: String,
}

/// Programs the daemon runs, and the Debian packages that hold them.
const TOOLS: [(&str, &str); 10] = [
    ("blkid", "util-linux"),
    ("mkfs.ext4", "e2fsprogs"),
    ("resize2fs", "e2fsprogs"),
    ("mkfs.xfs", "xfsprogs"),
    ("xfs_growfs", "xfsprogs"),
    ("mkfs.btrfs", "btrfs-progs"),
    ("btrfstune", "btrfs-progs"),
    ("lvm", "lvm2"),
    ("dmsetup", "dmsetup"),
    // LVM runs it when a thin pool is activated, and refuses the pool where it is missing.
    ("thin_check", "thin-provisioning-tools"),
];

/// Where the daemon looks for programs.
const PATH: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

pub(crate) fn run(caller: &Caller) -> anyhow::Result<ExitCode> {
    let mut findings = missing_tools(&PATH.map(Path::new));
    match caller.ask::<Vec<Finding>>(&Request::Doctor) {
        Ok(told) => findings.extend(told),
        Err(e) => findings.push(Finding {
            severity: "error".into(),
            trouble: "daemon".into(),
            subject: caller.socket.display().to_string(),
            what: print::chain(&e),
            mend: "start it with `stowage serve`".into(),
        }),
    }
    let broken = findings.iter().any(|f| f.severity == "error");
    if findings.is_empty() && caller.output == Output::Table {
        println!("everything is well");
        return Ok(ExitCode::SUCCESS);
    }
    print::list(caller.output, &findings, || {
        let mut table = Table::new(["SEVERITY", "SUBJECT", "WHAT IS WRONG", "HOW TO MEND IT"]);
        for f in &findings {
            table.row([
                f.severity.clone(),
                f.subject.clone(),
                f.what.clone(),
                f.mend.clone(),
            ]);
        }
        table
    })?;
    Ok(if broken {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn missing_tools(dirs: &[&Path]) -> Vec<Finding> {
    let missing = |tool: &str| !dirs.iter().any(|dir| dir.join(tool).exists());
    TOOLS
        .iter()
        .filter(|(tool, _)| missing(tool))
        .map(|(tool, package)| Finding {
            severity: "warning".into(),
            trouble: "tool-missing".into(),
            subject: (*tool).to_owned(),
            what: "is not installed".into(),
            mend: format!("apt-get install {package}"),
        })
        .collect()
}

pub(crate) fn jobs(caller: &Caller, watch: bool) -> anyhow::Result<ExitCode> {
    if watch {
        caller.watch(|_| true)?;
    }
    let jobs: Vec<Job> = caller.ask(&Request::Jobs)?;
    print::list(caller.output, &jobs, || {
        let mut table = Table::new(["WORK", "SUBJECT", "DONE", "TOTAL"]);
        for job in &jobs {
            table.row([
                job.what.clone(),
                job.subject.clone(),
                job.done.to_string(),
                job.total.to_string(),
            ]);
        }
        table
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let dirs = [one.path(), other.path()];
        assert_eq!(missing_tools(&dirs).len(), TOOLS.len());
        for (at, (tool, _)) in TOOLS.iter().enumerate() {
            std::fs::write(dirs[at % 2].join(tool), "").unwrap();
        }
        assert!(missing_tools(&dirs).is_empty());
        for dir in dirs {
            let _ = std::fs::remove_file(dir.join("thin_check"));
        }
        let [finding] = missing_tools(&dirs).try_into().unwrap();
        assert_eq!(finding.subject, "thin_check");
        assert_eq!(finding.mend, "apt-get install thin-provisioning-tools");
    }
}
