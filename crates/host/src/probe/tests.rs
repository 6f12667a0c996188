use super::*;
use crate::command::{System, fake::Script};
use crate::testing::{Disk, tool};
use std::io::Write;
use std::process::{Command, Stdio};

async fn content(path: &Path) -> Content {
    probe(&System::new(), path).await.unwrap()
}

#[tokio::test]
async fn file_systems_are_told_with_label_and_uuid() {
    let uuid = "8ad2f9a4-6c2f-4d3a-9a55-0d6a2c1f7f10";
    for (fstype, label, id) in [
        ("ext4", "-L", "-U"),
        ("xfs", "-L", "-m"),
        ("btrfs", "-L", "-U"),
    ] {
        let disk = Disk::new(320 << 20);
        let id_value = if fstype == "xfs" {
            format!("uuid={uuid}")
        } else {
            uuid.to_owned()
        };
        let path = disk.path().to_str().unwrap();
        tool(
            &format!("mkfs.{fstype}"),
            &["-q", label, "a b", id, &id_value, path],
        );
        let found = content(disk.path()).await;
        let want = Content::Filesystem {
            fstype: fstype.into(),
            label: Some("a b".into()),
            uuid: Some(uuid.into()),
        };
        assert_eq!(found, want);
        assert_eq!(
            found.describe(),
            format!("an {fstype} file system labelled \"a b\"")
        );
    }
}

#[tokio::test]
async fn partition_tables_are_told() {
    for kind in ["gpt", "dos"] {
        let disk = Disk::new(16 << 20);
        let line = format!(
            "echo 'label: {kind}' | sfdisk -q --no-reread {}",
            disk.path().display()
        );
        tool("sh", &["-c", &line]);
        assert_eq!(
            content(disk.path()).await,
            Content::PartitionTable { kind: kind.into() }
        );
    }
}

#[tokio::test]
async fn a_luks_container_is_told() {
    let disk = Disk::new(32 << 20);
    let mut format = Command::new("cryptsetup")
        .args([
            "luksFormat",
            "-q",
            "--pbkdf",
            "pbkdf2",
            "--pbkdf-force-iterations",
            "1000",
        ])
        .args(["--key-file", "-"])
        .arg(disk.path())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    format.stdin.take().unwrap().write_all(b"key").unwrap();
    assert!(format.wait().unwrap().success());
    let found = content(disk.path()).await;
    assert_eq!(
        found,
        Content::Other {
            kind: "crypto_LUKS".into()
        }
    );
    assert_eq!(found.describe(), "crypto_LUKS data");
}

#[tokio::test]
async fn an_lvm_volume_is_told() {
    let disk = Disk::new(16 << 20);
    let pvcreate = ["-q", "--config", "devices{use_devicesfile=0}", "-y"];
    tool(
        "pvcreate",
        &[&pvcreate[..], &[disk.path().to_str().unwrap()]].concat(),
    );
    assert_eq!(
        content(disk.path()).await,
        Content::Other {
            kind: "LVM2_member".into()
        }
    );
}

#[tokio::test]
async fn swap_is_told() {
    let disk = Disk::new(16 << 20);
    tool("mkswap", &["-q", disk.path().to_str().unwrap()]);
    assert_eq!(
        content(disk.path()).await,
        Content::Other {
            kind: "swap".into()
        }
    );
}

#[tokio::test]
async fn two_signatures_are_ambiguous_and_never_blank() {
    let disk = Disk::formatted("ext4");
    let other = Disk::formatted("xfs");
    // The superblock of xfs lies in the first sector, that of ext4 behind it.
    let first = std::fs::read(other.path()).unwrap()[..512].to_vec();
    let device = File::options().write(true).open(disk.path()).unwrap();
    device.write_all_at(&first, 0).unwrap();
    device.sync_all().unwrap();
    assert_eq!(content(disk.path()).await, Content::Ambiguous);
}

#[tokio::test]
async fn zeros_are_blank_whatever_the_size() {
    for size in [4 << 20, 1 << 20, (1 << 20) + 4096, 512 << 10] {
        let disk = Disk::new(size);
        assert_eq!(content(disk.path()).await, Content::Blank, "{size}");
    }
    assert_eq!(
        content(tempfile::NamedTempFile::new().unwrap().path()).await,
        Content::Blank
    );
}

#[tokio::test]
async fn one_odd_byte_at_either_end_is_data() {
    let size = (4 << 20) + 8192;
    for offset in [0, 70_001, (1 << 20) - 1, size - 8192, size - 1] {
        let disk = Disk::new(size);
        let device = File::options().write(true).open(disk.path()).unwrap();
        device.write_all_at(b"!", offset).unwrap();
        device.sync_all().unwrap();
        let found = content(disk.path()).await;
        assert_eq!(found, Content::Unknown { offset });
        assert_eq!(
            found.describe(),
            format!("unrecognised data at offset {offset}")
        );
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_an_error_and_not_blank() {
    let error = probe(&System::new(), Path::new("/dev/no-such-disk"))
        .await
        .unwrap_err();
    assert!(matches!(error, ProbeError::Read(_)), "{error}");
    let script = Script::new().times_out(&["blkid", "-p", "-o", "export", "*"]);
    assert!(probe(&script, Path::new("/dev/null")).await.is_err());
    let script = Script::new().fails(&["blkid", "-p", "-o", "export", "*"], 4, "usage");
    assert!(probe(&script, Path::new("/dev/null")).await.is_err());
}

#[test]
fn a_partition_without_signature_is_not_recognised() {
    assert_eq!(
        recognise("DEVNAME=/dev/sda1\nPART_ENTRY_SCHEME=gpt\n"),
        None
    );
    let labelled = recognise("TYPE=ext4\nUSAGE=filesystem\nLABEL=a\\ \\\"b\n").unwrap();
    assert!(matches!(labelled, Content::Filesystem { label: Some(it), .. } if it == "a \"b"));
}
