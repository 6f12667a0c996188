use super::*;
use crate::testing::{Disk, require_root};
use std::os::unix::fs::symlink;

/// A control group of the real hierarchy, removed at the end.
struct Group(PathBuf);

impl Group {
    fn new(hierarchy: &Hierarchy, name: &str) -> Self {
        require_root();
        let dir = hierarchy
            .root()
            .join(format!("stowage-test-{}-{name}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

fn limits(read: u64, write: u64) -> IoLimits {
    IoLimits {
        read_bps: Some(read),
        write_bps: None,
        read_iops: None,
        write_iops: Some(write),
    }
}

#[test]
fn the_real_kernel_takes_changes_and_clears_limits() {
    let hierarchy = Hierarchy::detect().unwrap();
    let group = Group::new(&hierarchy, "limits");
    let (disk, other) = (Disk::new(1 << 20), Disk::new(1 << 20));
    let dev = disk.device.devno;
    assert_eq!(hierarchy.read(&group.0, dev).unwrap(), IoLimits::default());
    hierarchy
        .apply(&group.0, dev, &limits(1 << 20, 50))
        .unwrap();
    hierarchy
        .apply(&group.0, other.device.devno, &limits(7 << 20, 7))
        .unwrap();
    assert_eq!(hierarchy.read(&group.0, dev).unwrap(), limits(1 << 20, 50));
    // Relative to the root, and as /proc/PID/cgroup has it.
    let name = group.0.file_name().unwrap();
    let changed = IoLimits {
        write_bps: Some(3 << 20),
        ..limits(2 << 20, 60)
    };
    hierarchy.apply(Path::new(name), dev, &changed).unwrap();
    assert_eq!(
        hierarchy.read(&Path::new("/").join(name), dev).unwrap(),
        changed
    );
    for _ in 0..2 {
        hierarchy.clear(&group.0, dev).unwrap();
        assert_eq!(hierarchy.read(&group.0, dev).unwrap(), IoLimits::default());
    }
    assert_eq!(
        hierarchy.read(&group.0, other.device.devno).unwrap(),
        limits(7 << 20, 7)
    );
}

#[test]
fn a_limit_slows_a_real_write() {
    let hierarchy = Hierarchy::detect().unwrap();
    let group = Group::new(&hierarchy, "speed");
    let disk = Disk::new(8 << 20);
    let write = IoLimits {
        write_bps: Some(1 << 20),
        ..IoLimits::default()
    };
    hierarchy
        .apply(&group.0, disk.device.devno, &write)
        .unwrap();
    // The shell joins the group, then writes 2 MiB past the cache: the limit counts real I/O.
    let line = format!(
        "echo $$ > {}/cgroup.procs && exec dd if=/dev/zero of={} bs=256k count=8 oflag=direct",
        group.0.display(),
        disk.path().display()
    );
    let begun = std::time::Instant::now();
    crate::testing::tool("sh", &["-c", &line]);
    let took = begun.elapsed();
    assert!(
        took > std::time::Duration::from_millis(1200),
        "2 MiB at 1 MiB/s took {took:?}"
    );
}

#[test]
fn a_missing_device_or_group_is_told_and_fine_to_clear() {
    let hierarchy = Hierarchy::detect().unwrap();
    let group = Group::new(&hierarchy, "missing");
    let gone = Devno {
        major: 7,
        minor: 98765,
    };
    let refused = hierarchy.apply(&group.0, gone, &limits(1, 1)).unwrap_err();
    assert!(matches!(refused, CgroupError::NoDevice { .. }), "{refused}");
    hierarchy.clear(&group.0, gone).unwrap();
    let missing = Path::new("kubepods/stowage-no-such-pod");
    let refused = hierarchy.apply(missing, gone, &limits(1, 1)).unwrap_err();
    assert!(matches!(refused, CgroupError::Missing { .. }), "{refused}");
    hierarchy.clear(missing, gone).unwrap();
}

/// A tree of plain files as version 2 has them.
fn fake_v2() -> (tempfile::TempDir, Hierarchy) {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("cgroup.controllers"), "cpu io memory\n").unwrap();
    fs::write(root.path().join("cgroup.subtree_control"), "cpu io\n").unwrap();
    let pod = root.path().join("kubepods/pod1");
    fs::create_dir_all(&pod).unwrap();
    fs::write(root.path().join("kubepods/cgroup.subtree_control"), "cpu\n").unwrap();
    let hierarchy = Hierarchy::detect_at(root.path()).unwrap();
    assert_eq!(hierarchy.version(), Version::V2);
    (root, hierarchy)
}

#[test]
fn version_2_writes_one_line_to_io_max() {
    let (root, hierarchy) = fake_v2();
    let file = root.path().join("kubepods/pod1/io.max");
    fs::write(&file, "").unwrap();
    let dev = Devno {
        major: 253,
        minor: 3,
    };
    hierarchy
        .apply(Path::new("/kubepods/pod1"), dev, &limits(5, 6))
        .unwrap();
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        "253:3 rbps=5 wbps=max riops=max wiops=6"
    );
    assert_eq!(
        hierarchy.read(Path::new("kubepods/pod1"), dev).unwrap(),
        limits(5, 6)
    );
}

#[test]
fn version_2_hands_the_controller_down_where_it_is_missing() {
    let (root, hierarchy) = fake_v2();
    let dev = Devno {
        major: 253,
        minor: 3,
    };
    // Plain files do not grow an io.max, so the write after the enabling finds none.
    let refused = hierarchy
        .apply(Path::new("kubepods/pod1"), dev, &limits(5, 6))
        .unwrap_err();
    assert!(matches!(refused, CgroupError::Missing { .. }), "{refused}");
    let control = root.path().join("kubepods/cgroup.subtree_control");
    assert_eq!(fs::read_to_string(&control).unwrap(), "+io");
    let above = fs::read_to_string(root.path().join("cgroup.subtree_control")).unwrap();
    assert_eq!(above, "cpu io\n", "it was enabled there");
    // Reading and clearing change nothing.
    fs::write(&control, "cpu\n").unwrap();
    hierarchy.clear(Path::new("kubepods/pod1"), dev).unwrap();
    assert_eq!(fs::read_to_string(&control).unwrap(), "cpu\n");
}

#[test]
fn a_hybrid_machine_uses_the_version_that_has_the_controller() {
    let root = tempfile::tempdir().unwrap();
    let unified = root.path().join("unified");
    let blkio = root.path().join("blkio");
    fs::create_dir_all(&unified).unwrap();
    fs::create_dir_all(&blkio).unwrap();
    fs::write(unified.join("cgroup.controllers"), "\n").unwrap();
    assert!(matches!(
        Hierarchy::detect_at(root.path()),
        Err(CgroupError::NoController { .. })
    ));
    fs::write(blkio.join("blkio.throttle.read_bps_device"), "").unwrap();
    let found = Hierarchy::detect_at(root.path()).unwrap();
    assert_eq!(
        (found.version(), found.root()),
        (Version::V1, blkio.as_path())
    );
    fs::write(unified.join("cgroup.controllers"), "io\n").unwrap();
    let found = Hierarchy::detect_at(root.path()).unwrap();
    assert_eq!(
        (found.version(), found.root()),
        (Version::V2, unified.as_path())
    );
}

#[test]
fn paths_that_leave_the_tree_are_refused() {
    let (root, hierarchy) = fake_v2();
    symlink("/etc", root.path().join("link")).unwrap();
    let dev = Devno { major: 8, minor: 0 };
    for path in [
        "",
        "/",
        "..",
        "kubepods/../..",
        "kubepods/../kubepods/pod1",
        "link",
    ] {
        let refused = hierarchy.read(Path::new(path), dev).unwrap_err();
        assert!(
            matches!(refused, CgroupError::Outside { .. }),
            "{path:?}: {refused}"
        );
    }
    let refused = hierarchy.read(root.path(), dev).unwrap_err();
    assert!(matches!(refused, CgroupError::Outside { .. }), "{refused}");
}
