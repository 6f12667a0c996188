//! What an earlier version left on its disks and in its state directory, recorded, and what this
//! one must make of it. See `tests/recorded/README.md`.
//!
//! ```text
//!   record:   a daemon makes it all ─► killed, as by a power cut ─► disk.img + state/ + facts ─► NAME.tar.gz
//!   upgrade:  NAME.tar.gz ─► this daemon on it: all found, used, grown, asked for again, deleted
//! ```

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use prost::Message;
use serde_json::{Value, json};
use stowage_csi::proto::{
    CreateVolumeGroupSnapshotRequest, CreateVolumeRequest, DeleteVolumeGroupSnapshotRequest,
};

use super::calls::{self, Csi};
use super::{Rig, Storage, Work, get, output, put, tool, uses};

/// Names the directory that a recording is written to.
pub const RECORD: &str = "STOWAGE_RECORD";

/// The pool's disk, in the archive.
const DISK: &str = "disk.img";

/// A request as an orchestrator sent it, protobuf.
const REQUEST: &str = "create-volume.bin";

/// What cannot be known from the request and the names.
const FACTS: &str = "facts.json";

const SMALL: &str = "16Mi";

/// A rig whose paths are those of the recording: they are in its state.
pub fn rig(storage: Storage) -> Rig {
    Rig::stopped_in(Work::at(Path::new("/tmp/stowage-recorded")), storage)
}

fn recordings() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded")
}

/// What kind of pool `p` is; `q` is a file pool, or a thin pool in the same group.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum On {
    Files,
    Lvm,
}

/// A volume of this name with this text in its file `kept`, unmounted again.
fn laid_down(rig: &Rig, name: &str, create: &[&str]) {
    let all = [&["volume", "create", name, "--size", SMALL][..], create].concat();
    rig.ok(&all);
    rig.ok(&["volume", "mount", name, &rig.text(name)]);
    put(&rig.path(name).join("kept"), name);
    rig.ok(&["volume", "unmount", &rig.text(name)]);
}

