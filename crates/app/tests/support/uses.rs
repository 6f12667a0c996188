//! What a volume must do wherever it lies: the same on files, thick LVM and thin LVM. Each
//! function leaves its rig as clean as it found it, and checks that.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Rig, get, put};

/// Small, yet accepted by each mkfs.
pub fn small(fs: &str) -> &'static str {
    match fs {
        "xfs" => "320Mi",
        "btrfs" => "160Mi",
        _ => "64Mi",
    }
}

/// Twice [`small`].
pub fn double(fs: &str) -> &'static str {
    match fs {
        "xfs" => "640Mi",
        "btrfs" => "320Mi",
        _ => "128Mi",
    }
}

/// Write a file in a volume that must not stay frozen; how long that took. In one that does, a write
/// waits for ever, and whoever waits for the write as well: so it is thawed, and the test fails.
#[track_caller]
pub fn put_unfrozen(path: &Path, text: &str) -> Duration {
    const LIMIT: Duration = Duration::from_secs(20);
    let (done, wait) = std::sync::mpsc::channel();
    let (file, content) = (path.to_owned(), text.to_owned());
    let started = Instant::now();
    std::thread::spawn(move || {
        put(&file, &content);
        let _ = done.send(());
    });
    let written = wait.recv_timeout(LIMIT);
    let took = started.elapsed();
    if written.is_err() {
        let below = path.parent().expect("a file in a volume");
        stowage_testkit::disk::thaw(below);
        panic!("{} is not written after {took:?}", path.display());
    }
    took
}

/// Appends numbered records to two files, each on the disk before the next: first to `a`, then to
/// `b`. So at every moment `a` has as many as `b` or one more.
pub struct Writer {
    stop: Arc<AtomicBool>,
    /// Records that are certainly in both files.
    done: Arc<AtomicU64>,
    /// Records that may be in `a`.
    begun: Arc<AtomicU64>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Writer {
    pub fn new(a: &Path, b: &Path) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicU64::new(0));
        let begun = Arc::new(AtomicU64::new(0));
        let open = |path: &Path| {
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .expect("a writable volume")
        };
        let (mut a, mut b) = (open(a), open(b));
        let shared = (Arc::clone(&stop), Arc::clone(&done), Arc::clone(&begun));
        let thread = std::thread::spawn(move || {
            let (stop, done, begun) = shared;
            let mut n = 0;
            while !stop.load(Ordering::SeqCst) {
                n += 1;
                begun.store(n, Ordering::SeqCst);
                for file in [&mut a, &mut b] {
                    writeln!(file, "{n}")?;
                    file.sync_data()?;
                }
                done.store(n, Ordering::SeqCst);
            }
            Ok(())
        });
        let writer = Self {
            stop,
            done,
            begun,
            thread: Some(thread),
        };
        writer.await_more(3);
        writer
    }

    pub fn done(&self) -> u64 {
        self.done.load(Ordering::SeqCst)
    }

    pub fn begun(&self) -> u64 {
        self.begun.load(Ordering::SeqCst)
    }

    /// Wait until this many more records are written: it still gets on.
    #[track_caller]
    pub fn await_more(&self, more: u64) {
        let (wanted, deadline) = (self.done() + more, Instant::now() + Duration::from_secs(60));
        while self.done() < wanted {
            assert!(Instant::now() < deadline, "the writer does not get on");
            let ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
            assert!(!ended, "the writer failed");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stop it; no write of it may have failed. How many records there are.
    #[track_caller]
    pub fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        let thread = self.thread.take().expect("ends once");
        assert!(
            ends_within(&thread, Duration::from_secs(60)),
            "the writer does not end"
        );
        thread.join().expect("no panic").expect("no failed write");
        self.done()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // One that waits for a thaw does not end before its volume is cleaned up.
        if let Some(thread) = self.thread.take()
            && ends_within(&thread, Duration::from_secs(1))
        {
            let _ = thread.join();
        }
    }
}

fn ends_within<T>(thread: &JoinHandle<T>, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    while !thread.is_finished() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    thread.is_finished()
}

/// The last number in a file of the [`Writer`]; all before must be there.
#[track_caller]
pub fn records(path: &Path) -> u64 {
    let text = get(path);
    let mut last = 0;
    for line in text.lines() {
        assert_eq!(line, (last + 1).to_string(), "in {}", path.display());
        last += 1;
    }
    last
}

/// Bytes of the file system at `path`.
pub fn capacity(path: &Path) -> u64 {
    let s = rustix::fs::statvfs(path).expect("a mounted volume");
    s.f_blocks * s.f_frsize
}

