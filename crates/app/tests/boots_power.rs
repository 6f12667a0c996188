//! Thirty power cuts under writers: what was acknowledged is there afterwards, and the next start
//! needs no help.
//!
//! ```text
//!   this test ── spawn ─► guest: guest_side, on the same four disks each time
//!       ▲                   │ start the daemon, verify what was told, go on writing
//!       └── console ────────┘ "@record thin 17 ." once record 17 is on the disk, and so on
//!       kill -9 at a random moment, now and then while it is still starting; then again
//! ```
//!
//! The daemon's state lies on a disk of the guest too: the guest's root is the machine's, and what
//! is written there survives every cut.

mod support;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use stowage_testkit::{Guest, SparseFile, scratch};
use support::{STOWAGE, get, output, put, thin_pool, tool};

/// Names the file with what the guest is told; only set inside a guest.
const TOLD: &str = "STOWAGE_POWER_TOLD";

const POOLS: [&str; 3] = ["thick", "thin", "files"];

/// Where the file system of the file pool is mounted.
const FILES: &str = "/run/files";

/// For a boot, the daemon's start and the verification, on busy cores.
const BOOT: Duration = Duration::from_secs(180);

/// Everything acknowledged so far and not taken back.
#[derive(Default, Serialize, Deserialize)]
struct Told {
    boot: usize,
    /// The last record known to be on the disk, for each pool.
    records: BTreeMap<String, u64>,
    snapshots: Vec<Cut>,
    /// Other volumes made, by pool and name.
    made: Vec<(String, String)>,
}

/// A snapshot, and the least and most records it may hold.
#[derive(Clone, Serialize, Deserialize)]
struct Cut {
    pool: String,
    name: String,
    least: u64,
    most: u64,
}

impl Told {
    fn hear(&mut self, line: &str) {
        // A line that was cut off has no full stop; what it said was not acknowledged.
        let Some(words) = line
            .trim()
            .strip_prefix('@')
            .and_then(|l| l.strip_suffix(" ."))
        else {
            return;
        };
        let words: Vec<&str> = words.split(' ').collect();
        let number = |text: &str| text.parse::<u64>().expect("a number");
        match words.as_slice() {
            ["record", pool, n] => {
                self.records.insert((*pool).to_owned(), number(n));
            }
            ["snapshot", pool, name, least, most] => self.snapshots.push(Cut {
                pool: (*pool).to_owned(),
                name: (*name).to_owned(),
                least: number(least),
                most: number(most),
            }),
            ["dropping", name] => self.snapshots.retain(|s| s.name != *name),
            ["made", pool, name] => self.made.push(((*pool).to_owned(), (*name).to_owned())),
            ["removing", name] => self.made.retain(|(_, n)| n != name),
            _ => {}
        }
    }
}

/// A small generator (xorshift64*): the moments must differ, and a run be repeatable.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |v| v.parse().expect("a number"))
}

