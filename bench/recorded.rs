//! Whether what LVM says of a group costs no more for each volume when there are more.
//!
//! LVM's own words, recorded of two volumes and written down for 2,000, are read by the pool as by the
//! daemon; the disk of the group is a real one, and no volume is. Run it by `make bench`.
#![allow(
    clippy::disallowed_methods,
    reason = "LVM's own commands make the group"
)]

mod growth;

use std::process::Command;
use std::sync::Arc;

use async_trait::async_trait;
use growth::{Cost, FEW, Figures, MANY, Moment, compare};
use serde_json::{Value, json};
use stowage_host::loopdev::{self, LoopDevice};
use stowage_host::{Cmd, CmdError, Output, Runner};
use stowage_model::id::Role;
use stowage_model::{Id, Name, PoolName, Reserve};
use stowage_pool::Pool;
use stowage_pool::lvm::{LvmPool, Options, Wipe};
use stowage_testkit::disk::SparseFile;

/// What LVM 2.03.16 said, and the volumes in it that are multiplied: a linear one, and a raid1.
const RECORDED: &str = include_str!("../crates/pool/testdata/lvm/group.json");
const LINEAR: &str = "stowage-v-4c94485e0c21ae6c41ce1dfe7b6bface";
const RAID1: &str = "stowage-v-62c66a7a5dd70c3146618063c344e531";

const ROUNDS: usize = 15;

#[tokio::main]
async fn main() {
    let group = Group::new();
    let (few, many) = (group.pool(FEW).await, group.pool(MANY).await);
    let (mut of_few, mut of_many) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        quicker(&mut of_few, look(&few, FEW).await);
        quicker(&mut of_many, look(&many, MANY).await);
    }
    println!("| what | ours | against | ratio |\n|---|---|---|---|");
    compare(of_few, of_many);
}

async fn look(pool: &LvmPool, volumes: usize) -> Figures {
    let (scan, found) = timed(pool.scan()).await;
    let found = found.expect("the report is read");
    assert_eq!((found.found.len(), &found.defects), (volumes, &Vec::new()));
    let (status, told) = timed(pool.status()).await;
    assert_eq!(told.expect("the report is known").volumes, volumes);
    let (tend, wrong) = timed(pool.tend()).await;
    assert_eq!(wrong.expect("nothing hangs"), Vec::new());
    vec![
        ("LVM's report read", scan),
        ("status of a group", status),
        ("upkeep of a group", tend),
    ]
}

async fn timed<T>(work: impl Future<Output = T>) -> (Cost, T) {
    let now = || Moment::of(std::process::id());
    let begun = now();
    let done = work.await;
    (now() - begun, done)
}

fn quicker(best: &mut Figures, new: Figures) {
    if best.is_empty() {
        *best = new;
        return;
    }
    for ((_, best), (_, new)) in best.iter_mut().zip(new) {
        *best = new.min(*best);
    }
}

/// A volume group with one disk.
struct Group {
    name: String,
    disk: LoopDevice,
    _file: SparseFile,
}

impl Group {
    fn new() -> Self {
        let file = SparseFile::new(64 << 20).expect("a file");
        let options = loopdev::Options {
            autoclear: true,
            ..loopdev::Options::default()
        };
        let disk = loopdev::attach(file.path(), options).expect("a loop device");
        let name = format!("stowage-bench-{}", std::process::id());
        let path = disk.path.display().to_string();
        for (program, args) in [
            ("pvcreate", vec!["-y", "-q", &path]),
            ("vgcreate", vec!["-y", "-q", &name, &path]),
        ] {
            let out = Command::new(program).args(args).output().expect("lvm2");
            let said = String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success(), "{program}: {said}");
        }
        Self {
            name,
            disk,
            _file: file,
        }
    }

    async fn pool(&self, volumes: usize) -> LvmPool {
        let options = Options {
            name: PoolName::new("fast").expect("a name"),
            vg: self.name.clone(),
            wipe: Wipe::Zero,
            reserve: Reserve::default(),
        };
        let report = self.report(volumes).to_string();
        let lvm: Arc<dyn Runner> = Arc::new(Recorded(report));
        LvmPool::open(options, lvm).await.expect("a pool")
    }

    /// The recorded report, of so many volumes: every other one a raid1 with its hidden parts.
    fn report(&self, volumes: usize) -> Value {
        let mut report: Value = serde_json::from_str(RECORDED).expect("JSON");
        let sections = &mut report["report"][0];
        let rows = sections["lv"].as_array().expect("rows").clone();
        let recorded = |name: &str| {
            let mut rows = rows.iter();
            let row = rows.find(|row| row["lv_name"] == name);
            row.expect("it is recorded").to_string()
        };
        let (linear, raid1) = (recorded(LINEAR), recorded(RAID1));
        let (mut lvs, mut segments) = (Vec::new(), Vec::new());
        for n in 0..volumes {
            let name = Name::new(format!("many-{n}")).expect("a name");
            let lv = format!("stowage-{}", Id::derive(Role::Volume, &name));
            let (row, before) = match n % 2 {
                0 => (&linear, LINEAR),
                _ => (&raid1, RAID1),
            };
            let id = |lv: &str| lv.trim_start_matches("stowage-").to_owned();
            let row = row.replace(&id(before), &id(&lv));
            let row: Value = serde_json::from_str(&row).expect("JSON");
            let mut named = vec![lv.clone()];
            if n % 2 == 1 {
                for (part, attr, tags) in [
                    ("rimage_0", "iwi-aor---", &json!("")),
                    ("rimage_1", "iwi-aor---", &json!("")),
                    ("rmeta_0", "ewi-aor---", &row["lv_tags"]),
                    ("rmeta_1", "ewi-aor---", &row["lv_tags"]),
                ] {
                    let mut leg = row.clone();
                    let name = format!("[{lv}_{part}]");
                    leg["lv_name"] = json!(name);
                    leg["lv_attr"] = json!(attr);
                    leg["lv_tags"] = tags.clone();
                    lvs.push(leg);
                    named.push(name);
                }
            }
            lvs.push(row);
            let segment = |name| json!({"lv_name": name, "thin_id": "", "zero": "unknown"});
            segments.extend(named.into_iter().map(segment));
        }
        sections["lv"] = lvs.into();
        sections["seg"] = segments.into();
        sections["pv"] = json!([{
            "pv_name": self.disk.path, "pv_free": "1048576", "pv_missing": ""
        }]);
        report
    }
}

/// Answers as LVM did.
struct Recorded(String);

#[async_trait]
impl Runner for Recorded {
    async fn run(&self, cmd: Cmd) -> Result<Output, CmdError> {
        let argv = cmd.argv();
        let stdout = match argv.get(1).map(String::as_str) {
            Some("version") => "  LVM version:     2.03.16(2) (2022-05-18)".to_owned(),
            Some("fullreport") => self.0.clone(),
            _ => return Err(CmdError::refused(&cmd, "it is not recorded")),
        };
        Ok(Output {
            stdout,
            stderr: String::new(),
        })
    }
}
