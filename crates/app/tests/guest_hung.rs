//! A volume group whose disk hangs, as a disk does that is dying or whose cable is loose: what waits
//! for it waits in the kernel's hands and cannot be ended. Nothing else may wait with it.
//!
//! ```text
//!   /dev/ubdb ── vgtest, pool p; files, pool f           served all the time
//!   /dev/ubdc ── hung: its first sectors ──┐
//!            └── below: all behind them ───┴── vghung, pool q
//! ```
//!
//! With `hung` suspended even the label cannot be read. With `below` suspended the label and the
//! texts can, and LVM, which reads in larger pieces, hangs.

#![allow(
    clippy::disallowed_methods,
    reason = "callers that nobody waits for, and processes that are counted"
)]

mod support;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stowage_testkit::disk::{FsKind, LoopFs};
use support::uses as on;
use support::{Rig, STOWAGE, Storage, get, http, put, thin_pool, tool};

/// Both are told from the half minute after which LVM is given up, and wide enough for a busy machine:
/// looks at what is known, and calls that bring something to a disk.
const LOOK: Duration = Duration::from_secs(5);
const CALL: Duration = Duration::from_secs(15);

/// Longer than the longest pause after which a group is asked again.
const AGAIN: Duration = Duration::from_secs(90);

/// Where `hung` lies on its disk, and how much of it does not lie on `below`: the label and some
/// dozen texts of the group, and not all of the first piece that LVM reads (128 KiB).
const AT: u64 = 2048;
const HEAD: u64 = 200;

const GROUP: &str = "vghung";

/// How the disk hangs.
#[derive(Debug, Clone, Copy)]
enum Hang {
    /// From its first sector on.
    Whole,
    /// Behind what we read of it ourselves.
    BehindTheLabel,
}

/// The group on the disk that will hang.
struct Hung;

impl Hung {
    fn new(disk: &str, thin: bool) -> Self {
        let made = Self;
        let name = disk.trim_start_matches("/dev/");
        let sectors = get(format!("/sys/block/{name}/size").as_ref());
        let rest = sectors.trim().parse::<u64>().expect("a number") - AT - HEAD;
        let below = format!("0 {rest} linear {disk} {}", AT + HEAD);
        // No udev runs here to make the nodes.
        let alone = ["DM_DISABLE_UDEV=1", "dmsetup", "create"];
        tool("env", &[&alone[..], &["below", "--table", &below]].concat());
        let head = format!("0 {HEAD} linear {disk} {AT}");
        let table = format!("{head}\n{HEAD} {rest} linear /dev/mapper/below 0\n");
        let mut dmsetup = Command::new("env")
            .args(alone)
            .arg("hung")
            .stdin(Stdio::piped())
            .spawn()
            .expect("dmsetup");
        let mut stdin = dmsetup.stdin.take().expect("asked for");
        std::io::Write::write_all(&mut stdin, table.as_bytes()).expect("dmsetup reads");
        drop(stdin);
        assert!(dmsetup.wait().expect("a child").success());
        tool("vgcreate", &["-y", GROUP, "/dev/mapper/hung"]);
        if thin {
            thin_pool(GROUP, &["-l", "80%FREE"]);
        }
        made
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        for args in [
            &["vgremove", "-y", "-f", GROUP][..],
            &["pvremove", "-y", "-ff", "/dev/mapper/hung"],
            &["env", "DM_DISABLE_UDEV=1", "dmsetup", "remove", "hung"],
            &["env", "DM_DISABLE_UDEV=1", "dmsetup", "remove", "below"],
        ] {
            let _ = Command::new(args[0]).args(&args[1..]).output();
        }
    }
}

/// A device that hangs until this is dropped.
struct Suspended(&'static str);

impl Suspended {
    fn new(hang: Hang) -> Self {
        let device = match hang {
            Hang::Whole => "hung",
            Hang::BehindTheLabel => "below",
        };
        tool("dmsetup", &["suspend", "--noflush", "--nolockfs", device]);
        Self(device)
    }
}

impl Drop for Suspended {
    fn drop(&mut self) {
        tool("dmsetup", &["resume", self.0]);
    }
}

/// What took longest of its kind.
struct Longest {
    what: &'static str,
    took: Duration,
    at_most: Duration,
}

impl Longest {
    fn new(what: &'static str, at_most: Duration) -> Self {
        let took = Duration::ZERO;
        Self {
            what,
            took,
            at_most,
        }
    }

    #[track_caller]
    fn time<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let done = work();
        let took = begun.elapsed();
        self.took = self.took.max(took);
        assert!(took < self.at_most, "{}: {took:?}", self.what);
        done
    }
}

/// A volume's whole life in a pool whose disk is well.
#[track_caller]
fn life(rig: &Rig, pool: &str, longest: &mut Longest) {
    longest.time(|| rig.ok(&["volume", "create", "w", "--pool", pool, "--size", "64Mi"]));
    let at = longest.time(|| on::mount(rig, "w", "n"));
    put(&at.join("file"), "written");
    longest.time(|| on::unmount(rig, "n"));
    longest.time(|| rig.ok(&["volume", "delete", "w"]));
}

