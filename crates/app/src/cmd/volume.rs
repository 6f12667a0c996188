//! `stowage volume …`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use stowage_model::Limits;
use stowage_model::limits::KEYS;
use stowage_model::volumes::Job;

use super::Caller;
use crate::admin::protocol::{Held, Request, VolumeCreate, VolumeView, shown};
use crate::cli::{self, Output, Volume};
use crate::print::{self, Table};

pub(crate) fn run(caller: &Caller, command: Volume) -> anyhow::Result<ExitCode> {
    let request = match command {
        Volume::List => {
            let mut volumes: Vec<VolumeView> = caller.ask(&Request::VolumeList)?;
            volumes.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
            return show(caller, &volumes);
        }
        Volume::Delete { name, wait } => return delete(caller, name, wait),
        Volume::Create(want) => Request::VolumeCreate(create(want)?),
        Volume::Show { name } => Request::VolumeShow { name },
        Volume::Grow { name, size } => Request::VolumeGrow { name, size },
        Volume::Limit { name, limits } => Request::VolumeLimit { name, limits },
        Volume::Mount {
            name,
            target,
            options,
            read_only,
            cgroup,
            holder,
        } => {
            let target = absolute(&target)?;
            Request::VolumeMount {
                name,
                target,
                options,
                read_only,
                cgroup,
                holder,
            }
        }
        Volume::Unmount { target, holder } => Request::VolumeUnmount {
            name: None,
            target: absolute(&target)?,
            holder,
        },
        Volume::Clone {
            source,
            name,
            size,
            pool,
        } => {
            return copy(caller, name, size, pool, None, Some(source));
        }
    };
    one(caller, &request)
}

fn delete(caller: &Caller, name: String, wait: bool) -> anyhow::Result<ExitCode> {
    let wipes = || -> anyhow::Result<Vec<String>> {
        let jobs: Vec<Job> = caller.ask(&Request::Jobs)?;
        let wipes = jobs.into_iter().filter(|job| job.what == "wipe");
        Ok(wipes.map(|job| job.subject).collect())
    };
    let before = if wait { wipes()? } else { Vec::new() };
    let said = format!("volume {name} deleted");
    let () = caller.ask(&Request::VolumeDelete { name })?;
    if wait {
        // Wipes bear names of the pool's own; the volume's is among those that came with it.
        let ours = wipes()?;
        let ours: Vec<_> = ours.iter().filter(|wipe| !before.contains(wipe)).collect();
        caller.watch(|job| job.what == "wipe" && ours.contains(&&job.subject))?;
    }
    print::done(caller.output, &said)
}

/// Make a volume from a snapshot or volume.
pub(crate) fn copy(
    caller: &Caller,
    name: String,
    size: Option<stowage_model::Bytes>,
    pool: Option<String>,
    from_snapshot: Option<String>,
    from_volume: Option<String>,
) -> anyhow::Result<ExitCode> {
    let parameters = pool
        .map(|pool| ("pool".to_owned(), pool))
        .into_iter()
        .collect();
    let want = VolumeCreate {
        name,
        size,
        parameters,
        from_snapshot,
        from_volume,
        ..Default::default()
    };
    one(caller, &Request::VolumeCreate(want))
}

fn one(caller: &Caller, request: &Request) -> anyhow::Result<ExitCode> {
    let volume: VolumeView = caller.ask(request)?;
    match caller.output {
        Output::Json => print::json(&volume),
        Output::Table => show(caller, std::slice::from_ref(&volume)),
    }
}

fn create(want: cli::VolumeCreate) -> anyhow::Result<VolumeCreate> {
    // They are sent among the class parameters, of which no other is meant by an option for limits.
    if let Some((key, _)) = want.limits.iter().find(|(key, _)| !KEYS.contains(&&**key)) {
        anyhow::bail!("{key:?} is no limit; known are {}", KEYS.join(", "));
    }
    let mut parameters = want.limits;
    let mut add = |key: &str, value: Option<String>| {
        parameters.extend(value.map(|value| (key.to_owned(), value)));
    };
    add("pool", want.pool);
    add("lvmType", want.layout);
    add("mkfsOptions", want.mkfs_options);
    add("fsType", (!want.block).then_some(want.fs));
    add("provisioning", want.thin.then(|| "thin".to_owned()));
    Ok(VolumeCreate {
        name: want.name,
        size: Some(want.size),
        parameters,
        block: want.block,
        ..Default::default()
    })
}

/// A path with those who hold the mount there: `/mnt (a, b x2)`.
fn used_at(volume: &VolumeView, path: &Path) -> String {
    let here = volume.holders.iter().filter(|held| held.target == path);
    let held = |held: &Held| match held.times {
        1 => held.holder.clone(),
        times => format!("{} x{times}", held.holder),
    };
    let holders: Vec<String> = here.map(held).collect();
    match holders.is_empty() {
        true => path.display().to_string(),
        false => format!("{} ({})", path.display(), holders.join(", ")),
    }
}

/// A shell's relative path means something here, not in the daemon.
fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("failed to make sense of {}", path.display()))
}

fn show(caller: &Caller, volumes: &[VolumeView]) -> anyhow::Result<ExitCode> {
    print::list(caller.output, volumes, || {
        let mut table = Table::new([
            "NAME", "SIZE", "FS", "POOL", "STATE", "LIMITS", "AGE", "USED AT", "ID",
        ]);
        for volume in volumes {
            let used: Vec<String> = volume.used_at.iter().map(|p| used_at(volume, p)).collect();
            table.row([
                shown(volume.door.as_deref(), &volume.name),
                volume.size.to_string(),
                volume.kind.clone(),
                volume.pool.clone(),
                volume.state.clone(),
                Limits::to_string(&volume.limits),
                print::age(&volume.created),
                if used.is_empty() {
                    "-".to_owned()
                } else {
                    used.join(" ")
                },
                volume.id.clone(),
            ]);
        }
        table
    })
}
