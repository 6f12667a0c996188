use super::*;
use crate::command::{System, fake::Script};
use crate::probe::{Content, probe};
use crate::testing::Disk;
use std::fs::File;

const UUID: &str = "3c1d0e52-90f7-4b7c-8f25-6b1d4a1e9b02";

#[tokio::test]
async fn argv_is_quiet_and_the_device_comes_last() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let device = file.path().to_str().unwrap();
    let script = Script::new()
        .ok(
            &["mkfs.ext3", "-q", "-F", "-U", UUID, "-m", "0", device],
            "",
        )
        .ok(
            &[
                "mkfs.xfs",
                "-q",
                "-f",
                "-m",
                &format!("uuid={UUID}"),
                "-m",
                "0",
                device,
            ],
            "",
        )
        .ok(&["mkfs.btrfs", "-q", "-f", "-m", "0", device], "")
        .ok(&["wipefs", "-q", "-a", device], "")
        .ok(
            &["mkfs.btrfs", "-q", "-f", "-U", UUID, "-m", "0", device],
            "",
        );
    let extra = ["-m".to_owned(), "0".to_owned()];
    let kinds = [
        ("ext3", Some(UUID)),
        ("xfs", Some(UUID)),
        ("btrfs", None),
        ("btrfs", Some(UUID)),
    ];
    for (fstype, uuid) in kinds {
        mkfs(&script, fstype, file.path(), &extra, uuid)
            .await
            .unwrap();
    }
    script.finish();
}

#[tokio::test]
async fn other_types_are_refused_before_anything_runs() {
    let script = Script::new();
    for fstype in ["ntfs", "", "ext4 ", "../sh"] {
        let refused = mkfs(&script, fstype, Path::new("/dev/null"), &[], None).await;
        assert!(
            matches!(refused, Err(FilesystemError::Unsupported { .. })),
            "{fstype}"
        );
    }
}

/// ext4 lets only CAP_SYS_RESOURCE (bit 24) grow it online (fs/ext4/ioctl.c,
/// ext4_resize_begin); root in a container or on a test machine may lack it. Then the refusal is
/// what is tested.
fn may_resize_ext() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let set = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .unwrap();
    u64::from_str_radix(set.trim(), 16).unwrap() & (1 << 24) != 0
}

#[tokio::test]
async fn made_grown_twice_and_found_larger() {
    let runner = System::new();
    'types: for fstype in ["ext3", "ext4", "xfs", "btrfs"] {
        let disk = Disk::new(320 << 20);
        // What an earlier, killed run may have left must not stop it.
        for _ in 0..2 {
            mkfs(&runner, fstype, disk.path(), &[], Some(UUID))
                .await
                .unwrap();
        }
        let Content::Filesystem { uuid, .. } = probe(&runner, disk.path()).await.unwrap() else {
            panic!("{fstype}");
        };
        assert_eq!(uuid.as_deref(), Some(UUID));
        let mounted = disk.mounted(fstype);
        let before = size(&mounted.0).unwrap();
        File::options()
            .write(true)
            .open(&disk.file)
            .unwrap()
            .set_len(480 << 20)
            .unwrap();
        crate::loopdev::set_capacity(disk.path()).unwrap();
        for _ in 0..2 {
            let grown = grow(&runner, fstype, disk.path(), &mounted.0).await;
            if fstype.starts_with("ext") && !may_resize_ext() {
                let error = grown.unwrap_err().to_string();
                assert!(error.contains("Permission denied to resize"), "{error}");
                continue 'types;
            }
            grown.unwrap();
        }
        let gained = size(&mounted.0).unwrap().total - before.total;
        assert!(gained > 140 << 20, "{fstype} {gained}");
    }
}

#[tokio::test]
async fn a_btrfs_copy_mounts_beside_its_original() {
    let runner = System::new();
    let original = Disk::formatted("btrfs");
    let copy = Disk::new(128 << 20);
    {
        let mounted = original.mounted("btrfs");
        std::fs::write(mounted.0.join("note"), "kept").unwrap();
    }
    let progress = crate::Progress::new();
    crate::reflink::copy_device(original.path(), copy.path(), 128 << 20, true, &progress).unwrap();
    let _original_mounted = original.mounted("btrfs");
    fresh_uuid(&runner, "btrfs", copy.path()).await.unwrap();
    let mounted = copy.mounted("btrfs");
    assert_eq!(
        std::fs::read_to_string(mounted.0.join("note")).unwrap(),
        "kept"
    );
    assert_eq!(
        crate::device::in_use(copy.path()).unwrap().unwrap().mounts,
        std::slice::from_ref(&mounted.0),
        "the copy and not the original is what is mounted"
    );
}

