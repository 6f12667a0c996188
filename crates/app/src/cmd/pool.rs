//! `stowage pool …`

use std::process::ExitCode;

use stowage_model::pool::PoolKeys;
use stowage_model::{PoolConfig, PoolKind, PoolName};

use super::Caller;
use crate::admin::protocol::{PoolView, Request};
use crate::cli::{Pool, PoolCreate};
use crate::print::{self, Table};

pub(crate) fn run(caller: &Caller, command: Pool) -> anyhow::Result<ExitCode> {
    match command {
        Pool::List => {
            let pools: Vec<PoolView> = caller.ask(&Request::PoolList)?;
            show(caller, &pools)
        }
        Pool::Create(want) => {
            let request = create(want)?;
            let pool: PoolView = caller.ask(&request)?;
            show(caller, std::slice::from_ref(&pool))
        }
        Pool::Extend { name, disks, force } => {
            let pool: PoolView = caller.ask(&Request::PoolExtend { name, disks, force })?;
            show(caller, std::slice::from_ref(&pool))
        }
    }
}

fn create(want: PoolCreate) -> anyhow::Result<Request> {
    let lvm = want.kind != PoolKind::File;
    let default = |given: Option<String>, or: &str| given.or_else(|| Some(or.to_owned()));
    let keys = PoolKeys {
        name: PoolName::new(want.name.clone())?,
        kind: want.kind,
        path: want.path,
        vg: if lvm {
            default(want.vg, &want.name)
        } else {
            want.vg
        },
        thin_pool: match want.kind {
            PoolKind::Thin => default(want.thin_pool, "thinpool"),
            PoolKind::Lvm | PoolKind::File => want.thin_pool,
        },
        overprovision: want.overprovision,
        reserve: want.reserve,
        wipe: None,
    };
    Ok(Request::PoolCreate {
        pool: PoolConfig::try_from(keys)?,
        disks: want.disks,
        force: want.force,
    })
}

fn show(caller: &Caller, pools: &[PoolView]) -> anyhow::Result<ExitCode> {
    print::list(caller.output, pools, || {
        let mut table = Table::new([
            "NAME",
            "KIND",
            "LOCATION",
            "TOTAL",
            "FREE",
            "PROMISED",
            "USED",
            "META",
            "VOLUMES",
            "SNAPSHOTS",
            "STATE",
        ]);
        for pool in pools {
            let percent = |p: Option<f32>| p.map_or_else(|| "-".to_owned(), |p| format!("{p:.0}%"));
            table.row([
                pool.name.to_string(),
                pool.kind.to_string(),
                pool.location.clone(),
                pool.total.to_string(),
                pool.free.to_string(),
                pool.promised.to_string(),
                percent(pool.data_percent),
                percent(pool.metadata_percent),
                pool.volumes.to_string(),
                pool.snapshots.to_string(),
                state(pool),
            ]);
        }
        table
    })
}

/// What a person is told of the state of a pool.
fn state(pool: &PoolView) -> String {
    match (&pool.problem, pool.age) {
        (None, _) => "ready".to_owned(),
        (Some(problem), None) => problem.clone(),
        (Some(problem), Some(age)) => format!("{problem} (these figures are {age} s old)"),
    }
}
