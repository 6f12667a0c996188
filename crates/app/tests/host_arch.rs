//! Throw-away: other people's bug reports on file pools.
#![allow(clippy::all, clippy::pedantic, dead_code, unused)]
#![allow(clippy::disallowed_methods)]
mod support;

use std::fs::{File, OpenOptions, create_dir, create_dir_all};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use stowage_csi::proto::{CreateVolumeRequest, NodeExpandVolumeRequest};
use stowage_testkit::disk::{FsKind, LoopFs, loops_below};
use support::calls::*;
use support::{Rig, Storage, get, output, put, tool, uses as on};

fn rig() -> Rig {
    Rig::new(Storage::file(FsKind::Xfs))
}
fn writer() -> stowage_csi::proto::VolumeCapability {
    mount("ext4", Mode::SingleNodeMultiWriter)
}
fn dir(rig: &Rig, name: &str) -> PathBuf {
    let path = rig.path(name);
    create_dir_all(&path).expect("a fresh directory");
    path
}
fn pool(rig: &Rig) -> PathBuf {
    let Storage::File(fs) = &rig.storage else {
        unreachable!()
    };
    fs.path().join("pool")
}
fn mnt(rig: &Rig) -> PathBuf {
    let Storage::File(fs) = &rig.storage else {
        unreachable!()
    };
    fs.path().to_owned()
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
    println!(
        "== {args:?} [{:?}] {:?}: {} {}",
        begun.elapsed(),
        a.status.code(),
        a.stdout.trim(),
        a.stderr.trim()
    );
    a
}
fn sh(script: &str) -> String {
    let out = Command::new("sh").args(["-c", script]).output().unwrap();
    let t = format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    println!("$ {script}\n{}", t.trim());
    t
}
fn doctor(rig: &Rig) -> String {
    let a = rig.run(&["doctor"]);
    println!("== doctor {:?}: {}", a.status.code(), a.stdout.trim());
    a.stdout
}
fn expand(csi: &Csi, id: &str, path: &Path, bytes: i64) -> Result<i64, Status> {
    csi.node_expand_volume(NodeExpandVolumeRequest {
        volume_id: id.to_owned(),
        volume_path: text(path),
        capacity_range: Some(range(bytes, 0)),
        ..Default::default()
    })
}
fn raw(name: &str) -> CreateVolumeRequest {
    CreateVolumeRequest {
        volume_capabilities: vec![block(Mode::SingleNodeMultiWriter)],
        ..volume(name)
    }
}

/// losetup -D beside us, and the number used again.
#[test]
fn a01_losetup_d() {
    let mut rig = rig();
    let csi = Csi::new(&rig);
    let cap = || block(Mode::SingleNodeMultiWriter);
    let a = csi.create_volume(raw("a")).unwrap().volume_id;
    let (staging, target) = (dir(&rig, "sa"), rig.path("ta"));
    csi.stage(&a, &staging, cap());
    csi.publish(&a, &staging, &target, cap());
    let f = OpenOptions::new().write(true).open(&target).unwrap();
    f.write_all_at(b"AAAA", 0).unwrap();
    f.sync_all().unwrap();
    drop(f);
    let dev = loops_below(&mnt(&rig)).unwrap();
    println!("== a is on {dev:?}");
    for d in &dev {
        sh(&format!("losetup -d {}", d.display()));
    }
    println!("== left {:?}", loops_below(&mnt(&rig)).unwrap());
    doctor(&rig);
    say("stats a", &csi.stats(&a, &target));
    say(
        "health a",
        &csi.controller_get_volume_health(stowage_csi::proto::ControllerGetVolumeHealthRequest {
            volume_id: a.clone(),
            ..Default::default()
        }),
    );
    // Another tenant.
    let b = csi.create_volume(raw("b")).unwrap().volume_id;
    let (sb, tb) = (dir(&rig, "sb"), rig.path("tb"));
    csi.stage(&b, &sb, cap());
    csi.publish(&b, &sb, &tb, cap());
    let f = OpenOptions::new().write(true).open(&tb).unwrap();
    f.write_all_at(b"SECRET-OF-B", 0).unwrap();
    f.sync_all().unwrap();
    drop(f);
    println!("== b is on {:?}", loops_below(&mnt(&rig)).unwrap());
    let mut got = [0u8; 11];
    let r = File::open(&target).and_then(|f| f.read_exact_at(&mut got, 0));
    println!(
        "== a's pod reads: {r:?} {:?}",
        String::from_utf8_lossy(&got)
    );
    if r.is_ok() {
        let w = OpenOptions::new().write(true).open(&target).and_then(|f| {
            f.write_all_at(b"from-a-pod!", 0)?;
            f.sync_all()
        });
        let mut got = [0u8; 11];
        File::open(&tb).unwrap().read_exact_at(&mut got, 0).unwrap();
        println!(
            "== a's pod wrote {w:?}; b reads: {:?}",
            String::from_utf8_lossy(&got)
        );
    }
    doctor(&rig);
    say("stats a", &csi.stats(&a, &target));
    say(
        "republish a",
        &csi.node_publish_volume(publishing(&a, &staging, &target, cap())),
    );
    rig.stop();
    rig.start();
    let csi = Csi::new(&rig);
    doctor(&rig);
    println!("{}", rig.log());
    say("unpublish a", &csi.unpublish(&a, &target));
    say("unstage a", &csi.unstage(&a, &staging));
    say("unpublish b", &csi.unpublish(&b, &tb));
    say("unstage b", &csi.unstage(&b, &sb));
    say("delete a", &csi.delete(&a));
    say("delete b", &csi.delete(&b));
    sh("cat /proc/self/mounts | grep stowage-rig");
    rig.assert_clean();
}

