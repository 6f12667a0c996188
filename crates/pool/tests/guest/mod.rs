//! What the tests over real LVM share. They run in a guest of their own, one at a time, on disks
//! named by `STOWAGE_TEST_DISKS`; each test begins with blank ones.

#![allow(dead_code, reason = "each test file uses its part of this")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use stowage_host::{Cmd, Progress, Runner, System};
use stowage_model::id::Role;
use stowage_model::record::Content;
use stowage_model::request::{Layout, Provisioning, SnapshotGrowth, Usage};
use stowage_model::{Bytes, Id, Limits, Name, Record};
use stowage_pool::{Attach, Backing, Pool, Removed};

/// The volume group every test makes.
pub(crate) const VG: &str = "st-test";
const MIB: usize = 1 << 20;

/// The disks, blank, and a runner for commands.
pub(crate) struct Bench {
    pub(crate) runner: Arc<dyn Runner>,
    pub(crate) disks: Vec<PathBuf>,
    began: Instant,
}

impl Bench {
    /// # Panics
    /// Without disks, or when they cannot be made blank.
    pub(crate) async fn new() -> Self {
        let named = std::env::var("STOWAGE_TEST_DISKS").unwrap_or_default();
        let disks: Vec<PathBuf> = named
            .split(',')
            .filter(|disk| !disk.is_empty())
            .map(PathBuf::from)
            .collect();
        assert!(
            disks.len() >= 2,
            "this test wipes disks and runs in a guest only: name at least two expendable disks \
             in STOWAGE_TEST_DISKS, or run `cargo xtask test`"
        );
        let bench = Self {
            runner: Arc::new(System::new()),
            disks,
            began: Instant::now(),
        };
        bench.blank().await;
        bench
    }

    /// The same, leaving the disks as they are.
    pub(crate) fn as_is() -> Self {
        let named = std::env::var("STOWAGE_TEST_DISKS").expect("STOWAGE_TEST_DISKS names disks");
        let disks = named.split(',').map(PathBuf::from).collect();
        Self {
            runner: Arc::new(System::new()),
            disks,
            began: Instant::now(),
        }
    }

    pub(crate) async fn blank(&self) {
        self.sh("for m in $(grep /run/mnt/ /proc/mounts | cut -d' ' -f2); do umount $m; done")
            .await;
        self.sh(
            "for d in $(dmsetup ls | grep -v 'No devices' | cut -f1); do dmsetup resume $d; done",
        )
        .await;
        self.sh("for v in $(vgs --noheadings -o vg_name); do vgchange -q -an $v; done")
            .await;
        self.sh("dmsetup remove_all --force").await;
        for disk in &self.disks {
            self.run(&["wipefs", "-a", "-q", "-f", text(disk)]).await;
            let file = File::options().write(true).open(disk).unwrap();
            let size = stowage_host::device::size(disk).unwrap();
            file.write_all_at(&vec![0; MIB], 0).unwrap();
            file.write_all_at(&vec![0; MIB], size - MIB as u64).unwrap();
            file.sync_all().unwrap();
        }
    }

    /// Run a command that must succeed.
    pub(crate) async fn run(&self, argv: &[&str]) -> String {
        let cmd = Cmd::new(argv[0]).args(&argv[1..]);
        match self.runner.run(cmd).await {
            Ok(output) => output.stdout,
            Err(error) => panic!("{error}"),
        }
    }

    pub(crate) async fn sh(&self, script: &str) -> String {
        self.run(&["sh", "-c", script]).await
    }

    /// Settings of a host's own, until the guard is dropped.
    pub(crate) fn settings(&self, text: &str) -> Settings {
        // A section named again adds to it.
        self.settings_by(|before| format!("{before}{text}"))
    }

    /// As [`Bench::settings`], made of those there are.
    pub(crate) fn settings_by(&self, new: impl Fn(&str) -> String) -> Settings {
        let dir = std::env::var_os("LVM_SYSTEM_DIR").expect("the guest has a directory for LVM");
        let file = PathBuf::from(dir).join("lvm.conf");
        let before = fs::read_to_string(&file).unwrap();
        fs::write(&file, new(&before)).unwrap();
        Settings { file, before }
    }

    /// The first `n` disks.
    pub(crate) fn some(&self, n: usize) -> Vec<PathBuf> {
        self.disks[..n].to_vec()
    }

    /// One line about how long something took, for the log of the run.
    pub(crate) async fn timed<T>(&self, what: &str, work: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        let done = work.await;
        println!("time: {what}: {:.2} s", begun.elapsed().as_secs_f64());
        done
    }

