//! Throw-away: other people's bug reports on LVM pools.
#![allow(clippy::all, clippy::pedantic, dead_code, unused)]
#![allow(clippy::disallowed_methods)]
mod support;

use std::fs::{File, OpenOptions, create_dir, create_dir_all};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use stowage_csi::proto::{CreateVolumeRequest, NodeExpandVolumeRequest};
use support::calls::*;
use support::{Rig, Storage, get, output, put, tool, uses as on};

fn thick() -> Rig {
    Rig::new(Storage::lvm(false))
}
fn thin() -> Rig {
    Rig::new(Storage::lvm(true))
}
fn dir(rig: &Rig, name: &str) -> PathBuf {
    let path = rig.path(name);
    create_dir_all(&path).expect("a fresh directory");
    path
}
fn say<T: std::fmt::Debug>(what: &str, got: &Result<T, Status>) {
    match got {
        Ok(v) => println!("== {what}: OK {v:?}"),
        Err(e) => println!("== {what}: {:?} {}", e.code(), e.message()),
    }
}
fn cli(rig: &Rig, args: &[&str]) -> support::Answer {
    let begun = Instant::now();
    let a = rig.run(args);
    let out = if a.status.success() && args[0] != "pool" {
        "{..}".to_owned()
    } else {
        a.stdout.replace('\n', " ")
    };
    println!(
        "== {args:?} [{:?}] {:?}: {} {}",
        begun.elapsed(),
        a.status.code(),
        out,
        a.stderr.trim()
    );
    a
}
fn list(rig: &Rig) {
    let a = rig.run(&["volume", "list"]);
    let v: serde_json::Value = serde_json::from_str(&a.stdout).unwrap_or_default();
    let l: Vec<String> = v
        .as_array()
        .into_iter()
        .flatten()
        .map(|v| {
            format!(
                "{}:{}:{}:{}",
                v["name"], v["state"], v["size"], v["used-at"]
            )
        })
        .collect();
    println!("== list {:?}: {l:?} {}", a.status.code(), a.stderr.trim());
}
fn sh(script: &str) -> String {
    let out = Command::new("sh").args(["-c", script]).output().unwrap();
    let t = format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    println!("$ {script} [{:?}]\n{}", out.status.code(), t.trim());
    t
}
fn doctor(rig: &Rig) -> String {
    let a = rig.run(&["doctor"]);
    let v: serde_json::Value = serde_json::from_str(&a.stdout).unwrap_or_default();
    println!("== doctor {:?}:", a.status.code());
    for f in v.as_array().into_iter().flatten() {
        println!(
            "   {} {} {}: {} || {}",
            f["severity"], f["trouble"], f["subject"], f["what"], f["mend"]
        );
    }
    a.stdout
}
fn raw(name: &str) -> CreateVolumeRequest {
    CreateVolumeRequest {
        volume_capabilities: vec![block(Mode::SingleNodeMultiWriter)],
        ..volume(name)
    }
}
fn lv_of(rig: &Rig, name: &str) -> String {
    let id = rig.ok(&["volume", "show", name])["id"]
        .as_str()
        .unwrap()
        .to_owned();
    format!("vgtest/stowage-{id}")
}
struct Conf(PathBuf, String);
fn conf(more: &str) -> Conf {
    let file = PathBuf::from(std::env::var_os("LVM_SYSTEM_DIR").unwrap()).join("lvm.conf");
    let before = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{before}{more}\n")).unwrap();
    Conf(file, before)
}
impl Drop for Conf {
    fn drop(&mut self) {
        std::fs::write(&self.0, &self.1).unwrap();
    }
}

