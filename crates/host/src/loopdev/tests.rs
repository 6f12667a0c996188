use super::*;
use crate::device;
use crate::testing::{Mounted, require_root};
use std::process::Command;

fn file(dir: &tempfile::TempDir, size: u64) -> PathBuf {
    require_root();
    let path = dir.path().join("backing");
    File::create(&path).unwrap().set_len(size).unwrap();
    path
}

fn attached(device: &Path) -> bool {
    let name = device.file_name().unwrap();
    Path::new("/sys/block")
        .join(name)
        .join("loop/backing_file")
        .exists()
}

/// Closing is followed by the detach in the kernel's own time.
fn soon(condition: impl Fn() -> bool) -> bool {
    (0..100).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        condition()
    })
}

#[test]
fn attach_find_and_detach() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, 4 << 20);
    let device = attach(&path, Options::default()).unwrap();
    assert_eq!(device::size(&device.path).unwrap(), 4 << 20);
    assert_eq!(device::devno(&device.path).unwrap(), device.devno);
    assert_eq!(find(&path).unwrap(), std::slice::from_ref(&device.path));
    assert!(is_on(&device.path, &path).unwrap());
    assert!(!is_on(Path::new("/dev/null"), &path).unwrap());
    let seen = view(&device.path).unwrap().unwrap();
    assert!(seen.whole && !seen.read_only);
    let loop_path = device.path.clone();
    drop(device);
    assert!(attached(&loop_path), "without autoclear it stays");
    detach(&loop_path).unwrap();
    assert!(soon(|| !attached(&loop_path)));
    assert_eq!(view(&loop_path).unwrap(), None);
    detach(&loop_path).unwrap();
    assert!(find(&path).unwrap().is_empty());
    assert!(!is_on(&loop_path, &path).unwrap());
    detach(Path::new("/dev/loop98765")).unwrap();
    assert!(detach(Path::new("/dev/null")).is_err());
}

/// As in a container with a `/dev` of its own, in which the test runs once more.
#[test]
fn a_free_loop_device_without_a_node_is_named() {
    const INSIDE: &str = "STOWAGE_TEST_BARE_DEV";
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, 1 << 20);
    if std::env::var_os(INSIDE).is_some() {
        let error = attach(&path, Options::default()).unwrap_err();
        println!("said: {error}: {}", error.source);
        return;
    }
    let script = "mount -t tmpfs tmpfs /dev && mknod /dev/loop-control c 10 237 && \
                  mknod /dev/null c 1 3 && exec \"$0\" --exact --nocapture \
                  loopdev::tests::a_free_loop_device_without_a_node_is_named";
    let out = Command::new("unshare")
        .args(["-m", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&out.stdout).into_owned();
    let said = out.lines().find_map(|line| line.split_once("said: "));
    let (_, said) = said.unwrap_or_else(|| panic!("{out}"));
    assert!(
        said.contains("/dev/loop") && said.contains("mknod"),
        "{said}"
    );
    assert!(said.contains("No such file"), "{said}");
}

#[test]
fn find_goes_by_identity_not_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, 1 << 20);
    let options = Options {
        autoclear: true,
        ..Options::default()
    };
    let device = attach(&path, options).unwrap();
    let moved = dir.path().join("moved");
    std::fs::rename(&path, &moved).unwrap();
    File::create(&path).unwrap().set_len(1 << 20).unwrap();
    assert!(
        find(&path).unwrap().is_empty(),
        "another file under the old name"
    );
    assert!(!is_on(&device.path, &path).unwrap());
    assert_eq!(find(&moved).unwrap(), std::slice::from_ref(&device.path));
    assert!(is_on(&device.path, &moved).unwrap());
    std::fs::remove_file(&moved).unwrap();
    assert_eq!(
        find(&moved).unwrap(),
        std::slice::from_ref(&device.path),
        "by path once it is deleted"
    );
}

#[test]
fn only_devices_of_a_file_so_named_are_opened() {
    let wanted = Path::new("/pool/volumes/v-1/data");
    for (backing, alike) in [
        ("/pool/volumes/v-1/data", true),
        // Seen through another mount point.
        ("/mnt/volumes/v-1/data", true),
        ("/pool/volumes/v-2/data", false),
        ("/pool/volumes/v-1/other", false),
        ("data", false),
    ] {
        assert_eq!(named_alike(Path::new(backing), wanted), alike, "{backing}");
    }
    // A file system that is mounted nowhere any more has this as its root.
    assert!(named_alike(Path::new("/data"), Path::new("/data")));
}

