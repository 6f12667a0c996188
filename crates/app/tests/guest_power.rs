//! A power cut as hard as a disk's: what the disk was not told to flush is gone. What a volume's user
//! was told is on the disk must be there: a flush in the volume is a flush of
//! the disk.
//!
//! ```text
//!   writers in volumes ─► daemon's devices (loop, thick) ─► dm-log-writes ─► disk
//!          │ written and synced: 17      its journal ────────────────┘ └─► log: writes, as they are flushed
//!          └──────────── mark "17 was acknowledged" ───────────────────────┘
//!   blank disk ◄── replay: the log up to a mark ─► a new daemon finds the volumes and all 17 records
//! ```
//!
//! dm-log-writes logs a write once a flush follows that was sent after the write had ended, or at once
//! if it was forced (FUA). So the log up to a mark is what a disk has to have kept at that moment, and
//! nothing more. `boots_power` cuts at more moments, with what the daemon is doing then, but keeps what
//! was written without a flush.
//!
//! Any flush of the disk keeps all that was written before it, whoever sent it. So the last writes
//! are made with nobody else at work, and the daemon's directory is on the same disk: what it says
//! and what the pool holds are of one moment.

mod support;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use support::{Rig, Storage, Work, get, output, put, tool};

/// What the pool is on, before the cut and after it.
const DISK: &str = "/dev/mapper/logged";

/// The daemon's directory: the same before the cut and after it, as are the paths it was given.
const WORK: &str = "/tmp/power";

/// Where the file system of a file pool is mounted, or that of the daemon's journal beside a group.
const FILES: &str = "/run/power-files";

#[derive(Clone, Copy)]
enum Kind {
    /// Files on this file system.
    Files(&'static str),
    Thick,
}

impl Kind {
    /// ext4 shares no blocks between files.
    fn cuts(self) -> bool {
        !matches!(self, Self::Files("ext4"))
    }

    fn is_lvm(self) -> bool {
        !matches!(self, Self::Files(_))
    }

    /// What is mounted at [`FILES`].
    fn files(self) -> &'static str {
        match self {
            Self::Files(_) => DISK,
            _ => "/dev/vgpower/state",
        }
    }
}

/// Undo something. A test that fails shall say why it did: a panic in a panic says nothing.
fn undo(program: &str, args: &[&str]) {
    if let Err(e) = stowage_testkit::disk::run(program, args) {
        complain(&format!("{e:#}"));
    }
}

fn complain(what: &str) {
    assert!(std::thread::panicking(), "{what}");
    eprintln!("{what}");
}

/// The disk of the pool, and the one with the log.
struct Disks {
    pool: PathBuf,
    log: PathBuf,
}

impl Disks {
    fn blank() -> Self {
        let named = std::env::var(stowage_testkit::guest::DISKS_VARIABLE)
            .expect("run this test in a guest: cargo xtask test --only guest");
        let mut disks = named.split(',').map(PathBuf::from);
        let mut disk = || {
            let disk = disks.next().expect("two disks");
            tool("blkdiscard", &["-f", text(&disk)]);
            disk
        };
        Self {
            pool: disk(),
            log: disk(),
        }
    }

    /// The disk behind the log.
    fn logged(&self) -> Mapped {
        Mapped::new(&self.pool, |pool| {
            format!("log-writes {pool} {}", text(&self.log))
        })
    }

    /// The disk itself.
    fn plain(&self) -> Mapped {
        Mapped::new(&self.pool, |pool| format!("linear {pool} 0"))
    }
}

/// [`DISK`], until it is dropped; a log is complete then.
struct Mapped;

impl Mapped {
    fn new(over: &Path, target: impl Fn(&str) -> String) -> Self {
        let size = output("blockdev", &["--getsz", text(over)]);
        let table = format!("0 {} {}", size.trim(), target(text(over)));
        // What a multipath device stands on the daemon does not look at: else a group is there twice.
        let create = [
            "create",
            "--noudevsync",
            "--uuid",
            "mpath-logged",
            "logged",
            "--table",
        ];
        let create = [&create[..], &[&table]].concat();
        tool("dmsetup", &create);
        tool("dmsetup", &["mknodes", "logged"]);
        Self
    }