/// raid1 with a lost disk; linear volumes beside it.
#[test]
fn g01_raid1_lost_disk() {
    let mut rig = thick();
    cli(
        &rig,
        &[
            "volume", "create", "r", "--size", "64Mi", "--layout", "raid1",
        ],
    );
    cli(
        &rig,
        &[
            "volume", "create", "used", "--size", "64Mi", "--layout", "raid1",
        ],
    );
    for l in ["l1", "l2", "l3"] {
        cli(&rig, &["volume", "create", l, "--size", "1200Mi"]);
    }
    for v in ["r", "l1", "l2", "l3"] {
        let m = on::mount(&rig, v, "m");
        put(&m.join("f"), v);
        on::unmount(&rig, "m");
    }
    put(&on::mount(&rig, "used", "mu").join("f"), "used");
    sh("lvs -a -o lv_name,devices,sync_percent,lv_health_status vgtest");
    std::thread::sleep(Duration::from_secs(2));
    rig.stop();
    let legs = sh("lvs -a --noheadings -o devices vgtest | grep -o '/dev/[a-z]*' | sort | uniq -c");
    let lost = "/dev/ubdb".to_owned();
    let lost = std::env::var("STOWAGE_TEST_DISKS")
        .unwrap()
        .split(',')
        .next()
        .unwrap()
        .to_owned();
    sh(&format!(
        "dd if=/dev/zero of={lost} bs=1M count=1 conv=notrunc,fsync; pvs; lvs -o lv_name,lv_attr,devices,lv_health_status vgtest"
    ));
    rig.start();
    doctor(&rig);
    list(&rig);
    for v in ["r", "l1", "l2", "l3"] {
        let a = cli(&rig, &["volume", "mount", v, &rig.text("m")]);
        if a.status.success() {
            println!("   {:?}", std::fs::read_to_string(rig.path("m/f")));
            put(&rig.path("m/g"), "degraded");
            cli(&rig, &["volume", "unmount", &rig.text("m")]);
        }
    }
    println!("used: {:?}", std::fs::read_to_string(rig.path("mu/f")));
    cli(&rig, &["volume", "create", "new", "--size", "64Mi"]);
    cli(&rig, &["volume", "delete", "l3"]);
    cli(&rig, &["snapshot", "create", "l2", "s"]);
    cli(&rig, &["volume", "grow", "l2", "1300Mi"]);
    cli(&rig, &["volume", "clone", "r", "rc"]);
    let csi = Csi::new(&rig);
    let id = rig.ok(&["volume", "show", "r"])["id"]
        .as_str()
        .unwrap()
        .to_owned();
    say(
        "health r",
        &csi.controller_get_volume_health(stowage_csi::proto::ControllerGetVolumeHealthRequest {
            volume_id: id,
            ..Default::default()
        }),
    );
    // As man pages have it.
    sh(
        "lvconvert -y --repair $(lvs --noheadings -o vg_name,lv_name --separator / vgtest | head -1)",
    );
    for v in ["r", "used"] {
        sh(&format!("lvconvert -y --repair {}", lv_of(&rig, v)));
    }
    sh(
        "vgreduce --removemissing vgtest; vgreduce --removemissing --force vgtest; pvs; lvs -a -o lv_name,lv_attr,devices,lv_health_status vgtest",
    );
    std::thread::sleep(Duration::from_secs(3));
    doctor(&rig);
    list(&rig);
    for v in ["r", "l1", "l2", "l3"] {
        let a = cli(&rig, &["volume", "mount", v, &rig.text("m")]);
        if a.status.success() {
            println!(
                "   {:?} {:?}",
                std::fs::read_to_string(rig.path("m/f")),
                std::fs::read_to_string(rig.path("m/g"))
            );
            cli(&rig, &["volume", "unmount", &rig.text("m")]);
        }
    }
    cli(&rig, &["volume", "unmount", &rig.text("mu")]);
    rig.stop();
    rig.start();
    doctor(&rig);
    list(&rig);
    for v in ["r", "used", "l1", "l2", "l3"] {
        cli(&rig, &["volume", "delete", v]);
    }
    cli(
        &rig,
        &[
            "volume", "create", "new", "--size", "64Mi", "--layout", "raid1",
        ],
    );
    doctor(&rig);
    println!("{}", rig.log());
}

