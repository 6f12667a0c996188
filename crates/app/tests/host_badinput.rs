//! Bad input, by the command line, over CSI and on the admin socket: each time one clear error,
//! nothing made, and a daemon that goes on.

#![allow(
    clippy::disallowed_methods,
    reason = "tests start the program under test"
)]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stowage_csi::proto::CreateVolumeRequest;
use stowage_testkit::disk::{FsKind, LoopFs, SparseFile};
use support::calls::{
    Code, Csi, MIB, Mode, block, flagged, from_snapshot, from_volume, map, mount, range, refused,
    staging_of, text, volume,
};
use support::uses::{self as on, digest};
use support::{END, Rig, STOWAGE, Storage, ends_within, get, output, put, tool};

fn rig() -> Rig {
    Rig::new(Storage::file(FsKind::Xfs))
}

/// Nothing was made, and the daemon answers.
#[track_caller]
fn assert_nothing_made(rig: &Rig) {
    assert_eq!(rig.ok(&["volume", "list"]), json!([]));
    assert_eq!(rig.ok(&["snapshot", "list"]), json!([]));
    assert_eq!(rig.storage.contents(), Vec::<String>::new());
}

/// Refused by the command line itself, before the daemon is asked.
#[track_caller]
fn misspelt(rig: &Rig, args: &[&str], words: &[&str]) {
    let answer = rig.run(args);
    assert_eq!(answer.status.code(), Some(2), "{args:?}: {}", answer.stderr);
    let errors = answer.stderr.lines().filter(|l| l.starts_with("error: "));
    assert_eq!(errors.count(), 1, "{args:?}: {}", answer.stderr);
    for word in words {
        assert!(answer.stderr.contains(word), "{word:?}: {}", answer.stderr);
    }
}

#[test]
fn a_bad_volume_is_refused_by_name_on_the_command_line() {
    let rig = rig();
    for size in ["-1Gi", "ten", "", "16Ei", "1e3", "10Gib"] {
        let arg = format!("--size={size}");
        misspelt(&rig, &["volume", "create", "v", &arg], &["--size", size]);
    }
    rig.run(&["volume", "create", "v", "--size", "0"])
        .fails_with(&["size is 0"]);
    let create = |more: &[&str]| rig.run(&[&["volume", "create", "--size", "64Mi"], more].concat());
    let long = "x".repeat(129);
    create(&["--", ""]).fails_with(&["name is empty"]);
    create(&[&long]).fails_with(&["129 bytes", "128"]);
    for name in ["a\nb", "a\tb", "\u{7f}", "\u{85}"] {
        create(&[name]).fails_with(&["control character"]);
    }
    for (key, value) in [
        ("--pool", "nowhere"),
        ("--pool", "../p"),
        ("--fs", "ntfs"),
        ("--layout", "raid5"),
        ("--limit", "colour=1"),
        ("--limit", "pool=files"),
        ("--limit", "bps=fast"),
        ("--limit", "iops=-1"),
    ] {
        let word = value.split('=').next().expect("a word");
        create(&["v", key, value]).fails_with(&[word]);
    }
    misspelt(
        &rig,
        &["volume", "create", "v", "--size", "1Mi", "--limit", "bps"],
        &["KEY=VALUE"],
    );
    create(&["v", "--layout", "striped"]).fails_with(&["no pool"]);
    for options in [
        "-F",
        "-d /etc",
        "/dev/sda",
        "-L a;reboot",
        "-L $(reboot)",
        "-E root_owner=0:0",
        "-E lazy_itable_init=0,offset=4096",
        "-O ^has_journal,/etc",
        "-m",
        "-L --help",
        "--",
    ] {
        let arg = format!("--mkfs-options={options}");
        create(&["v", &arg]).fails_with(&["mkfsOptions"]);
    }
    assert_nothing_made(&rig);
}