#[test]
fn a_file_of_the_same_name_elsewhere_is_another() {
    let dir = tempfile::tempdir().unwrap();
    let [one, other] = ["a", "b"].map(|pool| {
        let volume = dir.path().join(pool).join("v-1");
        std::fs::create_dir_all(&volume).unwrap();
        std::fs::rename(file(&dir, 1 << 20), volume.join("data")).unwrap();
        volume.join("data")
    });
    let options = Options {
        autoclear: true,
        ..Options::default()
    };
    let device = attach(&one, options).unwrap();
    assert!(is_on(&device.path, &one).unwrap());
    assert!(!is_on(&device.path, &other).unwrap());
    assert!(find(&other).unwrap().is_empty());
}

#[test]
fn a_file_is_found_through_a_symlink() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, 1 << 20);
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let options = Options {
        autoclear: true,
        ..Options::default()
    };
    let device = attach(&link, options).unwrap();
    assert_eq!(find(&link).unwrap(), std::slice::from_ref(&device.path));
    assert_eq!(find(&path).unwrap(), std::slice::from_ref(&device.path));
}

#[test]
fn autoclear_detaches_with_the_last_user() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, 128 << 20);
    let options = Options {
        autoclear: true,
        ..Options::default()
    };
    let device = attach(&path, options).unwrap();
    crate::testing::tool("mkfs.ext4", &["-q", device.path.to_str().unwrap()]);
    let mounted = Mounted::at(dir.path().join("mnt"));
    crate::mount::mount_device(&device.path, &mounted.target(), "ext4", &["rw"]).unwrap();
    let loop_path = device.path.clone();
    drop(device);
    assert!(!soon(|| !attached(&loop_path)), "the mount is a user");
    assert!(crate::mount::unmount(&mounted.0).unwrap());
    assert!(soon(|| !attached(&loop_path)));
}

/// What kill -9 does between attach and mount, with a real process.
#[test]
fn a_killed_process_leaks_no_autoclear_device() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, 1 << 20);
    let options = Options {
        autoclear: true,
        ..Options::default()
    };
    let device = attach(&path, options).unwrap();
    let loop_path = device.path.clone();
    // The child holds the only descriptor left, as the daemon would.
    let stdin = device.fd.try_clone().unwrap();
    let mut child = Command::new("sleep")
        .arg("60")
        .stdin(stdin)
        .spawn()
        .unwrap();
    drop(device);
    assert!(!soon(|| !attached(&loop_path)));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(soon(|| !attached(&loop_path)));
}

#[test]
fn autoclear_is_switched_later() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, 1 << 20);
    let device = attach(
        &path,
        Options {
            autoclear: true,
            ..Options::default()
        },
    )
    .unwrap();
    set_autoclear(&device.path, false).unwrap();
    let loop_path = device.path.clone();
    drop(device);
    assert!(!soon(|| !attached(&loop_path)));
    set_autoclear(&loop_path, true).unwrap();
    assert!(
        soon(|| !attached(&loop_path)),
        "our own close was the last one"
    );
}

#[test]
fn the_device_follows_a_grown_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, 1 << 20);
    let device = attach(
        &path,
        Options {
            autoclear: true,
            ..Options::default()
        },
    )
    .unwrap();
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(3 << 20)
        .unwrap();
    assert_eq!(device::size(&device.path).unwrap(), 1 << 20);
    set_capacity(&device.path).unwrap();
    assert_eq!(device::size(&device.path).unwrap(), 3 << 20);
}

#[test]
fn read_only_and_block_size_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, 1 << 20);
    let options = Options {
        read_only: true,
        autoclear: true,
        block_size: Some(4096),
        keep_blocks: false,
    };
    let device = attach(&path, options).unwrap();
    let seen = View {
        whole: true,
        read_only: true,
        block_size: 4096,
    };
    assert_eq!(view(&device.path).unwrap(), Some(seen));
    assert!(device::read_only(device.devno).unwrap());
    assert_eq!(device::logical_block_size(&device.path).unwrap(), 4096);
    let refused = File::options().write(true).open(&device.path);
    assert!(refused.is_err() || device::read_only(device.devno).unwrap());
}