/// thin_check fails or is not there; needs_check.
#[test]
fn g02_thin_check() {
    let mut rig = thin();
    rig.ok(&["volume", "create", "v", "--size", "64Mi"]);
    let m = on::mount(&rig, "v", "m");
    put(&m.join("f"), "kept");
    on::unmount(&rig, "m");
    rig.stop();
    sh("vgchange -an vgtest");
    for (name, how) in [
        ("fails", "global { thin_check_executable=\"/bin/false\" }"),
        (
            "missing",
            "global { thin_check_executable=\"/nonexistent/thin_check\" }",
        ),
    ] {
        println!("######## thin_check {name}");
        let c = conf(how);
        rig.start();
        doctor(&rig);
        list(&rig);
        cli(&rig, &["pool", "list"]);
        cli(&rig, &["volume", "mount", "v", &rig.text("m")]);
        cli(&rig, &["volume", "create", "w", "--size", "64Mi"]);
        cli(&rig, &["snapshot", "create", "v", "s"]);
        doctor(&rig);
        cli(&rig, &["volume", "delete", "w"]);
        drop(c);
        let a = cli(&rig, &["volume", "mount", "v", &rig.text("m")]);
        println!("   {:?}", std::fs::read_to_string(rig.path("m/f")));
        cli(&rig, &["volume", "unmount", &rig.text("m")]);
        cli(&rig, &["volume", "delete", "w"]);
        cli(&rig, &["snapshot", "delete", "s"]);
        doctor(&rig);
        rig.stop();
        sh("vgchange -an vgtest; lvs -a vgtest");
    }
    // needs_check: set the flag in the superblock's flags, with its checksum wrong as after a tear
    println!("######## metadata torn");
    sh(
        "lvchange -ay -y vgtest/tp_tmeta && dd if=/dev/zero of=/dev/mapper/vgtest-tp_tmeta bs=4096 count=1 conv=notrunc,fsync; lvchange -an vgtest/tp_tmeta",
    );
    rig.start();
    doctor(&rig);
    list(&rig);
    cli(&rig, &["volume", "mount", "v", &rig.text("m")]);
    cli(&rig, &["volume", "create", "w", "--size", "64Mi"]);
    cli(&rig, &["volume", "delete", "v"]);
    doctor(&rig);
    list(&rig);
    println!("{}", rig.log());
}

/// The host's lvm.conf.
#[test]
fn g03_settings() {
    for thinly in [false, true] {
        let mut rig = if thinly { thin() } else { thick() };
        rig.ok(&["volume", "create", "v", "--size", "64Mi"]);
        put(&on::mount(&rig, "v", "m").join("f"), "kept");
        on::unmount(&rig, "m");
        for how in [
            "global { use_lvmlockd=1 }",
            "global { metadata_read_only=1 }",
            "global { locking_type=4 }",
            "activation { monitoring=1 }\ndmeventd { executable=\"/nonexistent\" }",
            "allocation { wipe_signatures_when_zeroing_new_lvs=0 thin_pool_zero=0 }",
            "local { system_id=\"elsewhere\" }\nglobal { system_id_source=\"lvmlocal\" }",
            "devices { filter=[\"r|.*|\"] }",
            "devices { global_filter=[\"r|.*|\"] }",
            "devices { use_devicesfile=1 }",
        ] {
            println!("######## thin {thinly}: {how}");
            sh("vgchange -an vgtest");
            let c = conf(how);
            cli(&rig, &["volume", "mount", "v", &rig.text("m")]);
            sh(&format!(
                "cat {0}/f; echo x > {0}/g",
                rig.path("m").display()
            ));
            cli(&rig, &["snapshot", "create", "v", "s"]);
            cli(&rig, &["volume", "create", "w", "--size", "64Mi"]);
            cli(&rig, &["volume", "mount", "w", &rig.text("mw")]);
            doctor(&rig);
            cli(&rig, &["volume", "unmount", &rig.text("mw")]);
            cli(&rig, &["volume", "unmount", &rig.text("m")]);
            cli(&rig, &["volume", "delete", "w"]);
            drop(c);
            sh("lvs -a -o lv_name,lv_attr vgtest");
            cli(&rig, &["volume", "delete", "w"]);
            cli(&rig, &["snapshot", "delete", "s"]);
            std::thread::sleep(Duration::from_millis(1500));
        }
        cli(&rig, &["volume", "delete", "v"]);
        doctor(&rig);
        doctor(&rig);
    }
}