/// Start the daemon to die at `point` on the way of these requests, and see it dead.
fn die_at(rig: &mut Rig, point: &str, requests: &[&[&str]]) {
    rig.kill();
    rig.die_at(point);
    rig.start();
    for request in requests {
        rig.run(request);
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    while !rig.died() {
        assert!(Instant::now() < deadline, "nobody died at {point}");
    }
}

/// Make everything that is recorded; the daemon is dead afterwards, with notes in its journal. The
/// facts.
pub fn make(rig: &mut Rig, on: On) -> Value {
    rig.start();
    let csi = Csi::new(rig);
    let mut request = calls::volume("pvc-recorded");
    request.parameters = calls::map(&[
        ("csi.storage.k8s.io/fstype", "ext4"),
        ("iops", "1024"),
        ("pool", "p"),
    ]);
    let made = csi.create_volume(request.clone()).expect("made");
    std::fs::write(rig.path(REQUEST), request.encode_to_vec()).expect("writable");

    for (name, create) in [
        ("used", &["--pool", "p"][..]),
        ("limited", &["--pool", "p", "--limit", "bps=1Mi"]),
        ("other", &["--pool", "q", "--thin"]),
    ] {
        laid_down(rig, name, create);
    }
    rig.ok(&["volume", "create", "blank", "--pool", "p", "--size", SMALL]);
    let raw = [
        "volume", "create", "raw", "--pool", "p", "--block", "--size", SMALL,
    ];
    rig.ok(&raw);
    rig.ok(&["volume", "mount", "raw", &rig.text("raw")]);
    uses::scribble(&rig.path("raw"), 1 << 20, &[b'r'; 4096]);
    let raw_digest = uses::digest(&rig.path("raw"));
    rig.ok(&["volume", "unmount", &rig.text("raw")]);
    rig.ok(&["snapshot", "create", "used", "before"]);
    rig.ok(&["snapshot", "create", "other", "other-before"]);
    rig.ok(&["volume", "mount", "used", &rig.text("used")]);
    put(&rig.path("used").join("later"), "later");
    rig.ok(&["snapshot", "restore", "before", "restored"]);
    rig.ok(&["volume", "clone", "used", "twin"]);
    let group = csi
        .create_volume_group_snapshot(CreateVolumeGroupSnapshotRequest {
            name: "group".to_owned(),
            source_volume_ids: vec![id_of(rig, "other")],
            ..Default::default()
        })
        .expect("cut");
    let members: Vec<&str> = group.snapshots.iter().map(|s| &*s.snapshot_id).collect();
    let facts = json!({
        "volume": made.volume_id,
        "bytes": made.capacity_bytes,
        "raw": raw_digest,
        "group": group.group_snapshot_id,
        "members": members,
        "version": env!("CARGO_PKG_VERSION"),
    });
    drop(csi);
    rig.settle();
    // Records made in use reach the pool by themselves; what is told of below shall be the only
    // notes in the journal.
    let deadline = Instant::now() + Duration::from_secs(60);
    while journal(rig) != 0 {
        assert!(
            Instant::now() < deadline,
            "the journal stays: {}",
            rig.log()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    let half_copied = ["volume", "clone", "used", "half-copied", "--pool", "q"];
    die_at(rig, "node.fill.copied", &[&half_copied]);
    let half_made = [
        "volume",
        "create",
        "half-made",
        "--pool",
        "p",
        "--size",
        SMALL,
    ];
    let mounted = ["volume", "mount", "half-made", &rig.text("half-made")];
    die_at(rig, "node.stage.format-noted", &[&half_made, &mounted]);
    let fresh = ["volume", "create", "fresh", "--pool", "p", "--size", SMALL];
    let at = rig.text("fresh");
    let mount = ["volume", "mount", "fresh", &at];
    let unfinished = [
        "volume",
        "create",
        "unfinished",
        "--pool",
        "p",
        "--size",
        SMALL,
    ];
    match on {
        On::Files => {
            rig.start();
            rig.ok(&fresh);
            rig.ok(&mount);
            rig.kill();
        }
        On::Lvm => die_at(rig, "node.create.noted#2", &[&fresh, &mount, &unfinished]),
    }
    put(&rig.path("fresh").join("kept"), "fresh");
    let noted = if on == On::Files { 2 } else { 3 };
    assert_eq!(
        journal(rig),
        noted,
        "record again: the machine was too slow"
    );
    facts
}

fn journal(rig: &Rig) -> usize {
    std::fs::read_dir(rig.path("state/journal"))
        .expect("a journal")
        .count()
}

/// Write the archive: the first MiBs of the disk, which nobody uses any more, and the rig's state.
pub fn write(rig: &Rig, disk: &Path, mib: u64, facts: &Value, name: &str) {
    let out = PathBuf::from(std::env::var_os(RECORD).expect("STOWAGE_RECORD names a directory"));
    std::fs::write(rig.path(FACTS), facts.to_string()).expect("writable");
    let (from, to) = (format!("if={}", disk.display()), rig.text(DISK));
    let (to, count) = (format!("of={to}"), format!("count={mib}"));
    let how = ["bs=1M", "conv=sparse", "status=none"];
    tool("dd", &[&[from.as_str(), &to, &count][..], &how].concat());
    let archive = out.join(format!("{name}.tar.gz")).display().to_string();
    let work = rig.work.path().display().to_string();
    let into = ["-C", &work, "--sparse", "-czf", &archive];
    tool(
        "tar",
        &[&into[..], &[DISK, "state", REQUEST, FACTS]].concat(),
    );
}

/// An archive, unpacked.
pub struct Recording {
    dir: tempfile::TempDir,
}

impl Recording {
    pub fn unpack(name: &str) -> Self {
        let dir = stowage_testkit::scratch::dir("recorded").expect("a directory");
        let archive = recordings().join(format!("{name}.tar.gz"));
        let (archive, to) = (
            archive.display().to_string(),
            dir.path().display().to_string(),
        );
        tool("tar", &["-C", &to, "--sparse", "-xzf", &archive]);
        Self { dir }
    }

    /// The image of the disk.
    pub fn disk(&self) -> PathBuf {
        self.dir.path().join(DISK)
    }

    fn facts(&self) -> Value {
        serde_json::from_str(&get(&self.dir.path().join(FACTS))).expect("facts")
    }

    fn request(&self) -> CreateVolumeRequest {
        let bytes = std::fs::read(self.dir.path().join(REQUEST)).expect("a request");
        CreateVolumeRequest::decode(&*bytes).expect("a request")
    }

    /// Lay the recorded state under a rig that was not started yet.
    pub fn lay_under(&self, rig: &Rig) {
        let state = self.dir.path().join("state").display().to_string();
        tool(
            "cp",
            &["-a", &state, &rig.work.path().display().to_string()],
        );
    }
}

/// Everything recorded is there and works as if this version had made it; then it goes.
pub fn upgraded(mut rig: Rig, recording: &Recording) {
    let facts = recording.facts();
    rig.start();
    let csi = Csi::new(&rig);
    let listed = rig.ok(&["volume", "list"]);
    let listed: Vec<&str> = listed
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|v| v["name"].as_str())
        .collect();
    for name in [
        "pvc-recorded",
        "used",
        "limited",
        "other",
        "blank",
        "raw",
        "restored",
        "twin",
        "fresh",
        "half-made",
        "half-copied",
    ] {
        assert!(
            listed.contains(&name),
            "{name} is not in {listed:?}: {}",
            rig.log()
        );
    }
    assert!(
        !listed.contains(&"unfinished"),
        "nobody was told of it: {listed:?}"
    );

    let again = csi
        .create_volume(recording.request())
        .expect("the same volume");
    assert_eq!(facts["volume"], again.volume_id.as_str());
    assert_eq!(facts["bytes"], again.capacity_bytes);

    let kept = |rig: &Rig, name: &str, text: &str, later: bool| {
        rig.ok(&["volume", "mount", name, &rig.text(name)]);
        assert_eq!(get(&rig.path(name).join("kept")), text, "{name}");
        assert_eq!(rig.path(name).join("later").exists(), later, "{name}");
    };
    // A copy that was half made is made by asking for it again, from what its source is now.
    rig.ok(&["volume", "clone", "used", "half-copied", "--pool", "q"]);
    for (name, text, later) in [
        ("used", "used", true),
        ("limited", "limited", false),
        ("other", "other", false),
        ("restored", "used", false),
        ("twin", "used", true),
        ("fresh", "fresh", false),
        ("half-copied", "used", true),
    ] {
        kept(&rig, name, text, later);
    }
    rig.ok(&["snapshot", "restore", "other-before", "restored-again"]);
    kept(&rig, "restored-again", "other", false);
    rig.ok(&["volume", "mount", "raw", &rig.text("raw")]);
    assert_eq!(facts["raw"], uses::digest(&rig.path("raw")).as_str());
    // Nobody's yet: both get a file system now.
    for name in ["blank", "half-made"] {
        rig.ok(&["volume", "mount", name, &rig.text(name)]);
        put(&rig.path(name).join("kept"), name);
    }
    let used: Vec<&str> =
        "used limited other restored twin fresh half-copied restored-again raw blank half-made"
            .split(' ')
            .collect();
    for name in &used {
        rig.ok(&["volume", "unmount", &rig.text(name)]);
    }
    for name in ["twin", "half-made", "limited", "raw"] {
        rig.ok(&["volume", "grow", name, "32Mi"]);
    }
    kept(&rig, "twin", "used", true);
    kept(&rig, "half-made", "half-made", false);
    let room = output("stat", &["-f", "-c", "%b %S", &rig.text("twin")]);
    let room: u64 = room
        .split_whitespace()
        .map(|n| n.parse::<u64>().expect("a number"))
        .product();
    assert!(room > 20 << 20, "the file system did not grow: {room}");
    for name in ["twin", "half-made"] {
        rig.ok(&["volume", "unmount", &rig.text(name)]);
    }

    csi.delete_volume_group_snapshot(DeleteVolumeGroupSnapshotRequest {
        group_snapshot_id: facts["group"].as_str().expect("an id").to_owned(),
        snapshot_ids: facts["members"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
        ..Default::default()
    })
    .expect("deleted");
    for name in ["before", "other-before"] {
        rig.ok(&["snapshot", "delete", name]);
    }
    for name in used.iter().chain(&["pvc-recorded"]) {
        rig.ok(&["volume", "delete", name]);
    }
    rig.assert_clean();
}

fn id_of(rig: &Rig, name: &str) -> String {
    let shown = rig.ok(&["volume", "show", name]);
    let shown = shown.get(0).cloned().unwrap_or(shown);
    shown["id"].as_str().expect("an id").to_owned()
}