/// What the list of pools says is wrong with this one.
fn problem(rig: &Rig, pool: &str) -> Value {
    let pools = rig.ok(&["pool", "list"]);
    let mut all = pools.as_array().expect("a list").iter();
    let found = all.find(|found| found["name"] == json!(pool));
    found.expect("a pool")["problem"].clone()
}

/// What only informs answers soon, from what is known, and says what is not: with the pool on the disk
/// that hangs `away`, or maybe not yet.
#[track_caller]
fn informs(rig: &Rig, metrics: Option<u16>, longest: &mut Longest, away: bool) {
    let hung = longest.time(|| problem(rig, "q"));
    assert!(!away || hung != Value::Null, "{hung}");
    assert_eq!(problem(rig, "p"), Value::Null);
    let told = longest.time(|| rig.run(&["doctor"]).stdout);
    let found: Value = serde_json::from_str(&told).expect("JSON");
    let is_told = |pool: &str| {
        let mut all = found.as_array().expect("a list").iter();
        all.any(|finding| finding["subject"] == json!(pool))
    };
    assert!(!is_told("p") && (!away || is_told("q")), "{told}");
    let Some(port) = metrics else {
        assert!(is_told("metrics"), "{told}");
        return;
    };
    let (status, page) = longest.time(|| http(port, "/metrics"));
    assert!(status.contains("200"), "{status}: {page}");
    let up = |pool: &str| {
        let begin = format!("stowage_pool_up{{pool=\"{pool}\"");
        let mut lines = page.lines();
        let line = lines.find(|line| line.starts_with(&begin)).expect("a pool");
        line.ends_with(" 1")
    };
    assert!(up("p") && !(away && up("q")), "{page}");
    assert!(page.contains("name=\"kept\""), "{page}");
}

