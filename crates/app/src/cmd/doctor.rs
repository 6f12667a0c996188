//! `stowage doctor` and `stowage jobs`

use std::path::Path;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};
use stowage_model::volumes::Job;

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
    match caller.output {
        Output::Json => print::json(&findings)?,
        Output::Table => print::text(&told(&findings))?,
    };
    Ok(if broken {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Findings for people: whole sentences are too wide for the columns of a table.
fn told(findings: &[Finding]) -> String {
    let each = findings.iter().map(|f| {
        let (severity, subject, what, mend) = (&f.severity, &f.subject, &f.what, &f.mend);
        format!("{severity}: {subject}: {what}\n  mend: {mend}")
    });
    each.collect::<Vec<_>>().join("\n")
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
    fn a_finding_is_two_lines_that_wrap() {
        let finding = Finding {
            severity: "error".into(),
            trouble: "pool-missing".into(),
            subject: "fast".into(),
            what: "volume group fast is missing".into(),
            mend: "plug in its disks".into(),
        };
        assert_eq!(
            told(&[finding.clone(), finding]),
            "error: fast: volume group fast is missing\n  mend: plug in its disks\n\
             error: fast: volume group fast is missing\n  mend: plug in its disks"
        );
    }

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
