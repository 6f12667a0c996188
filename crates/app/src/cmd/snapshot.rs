//! `stowage snapshot …`

use std::process::ExitCode;

use stowage_model::Bytes;

use super::{Caller, volume};
use crate::admin::protocol::{Request, SnapshotView, shown};
use crate::cli::{Output, Snapshot};
use crate::print::{self, Table};

pub(crate) fn run(caller: &Caller, command: Snapshot) -> anyhow::Result<ExitCode> {
    match command {
        Snapshot::Create {
            volume,
            name,
            read_only,
            initial_size,
            grow_at,
            grow_by,
        } => {
            let bytes = |size: Option<Bytes>| size.map(|size| size.0.to_string());
            let parameters = [
                ("snapshotInitialSize", bytes(initial_size)),
                ("snapshotExpansionThreshold", grow_at),
                ("snapshotExpansionSize", bytes(grow_by)),
            ];
            let parameters = parameters
                .into_iter()
                .filter_map(|(key, value)| Some((key.to_owned(), value?)))
                .collect();
            let made: SnapshotView = caller.ask(&Request::SnapshotCreate {
                volume,
                name,
                read_only,
                parameters,
            })?;
            match caller.output {
                Output::Json => print::json(&made),
                Output::Table => show(caller, std::slice::from_ref(&made)),
            }
        }
        Snapshot::List => {
            let mut all: Vec<SnapshotView> = caller.ask(&Request::SnapshotList)?;
            all.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
            show(caller, &all)
        }
        Snapshot::Restore {
            snapshot,
            name,
            size,
            pool,
        } => volume::copy(caller, name, size, pool, Some(snapshot), None),
        Snapshot::Delete { name } => {
            let () = caller.ask(&Request::SnapshotDelete { name: name.clone() })?;
            print::done(caller.output, &format!("snapshot {name} deleted"))
        }
    }
}

fn show(caller: &Caller, snapshots: &[SnapshotView]) -> anyhow::Result<ExitCode> {
    print::list(caller.output, snapshots, || {
        let mut table = Table::new(["NAME", "SIZE", "POOL", "SOURCE", "AGE", "ID"]);
        for snapshot in snapshots {
            table.row([
                shown(snapshot.door.as_deref(), &snapshot.name),
                match snapshot.lost {
                    true => "lost".to_owned(),
                    false => snapshot.size.to_string(),
                },
                snapshot.pool.clone(),
                snapshot.source.clone().unwrap_or_default(),
                print::age(&snapshot.created),
                snapshot.id.clone(),
            ]);
        }
        table
    })
}