pub fn bytes(size: &str) -> u64 {
    let mebi = size.strip_suffix("Mi").expect("tests write sizes in Mi");
    mebi.parse::<u64>().expect("a number") << 20
}

pub fn create(rig: &Rig, name: &str, fs: &str, size: &str) -> Value {
    rig.ok(&["volume", "create", name, "--fs", fs, "--size", size])
}

pub fn mount(rig: &Rig, name: &str, at: &str) -> PathBuf {
    rig.ok(&["volume", "mount", name, &rig.text(at)]);
    rig.path(at)
}

pub fn unmount(rig: &Rig, at: &str) {
    rig.ok(&["volume", "unmount", &rig.text(at)]);
}

pub fn delete(rig: &Rig, names: &[&str]) {
    for name in names {
        rig.ok(&["volume", "delete", name]);
    }
}

pub fn snapshot(rig: &Rig, volume: &str, name: &str) {
    rig.ok(&["snapshot", "create", volume, name]);
}

pub fn restore(rig: &Rig, snapshot: &str, name: &str) -> Value {
    rig.ok(&["snapshot", "restore", snapshot, name])
}

/// What is written stays over unmount and remount, and over a restart of the daemon between.
pub fn files_stay(rig: &mut Rig, fs: &str) {
    let made = create(rig, "v", fs, small(fs));
    assert_eq!(made["kind"], json!(fs));
    assert_eq!(made["state"], json!("blank"));
    let m = mount(rig, "v", "m");
    put(&m.join("file"), "kept");
    unmount(rig, "m");
    assert!(!m.exists(), "the target goes with the mount");
    rig.stop();
    rig.start();
    mount(rig, "v", "m");
    assert_eq!(get(&m.join("file")), "kept");
    assert_eq!(rig.ok(&["volume", "show", "v"])["state"], json!("ready"));
    unmount(rig, "m");
    delete(rig, &["v"]);
    rig.assert_clean();
}

/// A volume grows while it is written to, and its file system with it.
pub fn grows_under_a_writer(rig: &Rig, fs: &str) {
    create(rig, "v", fs, small(fs));
    let m = mount(rig, "v", "m");
    let before = capacity(&m);
    let writer = Writer::new(&m.join("a"), &m.join("b"));
    let grown = rig.ok(&["volume", "grow", "v", double(fs)]);
    assert_eq!(grown["size"], json!(bytes(double(fs))));
    writer.await_more(3);
    let after = capacity(&m);
    assert!(after > before + before / 2, "{after} after {before}");
    // Asked again, it is done already.
    let again = rig.ok(&["volume", "grow", "v", double(fs)]);
    assert_eq!(again["size"], grown["size"]);
    let written = writer.end();
    unmount(rig, "m");
    mount(rig, "v", "m");
    assert_eq!(records(&m.join("a")), written);
    unmount(rig, "m");
    delete(rig, &["v"]);
    rig.assert_clean();
}

/// A volume grown while nobody uses it has the larger file system at its next mount.
pub fn grows_unmounted(rig: &Rig, fs: &str) {
    create(rig, "v", fs, small(fs));
    let m = mount(rig, "v", "m");
    put(&m.join("file"), "kept");
    let before = capacity(&m);
    unmount(rig, "m");
    rig.ok(&["volume", "grow", "v", double(fs)]);
    mount(rig, "v", "m");
    assert!(capacity(&m) > before + before / 2);
    assert_eq!(get(&m.join("file")), "kept");
    unmount(rig, "m");
    delete(rig, &["v"]);
    rig.assert_clean();
}

/// A smaller size is no growth, and no copy is smaller than its source.
pub fn never_shrinks(rig: &Rig) {
    create(rig, "v", "ext4", "128Mi");
    for smaller in ["64Mi", "100Mi"] {
        rig.run(&["volume", "grow", "v", smaller])
            .fails_with(&["128Mi already", "never shrink"]);
    }
    let still = rig.ok(&["volume", "grow", "v", "128Mi"]);
    assert_eq!(still["size"], json!(128 << 20));
    snapshot(rig, "v", "s");
    for args in [
        ["snapshot", "restore", "s", "smaller", "--size", "64Mi"],
        ["volume", "clone", "v", "smaller", "--size", "64Mi"],
    ] {
        rig.run(&args).fails_with(&["64Mi", "smaller", "128Mi"]);
    }
    rig.ok(&["snapshot", "delete", "s"]);
    delete(rig, &["v"]);
    rig.assert_clean();
}

