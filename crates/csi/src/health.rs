//! Findings of the house as the health statuses of CSI 1.13.

use std::collections::BTreeMap;

use stowage_model::volumes::{Finding, Severity, Trouble};
use stowage_model::{Id, Result};

use crate::door::Door;
use crate::proto::node_get_storage_health_response::StorageBackendHealth;
use crate::proto::volume_health::VolumeHealthEntry;
use crate::proto::{StorageHealthErrorType, VolumeHealth, VolumeHealthErrorType};

/// The CamelCase word machines read.
fn reason(trouble: Trouble) -> &'static str {
    match trouble {
        Trouble::ToolMissing => "ToolMissing",
        Trouble::PoolMissing => "PoolMissing",
        Trouble::PoolFull => "PoolFull",
        Trouble::DeviceError => "DeviceError",
        Trouble::ReadOnly => "ReadOnly",
        Trouble::Smaller => "FileSystemSmaller",
        Trouble::SnapshotLost => "SnapshotLost",
        Trouble::Foreign => "ForeignObject",
        Trouble::Leftover => "Leftover",
        Trouble::BadRecord => "BadRecord",
        Trouble::NotLimited => "NotLimited",
    }
}

/// What a finding about a volume means to its user.
fn of_volume(finding: &Finding) -> VolumeHealthErrorType {
    match (finding.trouble, finding.severity) {
        // An overflowed copy-on-write store is dropped by the kernel: those bytes are gone.
        (Trouble::SnapshotLost, _) => VolumeHealthErrorType::DataLoss,
        (Trouble::PoolMissing | Trouble::BadRecord, _)
        | (Trouble::DeviceError | Trouble::ToolMissing, Severity::Error) => {
            VolumeHealthErrorType::Inaccessible
        }
        // A full pool and a read-only file system can still be read.
        (
            Trouble::PoolFull
            | Trouble::ReadOnly
            | Trouble::Smaller
            | Trouble::Foreign
            | Trouble::Leftover
            | Trouble::NotLimited
            | Trouble::DeviceError
            | Trouble::ToolMissing,
            _,
        ) => VolumeHealthErrorType::Degraded,
    }
}

/// What a finding means to every volume of the node; `None` when it concerns one object only.
fn of_storage(finding: &Finding) -> Option<StorageHealthErrorType> {
    match finding.trouble {
        Trouble::PoolMissing => Some(StorageHealthErrorType::StorageUnreachable),
        Trouble::ToolMissing | Trouble::PoolFull | Trouble::DeviceError => {
            Some(StorageHealthErrorType::StorageDegraded)
        }
        Trouble::ReadOnly
        | Trouble::Smaller
        | Trouble::SnapshotLost
        | Trouble::Foreign
        | Trouble::Leftover
        | Trouble::NotLimited
        | Trouble::BadRecord => None,
    }
}

/// One entry per status and reason, as CSI demands; their texts are joined.
fn joined<S: Ord>(findings: impl Iterator<Item = (S, Finding)>) -> Vec<(S, &'static str, String)> {
    let mut entries = BTreeMap::<(S, &'static str), Vec<String>>::new();
    for (status, finding) in findings {
        entries
            .entry((status, reason(finding.trouble)))
            .or_default()
            .push(format!("{}; {}", finding.what, finding.mend));
    }
    entries
        .into_iter()
        .map(|((status, reason), texts)| (status, reason, texts.join(". ")))
        .collect()
}

/// The health of one volume; no entry when it is well.
pub(crate) async fn volume(door: &Door, id: &Id, handle: &str) -> Result<VolumeHealth> {
    Ok(told(handle, door.volumes.health(id).await?))
}

/// What was found of a volume, as its health.
pub(crate) fn told(handle: &str, findings: Vec<Finding>) -> VolumeHealth {
    let entries = joined(findings.into_iter().map(|f| (i32::from(of_volume(&f)), f)));
    VolumeHealth {
        volume_id: handle.to_owned(),
        health_statuses: entries
            .into_iter()
            .map(|(status, reason, message)| VolumeHealthEntry {
                status,
                reason: reason.to_owned(),
                message,
            })
            .collect(),
    }
}

/// The health of the node's pools and tools.
pub(crate) async fn storage(door: &Door) -> Result<Vec<StorageBackendHealth>> {
    let findings = door.volumes.findings().await?;
    let backends = findings.into_iter().filter_map(|finding| {
        let about_one_volume = finding.subject.parse::<Id>().is_ok();
        let status = of_storage(&finding).filter(|_| !about_one_volume)?;
        Some((i32::from(status), finding))
    });
    Ok(joined(backends)
        .into_iter()
        .map(|(status, reason, message)| StorageBackendHealth {
            status,
            reason: reason.to_owned(),
            message,
            volume_capability: None,
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(trouble: Trouble, severity: Severity) -> Finding {
        Finding {
            severity,
            trouble,
            subject: "x".into(),
            what: "w".into(),
            mend: "m".into(),
        }
    }

    #[test]
    fn lost_bytes_are_data_loss_and_readable_ones_are_not_inaccessible() {
        for (trouble, severity, want) in [
            (
                Trouble::SnapshotLost,
                Severity::Warning,
                VolumeHealthErrorType::DataLoss,
            ),
            (
                Trouble::DeviceError,
                Severity::Error,
                VolumeHealthErrorType::Inaccessible,
            ),
            (
                Trouble::DeviceError,
                Severity::Warning,
                VolumeHealthErrorType::Degraded,
            ),
            (
                Trouble::ReadOnly,
                Severity::Error,
                VolumeHealthErrorType::Degraded,
            ),
        ] {
            assert_eq!(of_volume(&finding(trouble, severity)), want, "{trouble:?}");
        }
    }

    #[test]
    fn a_status_and_reason_come_once_with_every_text() {
        let entries = joined(
            [Trouble::PoolFull, Trouble::PoolFull, Trouble::Leftover]
                .into_iter()
                .map(|t| (1, finding(t, Severity::Warning))),
        );
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[1].2, "w; m. w; m");
    }
}