/// kubelet's loop device over our raw device is left behind.
#[test]
fn a02_kubelet_loop_left() {
    let rig = rig();
    let csi = Csi::new(&rig);
    let cap = || block(Mode::SingleNodeMultiWriter);
    let a = csi.create_volume(raw("a")).unwrap().volume_id;
    let (staging, target) = (dir(&rig, "sa"), rig.path("ta"));
    csi.stage(&a, &staging, cap());
    csi.publish(&a, &staging, &target, cap());
    let k = output("losetup", &["-f", "--show", &text(&target)]);
    let k = k.trim().to_owned();
    println!("== kubelet's {k}");
    say("unpublish", &csi.unpublish(&a, &target));
    say("unstage", &csi.unstage(&a, &staging));
    say("delete", &csi.delete(&a));
    say(
        "stage again",
        &csi.node_stage_volume(staging_of(&a, &staging, cap())),
    );
    say(
        "publish again",
        &csi.node_publish_volume(publishing(&a, &staging, &target, cap())),
    );
    say("unpublish", &csi.unpublish(&a, &target));
    doctor(&rig);
    sh(&format!("losetup -d {k}"));
    say("unstage", &csi.unstage(&a, &staging));
    say("delete", &csi.delete(&a));
    rig.assert_clean();
}

/// The tenant's xfs shuts down while published.
#[test]
fn a03_shutdown_in_use() {
    let rig = rig();
    let csi = Csi::new(&rig);
    for fs in ["xfs", "ext4"] {
        let cap = || mount(fs, Mode::SingleNodeMultiWriter);
        let a = csi
            .create_volume(CreateVolumeRequest {
                capacity_range: Some(range(320 * MIB, 0)),
                volume_capabilities: vec![cap()],
                ..volume("a")
            })
            .unwrap()
            .volume_id;
        let (staging, target) = (dir(&rig, "sa"), rig.path("ta"));
        csi.stage(&a, &staging, cap());
        csi.publish(&a, &staging, &target, cap());
        put(&target.join("file"), "kept");
        sh(&format!(
            "xfs_io -x -c 'shutdown -f' {}; ls {}; stat {}",
            target.display(),
            target.display(),
            target.display()
        ));
        doctor(&rig);
        say("stats", &csi.stats(&a, &target));
        say(
            "health",
            &csi.controller_get_volume_health(
                stowage_csi::proto::ControllerGetVolumeHealthRequest {
                    volume_id: a.clone(),
                    ..Default::default()
                },
            ),
        );
        say(
            "stage again",
            &csi.node_stage_volume(staging_of(&a, &staging, cap())),
        );
        say(
            "publish again",
            &csi.node_publish_volume(publishing(&a, &staging, &target, cap())),
        );
        say(
            "publish second",
            &csi.node_publish_volume(publishing(&a, &staging, &rig.path("tb"), cap())),
        );
        say("snapshot", &csi.cut("s", &a));
        say(
            "expand",
            &csi.controller_expand_volume(stowage_csi::proto::ControllerExpandVolumeRequest {
                volume_id: a.clone(),
                capacity_range: Some(range(400 * MIB, 0)),
                ..Default::default()
            }),
        );
        say("node expand", &expand(&csi, &a, &target, 400 * MIB));
        say("unpublish", &csi.unpublish(&a, &rig.path("tb")));
        say("unpublish", &csi.unpublish(&a, &target));
        say("unstage", &csi.unstage(&a, &staging));
        say(
            "stage",
            &csi.node_stage_volume(staging_of(&a, &staging, cap())),
        );
        println!(
            "== file: {:?}",
            std::fs::read_to_string(staging.join("file"))
        );
        say("unstage", &csi.unstage(&a, &staging));
        let _ = csi.drop_snapshot(
            &rig.ok(&["snapshot", "list"])[0]["id"]
                .as_str()
                .unwrap_or("x")
                .to_owned(),
        );
        say("delete", &csi.delete(&a));
        doctor(&rig);
        rig.assert_clean();
    }
}