/// A snapshot cut under a writer is one moment: what the writer had acknowledged before the cut is
/// in it, and it never shows the second file ahead of the first.
pub fn snapshot_is_one_moment(rig: &Rig, fs: &str) {
    create(rig, "v", fs, small(fs));
    let m = mount(rig, "v", "m");
    let writer = Writer::new(&m.join("a"), &m.join("b"));
    let mut moments = Vec::new();
    for n in 0..3 {
        let before = writer.done();
        snapshot(rig, "v", &format!("s{n}"));
        moments.push((before, writer.begun()));
        writer.await_more(2);
    }
    let written = writer.end();
    for (n, (before, after)) in moments.into_iter().enumerate() {
        let (restored, at) = (format!("r{n}"), format!("m{n}"));
        restore(rig, &format!("s{n}"), &restored);
        let r = mount(rig, &restored, &at);
        let (a, b) = (records(&r.join("a")), records(&r.join("b")));
        assert!(
            a >= before && b >= before,
            "cut {n} lost records: {before} acknowledged before it, a {a}, b {b}"
        );
        assert!(a <= after, "cut {n} shows the future: {a} after {after}");
        assert!(b == a || b + 1 == a, "cut {n} is no moment: a {a}, b {b}");
        unmount(rig, &at);
        delete(rig, &[&restored]);
        rig.ok(&["snapshot", "delete", &format!("s{n}")]);
    }
    assert_eq!(records(&m.join("b")), written);
    unmount(rig, "m");
    delete(rig, &["v"]);
    rig.assert_clean();
}

/// Original, restored and cloned volumes are mounted at once, each with its own content.
pub fn twins_side_by_side(rig: &Rig, fs: &str) {
    create(rig, "v", fs, small(fs));
    let m = mount(rig, "v", "m");
    put(&m.join("who"), "original");
    put(&m.join("common"), "old");
    snapshot(rig, "v", "s");
    put(&m.join("common"), "new");
    // The clone's source stays mounted, and the clone is as it is now.
    rig.ok(&["volume", "clone", "v", "c"]);
    restore(rig, "s", "r");
    let (c, r) = (mount(rig, "c", "mc"), mount(rig, "r", "mr"));
    assert_eq!(get(&c.join("common")), "new");
    assert_eq!(get(&r.join("common")), "old");
    put(&c.join("who"), "clone");
    put(&r.join("who"), "restored");
    for at in ["m", "mc", "mr"] {
        unmount(rig, at);
    }
    for (name, at, who) in [
        ("r", "mr", "restored"),
        ("v", "m", "original"),
        ("c", "mc", "clone"),
    ] {
        assert_eq!(get(&mount(rig, name, at).join("who")), who);
    }
    for at in ["m", "mc", "mr"] {
        unmount(rig, at);
    }
    rig.ok(&["snapshot", "delete", "s"]);
    delete(rig, &["v", "c", "r"]);
    rig.assert_clean();
}

/// A volume restored into a larger one has the larger file system.
pub fn restored_larger(rig: &Rig, fs: &str) {
    create(rig, "v", fs, small(fs));
    let m = mount(rig, "v", "m");
    put(&m.join("file"), "kept");
    let before = capacity(&m);
    snapshot(rig, "v", "s");
    unmount(rig, "m");
    rig.ok(&["snapshot", "restore", "s", "r", "--size", double(fs)]);
    let r = mount(rig, "r", "mr");
    assert!(capacity(&r) > before + before / 2);
    assert_eq!(get(&r.join("file")), "kept");
    unmount(rig, "mr");
    rig.ok(&["snapshot", "delete", "s"]);
    delete(rig, &["r", "v"]);
    rig.assert_clean();
}

/// Source, snapshot and copies go in any order, and what is left is whole.
pub fn deletion_in_any_order(rig: &Rig) {
    for order in [
        ["v", "s", "r", "c"],
        ["s", "v", "c", "r"],
        ["r", "s", "c", "v"],
    ] {
        create(rig, "v", "ext4", "64Mi");
        let m = mount(rig, "v", "m");
        put(&m.join("file"), "kept");
        snapshot(rig, "v", "s");
        rig.ok(&["volume", "clone", "v", "c"]);
        unmount(rig, "m");
        restore(rig, "s", "r");
        for (n, gone) in order.iter().enumerate() {
            match *gone {
                "s" => drop(rig.ok(&["snapshot", "delete", "s"])),
                name => delete(rig, &[name]),
            }
            for left in &order[n + 1..] {
                let name = match *left {
                    "s" => {
                        restore(rig, "s", "probe");
                        "probe"
                    }
                    name => name,
                };
                let at = mount(rig, name, "p");
                assert_eq!(get(&at.join("file")), "kept", "{order:?}: {gone} went");
                unmount(rig, "p");
                if name == "probe" {
                    delete(rig, &["probe"]);
                }
            }
        }
        rig.assert_clean();
    }
}