/// udev is there and answers nobody, as in a container with another IPC namespace.
#[test]
fn g04_udev_silent() {
    let mut rig = thick();
    rig.ok(&["volume", "create", "v", "--size", "64Mi"]);
    put(&on::mount(&rig, "v", "m").join("f"), "kept");
    on::unmount(&rig, "m");
    sh("vgchange -an vgtest");
    create_dir_all("/run/udev").unwrap();
    std::fs::write("/run/udev/control", "").unwrap();
    let c = conf("activation { udev_sync=1 udev_rules=1 verify_udev_operations=0 }");
    let begun = Instant::now();
    let sock = rig.text("admin.sock");
    let stowage = support::STOWAGE;
    sh(&format!(
        "timeout 60 {stowage} --socket {sock} volume mount v {}",
        rig.text("m")
    ));
    sh("dmsetup udevcookies; ps ax | grep -E 'lv(change|create|s)' | grep -v grep | head");
    sh(&format!(
        "timeout 30 {stowage} --socket {sock} volume create w --size 64Mi"
    ));
    doctor(&rig);
    list(&rig);
    std::thread::sleep(Duration::from_secs(30));
    sh("dmsetup udevcookies; ps ax | grep -E 'lv(change|create|s)' | grep -v grep | head");
    sh("dmsetup udevcomplete_all -y");
    drop(c);
    std::thread::sleep(Duration::from_secs(5));
    cli(&rig, &["volume", "mount", "v", &rig.text("m")]);
    doctor(&rig);
    println!("{}", rig.log());
}

/// A tenant's LVM, array or partitions, taken up by the host.
#[test]
fn g05_held_by_the_host() {
    for thinly in [false, true] {
        println!("######## thin {thinly}");
        let rig = if thinly { thin() } else { thick() };
        let csi = Csi::new(&rig);
        let cap = || block(Mode::SingleNodeMultiWriter);
        let a = csi.create_volume(raw("a")).unwrap().volume_id;
        let (staging, target) = (dir(&rig, "sa"), rig.path("ta"));
        csi.stage(&a, &staging, cap());
        csi.publish(&a, &staging, &target, cap());
        let lv = lv_of(&rig, "a");
        sh(&format!(
            "pvcreate -q -y --config 'devices{{scan_lvs=1}}' /dev/{lv} && vgcreate --config 'devices{{scan_lvs=1}}' tenant /dev/{lv} && lvcreate -y -q --config 'devices{{scan_lvs=1}}' -L 8M -n t tenant; dmsetup ls"
        ));
        say(
            "publish again",
            &csi.node_publish_volume(publishing(&a, &staging, &target, cap())),
        );
        say("cut", &csi.cut("s", &a));
        say("unpublish", &csi.unpublish(&a, &target));
        say("unstage", &csi.unstage(&a, &staging));
        doctor(&rig);
        say("delete", &csi.delete(&a));
        cli(&rig, &["snapshot", "restore", "s", "r"]);
        cli(&rig, &["volume", "create", "n", "--size", "64Mi"]);
        list(&rig);
        sh("vgchange -an --config 'devices{scan_lvs=1}' tenant");
        say("unstage", &csi.unstage(&a, &staging));
        let s = rig.ok(&["snapshot", "list"]);
        if let Some(id) = s[0]["id"].as_str() {
            say("drop", &csi.drop_snapshot(id));
        }
        cli(&rig, &["volume", "delete", "r"]);
        cli(&rig, &["volume", "delete", "n"]);
        say("delete", &csi.delete(&a));
        rig.assert_clean();
    }
}

