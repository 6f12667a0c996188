//! The tour on the machine itself, in namespaces of its own: its mounts are nobody else's, and
//! when its first process ends the kernel ends all others.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use stowage_testkit::disk::run as tool;
use stowage_testkit::scratch;

use super::interrupt::Interrupt;
use super::keeper::Keeper;
use super::{Kit, Stop};
use crate::process;

const POLL: Duration = Duration::from_millis(20);

/// The pool of files holds what the tour makes, copies included.
const FILE_DISK: u64 = 8 << 30;
const LVM_DISK: u64 = 2 << 30;
const USED_DISK: u64 = 64 << 20;

pub(super) fn run(
    kit: &Kit,
    keeper: &mut Keeper,
    interrupt: &Interrupt,
    lvm: bool,
) -> std::result::Result<(), Stop> {
    let mut tour = tour(kit, keeper, lvm)?;
    if interrupt.came() {
        return Err(Stop::Interrupted);
    }
    let mut child = tour
        .spawn()
        .context("failed to start the tour on the machine")?;
    let ended = watch(&mut child, keeper, interrupt);
    if ended.is_err() {
        // The kernel then ends the tour's first process, and with it all others.
        keeper.end_daemon();
        let _ = child.kill();
        let _ = child.wait();
    }
    ended
}

fn watch(
    child: &mut Child,
    keeper: &mut Keeper,
    interrupt: &Interrupt,
) -> std::result::Result<(), Stop> {
    let mut known = false;
    loop {
        if !known && let Some(namespace) = namespace_of_children(child.id()) {
            keeper.owns(namespace);
            known = true;
        }
        if interrupt.came() {
            return Err(Stop::Interrupted);
        }
        if let Some(status) = child.try_wait().context("failed to wait for the tour")? {
            return match status.success() {
                true => Ok(()),
                // It has said itself what failed.
                false => Err(Stop::Failed(anyhow::anyhow!(
                    "see the error of the last step, on the machine"
                ))),
            };
        }
        sleep(POLL);
    }
}

/// The namespace unshare(1) has made for its children, once it has.
fn namespace_of_children(pid: u32) -> Option<PathBuf> {
    let own = fs::read_link("/proc/self/ns/pid").ok()?;
    let theirs = fs::read_link(format!("/proc/{pid}/ns/pid_for_children")).ok()?;
    (theirs != own).then_some(theirs)
}

fn tour(kit: &Kit, keeper: &mut Keeper, lvm: bool) -> Result<Command> {
    let mut args: Vec<OsString> = Vec::new();
    let mut add = |key: &str, value: &Path| args.extend([key.into(), value.as_os_str().into()]);
    add("--stowage", &kit.stowage);
    add("--room", &room(keeper.dir())?);
    add("--file-disk", &keeper.disk("file.img", FILE_DISK)?);
    let mut lvm_dir = None;
    if lvm {
        let disks = ["lvm-1.img", "lvm-2.img", "thin.img"]
            .map(|name| keeper.disk(name, LVM_DISK))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        let used = keeper.disk("used.img", USED_DISK)?;
        tool(
            "mkfs.ext4",
            ["-q", "-L", "holiday", &used.display().to_string()],
        )?;
        for (key, disk) in ["--lvm-disk", "--lvm-disk", "--thin-disk"]
            .iter()
            .zip(&disks)
        {
            add(key, disk);
        }
        add("--used-disk", &used);
        lvm_dir = Some(lvm_config(keeper.dir(), disks.iter().chain([&used]))?);
    }
    if let Some(group) = keeper.cgroup()? {
        add("--cgroup", &group);
    }
    if kit.colour {
        args.push("--colour".into());
    }
    // If this process is killed outright, so is everything of the tour; what it had made is left
    // to the next sweep.
    let mut command = process::command("setpriv", ["--pdeathsig", "KILL", "--", "unshare"]);
    command
        .args([
            "--mount",
            "--pid",
            "--fork",
            "--kill-child=SIGKILL",
            "--mount-proc",
            "--",
        ])
        .arg(&kit.xtask)
        .arg("demo-tour")
        .args(args)
        .current_dir("/")
        .process_group(0);
    if let Some(dir) = lvm_dir {
        command.env("LVM_SYSTEM_DIR", dir);
    }
    Ok(command)
}

/// LVM that sees our disks alone and writes no archive of its metadata to /etc.
fn lvm_config<'a>(dir: &Path, disks: impl Iterator<Item = &'a PathBuf>) -> Result<PathBuf> {
    let accept: String = disks
        .map(|disk| format!("\"a|^{}$|\", ", disk.display()))
        .collect();
    // Without udev LVM makes its device nodes itself, if told.
    let alone = match Path::new("/run/udev/control").exists() {
        true => "",
        false => "activation { udev_sync=0 udev_rules=0 verify_udev_operations=0 }\n",
    };
    let text = format!(
        "devices {{ use_devicesfile=0 global_filter=[ {accept}\"r|.*|\" ] }}\n\
         backup {{ backup=0 archive=0 }}\n{alone}"
    );
    let dir = dir.join("lvm");
    fs::create_dir(&dir)
        .and_then(|()| fs::write(dir.join("lvm.conf"), text))
        .context("failed to write LVM's configuration")?;
    Ok(dir)
}

/// A directory every machine has, over which the tour mounts its own: short paths to look at.
/// Not one that hides the programs.
fn room(dir: &Path) -> Result<PathBuf> {
    let hides = |room: &Path| dir.starts_with(room) || scratch::workspace().starts_with(room);
    ["/mnt", "/media", "/srv", "/opt"]
        .map(PathBuf::from)
        .into_iter()
        .find(|room| room.is_dir() && !hides(room))
        .context("none of /mnt, /media, /srv and /opt is there to be used")
}