#[test]
fn what_is_not_there_is_named_and_what_is_in_the_way_too() {
    let rig = rig();
    for args in [
        &["volume", "show", "ghost"][..],
        &["volume", "grow", "ghost", "1Gi"],
        &["volume", "limit", "ghost", "bps=1Mi"],
        &["volume", "mount", "ghost", "/tmp/ghost"],
        &["volume", "delete", "ghost"],
        &["volume", "clone", "ghost", "v"],
        &["snapshot", "create", "ghost", "s"],
    ] {
        rig.run(args).fails_with(&["no volume \"ghost\""]);
    }
    rig.run(&["snapshot", "delete", "ghost"])
        .fails_with(&["no snapshot", "ghost"]);
    rig.run(&["snapshot", "restore", "ghost", "v"])
        .fails_with(&["no snapshot \"ghost\""]);
    rig.run(&["volume", "unmount", "/tmp/ghost"])
        .fails_with(&["/tmp/ghost"]);
    assert_nothing_made(&rig);

    on::create(&rig, "v", "ext4", "64Mi");
    let before = rig.storage.contents();
    rig.run(&["volume", "create", "v", "--size", "128Mi"])
        .fails_with(&["\"v\"", "size"]);
    rig.run(&["volume", "create", "v", "--size", "64Mi", "--fs", "xfs"])
        .fails_with(&["\"v\"", "parameters"]);
    for option in [
        "loop",
        "bind",
        "remount",
        "uid=0",
        "noatime,loop",
        "errors=panic",
        "ro\nrw",
        "x-systemd.requires=/etc",
        "journal_path=/dev/sda",
    ] {
        let flag = format!("--option={option}");
        rig.run(&["volume", "mount", "v", &rig.text("m"), &flag])
            .fails_with(&["mount option"]);
        assert!(!rig.path("m").exists());
    }
    rig.run(&["volume", "mount", "v", &rig.text("no/parent")])
        .fails_with(&[&rig.text("no")]);
    rig.run(&["volume", "mount", "v", "/"]).fails_with(&["/"]);
    on::snapshot(&rig, "v", "s");
    rig.run(&["snapshot", "restore", "s", "r", "--size", "32Mi"])
        .fails_with(&["32Mi", "64Mi"]);
    on::create(&rig, "w", "ext4", "64Mi");
    rig.run(&["snapshot", "create", "w", "s"])
        .fails_with(&["\"s\"", "another volume"]);
    rig.run(&["volume", "create", "s-x", "--size", "64Mi", "--pool", "s"])
        .fails_with(&["name s"]);
    rig.ok(&["snapshot", "delete", "s"]);
    on::delete(&rig, &["w"]);
    rig.settle();
    assert_eq!(rig.storage.contents(), before);
    on::delete(&rig, &["v"]);
    rig.assert_clean();
}

#[test]
fn a_bad_request_is_refused_by_name_over_csi() {
    let rig = rig();
    let csi = Csi::new(&rig);
    let with = |change: &dyn Fn(&mut CreateVolumeRequest)| {
        let mut want = volume("v");
        change(&mut want);
        csi.create_volume(want)
    };
    let long = "x".repeat(129);
    for (name, word) in [("", "name"), ("a\u{1}", "control"), (&long, "129")] {
        refused(
            with(&|w| w.name = name.to_owned()),
            Code::InvalidArgument,
            &[word],
        );
    }
    for (required, limit, code, word) in [
        (0, 0, Code::InvalidArgument, "capacity_range"),
        (-1, 0, Code::InvalidArgument, "-1"),
        (MIB, -1, Code::InvalidArgument, "-1"),
        (2 * MIB, MIB, Code::OutOfRange, "limit"),
        (i64::MAX, 0, Code::ResourceExhausted, "pool p is full"),
        (i64::MAX - 4095, i64::MAX, Code::OutOfRange, "limit"),
        (1 << 62, 0, Code::ResourceExhausted, "pool p is full"),
        // Less than the step in which this pool gives sizes.
        (MIB + 1, MIB + 2, Code::OutOfRange, "limit"),
    ] {
        refused(
            with(&|w| w.capacity_range = Some(range(required, limit))),
            code,
            &[word],
        );
    }
    for (key, value) in [
        ("colour", "red"),
        ("volumeType", "Quota"),
        ("pool", "nowhere"),
        ("vgName", "nowhere"),
        ("lvmType", "striping"),
        ("provisioning", "fat"),
        ("mkfsOptions", "-F -F"),
        ("bps", "fast"),
        ("fsType", "ntfs"),
    ] {
        for block_too in [false, true] {
            let answer = with(&|w| {
                w.parameters = map(&[(key, value)]);
                if block_too {
                    w.volume_capabilities = vec![block(Mode::SingleNodeWriter)];
                }
            });
            let word = value.split(' ').next().expect("a word");
            let word = if key == "lvmType" { "pool" } else { word };
            let Err(status) = &answer else {
                panic!("{key}={value} was taken (block: {block_too})");
            };
            let named = status.message().contains(key) || status.message().contains(word);
            assert!(named, "{}", status.message());
            assert_eq!(status.code(), Code::InvalidArgument);
        }
    }
    refused(
        with(&|w| w.mutable_parameters = map(&[("pool", "p")])),
        Code::InvalidArgument,
        &["pool"],
    );
    for mode in [Mode::MultiNodeMultiWriter, Mode::MultiNodeSingleWriter] {
        refused(
            with(&|w| w.volume_capabilities = vec![mount("ext4", mode)]),
            Code::InvalidArgument,
            &["one node"],
        );
    }
    refused(
        with(&|w| w.volume_capabilities = vec![flagged("ext4", Mode::SingleNodeWriter, &["loop"])]),
        Code::InvalidArgument,
        &["loop"],
    );
    let missing = format!("s-{}", "0".repeat(32));
    refused(
        with(&|w| w.volume_content_source = from_snapshot(&missing)),
        Code::NotFound,
        &[&missing],
    );
    let missing = format!("v-{}", "0".repeat(32));
    refused(
        with(&|w| w.volume_content_source = from_volume(&missing)),
        Code::NotFound,
        &[&missing],
    );
    refused(csi.cut("s", &missing), Code::NotFound, &[&missing]);
    assert_nothing_made(&rig);

    let id = csi.made("v").volume_id;
    let staging = rig.path("staging");
    std::fs::create_dir(&staging).expect("a fresh directory");
    for flag in ["loop", "uid=0", "errors=panic"] {
        let bad = flagged("ext4", Mode::SingleNodeWriter, &[flag]);
        refused(
            csi.node_stage_volume(staging_of(&id, &staging, bad)),
            Code::InvalidArgument,
            &[flag],
        );
    }
    let raw = staging_of(&id, &staging, block(Mode::SingleNodeWriter));
    refused(
        csi.node_stage_volume(raw),
        Code::InvalidArgument,
        &["block"],
    );
    let smaller = CreateVolumeRequest {
        capacity_range: Some(range(32 * MIB, 0)),
        volume_content_source: from_volume(&id),
        ..volume("copy")
    };
    refused(
        csi.create_volume(smaller),
        Code::OutOfRange,
        &["32Mi", "64Mi"],
    );
    let other = CreateVolumeRequest {
        volume_capabilities: vec![mount("xfs", Mode::SingleNodeWriter)],
        capacity_range: Some(range(512 * MIB, 0)),
        volume_content_source: from_volume(&id),
        ..volume("copy")
    };
    csi.stage(&id, &staging, mount("ext4", Mode::SingleNodeWriter));
    refused(
        csi.create_volume(other),
        Code::InvalidArgument,
        &["ext4", "xfs"],
    );
    refused(
        csi.delete(&id),
        Code::FailedPrecondition,
        &[&text(&staging)],
    );
    csi.unstage(&id, &staging).expect("unstaged");
    assert_eq!(rig.storage.contents().len(), 1);
    csi.delete(&id).expect("deleted");
    rig.assert_clean();
}