/// What administrators do.
#[test]
fn g06_admin() {
    let mut rig = thick();
    for v in ["v", "w"] {
        rig.ok(&["volume", "create", v, "--size", "64Mi"]);
        put(&on::mount(&rig, v, "m").join("f"), "kept");
        on::unmount(&rig, "m");
    }
    println!("######## lvchange -pr");
    sh(&format!("lvchange -pr {}", lv_of(&rig, "v")));
    cli(&rig, &["volume", "mount", "v", &rig.text("m")]);
    sh(&format!(
        "echo x > {0}/g; grep {0} /proc/mounts",
        rig.path("m").display()
    ));
    doctor(&rig);
    cli(&rig, &["volume", "unmount", &rig.text("m")]);
    cli(&rig, &["volume", "clone", "v", "c"]);
    cli(&rig, &["volume", "delete", "c"]);
    cli(&rig, &["volume", "delete", "v"]);
    rig.run(&["jobs"]);
    std::thread::sleep(Duration::from_secs(3));
    doctor(&rig);
    sh("lvs -a -o lv_name,lv_attr vgtest");
    println!("######## pvresize, vgchange -x n");
    let disk = std::env::var("STOWAGE_TEST_DISKS")
        .unwrap()
        .split(',')
        .last()
        .unwrap()
        .to_owned();
    cli(&rig, &["pool", "list"]);
    sh(&format!("pvresize -y --setphysicalvolumesize 1G {disk}"));
    std::thread::sleep(Duration::from_secs(2));
    cli(&rig, &["pool", "list"]);
    sh(&format!("pvresize {disk}; vgchange -x n vgtest"));
    cli(&rig, &["volume", "create", "n", "--size", "64Mi"]);
    cli(&rig, &["volume", "delete", "n"]);
    sh("vgchange -x y vgtest");
    println!("######## lvextend -r beside us");
    put(&on::mount(&rig, "w", "m").join("g"), "x");
    sh(&format!("lvextend -L 128M {0}", lv_of(&rig, "w")));
    std::thread::sleep(Duration::from_secs(6));
    list(&rig);
    doctor(&rig);
    cli(&rig, &["volume", "grow", "w", "96Mi"]);
    cli(&rig, &["volume", "grow", "w", "160Mi"]);
    sh(&format!("df -k {}", rig.path("m").display()));
    cli(&rig, &["volume", "unmount", &rig.text("m")]);
    println!("######## lvreduce beside us (unmounted), bytes beyond the end");
    sh(&format!("lvreduce -f -y -L 96M {0}", lv_of(&rig, "w")));
    cli(&rig, &["volume", "mount", "w", &rig.text("m")]);
    list(&rig);
    doctor(&rig);
    cli(&rig, &["volume", "unmount", &rig.text("m")]);
    sh(&format!("lvextend -L 160M {0}", lv_of(&rig, "w")));
    cli(&rig, &["volume", "mount", "w", &rig.text("m")]);
    println!("   {:?}", std::fs::read_to_string(rig.path("m/f")));
    cli(&rig, &["volume", "unmount", &rig.text("m")]);
    println!("######## all activated, then deleted");
    rig.ok(&["snapshot", "create", "w", "s"]);
    sh("vgchange -ay -K vgtest");
    cli(&rig, &["snapshot", "delete", "s"]);
    println!("######## vgcfgrestore of yesterday");
    sh("vgcfgbackup -f /tmp/yesterday vgtest");
    rig.ok(&["volume", "create", "young", "--size", "64Mi"]);
    put(&on::mount(&rig, "young", "my").join("f"), "young");
    sh("vgcfgrestore --force -f /tmp/yesterday vgtest; lvs vgtest; dmsetup ls");
    std::thread::sleep(Duration::from_secs(6));
    doctor(&rig);
    list(&rig);
    let csi = Csi::new(&rig);
    let id = csi.list_volumes(Default::default());
    say("list", &id);
    cli(&rig, &["volume", "create", "x", "--size", "64Mi"]);
    sh("dmsetup table");
    cli(&rig, &["volume", "mount", "x", &rig.text("mx")]);
    sh(&format!(
        "cat {0}/f; echo 3 > /proc/sys/vm/drop_caches; ls {0}; dmesg | tail -3",
        rig.path("my").display()
    ));
    cli(&rig, &["volume", "unmount", &rig.text("my")]);
    cli(&rig, &["volume", "create", "young", "--size", "64Mi"]);
    cli(&rig, &["volume", "delete", "young"]);
    doctor(&rig);
    println!("{}", rig.log());
}