/// kubelet 1.24 changed the staging path in place.
#[test]
fn a04_staging_path_changes() {
    let rig = rig();
    let csi = Csi::new(&rig);
    let a = csi.made("a").volume_id;
    let (old, new, target, t2) = (
        dir(&rig, "pv/globalmount"),
        dir(&rig, "hash/globalmount"),
        rig.path("ta"),
        rig.path("tb"),
    );
    csi.stage(&a, &old, writer());
    csi.publish(&a, &old, &target, writer());
    say(
        "stage at new",
        &csi.node_stage_volume(staging_of(&a, &new, writer())),
    );
    say(
        "publish from new",
        &csi.node_publish_volume(publishing(&a, &new, &target, writer())),
    );
    say("unpublish", &csi.unpublish(&a, &target));
    // kubelet unstages at the new path alone
    say("unstage new", &csi.unstage(&a, &new));
    say(
        "stage at new",
        &csi.node_stage_volume(staging_of(&a, &new, writer())),
    );
    say("delete", &csi.delete(&a));
    say("unstage old", &csi.unstage(&a, &old));
    say(
        "stage at new",
        &csi.node_stage_volume(staging_of(&a, &new, writer())),
    );
    say("unstage new", &csi.unstage(&a, &new));
    say("delete", &csi.delete(&a));
    rig.assert_clean();
}

/// A mount in another mount namespace keeps the device.
#[test]
fn a05_hidden_mount() {
    let rig = rig();
    let csi = Csi::new(&rig);
    for fs in ["ext4", "xfs"] {
        let cap = || mount(fs, Mode::SingleNodeMultiWriter);
        let a = csi
            .create_volume(CreateVolumeRequest {
                capacity_range: Some(range(320 * MIB, 0)),
                volume_capabilities: vec![cap()],
                ..volume("a")
            })
            .unwrap()
            .volume_id;
        let (staging, target) = (dir(&rig, "sa"), rig.path("ta"));
        csi.stage(&a, &staging, cap());
        csi.publish(&a, &staging, &target, cap());
        let mut other = Command::new("unshare")
            .args(["-m", "--propagation", "private", "sleep", "600"])
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(500));
        let hidden = format!("/proc/{}/root{}", other.id(), staging.display());
        println!("== unpublish");
        say("unpublish", &csi.unpublish(&a, &target));
        say("unstage", &csi.unstage(&a, &staging));
        std::fs::write(format!("{hidden}/late"), vec![7u8; 4 << 20]).unwrap();
        say("delete", &csi.delete(&a));
        let begun = Instant::now();
        let s = csi.cut("s", &a);
        println!("took {:?}", begun.elapsed());
        say("cut", &s);
        if let Ok(s) = s {
            cli(&rig, &["snapshot", "restore", "s", "r"]);
            cli(&rig, &["volume", "mount", "r", &rig.text("mr")]);
            sh(&format!("ls -l {}", rig.path("mr").display()));
            cli(&rig, &["volume", "unmount", &rig.text("mr")]);
            cli(&rig, &["volume", "delete", "r"]);
            csi.drop_snapshot(&s.snapshot_id).unwrap();
        }
        say(
            "expand",
            &csi.controller_expand_volume(stowage_csi::proto::ControllerExpandVolumeRequest {
                volume_id: a.clone(),
                capacity_range: Some(range(400 * MIB, 0)),
                ..Default::default()
            }),
        );
        say(
            "stage again",
            &csi.node_stage_volume(staging_of(&a, &staging, cap())),
        );
        sh(&format!("ls -l {}", staging.display()));
        say("unstage", &csi.unstage(&a, &staging));
        doctor(&rig);
        other.kill().unwrap();
        other.wait().unwrap();
        say("unstage", &csi.unstage(&a, &staging));
        say("delete", &csi.delete(&a));
        rig.assert_clean();
    }
}

/// The host's mke2fs.conf.
#[test]
fn a06_mke2fs_conf() {
    let rig0 = rig();
    drop(rig0);
    for (name, conf) in [
        (
            "casefold: mkfs newer than kernel",
            "[defaults]\n base_features = sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr\n blocksize = 4096\n inode_size = 256\n inode_ratio = 16384\n[fs_types]\n ext4 = {\n features = has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize,casefold\n }\n",
        ),
        (
            "bigalloc",
            "[defaults]\n base_features = sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr\n blocksize = 4096\n inode_size = 256\n inode_ratio = 16384\n[fs_types]\n ext4 = {\n features = has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize,bigalloc\n cluster_size = 65536\n }\n",
        ),
        (
            "no journal, errors panic",
            "[defaults]\n base_features = sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr\n blocksize = 1024\n inode_size = 256\n inode_ratio = 16384\n errors = remount-ro\n reserved_ratio = 30.0\n[fs_types]\n ext4 = {\n features = extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize\n }\n",
        ),
        (
            "undo",
            "[options]\n force_undo = true\n[defaults]\n base_features = sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr\n blocksize = 4096\n inode_size = 256\n inode_ratio = 16384\n undo_dir = /nonexistent/dir\n[fs_types]\n ext4 = {\n features = has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize\n }\n",
        ),
    ] {
        println!("######## {name}");
        let mut rig = Rig::stopped(Storage::file(FsKind::Xfs));
        put(&rig.path("mke2fs.conf"), conf);
        let p = rig.text("mke2fs.conf");
        tool("mount", &["--bind", &p, "/etc/mke2fs.conf"]);
        rig.start();
        cli(&rig, &["volume", "create", "v", "--size", "256Mi"]);
        let m = cli(&rig, &["volume", "mount", "v", &rig.text("m")]);
        if m.status.success() {
            sh(&format!(
                "df -k {}; mount | grep {}",
                rig.path("m").display(),
                rig.path("m").display()
            ));
            let data = output(
                "sh",
                &["-c", &format!("ls -d {}/volumes/*", pool(&rig).display())],
            );
            sh(&format!(
                "dumpe2fs -h {}/data | grep -E 'features|Reserved block|Errors|Block size|Block count'",
                data.trim()
            ));
            cli(&rig, &["volume", "grow", "v", "512Mi"]);
            sh(&format!("df -k {}", rig.path("m").display()));
            cli(&rig, &["volume", "unmount", &rig.text("m")]);
        } else {
            doctor(&rig);
            rig.stop();
            tool("umount", &["/etc/mke2fs.conf"]);
            rig.start();
            cli(&rig, &["volume", "show", "v"]);
            cli(&rig, &["volume", "mount", "v", &rig.text("m")]);
        }
        let _ = Command::new("umount").arg("/etc/mke2fs.conf").status();
        cli(&rig, &["volume", "unmount", &rig.text("m")]);
        cli(&rig, &["volume", "delete", "v"]);
        rig.assert_clean();
    }
}