/// A deleted volume's bytes are not in the next one.
pub fn no_old_bytes(rig: &Rig) {
    let secret = vec![0xa5_u8; 1 << 20];
    rig.ok(&["volume", "create", "v", "--block", "--size", "64Mi"]);
    let device = mount(rig, "v", "dev");
    let mut file = OpenOptions::new().write(true).open(&device).expect("ours");
    for _ in 0..64 {
        file.write_all(&secret).expect("room");
    }
    file.sync_all().expect("a disk");
    drop(file);
    unmount(rig, "dev");
    delete(rig, &["v"]);
    rig.settle();
    rig.ok(&["volume", "create", "v", "--block", "--size", "64Mi"]);
    let device = mount(rig, "v", "dev");
    let mut all = Vec::new();
    File::open(&device)
        .and_then(|mut f| f.read_to_end(&mut all))
        .expect("readable");
    assert_eq!(all.len(), 64 << 20);
    assert!(all.iter().all(|b| *b == 0), "old bytes in a new volume");
    unmount(rig, "dev");
    delete(rig, &["v"]);
    rig.assert_clean();
}

/// A raw device has the size asked, grows in use, and works on over restarts of the daemon.
pub fn raw_block(rig: &mut Rig) {
    rig.ok(&["volume", "create", "v", "--block", "--size", "64Mi"]);
    let device = mount(rig, "v", "dev");
    let kind = std::fs::metadata(&device).expect("published").file_type();
    assert!(kind.is_block_device());
    let size = |path: &Path| {
        let mut file = File::open(path).expect("readable");
        file.seek(SeekFrom::End(0)).expect("a size")
    };
    assert_eq!(size(&device), 64 << 20);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&device)
        .expect("writable");
    file.write_all_at(b"first", 4096).expect("room");
    rig.ok(&["volume", "grow", "v", "128Mi"]);
    assert_eq!(size(&device), 128 << 20);
    rig.kill();
    file.write_all_at(b"second", 100 << 20).expect("room");
    file.sync_all().expect("a disk");
    rig.start();
    let shown = rig.ok(&["volume", "show", "v"]);
    assert_eq!(shown["used-at"], json!([rig.text("dev")]));
    file.write_all_at(b"third", 1 << 20).expect("room");
    file.sync_all().expect("a disk");
    drop(file);
    rig.stop();
    rig.start();
    unmount(rig, "dev");
    assert!(!device.exists());
    let device = mount(rig, "v", "dev");
    let file = File::open(&device).expect("readable");
    for (text, at) in [("first", 4096), ("second", 100 << 20), ("third", 1 << 20)] {
        let mut found = vec![0; text.len()];
        file.read_exact_at(&mut found, at).expect("readable");
        assert_eq!(found, text.as_bytes());
    }
    drop(file);
    unmount(rig, "dev");
    delete(rig, &["v"]);
    rig.assert_clean();
}

/// Whether anything could be written through a path, however it is opened.
fn writable(path: &Path) -> bool {
    const O_DIRECT: i32 = 0o40000;
    [0, O_DIRECT].into_iter().any(|flags| {
        // The kernel may refuse to open it, or let it open and refuse to write.
        OpenOptions::new()
            .write(true)
            .custom_flags(flags)
            .open(path)
            .and_then(|f| {
                f.write_all_at(&[0; 4096], 0)?;
                f.sync_all()
            })
            .is_ok()
    })
}

/// A device handed out to read cannot be written through, with a writer beside it or without.
pub fn raw_block_read_only(rig: &Rig) {
    rig.ok(&["volume", "create", "v", "--block", "--size", "64Mi"]);
    let device = mount(rig, "v", "dev");
    let file = OpenOptions::new().write(true).open(&device).expect("ours");
    file.write_all_at(b"kept", 0).expect("room");
    file.sync_all().expect("a disk");
    drop(file);
    let read = |path: &Path| {
        let mut found = [0; 4];
        File::open(path)
            .and_then(|f| f.read_exact_at(&mut found, 0))
            .expect("readable");
        found
    };
    let reader = rig.path("reader");
    rig.ok(&["volume", "mount", "v", &rig.text("reader"), "--read-only"]);
    assert_eq!(&read(&reader), b"kept");
    assert!(!writable(&reader), "written to a read-only device");
    unmount(rig, "reader");
    assert_eq!(&read(&device), b"kept", "still there for the writer");
    unmount(rig, "dev");
    rig.ok(&["volume", "mount", "v", &rig.text("reader"), "--read-only"]);
    assert_eq!(&read(&reader), b"kept");
    assert!(!writable(&reader), "written to a read-only device");
    unmount(rig, "reader");
    delete(rig, &["v"]);
    rig.assert_clean();
}

