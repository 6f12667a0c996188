//! Cgroups of a test's own, and how fast a consumer in one really is. The same on version 1
//! (blkio) and 2 (io.max).

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::uses::{create, delete, mount, snapshot, unmount};
use super::{Rig, is_file};

const V1: [&str; 4] = [
    "blkio.throttle.read_bps_device",
    "blkio.throttle.write_bps_device",
    "blkio.throttle.read_iops_device",
    "blkio.throttle.write_iops_device",
];

/// A cgroup for one test, removed when dropped.
pub struct Group {
    dir: PathBuf,
    v2: bool,
}

impl Group {
    pub fn new(name: &str) -> Self {
        Self::named(&format!("stowage-{name}-{}", std::process::id()))
    }

    /// As kubelet with the cgroupfs driver makes one for a pod.
    pub fn of_pod(uid: &str) -> Self {
        Self::named(&format!("pod{uid}"))
    }

    fn named(name: &str) -> Self {
        let root = Path::new("/sys/fs/cgroup");
        let controllers = std::fs::read_to_string(root.join("cgroup.controllers"));
        let v2 = controllers.is_ok_and(|c| c.split_whitespace().any(|c| c == "io"));
        let parent = match v2 {
            true => root.to_owned(),
            false => root.join("blkio"),
        };
        let dir = parent.join(name);
        std::fs::create_dir(&dir).expect("a cgroup of our own");
        Self { dir, v2 }
    }

    pub fn text(&self) -> String {
        self.dir.display().to_string()
    }

    /// The limits in force, for every device: (device, all limits as the kernel writes them).
    pub fn entries(&self) -> Vec<String> {
        let read = |file: &str| std::fs::read_to_string(self.dir.join(file)).unwrap_or_default();
        let files = match self.v2 {
            true => vec!["io.max"],
            false => V1.to_vec(),
        };
        let lines = files.into_iter().flat_map(|file| {
            let text = read(file);
            let lines = text.lines().map(|l| format!("{file}: {l}"));
            lines.collect::<Vec<_>>()
        });
        lines.collect()
    }

    /// Take every limit away, as if the machine had been restarted.
    pub fn forget(&self) {
        for entry in self.entries() {
            let (file, line) = entry.split_once(": ").expect("written by entries");
            let device = line.split(' ').next().expect("a device");
            let none = match self.v2 {
                true => format!("{device} rbps=max wbps=max riops=max wiops=max"),
                false => format!("{device} 0"),
            };
            std::fs::write(self.dir.join(file), none).expect("a limit can be lifted");
        }
        assert!(self.entries().is_empty());
    }

    /// Made anew, as when a service restarts.
    fn renew(&self) {
        std::fs::remove_dir(&self.dir).expect("nothing is in it");
        std::fs::create_dir(&self.dir).expect("a cgroup of our own");
    }

    /// Switch `io` off and on again above it, as systemd does.
    fn toggle(&self) {
        let above = self.dir.parent().expect("not the root");
        for switch in ["-io", "+io"] {
            let switched = std::fs::write(above.join("cgroup.subtree_control"), switch);
            switched.expect("nothing below hands io down");
        }
    }