    pub(crate) async fn mount(&self, device: &Path, options: &str) -> Mounted {
        let point = PathBuf::from("/run/mnt").join(device.file_name().unwrap());
        fs::create_dir_all(&point).unwrap();
        self.run(&["mount", "-o", options, text(device), text(&point)])
            .await;
        Mounted { point }
    }

    pub(crate) async fn freeze(&self, mounted: &Mounted) {
        self.run(&["fsfreeze", "-f", text(&mounted.point)]).await;
    }

    /// The kernel freezes nothing twice for users.
    pub(crate) async fn still_frozen(&self, mounted: &Mounted) {
        let point = text(&mounted.point);
        self.sh(&format!("! fsfreeze -f {point} 2>/dev/null")).await;
    }

    pub(crate) async fn thaw(&self, mounted: &Mounted) {
        self.run(&["fsfreeze", "-u", text(&mounted.point)]).await;
    }

    pub(crate) async fn ext4(&self, device: &Path) {
        // All at once: what is written later counts against the stores of snapshots.
        let now = "lazy_itable_init=0,lazy_journal_init=0";
        self.run(&["mkfs.ext4", "-q", "-F", "-E", now, text(device)])
            .await;
    }
}

/// See [`Bench::settings`].
pub(crate) struct Settings {
    file: PathBuf,
    before: String,
}

impl Drop for Settings {
    fn drop(&mut self) {
        fs::write(&self.file, &self.before).unwrap();
    }
}

pub(crate) struct Mounted {
    pub(crate) point: PathBuf,
}

impl Mounted {
    pub(crate) fn write(&self, name: &str, content: &[u8]) {
        let path = self.point.join(name);
        fs::write(&path, content).unwrap();
        File::open(&path).unwrap().sync_all().unwrap();
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.point.join(name).exists()
    }

    pub(crate) async fn unmount(self, bench: &Bench) {
        bench.run(&["umount", text(&self.point)]).await;
    }
}

/// Counts up in one file, then in another, each count on the disk before the next: no moment has more
/// in the second than in the first, or lags by two.
pub(crate) struct Counting {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<()>,
}

impl Counting {
    /// Begin, and come back when both files have counts.
    pub(crate) async fn begin(first: &Path, second: &Path) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let shared = (Arc::clone(&stop), Arc::clone(&done));
        let files = [first, second].map(|path| File::create(path).unwrap());
        // In place and always as long: a file that is cut short and written again is empty in
        // between.
        let store = |file: &File, n: u64| {
            file.write_all_at(format!("{n:020}").as_bytes(), 0).unwrap();
            file.sync_all().unwrap();
        };
        files.iter().for_each(|file| store(file, 0));
        let thread = std::thread::spawn(move || {
            let (stop, done): (_, Arc<AtomicU64>) = shared;
            for n in 1.. {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                files.iter().for_each(|file| store(file, n));
                done.store(n, Ordering::SeqCst);
            }
        });
        let counting = Self { stop, done, thread };
        counting.await_more().await;
        counting
    }

    /// Until it has got on by some counts.
    pub(crate) async fn await_more(&self) {
        let wanted = self.done.load(Ordering::SeqCst) + 3;
        for _ in 0..6000 {
            if self.done.load(Ordering::SeqCst) >= wanted {
                return;
            }
            assert!(!self.thread.is_finished(), "the writer failed");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the writer does not get on");
    }

    /// Stop; how far it came.
    pub(crate) fn end(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
        self.done.load(Ordering::SeqCst)
    }

    /// Refuse what is not one moment while it counted.
    pub(crate) fn assert_one_moment(first: u64, second: u64, end: u64) {
        assert!(
            second >= 3 && first >= second && first - second <= 1 && first < end,
            "{first} and {second} of {end}"
        );
    }
}