/// A pool on tmpfs and on overlay.
#[test]
fn a07_odd_file_systems() {
    for kind in ["tmpfs", "overlay"] {
        println!("######## {kind}");
        let mut rig = rig();
        let t = dir(&rig, "odd");
        if kind == "tmpfs" {
            tool(
                "mount",
                &["-t", "tmpfs", "-o", "size=1G", "tmpfs", &text(&t)],
            );
        } else {
            for d in ["l", "u", "w"] {
                create_dir_all(mnt(&rig).join("ovl").join(d)).unwrap();
            }
            let b = mnt(&rig).join("ovl");
            let b = b.display();
            let o = format!("lowerdir={b}/l,upperdir={b}/u,workdir={b}/w");
            let out = Command::new("mount")
                .args(["-t", "overlay", "-o", &o, "overlay", &text(&t)])
                .output()
                .unwrap();
            if !out.status.success() {
                println!("no overlay {}", String::from_utf8_lossy(&out.stderr));
                continue;
            }
        }
        cli(
            &rig,
            &[
                "pool",
                "create",
                "odd",
                "--kind",
                "file",
                "--path",
                &text(&t.join("p")),
            ],
        );
        for thin in [false, true] {
            let mut args = vec!["volume", "create", "v", "--size", "128Mi", "--pool", "odd"];
            if thin {
                args.push("--thin");
            }
            cli(&rig, &args);
            cli(&rig, &["volume", "mount", "v", &rig.text("m")]);
            sh(&format!(
                "echo kept > {0}/f; df -k {0}; ls {0}",
                rig.path("m").display()
            ));
            cli(&rig, &["snapshot", "create", "v", "s"]);
            cli(&rig, &["volume", "grow", "v", "256Mi"]);
            cli(&rig, &["volume", "unmount", &rig.text("m")]);
            cli(&rig, &["volume", "clone", "v", "c"]);
            cli(&rig, &["volume", "mount", "c", &rig.text("m")]);
            sh(&format!("cat {}/f", rig.path("m").display()));
            cli(&rig, &["volume", "unmount", &rig.text("m")]);
            doctor(&rig);
            cli(&rig, &["volume", "delete", "c"]);
            cli(&rig, &["volume", "delete", "v"]);
        }
        doctor(&rig);
        rig.settle();
        rig.stop();
        tool("umount", &[&text(&t)]);
    }
}

/// The disk under the pool fails: xfs shuts down; the administrator mounts it again.
#[test]
fn a08_pool_shuts_down() {
    let mut rig = rig();
    on::create(&rig, "v", "ext4", "64Mi");
    on::create(&rig, "w", "ext4", "64Mi");
    let m = on::mount(&rig, "v", "m");
    put(&m.join("f"), "kept");
    sh(&format!(
        "xfs_io -x -c 'shutdown -f' {}",
        mnt(&rig).display()
    ));
    std::thread::sleep(Duration::from_secs(1));
    cli(&rig, &["volume", "list"]);
    doctor(&rig);
    cli(&rig, &["volume", "create", "x", "--size", "64Mi"]);
    cli(&rig, &["volume", "mount", "w", &rig.text("mw")]);
    cli(&rig, &["volume", "delete", "w"]);
    cli(&rig, &["snapshot", "create", "v", "s"]);
    cli(&rig, &["volume", "unmount", &rig.text("m")]);
    doctor(&rig);
    sh(&format!(
        "mount | grep {}; losetup -a",
        rig.path("m").display()
    ));
    let dev = output("findmnt", &["-no", "SOURCE", &text(&mnt(&rig))]);
    sh(&format!(
        "umount {0} || umount -l {0}; sleep 1; mount {1} {0}; dmesg | tail -5",
        mnt(&rig).display(),
        dev.trim()
    ));
    let begun = Instant::now();
    while rig.run(&["doctor"]).stdout.trim() != "[]" && begun.elapsed() < Duration::from_secs(90) {
        std::thread::sleep(Duration::from_millis(500));
    }
    println!("== well after {:?}", begun.elapsed());
    doctor(&rig);
    cli(&rig, &["volume", "list"]);
    cli(&rig, &["volume", "create", "x", "--size", "64Mi"]);
    cli(&rig, &["volume", "mount", "v", &rig.text("m")]);
    println!("{:?}", std::fs::read_to_string(rig.path("m/f")));
    rig.stop();
    rig.start();
    cli(&rig, &["volume", "list"]);
    cli(&rig, &["volume", "mount", "v", &rig.text("m")]);
    println!("{:?}", std::fs::read_to_string(rig.path("m/f")));
    sh(&format!(
        "losetup -a; mount | grep {}",
        rig.work.path().display()
    ));
    cli(&rig, &["volume", "unmount", &rig.text("m")]);
    println!("{}", rig.log());
    for v in ["v", "w", "x"] {
        cli(&rig, &["volume", "delete", v]);
    }
    doctor(&rig);
}