#[test]
fn what_others_attached_in_part_or_writable_is_no_reader() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, 4 << 20);
    let others = [
        &["--offset", "1048576", "--read-only"][..],
        &["--sizelimit", "1048576", "--read-only"],
        &[],
    ];
    let mut all = Vec::new();
    for options in others {
        let mut losetup = Command::new("losetup");
        losetup.args(options).args(["--find", "--show"]).arg(&path);
        let shown = String::from_utf8(losetup.output().unwrap().stdout).unwrap();
        let device = PathBuf::from(shown.trim());
        let whole = view(&device).unwrap().unwrap().whole;
        assert_eq!(whole, options.is_empty());
        all.push(device);
    }
    let found = readers(&path);
    let options = Options {
        read_only: true,
        autoclear: true,
        ..Options::default()
    };
    let reader = attach(&path, options).unwrap();
    let with_ours = readers(&path);
    for device in &all {
        detach(device).unwrap();
    }
    assert!(found.unwrap().is_empty());
    assert_eq!(with_ours.unwrap(), std::slice::from_ref(&reader.path));
}

#[test]
fn direct_io_is_reported_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let on_disk = attach(
        &file(&dir, 1 << 20),
        Options {
            autoclear: true,
            ..Options::default()
        },
    );
    let on_disk = on_disk.unwrap();
    let name = on_disk.path.file_name().unwrap().to_owned();
    let dio = Path::new("/sys/block").join(name).join("loop/dio");
    let shown = std::fs::read_to_string(dio).unwrap();
    assert_eq!(on_disk.direct_io, shown.trim() == "1");
    // A directory cannot back a loop device, with or without direct I/O; the error names it.
    let read_only = Options {
        read_only: true,
        ..Options::default()
    };
    let error = attach(dir.path(), read_only).unwrap_err();
    assert!(
        error.to_string().contains(dir.path().to_str().unwrap()),
        "{error}"
    );
    assert_eq!(error.errno(), Some(Errno::INVAL));
}

#[test]
fn parallel_attaches_get_devices_of_their_own() {
    let dirs: Vec<_> = (0..8).map(|_| tempfile::tempdir().unwrap()).collect();
    let devices: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = dirs
            .iter()
            .map(|dir| {
                scope.spawn(|| {
                    let path = file(dir, 1 << 20);
                    attach(
                        &path,
                        Options {
                            autoclear: true,
                            ..Options::default()
                        },
                    )
                    .unwrap()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    let mut numbers: Vec<_> = devices.iter().map(|device| device.devno).collect();
    numbers.sort();
    numbers.dedup();
    assert_eq!(numbers.len(), 8);
}

/// As `fstrim`, mkfs and ext4's lazy initialisation do.
#[test]
fn nothing_on_a_device_that_keeps_its_blocks_takes_them_and_the_next_user_may() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, 0);
    crate::reflink::allocate(&path, 16 << 20).unwrap();
    let has = || crate::reflink::allocated_bytes(&path).unwrap() >= 16 << 20;
    let options = Options {
        keep_blocks: true,
        ..Options::default()
    };
    let device = attach(&path, options).unwrap();
    assert!(!device::discard(&device.path).unwrap());
    for mode in ["-z", "-p"] {
        // Refused or done by writing: both are well.
        let tools = ["blkdiscard", "fallocate"];
        let tool = tools[usize::from(mode == "-p")];
        let mut command = Command::new(tool);
        command.args([mode, "-o", "4MiB", "-l", "4MiB"]);
        command.arg(&device.path).output().unwrap();
        assert!(has(), "{tool} {mode}");
    }
    let loop_path = device.path.clone();
    assert!(!renew(&loop_path).unwrap(), "in use");
    drop(device);
    detach(&loop_path).unwrap();
    let options = Options {
        autoclear: true,
        ..Options::default()
    };
    let device = attach(&path, options).unwrap();
    assert!(device::discard(&device.path).unwrap());
    assert!(soon(|| !has()), "a discard is a hole again");
}