/// Stale signatures at the new end of a grown volume.
#[test]
fn g07_stale_end() {
    let mut rig = thick();
    rig.ok(&["volume", "create", "v", "--size", "64Mi"]);
    put(&on::mount(&rig, "v", "m").join("f"), "kept");
    on::unmount(&rig, "m");
    // what was there before us: fill all free extents with an old backup GPT and array
    sh(
        "lvcreate -y -q -n old -l 100%FREE vgtest; for i in $(seq 0 4 400); do dd if=/dev/urandom of=/dev/vgtest/old bs=1M seek=$i count=4 conv=notrunc status=none; done; sync",
    );
    // an md 1.0 superblock and a GPT at every MiB end
    std::fs::write(
        "/tmp/mk.py",
        r#"
import struct
f=open('/dev/vgtest/old','r+b')
for mib in range(1,400):
    end=mib<<20
    f.seek(end-8192); f.write(struct.pack('<II',0xa92b4efc,1)+b'\0'*248)
    f.seek(end-512); f.write(b'EFI PART'+b'\0'*100)
f.flush()
"#,
    )
    .unwrap();
    sh("python3 /tmp/mk.py; lvremove -f vgtest/old");
    cli(&rig, &["volume", "grow", "v", "128Mi"]);
    sh(&format!(
        "lvchange -ay {0}; blkid -p /dev/{0}; wipefs /dev/{0}",
        lv_of(&rig, "v")
    ));
    cli(&rig, &["volume", "mount", "v", &rig.text("m")]);
    println!("   {:?}", std::fs::read_to_string(rig.path("m/f")));
    cli(&rig, &["volume", "unmount", &rig.text("m")]);
    // A blank volume, grown before its first mount, and a copy of it
    for fs in ["ext4", "xfs", "btrfs"] {
        rig.ok(&["volume", "create", "b", "--size", "320Mi", "--fs", fs]);
        cli(&rig, &["volume", "grow", "b", "340Mi"]);
        cli(&rig, &["volume", "mount", "b", &rig.text("m")]);
        cli(&rig, &["volume", "unmount", &rig.text("m")]);
        sh(&format!(
            "blkid -p /dev/{0}; wipefs /dev/{0}",
            lv_of(&rig, "b")
        ));
        cli(&rig, &["volume", "delete", "b"]);
        rig.settle();
    }
    cli(&rig, &["volume", "clone", "v", "c"]);
    cli(&rig, &["volume", "mount", "c", &rig.text("m")]);
    cli(&rig, &["volume", "unmount", &rig.text("m")]);
    for v in ["v", "c"] {
        cli(&rig, &["volume", "delete", v]);
    }
    rig.assert_clean();
}

/// A raid1 that lost its redundancy for good, as vgreduce leaves it; findings that are over.
#[test]
fn g08_raid1_without_redundancy() {
    let mut rig = thick();
    for v in ["r", "q"] {
        cli(
            &rig,
            &["volume", "create", v, "--size", "64Mi", "--layout", "raid1"],
        );
    }
    cli(&rig, &["volume", "create", "l", "--size", "64Mi"]);
    for v in ["r", "q", "l"] {
        put(&on::mount(&rig, v, "m").join("f"), v);
        on::unmount(&rig, "m");
    }
    let m = on::mount(&rig, "q", "mq");
    std::thread::sleep(Duration::from_secs(2));
    sh("lvs -a -o lv_name,lv_attr,devices,lv_health_status vgtest");
    let lost = std::env::var("STOWAGE_TEST_DISKS")
        .unwrap()
        .split(',')
        .next()
        .unwrap()
        .to_owned();
    sh(&format!(
        "dd if=/dev/zero of={lost} bs=1M count=1 conv=notrunc,fsync; dd if=/dev/zero of={lost} bs=1M seek=1 count=1500 conv=notrunc,fsync"
    ));
    doctor(&rig);
    std::thread::sleep(Duration::from_secs(20));
    println!("-- 20 s later");
    doctor(&rig);
    cli(&rig, &["volume", "create", "n", "--size", "64Mi"]);
    doctor(&rig);
    // only the mends doctor names
    sh("vgreduce --removemissing vgtest");
    sh("vgreduce --removemissing --force vgtest");
    for i in 0..8 {
        std::thread::sleep(Duration::from_secs(5));
        let a = rig.run(&["doctor"]);
        println!("-- {} s: {}", 5 * (i + 1), a.stdout.len());
        if a.stdout.trim() == "[]" {
            break;
        }
    }
    doctor(&rig);
    list(&rig);
    cli(&rig, &["volume", "mount", "r", &rig.text("m")]);
    doctor(&rig);
    sh("lvs -a -o lv_name,lv_attr,devices,lv_health_status,segtype vgtest; dmsetup status");
    let csi = Csi::new(&rig);
    let id = rig.ok(&["volume", "show", "r"])["id"]
        .as_str()
        .unwrap()
        .to_owned();
    say(
        "health r",
        &csi.controller_get_volume_health(stowage_csi::proto::ControllerGetVolumeHealthRequest {
            volume_id: id,
            ..Default::default()
        }),
    );
    cli(&rig, &["volume", "create", "n", "--size", "64Mi"]);
    doctor(&rig);
    std::thread::sleep(Duration::from_secs(10));
    rig.stop();
    rig.start();
    doctor(&rig);
    println!("{}", rig.log());
}