/// Copied to another disk with cp -a / rsync, and the daemon started there.
#[test]
fn a09_pool_copied() {
    for (from, to) in [(FsKind::Xfs, FsKind::Ext4), (FsKind::Btrfs, FsKind::Btrfs)] {
        println!("######## {from:?} -> {to:?}");
        let mut rig = Rig::new(Storage::file(from));
        on::create(&rig, "v", "ext4", "64Mi");
        rig.ok(&["volume", "create", "t", "--size", "64Mi", "--thin"]);
        for v in ["v", "t"] {
            let m = on::mount(&rig, v, "m");
            put(&m.join("f"), "kept");
            on::unmount(&rig, "m");
        }
        rig.stop();
        let new = LoopFs::new(to, 4 << 30).unwrap();
        sh(&format!(
            "lsattr {0}/volumes/*; cp -a --sparse=always {0} {1}/pool",
            pool(&rig).display(),
            new.path().display()
        ));
        let conf = get(&rig.path("stowage.toml"))
            .replace(&text(&pool(&rig)), &text(&new.path().join("pool")));
        std::fs::write(rig.path("stowage.toml"), conf).unwrap();
        rig.start();
        doctor(&rig);
        cli(&rig, &["volume", "list"]);
        for v in ["v", "t"] {
            cli(&rig, &["volume", "mount", v, &rig.text("m")]);
            println!("{:?}", std::fs::read_to_string(rig.path("m/f")));
            cli(&rig, &["volume", "unmount", &rig.text("m")]);
        }
        std::thread::sleep(Duration::from_secs(35));
        doctor(&rig);
        sh(&format!(
            "du -k {0}/pool/volumes/*; lsattr {0}/pool/volumes/*",
            new.path().display()
        ));
        on::delete(&rig, &["v", "t"]);
        rig.settle();
        rig.stop();
    }
}

/// The kubelet's directory is bind mounted at two places that are peers.
#[test]
fn a10_kubelet_dir_twice() {
    let rig = rig();
    let csi = Csi::new(&rig);
    let (real, seen) = (dir(&rig, "mnt-local-kubelet"), dir(&rig, "var-lib-kubelet"));
    tool("mount", &["--bind", &text(&real), &text(&real)]);
    tool("mount", &["--make-shared", &text(&real)]);
    tool("mount", &["--bind", &text(&real), &text(&seen)]);
    let a = csi.made("a").volume_id;
    create_dir_all(seen.join("plugins/x/globalmount")).unwrap();
    create_dir_all(seen.join("pods/u/volumes/v")).unwrap();
    let (staging, target) = (
        seen.join("plugins/x/globalmount"),
        seen.join("pods/u/volumes/v/mount"),
    );
    for _ in 0..2 {
        say(
            "stage",
            &csi.node_stage_volume(staging_of(&a, &staging, writer())),
        );
        say(
            "publish",
            &csi.node_publish_volume(publishing(&a, &staging, &target, writer())),
        );
        say("stats", &csi.stats(&a, &target));
        sh(&format!(
            "grep {} /proc/self/mountinfo",
            rig.work.path().display()
        ));
        say("cut", &csi.cut("s", &a));
        say(
            "drop",
            &csi.drop_snapshot(
                &rig.ok(&["snapshot", "list"])[0]["id"]
                    .as_str()
                    .unwrap_or("x")
                    .to_owned(),
            ),
        );
        doctor(&rig);
        say("unpublish", &csi.unpublish(&a, &target));
        say("unstage", &csi.unstage(&a, &staging));
        sh(&format!(
            "grep {} /proc/self/mountinfo",
            rig.work.path().display()
        ));
    }
    // something below the target
    csi.stage(&a, &staging, writer());
    csi.publish(&a, &staging, &target, writer());
    create_dir(target.join("sub")).unwrap();
    tool(
        "mount",
        &["-t", "tmpfs", "tmpfs", &text(&target.join("sub"))],
    );
    say("unpublish over a nested mount", &csi.unpublish(&a, &target));
    tool("umount", &[&text(&target.join("sub"))]);
    // subPath left behind
    let sub = dir(&rig, "var-lib-kubelet/pods/u/volume-subpaths/v/0");
    tool(
        "mount",
        &["--bind", &text(&target.join("sub")), &text(&sub)],
    );
    say("unpublish, subpath left", &csi.unpublish(&a, &target));
    say("unstage, subpath left", &csi.unstage(&a, &staging));
    say("delete, subpath left", &csi.delete(&a));
    say("cut, subpath left", &csi.cut("s", &a));
    cli(&rig, &["volume", "show", "a"]);
    doctor(&rig);
    tool("umount", &[&text(&sub)]);
    say("unstage", &csi.unstage(&a, &staging));
    let _ = csi.drop_snapshot(
        &rig.ok(&["snapshot", "list"])[0]["id"]
            .as_str()
            .unwrap_or("x")
            .to_owned(),
    );
    // swap in a volume
    csi.stage(&a, &staging, writer());
    csi.publish(&a, &staging, &target, writer());
    sh(&format!(
        "dd if=/dev/zero of={0}/swap bs=1M count=16 status=none; chmod 600 {0}/swap; mkswap -q {0}/swap; swapon {0}/swap",
        target.display()
    ));
    say("unpublish, swap", &csi.unpublish(&a, &target));
    say("unstage, swap", &csi.unstage(&a, &staging));
    say("cut, swap", &csi.cut("s", &a));
    sh(&format!("swapoff {}/swap", staging.display()));
    say("unstage", &csi.unstage(&a, &staging));
    let _ = csi.drop_snapshot(
        &rig.ok(&["snapshot", "list"])[0]["id"]
            .as_str()
            .unwrap_or("x")
            .to_owned(),
    );
    say("delete", &csi.delete(&a));
    tool("umount", &[&text(&seen)]);
    tool("umount", &[&text(&real)]);
    rig.assert_clean();
}