#[test]
fn a_disk_with_data_or_in_use_is_not_taken() {
    let rig = rig();
    let file = SparseFile::new(320 << 20).expect("a file");
    let disk = output("losetup", &["-f", "--show", &text(file.path())]);
    let disk = disk.trim();
    let pools = rig.ok(&["pool", "list"]);
    let create = |args: &[&str]| rig.run(&[&["pool", "create", "q", "--kind"], args].concat());
    for (make, found) in [
        (&["mkfs.ext4", "-q", "-F"][..], "ext4"),
        (&["mkfs.xfs", "-q", "-f"], "xfs"),
        (&["mkswap", "-q", "-f"], "swap"),
        (&["pvcreate", "-q", "-y", "-ff"], "LVM"),
    ] {
        tool("wipefs", &["-a", "-q", disk]);
        tool(make[0], &[&make[1..], &[disk]].concat());
        let before = digest(file.path());
        for kind in ["lvm", "thin"] {
            create(&[kind, "--disk", disk]).fails_with(&[disk, found]);
        }
        assert_eq!(digest(file.path()), before, "{found}");
    }
    tool("wipefs", &["-a", "-q", disk]);
    tool(
        "sh",
        &["-c", &format!("echo 'label: gpt' | sfdisk -q {disk}")],
    );
    let before = digest(file.path());
    create(&["lvm", "--disk", disk]).fails_with(&[disk, "gpt"]);
    assert_eq!(digest(file.path()), before);
    tool("wipefs", &["-a", "-q", disk]);
    tool("mkfs.ext4", &["-q", "-F", disk]);
    let at = rig.text("theirs");
    std::fs::create_dir(&at).expect("a fresh directory");
    tool("mount", &[disk, &at]);
    for force in [&[][..], &["--force"]] {
        create(&[&["lvm", "--disk", disk], force].concat()).fails_with(&[disk]);
    }
    put(&rig.path("theirs/file"), "theirs");
    tool("umount", &[&at]);
    for (args, word) in [
        (
            &["lvm", "--disk", "/dev/no-such-disk"][..],
            "/dev/no-such-disk",
        ),
        (&["lvm", "--disk", "/etc/passwd"], "/etc/passwd"),
        (&["lvm", "--disk", "/dev/null"], "/dev/null"),
        (&["lvm", "--vg", "no-such-group"], "no-such-group"),
        (&["lvm", "--vg=-x"], "-x"),
        (&["thin", "--vg", "no-such-group"], "no-such-group"),
        (
            &["thin", "--vg", "x", "--overprovision", "0"],
            "overprovision",
        ),
        (&["file"], "path"),
        (&["file", "--path", "relative"], "path"),
        (&["file", "--path", "/tmp/q", "--disk", disk], "directory"),
        (&["file", "--path", "/tmp/q", "--vg", "x"], "vg"),
        (&["file", "--path", "/etc"], "/etc"),
    ] {
        create(args).fails_with(&[word]);
    }
    rig.run(&["pool", "create", "p", "--kind", "file", "--path", "/tmp/q"])
        .fails_with(&["pool p exists"]);
    rig.run(&[
        "pool", "create", "../q", "--kind", "file", "--path", "/tmp/q",
    ])
    .fails_with(&["../q"]);
    rig.run(&["pool", "extend", "p", disk])
        .fails_with(&["pool p", "directory"]);
    rig.run(&["pool", "extend", "ghost", disk])
        .fails_with(&["ghost"]);
    misspelt(&rig, &["pool", "create", "q", "--kind", "tape"], &["tape"]);
    assert_eq!(rig.ok(&["pool", "list"]), pools, "a pool was made");
    assert!(!Path::new("/tmp/q").exists());
    tool("losetup", &["-d", disk]);
    assert_nothing_made(&rig);
}

