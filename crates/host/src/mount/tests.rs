use super::*;
use crate::testing::{Disk, Mounted, require_root};
use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

const NONE: &[&str] = &[];

fn tmpfs(mounted: &Mounted) {
    mount_device(
        Path::new("none"),
        &mounted.target(),
        "tmpfs",
        &["size=1m,mode=0755"],
    )
    .unwrap();
}

fn writable(dir: &Path) -> bool {
    match fs::write(dir.join("probe"), "x") {
        Ok(()) => true,
        Err(error) => {
            assert_eq!(Errno::from_io_error(&error), Some(Errno::ROFS), "{error}");
            false
        }
    }
}

#[test]
fn flags_and_data_reach_the_kernel() {
    let dir = tempfile::tempdir().unwrap();
    let mounted = Mounted::at(dir.path().join("a b"));
    let options = ["nosuid,nodev", "noatime", "size=64k"];
    mount_device(Path::new("none"), &mounted.target(), "tmpfs", &options).unwrap();
    let mount = at(&mounted.0).unwrap().unwrap();
    for option in ["nosuid", "nodev", "noatime", "rw"] {
        assert!(
            mount.options.iter().any(|have| have == option),
            "{option}: {mount:?}"
        );
    }
    assert!(
        mount.super_options.contains(&"size=64k".to_owned()),
        "{mount:?}"
    );
    assert_eq!(of_device(mount.dev).unwrap(), [mount]);
}

#[test]
fn a_failed_mount_names_its_parts_and_leaves_nothing() {
    let disk = Disk::new(1 << 20);
    let mounted = Mounted::at(disk.dir.path().join("mnt"));
    let error = mount_device(disk.path(), &mounted.target(), "ext4", NONE).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("failed to mount {} at ", disk.path().display())),
        "{text}"
    );
    assert!(at(&mounted.0).unwrap().is_none());
}

#[test]
fn a_real_file_system_is_mounted_remounted_and_unmounted() {
    let disk = Disk::formatted("ext4");
    let mounted = disk.mounted("ext4");
    assert_eq!(of_device(disk.device.devno).unwrap().len(), 1);
    assert!(writable(&mounted.0));
    remount(&mounted.target(), &["ro"]).unwrap();
    assert!(!writable(&mounted.0));
    remount(&mounted.target(), &["rw", "noatime"]).unwrap();
    assert!(writable(&mounted.0));
    assert!(unmount(&mounted.0).unwrap());
    assert!(!unmount(&mounted.0).unwrap());
    let refused = remount(&mounted.target(), &["ro"]);
    assert!(
        matches!(refused, Err(MountError::Remount { .. })),
        "{refused:?}"
    );
}

#[test]
fn a_read_only_bind_is_read_only_and_its_source_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (
        Mounted::at(dir.path().join("source")),
        Mounted::at(dir.path().join("target")),
    );
    mount_device(
        Path::new("none"),
        &source.target(),
        "tmpfs",
        &["nosuid,nodev,noexec,noatime"],
    )
    .unwrap();
    bind(&source.0, &target.target(), true).unwrap();
    assert!(!writable(&target.0));
    assert!(writable(&source.0));
    let mount = at(&target.0).unwrap().unwrap();
    for option in ["ro", "nosuid", "nodev", "noexec", "noatime"] {
        assert!(
            mount.options.iter().any(|have| have == option),
            "{option}: {mount:?}"
        );
    }
    unmount(&target.0).unwrap();
    bind(&source.0, &target.target(), false).unwrap();
    assert!(writable(&target.0));
}

/// An agent in a container binds; the host, where containers start, sees a copy by propagation.
#[test]
fn a_read_only_bind_is_read_only_in_peers_too() {
    use rustix::mount::{MountPropagationFlags, mount_change};
    let dir = tempfile::tempdir().unwrap();
    let (host, agent) = (
        Mounted::at(dir.path().join("host")),
        Mounted::at(dir.path().join("agent")),
    );
    tmpfs(&host);
    mount_change(&host.0, MountPropagationFlags::SHARED).unwrap();
    // A bind makes the two mounts peers, as those of two namespaces would be.
    bind(&host.0, &agent.target(), false).unwrap();
    let target = Mounted::at(agent.0.join("volume"));
    let source = Mounted::at(dir.path().join("source"));
    bind(&source.0, &target.target(), true).unwrap();
    let copy = at(&host.0.join("volume")).unwrap().unwrap();
    assert!(copy.read_only(), "{copy:?}");
    assert!(!writable(&host.0.join("volume")) && !writable(&target.0));
    assert!(unmount(&target.0).unwrap());
    assert!(at(&host.0.join("volume")).unwrap().is_none());
}