#[test]
fn thirty_power_cuts_lose_nothing_acknowledged() {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = u64::from(now.expect("a clock").subsec_nanos());
    let seed = setting("STOWAGE_POWER_SEED", now | 1);
    let cuts = setting("STOWAGE_POWER_CUTS", 30);
    println!("power: seed {seed} (repeat with STOWAGE_POWER_SEED={seed})");
    let mut random = Random(seed | 1);
    let disks =
        [1 << 30, 1 << 30, 1 << 30, 256 << 20].map(|bytes| SparseFile::new(bytes).expect("a disk"));
    let dir = scratch::dir("power").expect("a directory");
    let mut told = Told::default();
    let (mut snapshots, mut made) = ([0; POOLS.len()], [0; POOLS.len()]);
    let started = Instant::now();
    for boot in 0..=cuts {
        told.boot = usize::try_from(boot).expect("a few");
        let last = boot == cuts;
        // One boot in five loses power while it starts or verifies, but neither the first, which
        // makes the disks, nor the last, which is to see everything. Two in five lose it soon after
        // a snapshot or volume was acknowledged: on a busy machine few are, otherwise.
        let awaited = match random.below(5) {
            _ if last => "@writing",
            0 if boot > 0 => "@starting",
            1 | 2 if boot % 6 < 3 => "@snapshot ",
            1 | 2 => "@made ",
            _ => "@writing",
        };
        let wait = Duration::from_millis(match awaited {
            _ if last => 0,
            "@starting" => random.below(2500),
            "@writing" => 1000 + random.below(3000),
            _ => random.below(1000),
        });
        let lines = one_boot(&disks, dir.path(), &told, awaited, wait);
        for line in &lines {
            told.hear(line);
        }
        let said = |word: &str| lines.iter().filter(|l| l.starts_with(word)).count();
        for (n, pool) in POOLS.iter().enumerate() {
            snapshots[n] += said(&format!("@snapshot {pool} "));
            made[n] += said(&format!("@made {pool} "));
        }
        println!(
            "power: boot {boot}, cut {wait:?} after {awaited:?}: {} records, {} snapshots, \
             {} volumes acknowledged; {:.0} s",
            said("@record "),
            said("@snapshot "),
            said("@made "),
            started.elapsed().as_secs_f64(),
        );
    }
    println!(
        "power: {:?} records; in {POOLS:?} {snapshots:?} snapshots and {made:?} volumes in all",
        told.records
    );
    // Each pool by itself: one of which nothing is known has lost nothing, and shows nothing.
    let many = |pool: &&str| told.records.get(*pool).is_some_and(|n| *n > cuts);
    assert!(POOLS.iter().all(many), "hardly anything was written");
    let each = |counts: [usize; POOLS.len()]| counts.iter().all(|n| *n > 0);
    assert!(each(snapshots) && each(made), "hardly anything was made");
}

