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
const TOOLS: [(&str, &str); 9] = [
    ("blkid", "util-linux"),
    ("mkfs.ext4", "e2fsprogs"),
    ("resize2fs", "e2fsprogs"),
    ("mkfs.xfs", "xfsprogs"),
    ("xfs_growfs", "xfsprogs"),
    ("mkfs.btrfs", "btrfs-progs"),
    ("btrfstune", "btrfs-progs"),
    ("lvm", "lvm2"),
    ("dmsetup", "dmsetup"),
];

/// Where the daemon looks for programs.
const PATH: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

pub(crate) fn run(caller: &Caller) -> anyhow::Result<ExitCode> {
    let mut findings = missing_tools();
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

fn missing_tools() -> Vec<Finding> {
    let missing = |tool: &str| !PATH.iter().any(|dir| Path::new(dir).join(tool).exists());
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

pub(crate) fn jobs(caller: &Caller) -> anyhow::Result<ExitCode> {
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