fn serve(config: &Path) -> Output {
    let child = Command::new(STOWAGE)
        .args(["serve", "--config"])
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program under test starts");
    ends_within(END, child, String::new)
}

#[test]
fn a_bad_configuration_says_which_line() {
    let work = tempfile::tempdir().expect("a directory");
    let file = work.path().join("stowage.toml");
    let base = format!("state-dir = \"{}/state\"\n", work.path().display());
    for (text, words) in [
        ("metrix = \"off\"\n", &["line 2", "metrix"][..]),
        (
            "[[pool]]\nname = \"p\"\nkind = \"file\"\npath = \"/p\"\nsize = 3\n",
            &["line 6", "size"],
        ),
        ("node-name = 5\n", &["line 2", "5"]),
        ("node-name = \"a\n", &["line 2"]),
        ("csi-socket = \"csi.sock\"\n", &["csi-socket", "csi.sock"]),
        ("metrics = \"0.0.0.0:9\"\n", &["metrics", "0.0.0.0:9"]),
        ("metrics = \"on\"\n", &["metrics", "on"]),
        ("driver-name = \"-x\"\n", &["-x"]),
        (
            "[[pool]]\nname = \"p\"\nkind = \"lvm\"\npath = \"/p\"\n",
            &["pool p"],
        ),
        (
            "[[pool]]\nname = \"../p\"\nkind = \"file\"\npath = \"/p\"\n",
            &["../p"],
        ),
        (
            "[[pool]]\nname = \"p\"\nkind = \"tape\"\n",
            &["line 4", "tape"],
        ),
    ] {
        std::fs::write(&file, format!("{base}{text}")).expect("writable");
        let out = serve(&file);
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success(), "{text}: started");
        assert_eq!(out.status.code(), Some(1), "{text}: {said}");
        assert_eq!(said.matches("stowage: ").count(), 1, "{said}");
        assert!(said.contains(&*file.to_string_lossy()) || !words[0].starts_with("line"));
        for word in words {
            assert!(said.contains(word), "{word:?} is not in: {said}");
        }
        assert!(!work.path().join("state").exists(), "{text}");
    }
    let out = serve(&work.path().join("none.toml"));
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(
        !out.status.success() && said.contains("none.toml"),
        "{said}"
    );
}

/// Send bytes to the admin socket as they are; its answer.
fn raw(rig: &Rig, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(rig.path("admin.sock")).expect("the daemon answers");
    let patience = Some(Duration::from_secs(10));
    stream.set_read_timeout(patience).expect("a socket");
    // It may hang up on a request that is too long before all of it was sent.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut line = String::new();
    let _ = BufReader::new(stream).read_line(&mut line);
    line
}