    fn mark(&self, name: &str) {
        let mark = format!("mark {name}");
        tool("dmsetup", &["message", "logged", "0", &mark]);
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        undo("dmsetup", &["remove", "--noudevsync", "--retry", "logged"]);
    }
}

/// LVM would see the disk below as well, and take either for a copy.
fn lvm(program: &str, args: &[&str]) {
    tool(program, &[args, &["--devices", DISK]].concat());
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A pool of this kind on [`DISK`], the file system with the daemon's journal, and a daemon.
struct Node {
    kind: Kind,
    rig: Rig,
}

impl Node {
    fn make(kind: Kind) -> Self {
        if kind.is_lvm() {
            lvm("vgcreate", &["-y", "-q", "vgpower", DISK]);
            let state = ["-y", "-q", "-L", "64M", "-n", "state", "vgpower"];
            lvm("lvcreate", &state);
        }
        match kind {
            Kind::Files(fs @ ("xfs" | "btrfs")) => {
                tool(&format!("mkfs.{fs}"), &["-q", "-f", kind.files()]);
            }
            _ => tool("mkfs.ext4", &["-q", "-F", kind.files()]),
        }
        Self::find(kind)
    }

    /// A node that starts.
    fn find(kind: Kind) -> Self {
        if kind.is_lvm() {
            lvm("lvchange", &["-q", "-ay", "vgpower/state"]);
        }
        std::fs::create_dir_all(FILES).expect("a directory");
        tool("mount", &[kind.files(), FILES]);
        let pool = match kind {
            Kind::Files(_) => {
                format!("kind = \"file\"\npath = \"{FILES}/pool\"\noverprovision = 4.0")
            }
            Kind::Thick => "kind = \"lvm\"\nvg = \"vgpower\"".to_owned(),
        };
        let rig = Rig::stopped_in(Work::at(Path::new(WORK)), Storage::Others);
        let config = rig.path("stowage.toml");
        let state = get(&config).replace(&rig.text("state"), &format!("{FILES}/state"));
        let configured = format!("{state}\n[[pool]]\nname = \"p\"\n{pool}\n");
        std::fs::write(config, configured).expect("a writable directory");
        // From here on its end undoes all of it.
        let mut node = Self { kind, rig };
        node.rig.start();
        node
    }

    fn create(&self, name: &str, what: &[&str]) {
        let create = ["volume", "create", name];
        self.rig.ok(&[&create[..], what].concat());
    }

    fn mount(&self, name: &str) -> PathBuf {
        let at = self.rig.path(name);
        self.rig.ok(&["volume", "mount", name, text(&at)]);
        at
    }

    fn unmount(&self, name: &str) {
        self.rig.ok(&["volume", "unmount", &self.rig.text(name)]);
    }
}

/// Kill the daemon and let go of the disk; what is still in memory is written, too late to count.
impl Drop for Node {
    fn drop(&mut self) {
        self.rig.kill();
        let state = Path::new(FILES).join("state");
        for dir in [self.rig.work.path(), &state] {
            if let Err(e) = stowage_testkit::disk::unmount_below(dir) {
                complain(&format!("{e:#}"));
            }
        }
        // A file system that is unmounted lets go of its device a moment later, and so the device of
        // its file.
        let (files, started) = (Path::new(FILES), Instant::now());
        while let Err(e) = detached_below(files) {
            if started.elapsed() > Duration::from_secs(10) {
                complain(&format!("{e:#}"));
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        undo("umount", &[FILES]);
        if self.kind.is_lvm() {
            undo("vgchange", &["-q", "-an", "vgpower", "--devices", DISK]);
        }
    }
}

fn detached_below(dir: &Path) -> anyhow::Result<()> {
    stowage_testkit::disk::detach_loops_below(dir)?;
    let left = stowage_testkit::disk::loops_below(dir)?;
    anyhow::ensure!(left.is_empty(), "still attached: {left:?}");
    Ok(())
}

const BLOCK: usize = 4096;

/// The nth block or record: its number all over.
fn block(n: u64) -> Vec<u8> {
    n.to_le_bytes().repeat(BLOCK / 8)
}

/// How many there are, one after the other; what follows the last is none of them.
fn blocks(path: &Path) -> u64 {
    let mut file = BufReader::new(File::open(path).expect("readable"));
    let (mut found, mut read) = (0, vec![0; BLOCK]);
    while file.read_exact(&mut read).is_ok() && read == block(found + 1) {
        found += 1;
    }
    found
}

/// Writes the nth block or record, and syncs it.
fn acknowledge(file: &File, n: u64) {
    let at = (n - 1) * BLOCK as u64;
    file.write_all_at(&block(n), at).expect("room");
    file.sync_all().expect("a disk");
}

/// Writes numbered blocks, one after the other, each synced before the next, until it is dropped.
struct Writer {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    fn new(file: File) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let (stopped, told) = (Arc::clone(&stop), Arc::clone(&acknowledged));
        let thread = std::thread::spawn(move || {
            for n in 1.. {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                acknowledge(&file, n);
                told.store(n, Ordering::SeqCst);
                // The guest has one processor, and the daemon is to get on as well.
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Self {
            stop,
            acknowledged,
            thread: Some(thread),
        }
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    fn await_more(&self, more: u64) {
        let (until, started) = (self.acknowledged() + more, Instant::now());
        while self.acknowledged() < until {
            let patient = started.elapsed() < Duration::from_secs(60);
            assert!(patient, "the writer does not get on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// End it; how many it wrote.
    fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(matches!(ended, Some(Ok(()))), "the writer failed");
        self.acknowledged()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // How it ended was asked by who ended it.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// What was acknowledged before a mark.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    mark: &'static str,
    records: u64,
    blocks: u64,
    /// Volumes made and written to, and snapshots cut.
    made: u64,
    /// So many records were in the last snapshot's volume before it was cut, and so many after.
    snapped: [u64; 2],
}

/// A device that takes flushes and does not pass them on, until it is dropped.
struct Swallowing(PathBuf);

impl Swallowing {
    fn new(device: &Path) -> Self {
        let number = std::fs::metadata(device).expect("a device").rdev();
        let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
        let cache = format!("/sys/dev/block/{major}:{minor}/queue/write_cache").into();
        // So the kernel takes it for a device that keeps all it is sent.
        std::fs::write(&cache, "write through").expect("a block device");
        Self(cache)
    }
}

impl Drop for Swallowing {
    fn drop(&mut self) {
        if let Err(e) = std::fs::write(&self.0, "write back") {
            complain(&format!("{}: {e}", self.0.display()));
        }
    }
}

/// Marked with flushes swallowed. Another's flush may come between: not each time.
const LOST: [&str; 5] = ["lost1", "lost2", "lost3", "lost4", "lost5"];

fn write_and_mark(node: &Node, disk: &Mapped) -> Vec<Told> {
    node.create("fs", &["--size", "64Mi", "--fs", "ext4"]);
    node.create("raw", &["--size", "64Mi", "--block"]);
    let at = node.mount("fs").join("records");
    let records = File::create(at).expect("writable");
    let at = node.mount("raw");
    let raw = File::options().write(true).open(&at).expect("a device");
    let again = |file: &File| Writer::new(file.try_clone().expect("a descriptor"));
    let (mut told, mut now) = (Vec::new(), Told::default());
    let (on_fs, on_raw) = (again(&records), again(&raw));
    for mark in ["busy1", "busy2"] {
        now.made += 1;
        let name = format!("v{}", now.made);
        node.create(&name, &["--size", "16Mi"]);
        put(&node.mount(&name).join("name"), &name);
        node.unmount(&name);
        if node.kind.cuts() {
            let before = on_fs.acknowledged();
            let snapshot = format!("s{}", now.made);
            node.rig.ok(&["snapshot", "create", "fs", &snapshot]);
            // One more may be written and not yet told.
            now.snapped = [before, on_fs.acknowledged() + 1];
        }
        for writer in [&on_fs, &on_raw] {
            writer.await_more(3);
        }
        (now.records, now.blocks) = (on_fs.acknowledged(), on_raw.acknowledged());
        disk.mark(mark);
        told.push(Told { mark, ..now });
    }
    (now.records, now.blocks) = (on_fs.end(), on_raw.end());
    node.rig.settle();
    now.blocks += 1;
    acknowledge(&raw, now.blocks);
    disk.mark("raw");
    told.push(Told { mark: "raw", ..now });
    now.records += 1;
    acknowledge(&records, now.records);
    disk.mark("fs");
    told.push(Told { mark: "fs", ..now });
    let _swallowing = Swallowing::new(&at);
    for mark in LOST {
        now.blocks += 1;
        acknowledge(&raw, now.blocks);
        disk.mark(mark);
        told.push(Told { mark, ..now });
    }
    told
}

fn verify(node: &Node, told: Told) {
    let found = blocks(&node.mount("fs").join("records"));
    assert!(found >= told.records, "{found} records of {told:?}");
    let found = blocks(&node.mount("raw"));
    assert!(found >= told.blocks, "{found} blocks of {told:?}");
    for made in 1..=told.made {
        let name = format!("v{made}");
        assert_eq!(get(&node.mount(&name).join("name")), name);
        node.unmount(&name);
    }
    if node.kind.cuts() {
        let snapshot = format!("s{}", told.made);
        node.rig.ok(&["snapshot", "restore", &snapshot, "r"]);
        let found = blocks(&node.mount("r").join("records"));
        let [least, most] = told.snapped;
        assert!((least..=most).contains(&found), "{found} in {told:?}");
        node.unmount("r");
    }
    for name in ["fs", "raw"] {
        node.unmount(name);
    }
    node.rig.settle();
    let findings = node.rig.ok(&["doctor"]);
    // The LV of the journal's file system is none of ours, and is said to be.
    let ours = |finding: &&serde_json::Value| finding["subject"] != "state";
    let ours: Vec<_> = findings
        .as_array()
        .into_iter()
        .flatten()
        .filter(ours)
        .collect();
    assert!(ours.is_empty(), "{ours:?}");
}

fn survives(kind: Kind) {
    let disks = Disks::blank();
    let told = {
        let disk = disks.logged();
        write_and_mark(&Node::make(kind), &disk)
    };
    let log = Log::open(&disks.log);
    let (lost, told): (Vec<Told>, _) = told.into_iter().partition(|t| LOST.contains(&t.mark));
    for told in told.into_iter().filter(|told| told.mark != "busy2") {
        log.replay(&disks.pool, told.mark);
        let _disk = disks.plain();
        verify(&Node::find(kind), told);
        println!("power: {told:?}: all of it is there");
    }
    // What the disk was not told to keep it does not: the tests can fail.
    let kept = |told: &Told| log.holds(&block(told.blocks), told.mark);
    assert!(
        !lost.iter().all(kept),
        "a lost flush goes unnoticed: {lost:?}"
    );
}

#[test]
fn what_was_synced_in_files_on_xfs_survives_the_loss_of_the_disks_cache() {
    survives(Kind::Files("xfs"));
}

#[test]
fn what_was_synced_in_files_on_ext4_survives_the_loss_of_the_disks_cache() {
    survives(Kind::Files("ext4"));
}

#[test]
fn what_was_synced_in_files_on_btrfs_survives_the_loss_of_the_disks_cache() {
    survives(Kind::Files("btrfs"));
}

#[test]
fn what_was_synced_in_thick_volumes_survives_the_loss_of_the_disks_cache() {
    survives(Kind::Thick);
}

/// Without this the tests above would show nothing: a disk that keeps all it is sent.
#[test]
fn what_no_flush_followed_is_gone() {
    let disks = Disks::blank();
    {
        let disk = disks.logged();
        let to = [&format!("of={DISK}"), "bs=4096", "count=4", "oflag=direct"];
        let write = |seek: &str| tool("dd", &[&["if=/dev/urandom", seek], &to[..]].concat());
        write("seek=0");
        let device = File::options().write(true).open(DISK);
        device.and_then(|d| d.sync_all()).expect("a disk");
        write("seek=4");
        disk.mark("end");
    }
    Log::open(&disks.log).replay(&disks.pool, "end");
    let disk = File::open(&disks.pool).expect("a disk");
    let written = |at: u64| {
        let mut bytes = vec![0; 4 * BLOCK];
        disk.read_exact_at(&mut bytes, at).expect("a disk");
        bytes.iter().any(|byte| *byte != 0)
    };
    assert!(written(0), "flushed, and gone");
    assert!(!written(4 * BLOCK as u64), "not flushed, and there");
}

/// What dm-log-writes wrote (drivers/md/dm-log-writes.c): a block about the log, then for each
/// entry a block about it and the data, all little-endian.
struct Log {
    device: File,
    entries: Vec<Entry>,
}

struct Entry {
    sector: u64,
    sectors: u64,
    flags: u64,
    /// A mark's name.
    name: String,
    /// Where its data begins.
    data: u64,
}

impl Entry {
    /// Of its data, in bytes.
    fn length(&self) -> usize {
        if self.flags & (DISCARD | MARK) != 0 {
            return 0;
        }
        usize::try_from(self.sectors).expect("a write that fits in memory") * SECTOR
    }
}

const SECTOR: usize = 512;
/// Sectors in a block.
const PER_BLOCK: u64 = 8;
const MAGIC: u64 = 0x006a_7366_7773_6872;
const DISCARD: u64 = 4;
const MARK: u64 = 8;

impl Log {
    fn open(path: &Path) -> Self {
        let device = File::open(path).expect("the log");
        let [magic, version, count, sector] = numbers(&device, 0);
        assert_eq!((magic, version), (MAGIC, 1), "no log");
        let block = sector & u64::from(u32::MAX);
        let (mut entries, mut at) = (Vec::new(), block);
        for _ in 0..count {
            let [sector, sectors, flags, length] = numbers(&device, at);
            let mut name = vec![0; usize::try_from(length).expect("a short name")];
            device.read_exact_at(&mut name, at + 32).expect("a name");
            at += block;
            let entry = Entry {
                sector,
                sectors,
                flags,
                name: String::from_utf8_lossy(&name).into_owned(),
                data: at,
            };
            at += (entry.length() as u64).next_multiple_of(block);
            entries.push(entry);
        }
        Self { device, entries }
    }

    /// The entries before a mark.
    fn until(&self, mark: &str) -> &[Entry] {
        let is_mark = |entry: &Entry| entry.flags & MARK != 0 && entry.name == mark;
        let end = self.entries.iter().position(is_mark);
        &self.entries[..end.unwrap_or_else(|| panic!("mark {mark} is not in the log"))]
    }

    /// Whether this block was written, and flushed before the mark was made.
    fn holds(&self, block: &[u8], mark: &str) -> bool {
        self.until(mark).iter().any(|entry| {
            let mut bytes = vec![0; entry.length()];
            let read = self.device.read_exact_at(&mut bytes, entry.data);
            read.expect("the log");
            bytes
                .chunks_exact(block.len())
                .any(|written| written == block)
        })
    }

    /// Leave on the disk what it must have kept when the mark was made.
    fn replay(&self, disk: &Path, mark: &str) {
        // In memory, as most of it is written again and again, in sectors.
        let mut kept: BTreeMap<u64, [u8; BLOCK]> = BTreeMap::new();
        for entry in self.until(mark) {
            let mut data = vec![0; entry.length()];
            let read = self.device.read_exact_at(&mut data, entry.data);
            read.expect("the log");
            for (n, sector) in (entry.sector..entry.sector + entry.sectors).enumerate() {
                let block = sector / PER_BLOCK;
                let within = usize::try_from(sector % PER_BLOCK).expect("few") * SECTOR;
                let data = data.get(n * SECTOR..(n + 1) * SECTOR);
                if entry.flags & DISCARD == 0 || kept.contains_key(&block) {
                    let block = kept.entry(block).or_insert([0; BLOCK]);
                    let data = data.unwrap_or(&[0; SECTOR]);
                    block[within..within + SECTOR].copy_from_slice(data);
                }
            }
        }
        tool("blkdiscard", &["-f", text(disk)]);
        let out = File::options().write(true).open(disk).expect("a disk");
        for (n, block) in &kept {
            let written = out.write_all_at(block, n * BLOCK as u64);
            written.expect("a disk");
        }
        out.sync_all().expect("a disk");
    }
}

fn numbers(file: &File, at: u64) -> [u64; 4] {
    let mut bytes = [0; 32];
    file.read_exact_at(&mut bytes, at).expect("the log");
    let mut numbers = [0; 4];
    for (number, bytes) in numbers.iter_mut().zip(bytes.chunks(8)) {
        *number = u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    }
    numbers
}