#[test]
fn a_device_is_bound_to_a_file_read_only() {
    let disk = Disk::new(1 << 20);
    let file = disk.dir.path().join("volume");
    let target = Target::create_file(&file).unwrap();
    bind(disk.path(), &target, true).unwrap();
    assert_eq!(crate::device::devno(&file).unwrap(), disk.device.devno);
    // A read-only mount does not keep anybody from writing to a device node on it; that is why
    // callers attach or activate the device read-only as well.
    assert!(at(&file).unwrap().unwrap().read_only());
    assert!(matches!(
        Target::remove(&file),
        Err(TargetError::WrongType { .. })
    ));
    assert!(unmount(&file).unwrap());
    assert!(Target::remove(&file).unwrap());
}

#[test]
fn the_pinned_target_gets_the_mount_whatever_its_name_leads_to() {
    let dir = tempfile::tempdir().unwrap();
    let real = Mounted::at(dir.path().join("real"));
    let victim = Mounted::at(dir.path().join("victim"));
    let target = real.target();
    let moved = Mounted(dir.path().join("moved"));
    fs::rename(&real.0, &moved.0).unwrap();
    symlink(&victim.0, &real.0).unwrap();
    bind(Path::new("/proc"), &target, false).unwrap();
    assert_eq!(at(&moved.0).unwrap().unwrap().fstype, "proc");
    assert!(at(&victim.0).unwrap().is_none());
    // Neither does an unmount by the old name follow the link.
    assert!(!unmount(&real.0).unwrap());
    assert!(at(&moved.0).unwrap().is_some());
    fs::remove_file(&real.0).unwrap();
}

#[test]
fn stacked_mounts_come_off_one_by_one_or_all() {
    let dir = tempfile::tempdir().unwrap();
    let mounted = Mounted::at(dir.path().join("mnt"));
    tmpfs(&mounted);
    tmpfs(&mounted);
    let top = at(&mounted.0).unwrap().unwrap();
    assert!(unmount(&mounted.0).unwrap());
    assert_eq!(at(&mounted.0).unwrap().unwrap().id, top.parent);
    tmpfs(&mounted);
    assert_eq!(unmount_all(&mounted.0).unwrap(), 2);
    assert_eq!(unmount_all(&mounted.0).unwrap(), 0);
}

#[test]
fn what_is_not_there_is_not_mounted() {
    require_root();
    assert!(!unmount(Path::new("/no/such/place")).unwrap());
    let dir = tempfile::tempdir().unwrap();
    assert!(!unmount(dir.path()).unwrap());
    assert!(!unmount(&dir.path().join("missing")).unwrap());
    symlink("/proc", dir.path().join("link")).unwrap();
    assert!(!unmount(&dir.path().join("link")).unwrap());
    assert!(matches!(
        unmount(&dir.path().join("link/sys")),
        Err(MountError::Target(_))
    ));
    assert!(matches!(
        unmount(Path::new("relative")),
        Err(MountError::Target(_))
    ));
}

#[test]
fn a_busy_mount_names_the_process_and_the_mounts_below() {
    let dir = tempfile::tempdir().unwrap();
    let mounted = Mounted::at(dir.path().join("mnt"));
    tmpfs(&mounted);
    let mut child = Command::new("sleep")
        .arg("60")
        .current_dir(&mounted.0)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let error = unmount(&mounted.0).unwrap_err();
    child.kill().unwrap();
    child.wait().unwrap();
    let MountError::Busy { by, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(
        by,
        &[Holder {
            pid: child.id(),
            comm: "sleep".into()
        }]
    );
    assert!(
        error
            .to_string()
            .contains(&format!("pid {} (sleep)", child.id())),
        "{error}"
    );

    let file = fs::File::create(mounted.0.join("open")).unwrap();
    let MountError::Busy { by, .. } = unmount(&mounted.0).unwrap_err() else {
        panic!()
    };
    assert!(
        by.iter().any(|holder| holder.pid == std::process::id()),
        "{by:?}"
    );
    drop(file);

    let below = Mounted::at(mounted.0.join("below"));
    tmpfs(&below);
    let error = unmount(&mounted.0).unwrap_err();
    assert!(
        error.to_string().contains(&below.0.display().to_string()),
        "{error}"
    );
    drop(below);
    assert!(unmount(&mounted.0).unwrap());
}

#[test]
fn a_mount_whose_device_is_gone_comes_off() {
    let disk = Disk::formatted("ext4");
    let mounted = disk.mounted("ext4");
    fs::File::options()
        .write(true)
        .open(&disk.file)
        .unwrap()
        .set_len(0)
        .unwrap();
    assert!(unmount(&mounted.0).unwrap());
}