/// The processes of LVM at work in the group, by their command lines.
fn of_lvm() -> Vec<String> {
    let all = std::fs::read_dir("/proc").expect("proc").flatten();
    let lines = all.filter_map(|process| {
        let comm = std::fs::read_to_string(process.path().join("comm")).ok()?;
        let line = std::fs::read(process.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let lvm = ["lv", "vg", "pv"].iter().any(|kind| comm.starts_with(kind));
        (lvm && line.contains(GROUP)).then_some(line)
    });
    lines.collect()
}

/// One report and one change, however many calls there were.
#[track_caller]
fn do_not_pile_up() {
    let all = of_lvm();
    assert!(all.len() <= 2, "{all:#?}");
}

/// Callers that want something of the group that hangs, and that nobody waits for.
struct Stuck(Vec<Child>);

impl Stuck {
    fn new(rig: &Rig, name: &str) -> Self {
        let socket = rig.text("admin.sock");
        let call = |args: &[&str]| {
            let mut command = Command::new(STOWAGE);
            command.args(["--socket", &socket]).args(args);
            let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
            quiet.spawn().expect("the program under test starts")
        };
        let creates = (0..5).map(|n| {
            let name = format!("{name}-{n}");
            call(&["volume", "create", &name, "--pool", "q", "--size", "64Mi"])
        });
        let mut all: Vec<Child> = creates.collect();
        all.push(call(&["volume", "delete", "idle"]));
        all.push(call(&["snapshot", "create", "far", &format!("{name}-s")]));
        Self(all)
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn a_disk_that_hangs_holds_up_its_own_group_alone(thin: bool, hang: Hang) {
    let Storage::Lvm { vg, disks } = &Storage::lvm(false) else {
        unreachable!("asked for above")
    };
    let shown: Vec<String> = disks.iter().map(|d| d.display().to_string()).collect();
    let [good, bad, _] = shown.as_slice() else {
        panic!("three disks, not {shown:?}")
    };
    tool("vgremove", &["-y", vg]);
    for disk in &shown {
        tool("pvremove", &["-y", disk]);
    }
    tool("vgcreate", &["-y", vg, good]);
    let (vg, disks) = (vg.clone(), vec![good.into()]);
    let storage = match thin {
        false => Storage::Lvm { vg, disks },
        true => {
            thin_pool(&vg, &["-l", "80%FREE"]);
            Storage::Thin { vg, disks }
        }
    };
    // In this order, so that the disk answers again before anything of the rest is undone.
    let _hung = Hung::new(bad, thin);
    let mut rig = Rig::stopped(storage);
    let kind = match thin {
        false => "kind = \"lvm\"\n",
        true => "kind = \"thin\"\nthin-pool = \"tp\"\noverprovision = 4.0\n",
    };
    rig.configure(&format!("[[pool]]\nname = \"q\"\nvg = \"{GROUP}\"\n{kind}"));
    let fs = LoopFs::new(FsKind::Xfs, 512 << 20).expect("a file system");
    let files = fs.path().join("pool");
    let files = files.display();
    rig.configure(&format!(
        "[[pool]]\nname = \"f\"\nkind = \"file\"\npath = \"{files}\"\n"
    ));
    let port = rig.start_with_metrics();
    for (name, pool, at) in [("kept", "p", "m"), ("far", "q", "f")] {
        rig.ok(&["volume", "create", name, "--pool", pool, "--size", "64Mi"]);
        put(&on::mount(&rig, name, at).join("file"), name);
    }
    rig.ok(&["volume", "create", "idle", "--pool", "q", "--size", "64Mi"]);
    let mut usual = Longest::new("the same before", CALL);
    life(&rig, "p", &mut usual);
    let mut calls = Longest::new("calls for the other group", CALL);
    let mut looks = Longest::new("what informs", LOOK);
    let mut starts = Longest::new("a start", LOOK);

    let suspended = Suspended::new(hang);
    let begun = Instant::now();
    let mut stuck = vec![Stuck::new(&rig, "x")];
    let mut rounds = 0;
    let mut asked = None;
    // Beyond the moment at which the first commands are given up.
    while begun.elapsed() < Duration::from_secs(40) || rounds < 5 {
        rounds += 1;
        life(&rig, "p", &mut calls);
        // What was known a moment ago is told as it was for a while.
        let away = asked.is_some_and(|at: Instant| at.elapsed() > LOOK);
        informs(&rig, Some(port), &mut looks, away);
        asked.get_or_insert_with(Instant::now);
        do_not_pile_up();
        if rounds == 3 {
            stuck.push(Stuck::new(&rig, "y"));
        }
        // Other suites run beside this one, which has only to look now and then.
        std::thread::sleep(Duration::from_secs(1));
    }

    let dead = rig.kill_at_once();
    drop(stuck);
    starts.time(|| assert!(rig.start_at_once(), "{}", rig.log()));
    // Its own disk is read in a moment; that of the other group is waited for a little.
    let mut reads = Longest::new("until the other group is read", CALL);
    reads.time(|| {
        let begun = Instant::now();
        while problem(&rig, "p") != Value::Null {
            assert!(begun.elapsed() < AGAIN, "{}", rig.log());
        }
    });
    // Of a pool that was read, all is known, and nothing waits for the other one.
    let mut own = Longest::new(
        "a look at a volume of the good group",
        Duration::from_secs(2),
    );
    own.time(|| rig.ok(&["volume", "show", "kept"]));
    // A thread that hangs, in a look at the label or in the sync before a cut, keeps the dead daemon's
    // port taken; Unix sockets are replaced.
    let taken = rig.run(&["doctor"]).stdout.contains("\"metrics\"");
    let metrics = (!taken).then_some(port);
    informs(&rig, metrics, &mut looks, true);
    assert_eq!(get(&rig.path("m/file")), "kept");
    assert_eq!(
        rig.ok(&["volume", "show", "kept"])["used-at"],
        json!([rig.text("m")])
    );
    let _stuck = Stuck::new(&rig, "z");
    life(&rig, "f", &mut calls);
    for _ in 0..3 {
        life(&rig, "p", &mut calls);
        informs(&rig, metrics, &mut looks, true);
        do_not_pile_up();
    }

    drop(suspended);
    let back = Instant::now();
    while rig.run(&["doctor"]).stdout.trim() != "[]" {
        assert!(
            back.elapsed() < AGAIN,
            "{}\n{}",
            rig.run(&["doctor"]).stdout,
            rig.log()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    let back = back.elapsed();
    support::ends_within(AGAIN, dead, || rig.log());
    for Longest { what, took, .. } in [usual, calls, looks, starts, reads, own] {
        println!("time: {hang:?}, thin {thin}: {what}: {took:.2?}");
    }
    println!("time: {hang:?}, thin {thin}: back after {back:.2?}");
    assert_eq!(get(&rig.path("f/file")), "far");
    put(&rig.path("f/more"), "more");
    life(&rig, "p", &mut Longest::new("after it", CALL));
    on::unmount(&rig, "f");
    on::unmount(&rig, "m");
    // Callers' work may have been done since: what there is then is known, and can be deleted.
    for snapshot in rig.ok(&["snapshot", "list"]).as_array().expect("a list") {
        rig.ok(&[
            "snapshot",
            "delete",
            snapshot["id"].as_str().expect("an id"),
        ]);
    }
    for volume in rig.ok(&["volume", "list"]).as_array().expect("a list") {
        rig.ok(&["volume", "delete", volume["id"].as_str().expect("an id")]);
    }
    rig.assert_clean();
    let left = support::output("lvs", &["--noheadings", "-o", "lv_name", GROUP]);
    assert!(!left.contains("stowage-"), "{left}");
}

#[test]
fn a_thick_group_whose_disk_hangs_from_its_label_on() {
    a_disk_that_hangs_holds_up_its_own_group_alone(false, Hang::Whole);
}

#[test]
fn a_thick_group_whose_disk_hangs_lvm() {
    a_disk_that_hangs_holds_up_its_own_group_alone(false, Hang::BehindTheLabel);
}

#[test]
fn a_thin_pool_whose_disk_hangs_lvm() {
    a_disk_that_hangs_holds_up_its_own_group_alone(true, Hang::BehindTheLabel);
}