/// kubelet's odd orders.
#[test]
fn a11_orders() {
    let rig = rig();
    let csi = Csi::new(&rig);
    let a = csi.made("a").volume_id;
    let (staging, target) = (dir(&rig, "sa"), rig.path("ta"));
    say("unpublish, never", &csi.unpublish(&a, &target));
    say("unstage, never", &csi.unstage(&a, &staging));
    say(
        "unstage, path gone",
        &csi.unstage(&a, &rig.path("nowhere/x")),
    );
    say(
        "publish, not staged",
        &csi.node_publish_volume(publishing(&a, &staging, &target, writer())),
    );
    say(
        "stage at missing",
        &csi.node_stage_volume(staging_of(&a, &rig.path("nowhere/x"), writer())),
    );
    csi.stage(&a, &staging, writer());
    say(
        "node expand at staging before publish",
        &expand(&csi, &a, &staging, 64 * MIB),
    );
    say("node expand smaller", &expand(&csi, &a, &staging, 32 * MIB));
    say(
        "node expand larger than volume",
        &expand(&csi, &a, &staging, 640 * MIB),
    );
    say("unstage twice 1", &csi.unstage(&a, &staging));
    say("unstage twice 2", &csi.unstage(&a, &staging));
    csi.stage(&a, &staging, writer());
    // unmounted behind us and the directory gone (force detach)
    tool("umount", &[&text(&staging)]);
    std::fs::remove_dir(&staging).unwrap();
    say("unstage, all gone", &csi.unstage(&a, &staging));
    dir(&rig, "sa");
    // selinux
    for flag in [
        "context=\"system_u:object_r:container_file_t:s0:c1,c2\"",
        "context=system_u:object_r:container_file_t:s0",
    ] {
        say(
            "selinux",
            &csi.node_stage_volume(staging_of(
                &a,
                &staging,
                flagged("ext4", Mode::SingleNodeMultiWriter, &[flag]),
            )),
        );
    }
    for flag in [
        "noquota",
        "_netdev",
        "usrquota",
        "prjquota",
        "nobarrier",
        "nofail",
        "x-systemd.automount",
        "errors=panic",
    ] {
        say(
            flag,
            &csi.node_stage_volume(staging_of(
                &a,
                &staging,
                flagged("ext4", Mode::SingleNodeMultiWriter, &[flag]),
            )),
        );
        let _ = csi.unstage(&a, &staging);
    }
    say("delete", &csi.delete(&a));
    // raw device whose tenant made a file system, expanded
    let b = csi.create_volume(raw("b")).unwrap().volume_id;
    let cap = || block(Mode::SingleNodeMultiWriter);
    csi.stage(&b, &staging, cap());
    csi.publish(&b, &staging, &target, cap());
    sh(&format!("mkfs.ext4 -q -F {}", target.display()));
    say(
        "ctl expand",
        &csi.controller_expand_volume(stowage_csi::proto::ControllerExpandVolumeRequest {
            volume_id: b.clone(),
            capacity_range: Some(range(128 * MIB, 0)),
            ..Default::default()
        }),
    );
    say("node expand", &expand(&csi, &b, &target, 128 * MIB));
    sh(&format!(
        "dumpe2fs -h {} 2>/dev/null | grep 'Block count'; blockdev --getsize64 {0}",
        target.display()
    ));
    say("stats raw", &csi.stats(&b, &target));
    // partitions seen by the host
    sh(&format!(
        "wipefs -aq {0}; printf 'label: gpt\n,32M\n' | sfdisk -q {0}; partx -a $(losetup -nO NAME -j {1}/volumes/{2}/data); lsblk",
        target.display(),
        pool(&rig).display(),
        b
    ));
    say("unpublish", &csi.unpublish(&b, &target));
    say("unstage", &csi.unstage(&b, &staging));
    say("delete", &csi.delete(&b));
    rig.assert_clean();
}