/// Boot, wait until the guest says what is awaited and cut the power `wait` later; everything the
/// guest said.
fn one_boot(
    disks: &[SparseFile],
    dir: &Path,
    told: &Told,
    awaited: &str,
    wait: Duration,
) -> Vec<String> {
    let file = dir.join("told.json");
    let text = serde_json::to_string(told).expect("JSON");
    std::fs::write(&file, text).expect("a writable directory");
    let mut guest = Guest::builder()
        .memory("1G")
        .env(TOLD, &file)
        .env("RUST_BACKTRACE", "1");
    for disk in disks {
        guest = guest.disk_file(disk.path());
    }
    let this = std::env::current_exe().expect("this program");
    let args = [
        "guest_side",
        "--exact",
        "--ignored",
        "--nocapture",
        "--test-threads=1",
    ];
    let argv = std::iter::once(this.into_os_string()).chain(args.map(Into::into));
    let guest = guest.spawn(argv).expect("a guest");
    let deadline = Instant::now() + BOOT;
    loop {
        let lines = guest.console();
        no_complaint(told.boot, &lines);
        if lines.iter().any(|l| l.contains(awaited)) {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "no {awaited}:\n{}",
            without_records(&lines)
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(wait);
    let lines = guest.power_cut().expect("a cut").lines();
    no_complaint(told.boot, &lines);
    lines
}

#[track_caller]
fn no_complaint(boot: usize, lines: &[String]) {
    let broken = |l: &String| l.contains("panicked at") || l.contains("guest: failed");
    assert!(
        !lines.iter().any(broken),
        "boot {boot}: the guest found:\n{}",
        without_records(lines)
    );
}

/// What the guest said beside the hundreds of records, among which the rest is not found again.
fn without_records(lines: &[String]) -> String {
    let rest = lines.iter().filter(|l| !l.starts_with("@record "));
    rest.map(|l| format!("{l}\n")).collect()
}

#[test]
#[ignore = "the other half of the test above, run by it in a guest"]
fn guest_side() {
    let told = std::env::var_os(TOLD).expect("run in a guest by the test above");
    let told: Told = serde_json::from_str(&get(Path::new(&told))).expect("JSON");
    prepare(told.boot == 0);
    say("@starting .");
    let node = Node::start();
    match told.boot {
        0 => node.make_first(),
        _ => node.verify(&told),
    }
    let next = POOLS.map(|pool| node.next_record(pool));
    say("@writing .");
    let counters = next.map(|next| [next, next].map(AtomicU64::new));
    std::thread::scope(|scope| {
        for (pool, counters) in POOLS.into_iter().zip(&counters) {
            scope.spawn(move || write_records(pool, counters));
        }
        node.keep_making(told.boot, &counters);
    });
}

/// Past the capture of test output, in one write.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes())
        .and_then(|()| out.flush())
        .expect("a console");
}

/// What a machine has at boot: the disks, and the one with the state mounted.
fn prepare(first: bool) {
    let disks = std::env::var(stowage_testkit::guest::DISKS_VARIABLE).expect("disks");
    let disks: Vec<&str> = disks.split(',').collect();
    let [thick, thin, files, state] = disks.as_slice() else {
        panic!("four disks, not {disks:?}")
    };
    if first {
        tool("vgcreate", &["-y", "-q", "vgthick", thick]);
        tool("vgcreate", &["-y", "-q", "vgthin", thin]);
        thin_pool("vgthin", &["-l", "80%FREE"]);
        tool("mkfs.xfs", &["-q", files]);
        tool("mkfs.ext4", &["-q", state]);
    }
    for (disk, at) in [(files, FILES), (state, "/run/state")] {
        std::fs::create_dir_all(at).expect("a directory");
        tool("mount", &[disk, at]);
    }
    let config = "node-name = \"node-a\"\nstate-dir = \"/run/state/stowage\"\n\
                  csi-socket = \"/run/csi.sock\"\nadmin-socket = \"/run/admin.sock\"\n\
                  metrics = \"off\"\n\
                  [[pool]]\nname = \"thick\"\nkind = \"lvm\"\nvg = \"vgthick\"\n\
                  [[pool]]\nname = \"thin\"\nkind = \"thin\"\nvg = \"vgthin\"\n\
                  thin-pool = \"tp\"\noverprovision = 4.0\n\
                  [[pool]]\nname = \"files\"\nkind = \"file\"\npath = \"/run/files/pool\"\n";
    std::fs::write("/run/stowage.toml", config).expect("writable");
}

fn data(pool: &str) -> String {
    format!("data-{pool}")
}

fn at(name: &str) -> PathBuf {
    PathBuf::from(format!("/run/m-{name}"))
}

/// The daemon in the guest; it ends with the guest.
struct Node;

impl Node {
    #[allow(clippy::disallowed_methods, reason = "the program under test")]
    #[allow(
        clippy::zombie_processes,
        reason = "nobody waits for it: it ends with the guest"
    )]
    fn start() -> Self {
        let log = File::create("/run/log").expect("writable");
        Command::new(STOWAGE)
            .args(["serve", "--config", "/run/stowage.toml"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the program under test starts");
        let deadline = Instant::now() + Duration::from_secs(60);
        while UnixStream::connect("/run/admin.sock").is_err() {
            assert!(Instant::now() < deadline, "does not serve: {}", log_tail());
            std::thread::sleep(Duration::from_millis(20));
        }
        Self
    }

    #[allow(clippy::disallowed_methods, reason = "the program under test")]
    fn ask(&self, args: &[&str]) -> Result<Value, String> {
        let out = Command::new(STOWAGE)
            .args(["-o", "json", "--socket", "/run/admin.sock"])
            .args(args)
            .output()
            .expect("the program under test starts");
        if !out.status.success() {
            return Err(String::from_utf8_lossy(&out.stderr).into_owned());
        }
        Ok(serde_json::from_slice(&out.stdout).unwrap_or(Value::Null))
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> Value {
        self.ask(args)
            .unwrap_or_else(|e| panic!("{args:?}: {e}\n{}", log_tail()))
    }

    fn create(&self, pool: &str, name: &str, size: &str, fs: &str) {
        let args = [
            "volume", "create", name, "--pool", pool, "--size", size, "--fs", fs,
        ];
        self.ok(&args);
    }

    fn mount(&self, name: &str) -> PathBuf {
        let at = at(name);
        self.ok(&["volume", "mount", name, &at.display().to_string()]);
        at
    }

    fn unmount(&self, name: &str) {
        self.ok(&["volume", "unmount", &at(name).display().to_string()]);
    }

    fn names(&self, what: &str) -> Vec<String> {
        let all = self.ok(&[what, "list"]);
        let all = all.as_array().expect("a list").iter();
        all.map(|v| v["name"].as_str().expect("a name").to_owned())
            .collect()
    }

    fn remove(&self, name: &str) {
        say(&format!("@removing {name} ."));
        self.ok(&["volume", "delete", name]);
    }

    fn drop_snapshot(&self, name: &str) {
        say(&format!("@dropping {name} ."));
        self.ok(&["snapshot", "delete", name]);
    }

    fn make_first(&self) {
        // xfs on one and ext4 on the others: each has a journal of its own kind to replay.
        self.create("thick", &data("thick"), "64Mi", "ext4");
        self.create("thin", &data("thin"), "320Mi", "xfs");
        self.create("files", &data("files"), "64Mi", "ext4");
        for pool in POOLS {
            self.mount(&data(pool));
        }
    }

    fn verify(&self, told: &Told) {
        for pool in POOLS {
            let found = last_record(&self.mount(&data(pool)));
            let stored = told.records.get(pool).copied().unwrap_or(0);
            assert!(
                found >= stored,
                "{pool}: {stored} records were stored, {found} are there"
            );
        }
        let snapshots = self.names("snapshot");
        for cut in &told.snapshots {
            assert!(
                snapshots.contains(&cut.name),
                "snapshot {} is gone",
                cut.name
            );
            self.verify_cut(cut);
        }
        self.verify_made(told);
        for name in snapshots {
            self.drop_snapshot(&name);
        }
        self.verify_nothing_else();
    }

    fn verify_cut(&self, cut: &Cut) {
        let copy = format!("of-{}-{}", cut.name, std::process::id());
        self.ok(&["snapshot", "restore", &cut.name, &copy]);
        let found = last_record(&self.mount(&copy));
        assert!(
            (cut.least..=cut.most).contains(&found),
            "snapshot {} in pool {} holds {found} records, not {} to {}",
            cut.name,
            cut.pool,
            cut.least,
            cut.most
        );
        self.unmount(&copy);
        self.remove(&copy);
    }

    fn verify_made(&self, told: &Told) {
        let volumes = self.names("volume");
        for (_, name) in &told.made {
            assert!(volumes.contains(name), "volume {name} is gone");
            assert_eq!(get(&self.mount(name).join("name")), *name);
            self.unmount(name);
        }
        let ours = POOLS.map(data);
        for name in volumes.iter().filter(|n| !ours.contains(n)) {
            self.remove(name);
        }
    }

    /// No LV, file, mount or finding beyond the first volumes.
    fn verify_nothing_else(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.ok(&["jobs"]) != Value::Array(Vec::new()) {
            assert!(Instant::now() < deadline, "still at work: {}", log_tail());
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(self.names("volume").len(), POOLS.len());
        for vg in ["vgthick", "vgthin"] {
            let lvs = output("lvs", &["--noheadings", "-o", "lv_name", vg]);
            let lvs: Vec<&str> = lvs.split_whitespace().filter(|n| *n != "tp").collect();
            assert_eq!(lvs.len(), 1, "left in {vg}: {lvs:?}");
        }
        let files = ["volumes", "snapshots", "making", "trash"].map(|dir| {
            let dir = Path::new(FILES).join("pool").join(dir);
            std::fs::read_dir(dir).map_or(0, Iterator::count)
        });
        assert_eq!(files, [1, 0, 0, 0], "left in the file pool");
        let journal: Vec<_> = std::fs::read_dir("/run/state/stowage/journal")
            .expect("a journal")
            .collect();
        assert!(journal.is_empty(), "left in the journal: {journal:?}");
        let findings = self.ok(&["doctor"]);
        assert_eq!(findings, Value::Array(Vec::new()));
        say("@verified .");
    }

    /// The next record to write, after cutting off one that the power cut tore.
    fn next_record(&self, pool: &str) -> u64 {
        let dir = at(&data(pool));
        let last = last_record(&dir);
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(dir.join("records"));
        file.and_then(|f| {
            f.set_len(last * RECORD as u64)?;
            f.sync_all()
        })
        .expect("a writable volume");
        last
    }

    /// Snapshots and volumes, made and removed one after the other; each boot begins with another
    /// of these, since few fit into the time before the cut.
    fn keep_making(&self, boot: usize, counters: &[Counters; POOLS.len()]) {
        let kinds = [true, false].map(|snapshot| (0..POOLS.len()).map(move |p| (p, snapshot)));
        let kinds: Vec<(usize, bool)> = kinds.into_iter().flatten().collect();
        let (all, skipped) = (kinds.len(), boot % kinds.len());
        for (n, (pool, snapshot)) in kinds.into_iter().cycle().skip(skipped).enumerate() {
            match snapshot {
                true => self.snapshot(POOLS[pool], &format!("s-{boot}-{n}"), &counters[pool]),
                false => self.make(POOLS[pool], &format!("v-{boot}-{n}")),
            }
            if n >= all {
                match snapshot {
                    true => self.drop_snapshot(&format!("s-{boot}-{}", n - all)),
                    false => self.remove(&format!("v-{boot}-{}", n - all)),
                }
            }
        }
    }

    fn snapshot(&self, pool: &str, name: &str, [issued, stored]: &Counters) {
        let least = stored.load(Ordering::SeqCst);
        self.ok(&["snapshot", "create", &data(pool), name]);
        let most = issued.load(Ordering::SeqCst);
        say(&format!("@snapshot {pool} {name} {least} {most} ."));
    }

    fn make(&self, pool: &str, name: &str) {
        self.create(pool, name, "16Mi", "ext4");
        put(&self.mount(name).join("name"), name);
        self.unmount(name);
        say(&format!("@made {pool} {name} ."));
    }
}

/// The last record begun, and the last on the disk.
type Counters = [AtomicU64; 2];

fn log_tail() -> String {
    let log = std::fs::read_to_string("/run/log").unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// Length of a record: its number, a check sum of it, and filling that straddles sectors.
const RECORD: usize = 120;

fn record(n: u64) -> Vec<u8> {
    let sum = n.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    let mut text = format!("{n:016x} {sum:016x} ").repeat(4).into_bytes();
    text.resize(RECORD - 1, b'.');
    text.push(b'\n');
    text
}

/// Append records, each acknowledged once it is on the disk.
fn write_records(pool: &str, [issued, stored]: &Counters) {
    let path = at(&data(pool)).join("records");
    let mut file = File::options().write(true).open(path).expect("the records");
    file.seek(std::io::SeekFrom::End(0)).expect("seekable");
    loop {
        let n = issued.fetch_add(1, Ordering::SeqCst) + 1;
        file.write_all(&record(n)).expect("room");
        file.sync_all().expect("a disk");
        stored.store(n, Ordering::SeqCst);
        say(&format!("@record {pool} {n} ."));
        // Leaves the guest's only core to the daemon for a while.
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// How many whole records there are, one after the other and undamaged; only the last may be torn.
fn last_record(dir: &Path) -> u64 {
    let mut bytes = Vec::new();
    match File::open(dir.join("records")) {
        Ok(mut file) => {
            file.read_to_end(&mut bytes).expect("readable");
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => panic!("{}: {e}", dir.display()),
    }
    let mut last = 0;
    for (found, n) in bytes.chunks(RECORD).zip(1..) {
        if found != record(n) {
            let rest = bytes.len() as u64 - last * RECORD as u64;
            // A file may be longer than what was written into it, but by no more than one write.
            assert!(
                rest <= RECORD as u64,
                "{}: record {n} is damaged, {rest} bytes from the end",
                dir.display()
            );
            break;
        }
        last = n;
    }
    last
}
