//! The bench itself: what the tests of the product rely on.

use std::time::Duration;

use anyhow::Result;
use stowage_testkit::{Guest, SparseFile};

const TIMEOUT: Duration = Duration::from_secs(120);

fn sh(script: &str) -> [String; 3] {
    ["sh", "-c", script].map(str::to_owned)
}

/// One boot for all that a booted guest has to show: booting costs more than the look.
#[test]
fn a_guest_has_lvm_fuse_loop_and_cgroups() -> Result<()> {
    let script = r#"
        set -eux
        test "$STOWAGE_TEST_DISKS" = /dev/ubdb,/dev/ubdc
        test "$COLOUR" = "it's red"
        pvcreate -q /dev/ubdb /dev/ubdc
        vgcreate -q vg0 /dev/ubdb /dev/ubdc
        lvcreate -q -y -n a -L 64M vg0
        lvcreate -q -y -s -n s -L 16M vg0/a
        lvcreate -q -y --type thin-pool -n tp -L 512M vg0
        lvcreate -q -y -V 1G -T vg0/tp -n t
        mkfs.xfs -q /dev/vg0/t
        mkdir /run/t && mount /dev/vg0/t /run/t
        truncate -s 64M /run/t/img && mkfs.ext4 -q /run/t/img
        mkdir /run/l && mount -o loop /run/t/img /run/l
        test -c /dev/fuse && test -c /dev/loop-control && test -c /dev/mapper/control
        for c in cpu io memory pids; do grep -qw $c /sys/fs/cgroup/cgroup.subtree_control; done
        ip -o addr show lo | grep -q 127.0.0.1
        echo secret >/tmp/only-in-the-guest
    "#;
    let outcome = Guest::builder()
        .disk(1 << 30)
        .disk(1 << 30)
        .env("COLOUR", "it's red")
        .boot(sh(script), TIMEOUT)?
        .success()?;
    assert!(
        outcome
            .console
            .lines()
            .iter()
            .any(|line| line.contains("vgcreate -q vg0"))
    );
    assert!(!std::path::Path::new("/tmp/only-in-the-guest").exists());
    Ok(())
}

#[test]
fn the_exit_status_comes_back() -> Result<()> {
    let outcome = Guest::builder().boot(["sh", "-c", "exit 3"], TIMEOUT)?;
    assert_eq!(outcome.status, 3);
    assert!(outcome.success().is_err());
    Ok(())
}

#[test]
fn a_guest_that_dies_says_so_with_its_console() {
    let script = sh("echo last words; echo c >/proc/sysrq-trigger");
    let error = Guest::builder()
        .boot(script, TIMEOUT)
        .unwrap_err()
        .to_string();
    assert!(error.contains("died before its command ended"), "{error}");
    assert!(error.contains("last words"), "{error}");
}

#[test]
fn a_guest_that_takes_too_long_is_ended() {
    let error = Guest::builder()
        .boot(["sleep", "1000"], Duration::from_secs(5))
        .unwrap_err()
        .to_string();
    assert!(error.contains("did not end within 5s"), "{error}");
}

#[test]
fn a_power_cut_keeps_what_was_synced_and_loses_the_rest() -> Result<()> {
    let disk = SparseFile::new(256 << 20)?;
    let guest = Guest::builder().disk_file(disk.path()).spawn(sh(
        "set -e; mkfs.ext4 -q /dev/ubdb; mkdir /run/m; mount /dev/ubdb /run/m
         echo kept >/run/m/synced; sync /run/m/synced /run/m
         echo lost >/run/m/unsynced
         echo written; sleep 1000",
    ))?;
    guest.wait_for_line("written", TIMEOUT)?;
    guest.power_cut()?;

    let outcome = Guest::builder().disk_file(disk.path()).boot(
        sh("mkdir /run/m && mount /dev/ubdb /run/m && cat /run/m/synced && ls /run/m"),
        TIMEOUT,
    )?;
    let console = outcome.success()?.console.lines();
    assert!(console.iter().any(|line| line == "kept"), "{console:?}");
    assert!(
        !console.iter().any(|line| line == "unsynced"),
        "{console:?}"
    );
    Ok(())
}