/// Many at once.
#[test]
fn a12_many() {
    let rig = rig();
    let n = 60;
    let begun = Instant::now();
    let names: Vec<String> = (0..n).map(|i| format!("v{i}")).collect();
    let all = |what: &str, args: &(dyn Fn(&str) -> Vec<String> + Sync)| {
        let begun = Instant::now();
        let bad: Vec<String> = std::thread::scope(|s| {
            let hs: Vec<_> = names
                .iter()
                .map(|n| {
                    let rig = &rig;
                    s.spawn(move || {
                        let a = args(n);
                        let a: Vec<&str> = a.iter().map(String::as_str).collect();
                        let b = Instant::now();
                        let r = rig.run(&a);
                        (r.status.success(), r.stderr, b.elapsed())
                    })
                })
                .collect();
            hs.into_iter()
                .map(|h| h.join().unwrap())
                .filter(|r| !r.0)
                .map(|r| format!("{:?} {}", r.2, r.1))
                .collect()
        });
        println!(
            "== {what}: {:?}, bad {} {:?}",
            begun.elapsed(),
            bad.len(),
            bad.first()
        );
    };
    let s = |v: &[&str]| v.iter().map(|x| x.to_string()).collect::<Vec<_>>();
    all("create", &|n| {
        s(&[
            "volume", "create", n, "--size", "320Mi", "--fs", "xfs", "--thin",
        ])
    });
    all("mount", &|n| {
        s(&["volume", "mount", n, &rig.text(&format!("m-{n}"))])
    });
    all("snapshot", &|n| {
        s(&["snapshot", "create", n, &format!("s-{n}")])
    });
    all("restore", &|n| {
        s(&["snapshot", "restore", &format!("s-{n}"), &format!("r-{n}")])
    });
    all("mount r", &|n| {
        s(&[
            "volume",
            "mount",
            &format!("r-{n}"),
            &rig.text(&format!("mr-{n}")),
        ])
    });
    doctor(&rig);
    all("unmount r", &|n| {
        s(&["volume", "unmount", &rig.text(&format!("mr-{n}"))])
    });
    all("unmount", &|n| {
        s(&["volume", "unmount", &rig.text(&format!("m-{n}"))])
    });
    all("delete r", &|n| s(&["volume", "delete", &format!("r-{n}")]));
    all("delete s", &|n| {
        s(&["snapshot", "delete", &format!("s-{n}")])
    });
    all("delete", &|n| s(&["volume", "delete", n]));
    rig.assert_clean();
}