pub(crate) fn count_in(path: &Path) -> u64 {
    fs::read_to_string(path).unwrap().parse().unwrap()
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A record of a raw volume of this name.
pub(crate) fn volume(name: &str) -> Record {
    let name = Name::new(name).unwrap();
    Record {
        id: Id::derive(Role::Volume, &name),
        name,
        asked: Bytes::mib(60),
        created: "2026-11-21T10:00:00.123Z".parse().unwrap(),
        usage: Usage {
            mount: None,
            block: true,
        },
        content: Content::Blank,
        fs_bytes: Bytes(0),
        mkfs: Vec::new(),
        layout: Layout::Linear,
        provisioning: Provisioning::Thick,
        limits: Limits::default(),
        source: None,
        fingerprint: stowage_model::Fingerprint::from_text("00ff"),
        read_only: false,
        ephemeral: false,
        group: None,
        growth: None,
        beyond: None,
    }
}

/// A record of a snapshot with a small store, so that growth is soon needed.
pub(crate) fn snapshot(name: &str, of: &Record) -> Record {
    let name = Name::new(name).unwrap();
    let id = Id::derive(Role::Snapshot, &name);
    let growth = SnapshotGrowth {
        initial: Bytes::mib(8),
        threshold: 50,
        step: Bytes::mib(8),
    };
    Record {
        growth: Some(growth),
        ..of.snapshot(id, name, of.asked, of.created)
    }
}

/// A record of a volume that is to read `of` in place.
pub(crate) fn reader(name: &str, of: &Record) -> Record {
    Record {
        source: Some(of.id.clone()),
        read_only: true,
        ..volume(name)
    }
}

pub(crate) fn lv(record: &Record) -> String {
    format!("stowage-{}", record.id)
}

/// Write a pattern over `mib` MiB of a device, through no cache that another device would miss.
pub(crate) fn fill(device: &Path, from_mib: usize, mib: usize, byte: u8) {
    let file = File::options().write(true).open(device).unwrap();
    let block = vec![byte; MIB];
    for i in from_mib..from_mib + mib {
        file.write_all_at(&block, (i * MIB) as u64).unwrap();
    }
    file.sync_all().unwrap();
}

/// How many bytes of a device lie in sectors of nothing but this byte.
pub(crate) fn count(device: &Path, byte: u8) -> usize {
    let mut file = File::open(device).unwrap();
    let mut block = vec![0; MIB];
    let mut found = 0;
    loop {
        let n = file.read(&mut block).unwrap();
        if n == 0 {
            return found;
        }
        let sectors = block[..n].chunks(512);
        found += sectors
            .filter(|sector| sector.iter().all(|b| *b == byte))
            .map(<[u8]>::len)
            .sum::<usize>();
    }
}

pub(crate) async fn device(pool: &dyn Pool, record: &Record) -> PathBuf {
    let Backing::Block(devices) = pool.backing();
    devices.attach(record, Attach::Held).await.unwrap().path
}

/// Remove, and wipe what is left.
pub(crate) async fn destroy(pool: &dyn Pool, record: &Record) {
    let Backing::Block(devices) = pool.backing();
    devices.detach(record).await.unwrap();
    if let Removed::ToPurge(leftover) = pool.remove(record).await.unwrap() {
        pool.purge(&leftover, &Arc::new(Progress::new()))
            .await
            .unwrap();
    }
}

/// The records found by a scan, in the order of their names.
pub(crate) async fn found(pool: &dyn Pool) -> Vec<Record> {
    let mut found: Vec<_> = pool
        .scan()
        .await
        .unwrap()
        .found
        .into_iter()
        .map(|found| found.record)
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Take everything away that a scan finds, and see that nothing of it was damaged.
pub(crate) async fn sweep(pool: &dyn Pool) {
    let scan = pool.scan().await.unwrap();
    assert!(scan.defects.is_empty(), "{:?}", scan.defects);
    for leftover in &scan.leftovers {
        pool.purge(leftover, &Arc::new(Progress::new()))
            .await
            .unwrap();
    }
    let mut records: Vec<_> = scan.found.into_iter().map(|found| found.record).collect();
    // What is made of something goes before it: readers, then snapshots, then volumes.
    records.sort_by_key(|r| (r.is_snapshot() as u8, r.source.is_none()));
    let (copies, originals): (Vec<_>, Vec<_>) = records
        .into_iter()
        .partition(|r| !r.is_snapshot() && r.source.is_some());
    let (snapshots, volumes): (Vec<_>, Vec<_>) =
        originals.into_iter().partition(Record::is_snapshot);
    for record in copies.iter().chain(&snapshots).chain(&volumes) {
        destroy(pool, record).await;
    }
    let scan = pool.scan().await.unwrap();
    assert_eq!(scan, stowage_pool::Scan::default());
}

/// Where a child tells what it was told is done, and what it goes on to remove.
const TOLD: &str = "/run/acknowledged";

/// The first MiB of everything that is told of holds this.
const KEPT: u8 = 1;

/// Say that it is made; its first MiB is that of a volume which [`lay_down`] made.
pub(crate) fn tell_made(record: &Record) {
    tell("made", record);
}

fn tell(what: &str, record: &Record) {
    let mut file = File::options()
        .append(true)
        .create(true)
        .open(TOLD)
        .unwrap();
    writeln!(file, "{what} {}", record.name).unwrap();
}

/// A volume with bytes of its own, told.
pub(crate) async fn lay_down(pool: &dyn Pool, record: &Record, size: Bytes) -> PathBuf {
    pool.create(record, size).await.unwrap();
    let at = device(pool, record).await;
    fill(&at, 0, 1, KEPT);
    tell_made(record);
    at
}

/// As [`destroy`], told before it begins.
pub(crate) async fn tell_and_destroy(pool: &dyn Pool, record: &Record) {
    tell("removing", record);
    destroy(pool, record).await;
}

/// What was told is made and was not to be removed is there, with its bytes.
async fn assert_kept(pool: &dyn Pool, cut: &str) {
    let told = fs::read_to_string(TOLD).unwrap_or_default();
    let told: Vec<(&str, &str)> = told.lines().filter_map(|l| l.split_once(' ')).collect();
    let found = found(pool).await;
    for (what, name) in &told {
        if *what != "made" || told.contains(&("removing", name)) {
            continue;
        }
        let record = found.iter().find(|r| r.name.as_str() == *name);
        let record = record.unwrap_or_else(|| panic!("{name} is lost after {cut}: {found:?}"));
        let mut first = vec![0; MIB];
        let device = File::open(device(pool, record).await).unwrap();
        device.read_exact_at(&mut first, 0).unwrap();
        let kept = first.iter().all(|byte| *byte == KEPT);
        assert!(kept, "{name} has lost its bytes after {cut}");
    }
}

/// Run the test `child` to its end, and then once for each step that it took, killed there. Before
/// each run comes `prepare`; after each `recover` gives a pool with all that was acknowledged, which
/// `settle` goes on with and which is then swept. The steps that it was killed at.
pub(crate) async fn killed_at_each_step<P: Pool>(
    bench: &Bench,
    child: &str,
    prepare: impl AsyncFn(),
    recover: impl AsyncFn() -> P,
    settle: impl AsyncFn(&P, &str),
) -> usize {
    let mut cuts: Vec<Option<String>> = vec![None];
    let mut next = 0;
    while let Some(cut) = cuts.get(next).cloned() {
        let _ = fs::remove_file(TOLD);
        prepare().await;
        let (killed, passed) = run_child(bench, child, cut.as_deref()).await;
        let shown = cut.as_deref().unwrap_or("its end");
        assert_eq!(killed, cut.is_some(), "{child} came to {shown}: {passed:?}");
        println!("{child} came to {shown}");
        if cut.is_none() {
            cuts.extend(steps(&passed).into_iter().map(Some));
        }
        let pool = recover().await;
        assert_kept(&pool, shown).await;
        settle(&pool, shown).await;
        next += 1;
    }
    cuts.len() - 1
}

/// Every point that was passed, by its name and which time it was. The state at a `begin` is that after
/// the step before it.
fn steps(passed: &[String]) -> Vec<String> {
    let mut hits = BTreeMap::new();
    let steps = passed.iter().filter(|point| !point.ends_with(".begin"));
    steps
        .map(|point| {
            let nth = hits.entry(point).or_insert(0);
            *nth += 1;
            format!("{point}#{nth}")
        })
        .collect()
}

/// Run the test `child` of this executable in a process of its own, killed at `point`. Returns
/// whether it was killed, and the points it passed.
async fn run_child(bench: &Bench, child: &str, point: Option<&str>) -> (bool, Vec<String>) {
    let log = "/run/failpoints";
    let _ = fs::remove_file(log);
    let exe = std::env::current_exe().unwrap();
    let mut cmd = Cmd::new("env")
        .arg(format!(
            "STOWAGE_TEST_DISKS={}",
            std::env::var("STOWAGE_TEST_DISKS").unwrap()
        ))
        .arg(format!("STOWAGE_FAILPOINT_LOG={log}"));
    if let Some(point) = point {
        cmd = cmd.arg(format!("STOWAGE_FAILPOINT={point}"));
    }
    let ran = bench
        .runner
        .run(cmd.arg(exe).args(["--exact", child, "--ignored"]))
        .await;
    let passed = fs::read_to_string(log)
        .unwrap_or_default()
        .lines()
        .map(String::from)
        .collect();
    match ran {
        Ok(_) => (false, passed),
        Err(error) if error.code().is_none() || error.code() == Some(137) => (true, passed),
        Err(error) => panic!("{error}"),
    }
}