/// Read-only targets refuse writes while others write.
pub fn read_only_target(rig: &Rig, fs: &str) {
    use std::io::ErrorKind::ReadOnlyFilesystem;
    create(rig, "v", fs, small(fs));
    let m = mount(rig, "v", "m");
    rig.ok(&["volume", "mount", "v", &rig.text("ro"), "--read-only"]);
    put(&m.join("file"), "kept");
    assert_eq!(get(&rig.path("ro/file")), "kept");
    let e = File::create(rig.path("ro/other")).expect_err("read-only");
    assert_eq!(e.kind(), ReadOnlyFilesystem);
    let e = std::fs::remove_file(rig.path("ro/file")).expect_err("read-only");
    assert_eq!(e.kind(), ReadOnlyFilesystem);
    put(&m.join("file"), "changed");
    unmount(rig, "ro");
    assert_eq!(get(&m.join("file")), "changed");
    unmount(rig, "m");
    delete(rig, &["v"]);
    rig.assert_clean();
}

/// The daemon stops, dies and comes back under a writer that notices nothing.
pub fn daemon_comes_and_goes(rig: &mut Rig, fs: &str) {
    create(rig, "v", fs, small(fs));
    let m = mount(rig, "v", "m");
    let writer = Writer::new(&m.join("a"), &m.join("b"));
    for kill in [false, true] {
        match kill {
            true => rig.kill(),
            false => rig.stop(),
        }
        writer.await_more(3);
        rig.start();
        writer.await_more(3);
        let listed = rig.ok(&["volume", "list"]);
        assert_eq!(listed[0]["name"], json!("v"));
        assert_eq!(listed[0]["used-at"], json!([rig.text("m")]));
    }
    rig.ok(&["volume", "grow", "v", double(fs)]);
    let written = writer.end();
    assert_eq!(records(&m.join("a")), written);
    unmount(rig, "m");
    mount(rig, "v", "m");
    assert_eq!(records(&m.join("b")), written);
    unmount(rig, "m");
    delete(rig, &["v"]);
    rig.assert_clean();
}

/// The pool `p` is away when the daemon starts and back a little later, its volume in use.
pub fn pool_comes_back(rig: &mut Rig, unplug: &dyn Fn(), plug: &dyn Fn()) {
    rig.ok(&["volume", "create", "v", "--pool", "p", "--size", "64Mi"]);
    put(&mount(rig, "v", "m").join("file"), "kept");
    snapshot(rig, "v", "s");
    rig.stop();
    unplug();
    rig.start();
    assert_eq!(rig.ok(&["volume", "list"])[0]["state"], json!("away"));
    let told = rig.run(&["doctor"]).stdout;
    assert!(told.contains("\"p\""), "{told}");
    plug();

    let deadline = Instant::now() + Duration::from_secs(60);
    while rig.run(&["doctor"]).stdout.trim() != "[]" {
        assert!(Instant::now() < deadline, "not read: {}", rig.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    let shown = rig.ok(&["volume", "show", "v"]);
    assert_eq!(shown["used-at"], json!([rig.text("m")]));
    restore(rig, "s", "r");
    assert_eq!(get(&mount(rig, "r", "n").join("file")), "kept");
    // Nothing counts as perhaps in there any more.
    rig.ok(&["volume", "create", "w", "--pool", "p", "--size", "64Mi"]);
    unmount(rig, "m");
    unmount(rig, "n");
    rig.ok(&["snapshot", "delete", "s"]);
    delete(rig, &["v", "r", "w"]);
    rig.assert_clean();
}

/// The UUID of the file system on a device, read from the device itself.
pub fn uuid_of(device: &Path) -> String {
    let device = device.display().to_string();
    let out = super::output("blkid", &["-p", "-s", "UUID", "-o", "value", &device]);
    out.trim().to_owned()
}

/// Overwrite part of a file or device.
pub fn scribble(path: &Path, at: u64, data: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).expect("ours");
    file.write_all_at(data, at).expect("room");
    file.sync_all().expect("a disk");
}

/// Everything in a file or device, as a digest.
pub fn digest(path: &Path) -> String {
    let sum = super::output("sha256sum", &[&path.display().to_string()]);
    sum.split(' ').next().unwrap_or_default().to_owned()
}