#[tokio::test]
async fn only_btrfs_gets_a_new_uuid_and_only_without_a_log() {
    use std::os::unix::fs::FileExt;
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(128 << 10).unwrap();
    let device = file.path().to_str().unwrap();
    let script = Script::new().ok(&["btrfstune", "-f", "-m", device], "");
    for fstype in ["ext4", "xfs", "btrfs"] {
        fresh_uuid(&script, fstype, file.path()).await.unwrap();
    }
    file.as_file().write_all_at(&[1], BTRFS_LOG_ROOT).unwrap();
    let refused = fresh_uuid(&script, "btrfs", file.path()).await.unwrap_err();
    assert!(
        refused.to_string().contains("log to be replayed"),
        "{refused}"
    );
}

/// What is unclean for real: mounted, as a power cut would leave it.
#[tokio::test]
async fn a_log_to_be_replayed_is_seen_and_a_frozen_file_system_has_none() {
    let disk = Disk::formatted("ext4");
    let log = || needs_replay("ext4", disk.path());
    {
        let mounted = disk.mounted("ext4");
        std::fs::write(mounted.0.join("note"), "kept").unwrap();
        rustix::fs::sync();
        assert!(log().await.unwrap());
        crate::freeze::freeze_open(&std::fs::File::open(&mounted.0).unwrap()).unwrap();
        let frozen = log().await;
        crate::freeze::thaw(&mounted.0).unwrap();
        assert!(!frozen.unwrap());
    }
    assert!(!log().await.unwrap());
}

/// Keeps what was asked of it, and does nothing.
#[derive(Default)]
struct Asked(std::sync::Mutex<Vec<crate::Cmd>>);

#[async_trait::async_trait]
impl Runner for Asked {
    async fn run(&self, cmd: crate::Cmd) -> Result<crate::Output, CmdError> {
        self.0.lock().unwrap().push(cmd);
        Ok(crate::Output::default())
    }
}

#[tokio::test]
async fn what_changes_a_file_system_in_place_is_never_ended() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(128 << 10).unwrap();
    let asked = Asked::default();
    grow_unmounted(&asked, "ext4", file.path()).await.unwrap();
    add_journal(&asked, file.path()).await.unwrap();
    fresh_uuid(&asked, "btrfs", file.path()).await.unwrap();
    // A new one may be cut off: it is made again from the start.
    mkfs(&asked, "ext4", file.path(), &[], None).await.unwrap();
    let asked = asked.0.into_inner().unwrap();
    let seen: Vec<_> = asked
        .iter()
        .map(|cmd| (cmd.argv(), cmd.undisturbed))
        .collect();
    let seen: Vec<_> = seen
        .iter()
        .map(|(argv, calm)| (argv[0].as_str(), *calm))
        .collect();
    let expected = [
        ("e2fsck", true),
        ("resize2fs", true),
        ("e2fsck", true),
        ("tune2fs", true),
        ("btrfstune", true),
        ("mkfs.ext4", false),
    ];
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn the_smallest_ext4_has_a_journal_and_a_smaller_one_gets_it() {
    let runner = System::new();
    let disk = Disk::new(8 << 20);
    mkfs(
        &runner,
        "ext4",
        disk.path(),
        &["-b".into(), "4096".into()],
        None,
    )
    .await
    .unwrap();
    assert!(has_journal(disk.path()).await.unwrap());
    let small = Disk::new(7 << 20);
    mkfs(
        &runner,
        "ext4",
        small.path(),
        &["-b".into(), "4096".into()],
        None,
    )
    .await
    .unwrap();
    assert!(!has_journal(small.path()).await.unwrap());
    let file = File::options().write(true).open(&small.file).unwrap();
    file.set_len(16 << 20).unwrap();
    crate::loopdev::set_capacity(small.path()).unwrap();
    grow_unmounted(&runner, "ext4", small.path()).await.unwrap();
    add_journal(&runner, small.path()).await.unwrap();
    assert!(has_journal(small.path()).await.unwrap());
    drop(small.mounted("ext4"));
}