/// ext4 with errors, as after a bad disk.
#[test]
fn a13_fsck() {
    let rig = rig();
    let a = on::create(&rig, "a", "ext4", "256Mi")["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let m = on::mount(&rig, "a", "m");
    put(&m.join("f"), "kept");
    on::unmount(&rig, "m");
    let data = pool(&rig).join("volumes").join(&a).join("data");
    // group descriptors
    on::scribble(&data, 4096, &[0xff; 64]);
    cli(&rig, &["volume", "mount", "a", &rig.text("m")]);
    doctor(&rig);
    cli(&rig, &["volume", "grow", "a", "512Mi"]);
    sh(&format!("e2fsck -fy {}", data.display()));
    cli(&rig, &["volume", "mount", "a", &rig.text("m")]);
    println!("{:?}", std::fs::read_to_string(rig.path("m/f")));
    cli(&rig, &["volume", "unmount", &rig.text("m")]);
    // An orphaned mmp or a tenant's label
    sh(&format!(
        "tune2fs -L 'a b\"c' {0}; tune2fs -O mmp {0}",
        data.display()
    ));
    cli(&rig, &["volume", "mount", "a", &rig.text("m")]);
    cli(&rig, &["volume", "unmount", &rig.text("m")]);
    // ambivalent: a second signature at the end, as stale bytes may be
    let size = std::fs::metadata(&data).unwrap().len();
    on::scribble(&data, 0x36, b"FAT16   ");
    cli(&rig, &["volume", "mount", "a", &rig.text("m")]);
    cli(&rig, &["volume", "unmount", &rig.text("m")]);
    cli(&rig, &["volume", "delete", "a"]);
    rig.assert_clean();
}

/// The pool's file system shut down: the way of an administrator who unmounts by hand.
#[test]
fn a14_pool_shuts_down_csi() {
    let mut rig = rig();
    let csi = Csi::new(&rig);
    let a = csi.made("a").volume_id;
    let (staging, target) = (dir(&rig, "sa"), rig.path("ta"));
    csi.stage(&a, &staging, writer());
    csi.publish(&a, &staging, &target, writer());
    put(&target.join("f"), "kept");
    sh(&format!(
        "xfs_io -x -c 'shutdown -f' {}",
        mnt(&rig).display()
    ));
    say("unpublish", &csi.unpublish(&a, &target));
    say("unstage", &csi.unstage(&a, &staging));
    rig.stop();
    rig.start();
    let csi = Csi::new(&rig);
    say("unpublish", &csi.unpublish(&a, &target));
    say("unstage", &csi.unstage(&a, &staging));
    // by hand
    let dev = output("findmnt", &["-no", "SOURCE", &text(&mnt(&rig))]);
    sh(&format!(
        "umount {1} {2}; losetup -a; umount {0} || umount -l {0}; sleep 1; mount {3} {0}; ls {0}/pool; losetup -a",
        mnt(&rig).display(),
        target.display(),
        staging.display(),
        dev.trim()
    ));
    let begun = Instant::now();
    while rig.run(&["doctor"]).stdout.trim() != "[]" && begun.elapsed() < Duration::from_secs(70) {
        std::thread::sleep(Duration::from_millis(500));
    }
    println!("== well after {:?}", begun.elapsed());
    doctor(&rig);
    say("unpublish", &csi.unpublish(&a, &target));
    say("unstage", &csi.unstage(&a, &staging));
    csi.stage(&a, &staging, writer());
    println!("{:?}", std::fs::read_to_string(staging.join("f")));
    say("unstage", &csi.unstage(&a, &staging));
    say("delete", &csi.delete(&a));
    rig.assert_clean();
}

/// ext4 that stops at an error, on a kernel that has emergency_ro.
#[test]
fn a15_emergency_ro() {
    let rig = rig();
    on::create(&rig, "v", "ext4", "64Mi");
    rig.ok(&[
        "volume",
        "mount",
        "v",
        &rig.text("m"),
        "--option",
        "errors=remount-ro",
    ]);
    put(&rig.path("m/f"), "kept");
    let dev = output("findmnt", &["-no", "MAJ:MIN", &rig.text("m")]);
    let name = output(
        "sh",
        &[
            "-c",
            &format!("basename $(readlink /sys/dev/block/{})", dev.trim()),
        ],
    );
    sh(&format!(
        "echo 1 > /sys/fs/ext4/{0}/trigger_fs_error; grep {1} /proc/self/mountinfo; touch {1}/x; cat /sys/fs/ext4/{0}/errors_count",
        name.trim(),
        rig.text("m")
    ));
    std::thread::sleep(Duration::from_secs(4));
    doctor(&rig);
    cli(&rig, &["volume", "unmount", &rig.text("m")]);
    cli(&rig, &["volume", "mount", "v", &rig.text("m")]);
    doctor(&rig);
    cli(&rig, &["volume", "unmount", &rig.text("m")]);
    cli(&rig, &["volume", "delete", "v"]);
    rig.assert_clean();
}

/// losetup -D with kubelet's holder on top, and one pod that has its device open.
#[test]
fn a16_losetup_d_with_holders() {
    let mut rig = rig();
    let csi = Csi::new(&rig);
    let cap = || block(Mode::SingleNodeMultiWriter);
    let a = csi.create_volume(raw("a")).unwrap().volume_id;
    let (staging, target) = (dir(&rig, "sa"), rig.path("ta"));
    csi.stage(&a, &staging, cap());
    csi.publish(&a, &staging, &target, cap());
    // a second path, as kubelet's global map
    let global = rig.path("global");
    File::create(&global).unwrap();
    tool("mount", &["--bind", &text(&target), &text(&global)]);
    let k = output("losetup", &["-f", "--show", &text(&global)]);
    let ours = loops_below(&mnt(&rig)).unwrap();
    // as losetup -D, on these alone
    for d in &ours {
        sh(&format!("losetup -d {}", d.display()));
    }
    sh("losetup -l -O NAME,AUTOCLEAR,BACK-FILE");
    doctor(&rig);
    sh(&format!("losetup -d {}", k.trim()));
    println!("left {:?}", loops_below(&mnt(&rig)).unwrap());
    doctor(&rig);
    // somebody of the host gets the number
    let host = rig.path("hosts.img");
    File::create(&host).unwrap().set_len(64 << 20).unwrap();
    let h = output("losetup", &["-f", "--show", &text(&host)]);
    println!("== host's image on {} (ours was {ours:?})", h.trim());
    on::scribble(&host, 0, b"HOSTS-DISK!");
    let mut got = [0u8; 11];
    let r = File::open(&target).and_then(|f| f.read_exact_at(&mut got, 0));
    println!("== a's pod reads {r:?} {:?}", String::from_utf8_lossy(&got));
    sh(&format!(
        "losetup -d {}; umount {}",
        h.trim(),
        global.display()
    ));
    say("unpublish", &csi.unpublish(&a, &target));
    say("unstage", &csi.unstage(&a, &staging));
    say("delete", &csi.delete(&a));
    rig.assert_clean();
}