#[test]
fn nonsense_on_the_admin_socket_is_answered_and_survived() {
    let rig = rig();
    let long = format!(
        "{{\"op\":\"volume-show\",\"name\":\"{}\"}}\n",
        "x".repeat(70 << 10)
    );
    let endless = vec![b'x'; 10 << 20];
    let deep = "[".repeat(60 << 10);
    for (bytes, word) in [
        (&b"\n"[..], "malformed"),
        (b"", "malformed"),
        (b"hello\n", "malformed"),
        (b"{\"op\":\"volume-list\"\n", "malformed"),
        (b"{\"op\":\"shut-down\"}\n", "shut-down"),
        (b"{\"op\":\"volume-show\"}\n", "name"),
        (
            b"{\"op\":\"volume-show\",\"name\":\"v\",\"colour\":1}\n",
            "colour",
        ),
        (
            b"{\"op\":\"volume-grow\",\"name\":\"v\",\"size\":-1}\n",
            "-1",
        ),
        (b"\xff\xfe\n", "malformed"),
        (deep.as_bytes(), "malformed"),
        (long.as_bytes(), "longer than 64Ki"),
        (&endless, "longer than 64Ki"),
    ] {
        let answer = raw(&rig, bytes);
        let said: Value = serde_json::from_str(&answer).unwrap_or_else(|e| {
            panic!(
                "{e} in {answer:?} to {}",
                String::from_utf8_lossy(&bytes[..bytes.len().min(80)])
            )
        });
        assert_eq!(said["failed"]["kind"], json!("invalid"), "{answer}");
        let message = said["failed"]["message"].as_str().expect("a message");
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
    // Somebody who never says anything keeps nobody else waiting.
    let silent: Vec<UnixStream> = (0..50)
        .map(|_| UnixStream::connect(rig.path("admin.sock")).expect("the daemon answers"))
        .collect();
    assert_nothing_made(&rig);
    drop(silent);
    // Nor does a gRPC client at the wrong door, or nonsense at the CSI door.
    let mut stream = UnixStream::connect(rig.path("csi.sock")).expect("the daemon answers");
    let _ = stream.write_all(&endless);
    drop(stream);
    Csi::new(&rig)
        .list_volumes(Default::default())
        .expect("alive");
}

#[test]
fn only_root_gives_orders() {
    let rig = rig();
    let mode = |path: &str| {
        let meta = std::fs::metadata(rig.path(path)).expect("made by the daemon");
        meta.permissions().mode() & 0o7777
    };
    assert_eq!(mode("admin.sock"), 0o600);
    assert_eq!(mode("csi.sock"), 0o600);
    assert_eq!(mode("state") & 0o077, 0, "others may look into the state");
    let open = |path: &Path, mode| {
        let may = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(path, may).expect("ours");
    };
    // Where everybody can run it, should the build directory be closed.
    let program = rig.path("stowage");
    std::fs::copy(STOWAGE, &program).expect("room");
    open(&program, 0o755);
    open(rig.work.path(), 0o755);
    let nobody = |args: &[&str]| {
        let ids = ["--reuid=65534", "--regid=65534", "--clear-groups"];
        let out = Command::new("setpriv")
            .args(ids)
            .arg(&program)
            .args(args)
            .output();
        let out = out.expect("setpriv starts");
        assert!(!out.status.success());
        String::from_utf8_lossy(&out.stderr).into_owned()
    };
    let socket = rig.text("admin.sock");
    let said = nobody(&["--socket", &socket, "volume", "list"]);
    assert!(said.contains(&socket) && said.contains("root"), "{said}");
    assert_eq!(said.trim().lines().count(), 1, "{said}");
    // The peer is asked for, too: the mode of the socket is not all there is.
    open(&rig.path("admin.sock"), 0o666);
    let order = [
        "--socket", &socket, "volume", "create", "v", "--size", "64Mi",
    ];
    let said = nobody(&order);
    assert!(said.contains("only root"), "{said}");
    assert_eq!(said.trim().lines().count(), 1, "{said}");
    let said = nobody(&["serve", "--config", &rig.text("stowage.toml")]);
    assert!(said.contains("root"), "{said}");
    assert_eq!(said.trim().lines().count(), 1, "{said}");
    assert_nothing_made(&rig);
}

#[test]
fn a_second_daemon_waits_for_the_first_and_then_gives_up() {
    let mut rig = rig();
    let second = Command::new(STOWAGE)
        .args(["serve", "--config", &rig.text("stowage.toml")])
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program under test starts");
    let began = Instant::now();
    on::create(&rig, "v", "ext4", "64Mi");
    let out = ends_within(END, second, || rig.log());
    assert!(!out.status.success());
    let said = String::from_utf8_lossy(&out.stderr);
    let error = said.lines().last().unwrap_or_default();
    assert_eq!(said.matches("stowage: ").count(), 1, "{said}");
    for word in [&rig.text("state"), "in use", &rig.pid().to_string()] {
        assert!(error.contains(word), "{word:?} is not in: {said}");
    }
    assert!(began.elapsed() < Duration::from_secs(45));
    // The first one's sockets are still its own.
    rig.ok(&["volume", "delete", "v"]);
    rig.assert_clean();
    rig.stop();
    rig.start();
}

// What is printed.

#[test]
fn every_command_prints_json_for_scripts_and_a_table_on_a_pipe() {
    let rig = rig();
    let (m, q) = (rig.text("m"), rig.text("q"));
    let commands: Vec<Vec<&str>> = vec![
        vec!["pool", "list"],
        vec!["volume", "create", "v", "--size", "64Mi"],
        vec!["volume", "list"],
        vec!["volume", "ls"],
        vec!["volume", "show", "v"],
        vec!["volume", "mount", "v", &m],
        vec!["volume", "limit", "v", "bps=10Mi"],
        vec!["snapshot", "create", "v", "s"],
        vec!["snapshot", "list"],
        vec!["volume", "unmount", &m],
        vec!["volume", "grow", "v", "128Mi"],
        vec!["snapshot", "restore", "s", "r"],
        vec!["volume", "clone", "v", "c"],
        vec!["jobs"],
        vec!["doctor"],
        vec!["snapshot", "delete", "s"],
        vec!["volume", "delete", "v"],
        vec!["volume", "delete", "r"],
        vec!["volume", "rm", "c"],
    ];
    let socket = rig.text("admin.sock");
    for json in [true, false] {
        for args in &commands {
            let output = if json { "json" } else { "table" };
            let out = Command::new(STOWAGE)
                .args(["--socket", &socket, "-o", output])
                .args(args)
                .output()
                .expect("the program under test starts");
            let (said, errors) = (
                String::from_utf8_lossy(&out.stdout),
                String::from_utf8_lossy(&out.stderr),
            );
            assert!(out.status.success(), "{args:?}: {errors}");
            assert_eq!(errors, "", "{args:?}");
            if json {
                let parsed = serde_json::from_str::<Value>(&said);
                assert!(parsed.is_ok(), "{args:?} printed {said:?}");
            } else {
                assert!(said.ends_with('\n') && !said.contains('\u{1b}'), "{said:?}");
                assert!(serde_json::from_str::<Value>(&said).is_err(), "{said:?}");
                let listed = ["list", "ls", "show", "create", "jobs"];
                if args.iter().any(|a| listed.contains(a)) {
                    let head = said.lines().next().unwrap_or_default();
                    assert_eq!(head, head.to_uppercase(), "{args:?} has no head: {said}");
                }
            }
        }
    }
    rig.assert_clean();
    let path = ["pool", "create", "q", "--kind", "file", "--path", &q];
    assert_eq!(rig.ok(&path)[0]["name"], json!("q"));
    // A reader that has seen enough is no error.
    let pipe = format!("{STOWAGE} --socket {socket} volume list | true; echo ${{PIPESTATUS[0]}}");
    assert_eq!(output("bash", &["-c", &pipe]).trim(), "0");
}

#[test]
fn every_command_explains_itself() {
    let help = |args: &[&str]| {
        let out = Command::new(STOWAGE).args(args).arg("--help").output();
        let out = out.expect("the program under test starts");
        assert!(out.status.success(), "{args:?}");
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let subcommands = |text: &str| -> Vec<String> {
        let all = text.lines().skip_while(|l| *l != "Commands:").skip(1);
        all.take_while(|l| !l.is_empty())
            .filter_map(|l| l.strip_prefix("  ")?.split(' ').next())
            .filter(|w| !w.is_empty() && *w != "help")
            .map(str::to_owned)
            .collect()
    };
    let mut seen = 0;
    for first in subcommands(&help(&[])) {
        let text = help(&[&first]);
        seen += 1;
        for second in subcommands(&text) {
            let text = help(&[&first, &second]);
            assert!(text.contains("Usage: "), "{first} {second}");
            seen += 1;
        }
    }
    assert!(seen >= 20, "only {seen} commands found");
    for shell in ["bash", "zsh", "fish"] {
        let script = output(STOWAGE, &["completions", shell]);
        for word in ["volume", "snapshot", "overprovision"] {
            assert!(script.contains(word), "{shell} lacks {word}");
        }
    }
    tool(
        "bash",
        &["-c", &format!("source <({STOWAGE} completions bash)")],
    );
}

// What doctor finds.

fn pool(rig: &Rig) -> &LoopFs {
    let Storage::File(fs) = &rig.storage else {
        unreachable!("a file pool")
    };
    fs
}

/// What doctor says about this subject; it must say it once.
#[track_caller]
fn finding(rig: &Rig, subject: &str) -> Value {
    let said = rig.run(&["doctor"]).stdout;
    let all: Vec<Value> = serde_json::from_str(&said).expect("JSON");
    let about = |f: &&Value| f["subject"].as_str().is_some_and(|s| s.ends_with(subject));
    let found: Vec<&Value> = all.iter().filter(about).collect();
    assert_eq!(found.len(), 1, "about {subject}: {said}");
    assert_ne!(found[0]["mend"], json!(""), "how to mend it");
    found[0].clone()
}

#[test]
fn what_is_foreign_in_a_pool_is_reported_and_left() {
    let mut rig = rig();
    let volumes = pool(&rig).path().join("pool/volumes");
    assert!(rig.run(&["doctor"]).status.success());
    rig.stop();
    put(&volumes.join("notes.txt"), "theirs");
    std::fs::create_dir(volumes.join("v-1")).expect("a fresh directory");
    rig.start();
    for name in ["notes.txt", "v-1"] {
        let found = finding(&rig, name);
        assert_eq!(found["severity"], json!("warning"));
        assert_eq!(found["trouble"], json!("foreign"));
    }
    assert!(
        rig.run(&["doctor"]).status.success(),
        "a warning is no failure"
    );
    on::create(&rig, "v", "ext4", "64Mi");
    on::delete(&rig, &["v"]);
    rig.settle();
    assert_eq!(get(&volumes.join("notes.txt")), "theirs");
    assert!(volumes.join("v-1").is_dir());
}

#[test]
fn a_damaged_record_is_reported_and_its_volume_not_touched() {
    let mut rig = rig();
    let ids: Vec<String> = ["cut", "empty", "swapped", "gone", "fine"]
        .iter()
        .map(|name| {
            let made = on::create(&rig, name, "ext4", "64Mi");
            let m = on::mount(&rig, name, "m");
            put(&m.join("file"), name);
            on::unmount(&rig, "m");
            made["id"].as_str().expect("an id").to_owned()
        })
        .collect();
    rig.stop();
    let dir = pool(&rig).path().join("pool/volumes");
    let record = |n: usize| dir.join(&ids[n]).join("record.json");
    let whole = std::fs::read(record(0)).expect("a record");
    std::fs::write(record(0), &whole[..whole.len() / 2]).expect("writable");
    std::fs::write(record(1), b"").expect("writable");
    std::fs::copy(record(4), record(2)).expect("writable");
    std::fs::remove_file(record(3)).expect("there");
    let digests: Vec<String> = ids
        .iter()
        .map(|id| digest(&dir.join(id).join("data")))
        .collect();
    rig.start();
    let listed = rig.ok(&["volume", "list"]);
    // As they were last known.
    let states = listed.as_array().expect("a list").iter();
    let away = states.filter(|v| v["state"] == json!("away")).count();
    assert_eq!(
        (away, listed.as_array().map(Vec::len)),
        (4, Some(5)),
        "{listed}"
    );
    assert_eq!(rig.run(&["doctor"]).status.code(), Some(1));
    for (id, name) in ids[..4].iter().zip(["cut", "empty", "swapped", "gone"]) {
        let found = finding(&rig, id);
        assert_eq!(found["severity"], json!("error"));
        assert_eq!(found["trouble"], json!("bad-record"));
        // The name is not free: a new volume would take over the old one's bytes, and its
        // deletion would be the end of them.
        rig.run(&["volume", "create", name, "--size", "64Mi"])
            .fails_with(&[id, "record"]);
        rig.run(&["volume", "delete", name])
            .fails_with(&[id, "doctor"]);
        // Nor is it gone: told so, its caller would forget it.
        let refused = Csi::new(&rig).delete(id).expect_err("it is there");
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    }
    rig.settle();
    for (id, digest) in ids.iter().zip(digests) {
        assert_eq!(on::digest(&dir.join(id).join("data")), digest);
    }
    // With its record back it is a volume again.
    std::fs::write(record(0), &whole).expect("writable");
    rig.stop();
    rig.start();
    assert_eq!(get(&on::mount(&rig, "cut", "m").join("file")), "cut");
    on::unmount(&rig, "m");
}

#[test]
fn what_a_newer_version_wrote_is_listed_mounted_and_undeleted() {
    let mut rig = rig();
    let id = on::create(&rig, "v", "ext4", "64Mi")["id"].clone();
    let id = id.as_str().expect("an id").to_owned();
    let m = on::mount(&rig, "v", "m");
    put(&m.join("file"), "kept");
    let record = pool(&rig)
        .path()
        .join(format!("pool/volumes/{id}/record.json"));
    let whole = std::fs::read_to_string(&record).expect("a record");
    let newer = [
        ("version", "2", "version \"2\""),
        ("content", "f2fs", "\"f2fs\""),
        ("layout", "raid10", "\"raid10\""),
    ];
    for (key, value, why) in newer {
        rig.stop();
        let mut pairs: serde_json::Value = serde_json::from_str(&whole).expect("JSON");
        pairs[key] = json!(value);
        let written = pairs.to_string();
        std::fs::write(&record, &written).expect("writable");
        rig.start();
        let listed = rig.ok(&["volume", "list"]);
        assert_eq!(listed[0]["name"], json!("v"), "{listed}");
        assert_eq!(listed[0]["state"], json!("unreadable"));
        assert_eq!(listed[0]["size"], json!(64 << 20));
        assert_eq!(get(&m.join("file")), "kept");
        let told = finding(&rig, &id);
        assert_eq!(told["trouble"], json!("bad-record"));
        assert!(told["what"].as_str().expect("text").contains(why), "{told}");
        for refused in [
            &["volume", "delete", "v"][..],
            &["volume", "grow", "v", "128Mi"],
            &["volume", "limit", "v", "bps=1Mi"],
            &["volume", "clone", "v", "c"],
            &["volume", "mount", "v", &rig.text("n")],
            &["volume", "create", "v", "--size", "64Mi"],
            &["snapshot", "create", "v", "s"],
        ] {
            rig.run(refused).fails_with(&["kept as it is", why]);
        }
        let csi = Csi::new(&rig);
        let told = csi.delete(&id).expect_err("it is there");
        assert_eq!(told.code(), Code::Unavailable, "{told}");
        assert_eq!(std::fs::read_to_string(&record).expect("there"), written);
    }
    // It can be unmounted, and with its own version back all is as it was.
    rig.ok(&["volume", "unmount", &rig.text("m")]);
    rig.run(&["volume", "mount", "v", &rig.text("m")])
        .fails_with(&["kept as it is"]);
    rig.stop();
    std::fs::write(&record, &whole).expect("writable");
    rig.start();
    assert_eq!(get(&on::mount(&rig, "v", "m").join("file")), "kept");
    on::unmount(&rig, "m");
    on::delete(&rig, &["v"]);
}

#[test]
fn beneath_an_unmounted_pool_nothing_is_made() {
    let mut rig = rig();
    on::create(&rig, "v", "ext4", "64Mi");
    let (at, device) = (text(pool(&rig).path()), text(pool(&rig).device()));
    let look = |at: &str| {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(at).expect("a directory") {
            all.push(entry.expect("readable").file_name());
        }
        all
    };
    for restart in [false, true] {
        if restart {
            rig.stop();
        }
        match restart {
            true => tool("umount", &[&at]),
            // The daemon has the pool's marker open, so that no other daemon takes the pool; it lets
            // go of what is not there any more.
            false => tool("umount", &["-l", &at]),
        }
        if restart {
            rig.start();
        }
        rig.run(&["volume", "create", "w", "--size", "64Mi"])
            .fails_with(&["pool/stowage-pool.json", "mounted"]);
        let found = finding(&rig, "p");
        assert_eq!(found["severity"], json!("error"));
        assert_eq!(found["trouble"], json!("pool-missing"));
        assert_eq!(rig.run(&["doctor"]).status.code(), Some(1));
        let pools = rig.ok(&["pool", "list"]);
        assert!(pools[0]["problem"].is_string(), "{pools}");
        assert_eq!(look(&at), Vec::<std::ffi::OsString>::new());
        tool("mount", &[&device, &at]);
        if restart {
            // As doctor says.
            rig.stop();
            rig.start();
        }
        on::mount(&rig, "v", "m");
        on::unmount(&rig, "m");
        on::create(&rig, "w", "ext4", "64Mi");
        on::delete(&rig, &["w"]);
        assert!(rig.run(&["doctor"]).status.success());
    }
    on::delete(&rig, &["v"]);
    rig.assert_clean();
}

#[test]
fn the_pool_of_another_name_is_not_taken() {
    let mut rig = rig();
    rig.stop();
    let config = get(&rig.path("stowage.toml"));
    let renamed = config.replace("name = \"p\"", "name = \"other\"");
    put(&rig.path("stowage.toml"), &renamed);
    rig.start();
    let what = finding(&rig, "other")["what"].to_string();
    assert!(what.contains("belongs to the pool"), "{what}");
    rig.run(&["volume", "create", "v", "--size", "64Mi"])
        .fails_with(&["belongs to the pool"]);
    rig.stop();
    put(&rig.path("stowage.toml"), &config);
    rig.start();
    rig.assert_clean();
}