    /// A command that runs in this cgroup.
    fn command(&self, program: &str, args: &[String]) -> Command {
        let mut command = Command::new("sh");
        let script = "echo $$ > \"$0\"/cgroup.procs && exec \"$@\"";
        command
            .args(["-c", script, &self.text(), program])
            .args(args);
        command
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        // Its last process may not be quite gone.
        while std::fs::remove_dir(&self.dir).is_err() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// What fio measured.
#[derive(Debug)]
pub struct Speed {
    pub read_bps: f64,
    pub write_bps: f64,
    pub read_iops: f64,
    pub write_iops: f64,
}

/// What every volume here has room for.
const SPAN: &str = "48M";

/// The seed article's job, over another span, with another block size or duration perhaps.
fn job(file: &Path, rw: &str, block: &str, span: &str, seconds: u32) -> Vec<String> {
    let mut args: Vec<String> = [
        "-name=test",
        "-ioengine=psync",
        "-direct=1",
        "-iodepth=1",
        "-thread",
        "-numjobs=32",
        "-time_based",
        "-group_reporting",
        "--output-format=json",
    ]
    .map(str::to_owned)
    .into();
    args.push(format!("-filename={}", file.display()));
    args.push(format!("-rw={rw}"));
    args.push(format!("-bs={block}"));
    args.push(format!("-size={span}"));
    args.push(format!("-runtime={seconds}"));
    args
}

/// Run the job inside the cgroup.
#[track_caller]
pub fn fio(group: &Group, file: &Path, rw: &str, block: &str, seconds: u32) -> Speed {
    measure(group, &job(file, rw, block, SPAN, seconds))
}

#[track_caller]
fn measure(group: &Group, job: &[String]) -> Speed {
    let out = group.command("fio", job).output().expect("fio starts");
    let said = String::from_utf8_lossy(&out.stdout);
    let from = said.find('{').unwrap_or_default();
    let report: Value = serde_json::from_str(&said[from..]).unwrap_or(Value::Null);
    let figure = |side: &str, what: &str| {
        report["jobs"][0][side][what].as_f64().unwrap_or_else(|| {
            panic!(
                "no {side} {what}: {said}{}",
                String::from_utf8_lossy(&out.stderr)
            )
        })
    };
    let speed = Speed {
        read_bps: figure("read", "bw_bytes"),
        write_bps: figure("write", "bw_bytes"),
        read_iops: figure("read", "iops"),
        write_iops: figure("write", "iops"),
    };
    println!("fio {}: {speed:?}", job[job.len() - 4..].join(" "));
    speed
}

/// Within `percent` of the limits, in pairs of found and limit. A consumer that shares its processors
/// with whatever else runs may fall short for a while, so one that got too little is measured
/// again; it must never get too much.
#[track_caller]
pub fn near(percent: f64, mut measure: impl FnMut() -> Vec<(f64, f64)>) {
    let mut short = Vec::new();
    for _ in 0..3 {
        let off = |(found, limit): &(f64, f64)| (found - limit) * 100.0 / limit;
        let all: Vec<f64> = measure().iter().map(off).collect();
        assert!(
            all.iter().all(|off| *off <= percent),
            "more than allowed: {all:.1?} %"
        );
        if all.iter().all(|off| *off >= -percent) {
            return;
        }
        short.push(all);
    }
    panic!("three times too little: {short:.1?} %");
}

/// A consumer that goes on until dropped.
struct Busy(Child);

impl Busy {
    fn new(group: &Group, file: &Path) -> Self {
        let child = group
            .command("fio", &job(file, "read", "16k", SPAN, 120))
            .stdout(Stdio::null())
            .spawn()
            .expect("fio starts");
        Self(child)
    }

    /// Bytes read in a second, once it is in its stride.
    fn rate(&self, seconds: u64) -> f64 {
        let read = || {
            let text = std::fs::read_to_string(format!("/proc/{}/io", self.0.id()));
            let text = text.expect("fio runs");
            let line = text.lines().find_map(|l| l.strip_prefix("read_bytes: "));
            line.and_then(|n| n.parse::<f64>().ok()).expect("a number")
        };
        let begun = read();
        let deadline = Instant::now() + Duration::from_secs(30);
        while read() < begun + 1e6 {
            assert!(Instant::now() < deadline, "fio does not get on");
            std::thread::sleep(Duration::from_millis(50));
        }
        std::thread::sleep(Duration::from_secs(1));
        let (from, began) = (read(), Instant::now());
        std::thread::sleep(Duration::from_secs(seconds));
        (read() - from) / began.elapsed().as_secs_f64()
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn raw(rig: &Rig, group: &Group, size: &str, limit: &str) -> PathBuf {
    rig.ok(&[
        "volume", "create", "v", "--block", "--size", size, "--limit", limit,
    ]);
    let target = rig.text("dev");
    rig.ok(&["volume", "mount", "v", &target, "--cgroup", &group.text()]);
    rig.path("dev")
}

/// The article's job at the article's limit, and then one in operations. A guest has neither the
/// disks nor the time for a GiB and a minute.
pub fn the_articles_job(rig: &Rig) {
    let group = Group::new("bps");
    let (size, span, seconds) = match is_file(&rig.storage) {
        true => ("1Gi", "1G", 60),
        false => ("64Mi", SPAN, 20),
    };
    let device = raw(rig, &group, size, "bps=1048576");
    // Each of its 32 threads reads or writes by chance and waits for its turn, so that now and then
    // too few are left for the other side: some 3 % are lost (N/(N+1)), and chance adds to that
    // unless the run is long.
    near(5.0, || {
        let speed = measure(&group, &job(&device, "readwrite", "16k", span, seconds));
        vec![
            (speed.read_bps, 1_048_576.0),
            (speed.write_bps, 1_048_576.0),
        ]
    });
    rig.ok(&["volume", "limit", "v", "bps=0", "iops=200"]);
    near(5.0, || {
        let reading = fio(&group, &device, "read", "4k", 6);
        let writing = fio(&group, &device, "write", "4k", 6);
        vec![(reading.read_iops, 200.0), (writing.write_iops, 200.0)]
    });
    unmount(rig, "dev");
    assert_eq!(group.entries(), Vec::<String>::new(), "limits left behind");
    delete(rig, &["v"]);
    rig.assert_clean();
}

/// Reading and writing are limited each for itself, also through a file system.
pub fn each_side_for_itself(rig: &Rig) {
    let group = Group::new("sides");
    create(rig, "v", "ext4", "128Mi");
    rig.ok(&["volume", "limit", "v", "rbps=4Mi", "wiops=100"]);
    let target = rig.text("m");
    rig.ok(&["volume", "mount", "v", &target, "--cgroup", &group.text()]);
    let file = rig.path("m/file");
    // Written, not allocated: reading blocks never written needs no device.
    super::put(&file, &"x".repeat(48 << 20));
    near(5.0, || {
        let reading = fio(&group, &file, "read", "64k", 8).read_bps;
        let writing = fio(&group, &file, "write", "4k", 8).write_iops;
        vec![(reading, f64::from(4 << 20)), (writing, 100.0)]
    });
    unmount(rig, "m");
    assert_eq!(group.entries(), Vec::<String>::new());
    delete(rig, &["v"]);
    rig.assert_clean();
}

/// A limit changed under a consumer takes hold of it.
pub fn changed_in_use(rig: &Rig) {
    let group = Group::new("change");
    let device = raw(rig, &group, "64Mi", "bps=1Mi");
    let busy = Busy::new(&group, &device);
    near(10.0, || vec![(busy.rate(4), f64::from(1 << 20))]);
    rig.ok(&["volume", "limit", "v", "bps=4Mi"]);
    near(10.0, || vec![(busy.rate(4), f64::from(4 << 20))]);
    rig.ok(&["volume", "limit", "v", "bps=0"]);
    let free = busy.rate(2);
    assert!(free > 8e6, "still limited: {free:.0}");
    assert_eq!(group.entries(), Vec::<String>::new());
    drop(busy);
    unmount(rig, "dev");
    delete(rig, &["v"]);
    rig.assert_clean();
}

/// Limits are there again after the daemon was killed, and as the volume has them by then.
pub fn set_again_after_a_kill(rig: &mut Rig) {
    let group = Group::new("again");
    raw(rig, &group, "64Mi", "bps=1Mi");
    rig.ok(&["volume", "limit", "v", "riops=300"]);
    let set = group.entries();
    assert!(!set.is_empty());
    rig.kill();
    assert_eq!(group.entries(), set, "a killed daemon's limits hold");
    group.forget();
    rig.start();
    assert_eq!(group.entries(), set);
    let limits = rig.ok(&["volume", "show", "v"])["limits"].clone();
    assert_eq!(limits["read-iops"], json!(300), "{limits}");
    rig.stop();
    rig.start();
    unmount(rig, "dev");
    assert_eq!(group.entries(), Vec::<String>::new());
    delete(rig, &["v"]);
    rig.assert_clean();
}

/// Limits come back within seconds when their cgroup is made anew, or `io` was switched off above it.
pub fn back_in_a_new_group(rig: &Rig) {
    let group = Group::new("anew");
    raw(rig, &group, "64Mi", "bps=1Mi");
    let set = group.entries();
    assert!(!set.is_empty());
    let ways = [Group::renew as fn(&Group), Group::toggle];
    for lose in ways.into_iter().take(if group.v2 { 2 } else { 1 }) {
        lose(&group);
        let deadline = Instant::now() + Duration::from_secs(20);
        while group.entries() != set {
            assert!(Instant::now() < deadline, "{:?}", group.entries());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    rig.ok(&["volume", "limit", "v", "bps=0"]);
    assert_eq!(group.entries(), Vec::<String>::new());
    unmount(rig, "dev");
    delete(rig, &["v"]);
    rig.assert_clean();
}

/// A minute's worth of what a consumer may write lies in memory: neither its snapshot nor what others
/// want of the pool waits for that, and the limit is there again afterwards.
pub fn a_cut_does_not_wait_for_the_limit(rig: &Rig) {
    let soon = Duration::from_secs(25);
    let group = Group::new("cut");
    create(rig, "v", "ext4", "256Mi");
    rig.ok(&["volume", "limit", "v", "wbps=1Mi"]);
    let target = rig.text("v");
    rig.ok(&["volume", "mount", "v", &target, "--cgroup", &group.text()]);
    let set = group.entries();
    assert_eq!(set.len(), 1, "{set:?}");
    let data = format!("of={}", rig.path("v").join("data").display());
    let args = ["if=/dev/zero", &data, "bs=1M", "count=64"].map(str::to_owned);
    let wrote = group.command("dd", &args).status().expect("dd starts");
    assert!(wrote.success());
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let cut = scope.spawn(|| {
            snapshot(rig, "v", "s");
            begun.elapsed()
        });
        let other = scope.spawn(|| {
            create(rig, "w", "ext4", "64Mi");
            begun.elapsed()
        });
        for (what, took) in [("the snapshot", cut), ("another volume", other)] {
            let took = took.join().expect("it is made");
            println!("{what} took {took:?}");
            assert!(took < soon, "{what} took {took:?}");
        }
    });
    assert_eq!(group.entries(), set);
    unmount(rig, "v");
    rig.ok(&["snapshot", "delete", "s"]);
    delete(rig, &["v", "w"]);
    rig.assert_clean();
}

/// Of two targets in one cgroup the first to go leaves the limits, the last takes them along; a
/// cgroup that is not there is refused and leaves no mount.
pub fn lifted_with_the_last_target(rig: &Rig) {
    let group = Group::new("last");
    create(rig, "v", "ext4", "64Mi");
    rig.ok(&["volume", "limit", "v", "bps=1Mi"]);
    let nowhere = format!("{}-nowhere", group.text());
    for bad in [nowhere.as_str(), "/etc", "/sys/fs/cgroup/../../../etc"] {
        rig.run(&["volume", "mount", "v", &rig.text("a"), "--cgroup", bad])
            .fails_with(&["cgroup"]);
        assert!(!rig.path("a").exists(), "{bad}");
        assert_eq!(rig.ok(&["volume", "show", "v"])["used-at"], json!([]));
    }
    for at in ["a", "b"] {
        rig.ok(&[
            "volume",
            "mount",
            "v",
            &rig.text(at),
            "--cgroup",
            &group.text(),
        ]);
    }
    // One without a cgroup is not limited, and takes nothing from the others.
    mount(rig, "v", "c");
    let set = group.entries();
    assert!(!set.is_empty());
    for at in ["c", "a"] {
        unmount(rig, at);
        assert_eq!(group.entries(), set);
    }
    unmount(rig, "b");
    assert_eq!(group.entries(), Vec::<String>::new());
    delete(rig, &["v"]);
    rig.assert_clean();
}

/// A device handed out to read is limited too, though it may be another device.
pub fn readers_are_limited(rig: &Rig) {
    let group = Group::new("reader");
    rig.ok(&[
        "volume", "create", "v", "--block", "--size", "64Mi", "--limit", "rbps=2Mi",
    ]);
    let target = rig.text("dev");
    rig.ok(&[
        "volume",
        "mount",
        "v",
        &target,
        "--read-only",
        "--cgroup",
        &group.text(),
    ]);
    near(5.0, || {
        let speed = fio(&group, &rig.path("dev"), "read", "16k", 8);
        vec![(speed.read_bps, f64::from(2 << 20))]
    });
    unmount(rig, "dev");
    assert_eq!(group.entries(), Vec::<String>::new());
    delete(rig, &["v"]);
    rig.assert_clean();
}

/// A pod's cgroup is found by the target's path, also when kubelet makes it after the mount.
pub fn a_pods_own_group(rig: &Rig) {
    create(rig, "v", "ext4", "64Mi");
    rig.ok(&["volume", "limit", "v", "bps=1Mi", "wiops=50"]);
    for early in [true, false] {
        let uid = format!("{:08x}-d39b-4cde-abad-6c5963b47761", std::process::id());
        let below = format!("pods/{uid}/volumes/kubernetes.io~csi/pv");
        std::fs::create_dir_all(rig.path(&below)).expect("a writable directory");
        let target = format!("{below}/mount");
        let group = early.then(|| Group::of_pod(&uid));
        mount(rig, "v", &target);
        let group = group.unwrap_or_else(|| Group::of_pod(&uid));
        // At once if it was there; otherwise upkeep looks for it every few seconds.
        let deadline = Instant::now() + Duration::from_secs(if early { 0 } else { 30 });
        while group.entries().is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(100));
        }
        let set = group.entries().join(" ");
        assert!(set.contains("1048576") && set.contains("50"), "{set}");
        unmount(rig, &target);
        assert_eq!(group.entries(), Vec::<String>::new());
    }
    delete(rig, &["v"]);
    rig.assert_clean();
}