/// A raw device deactivated beside us; its number is used again.
#[test]
fn g09_raw_deactivated() {
    for thinly in [false, true] {
        println!("######## thin {thinly}");
        let rig = if thinly { thin() } else { thick() };
        rig.ok(&["volume", "create", "a", "--block", "--size", "64Mi"]);
        let ta = on::mount(&rig, "a", "ta");
        on::scribble(&ta, 0, b"AAAAAAAAAAA");
        sh("vgchange -an vgtest; dmsetup ls");
        doctor(&rig);
        rig.ok(&["volume", "create", "b", "--block", "--size", "64Mi"]);
        let tb = on::mount(&rig, "b", "tb");
        on::scribble(&tb, 0, b"SECRET-OF-B");
        let mut got = [0u8; 11];
        let r = File::open(&ta).and_then(|f| f.read_exact_at(&mut got, 0));
        println!(
            "== a's user reads {r:?} {:?}",
            String::from_utf8_lossy(&got)
        );
        if r.is_ok() {
            on::scribble(&ta, 0, b"from-a-user");
            File::open(&tb).unwrap().read_exact_at(&mut got, 0).unwrap();
            println!("== b reads {:?}", String::from_utf8_lossy(&got));
        }
        std::thread::sleep(Duration::from_secs(5));
        doctor(&rig);
        list(&rig);
        cli(&rig, &["volume", "mount", "a", &rig.text("ta")]);
        println!(
            "== mounted again; mounts: {}",
            sh(&format!("grep -c {} /proc/mounts", ta.display())).trim()
        );
        let r = File::open(&ta).and_then(|f| f.read_exact_at(&mut got, 0));
        println!(
            "== a's user reads {r:?} {:?}",
            String::from_utf8_lossy(&got)
        );
        cli(&rig, &["volume", "unmount", &rig.text("ta")]);
        cli(&rig, &["volume", "unmount", &rig.text("tb")]);
        cli(&rig, &["volume", "delete", "a"]);
        cli(&rig, &["volume", "delete", "b"]);
        rig.assert_clean();
    }
}

/// udev answers late, as on a busy machine.
#[test]
fn g10_udev_other_pools() {
    let mut rig = thick();
    rig.ok(&["volume", "create", "v", "--size", "64Mi"]);
    let csi = Csi::new(&rig);
    sh("vgchange -an vgtest");
    create_dir_all("/run/udev").unwrap();
    std::fs::write("/run/udev/control", "").unwrap();
    let c = conf("activation { udev_sync=1 udev_rules=1 }");
    for (what, r) in [
        (
            "create",
            csi.within(Duration::from_secs(50))
                .create_volume(volume("x"))
                .map(|_| ()),
        ),
        (
            "create",
            csi.within(Duration::from_secs(50))
                .create_volume(volume("y"))
                .map(|_| ()),
        ),
    ] {
        say(what, &r);
    }
    println!("{}", rig.log());
    doctor(&rig);
    sh("dmsetup udevcookies");
    let begun = Instant::now();
    rig.kill();
    rig.start_at_once();
    println!("== started in {:?}", begun.elapsed());
    doctor(&rig);
    list(&rig);
    sh("dmsetup udevcomplete_all -y");
    drop(c);
    std::thread::sleep(Duration::from_secs(5));
    doctor(&rig);
    println!("{}", rig.log());
}
