use super::*;
use crate::vg::label::tests::{FOREIGN, GROUP, ORPHAN, WITH, WITHOUT};
use stowage_model::Kind;

/// A directory whose files stand for disks, and a finder of the group `vg-0` there.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new(disks: &[(&str, &[u8])]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bench = Self { dir };
        for (name, bytes) in disks {
            bench.put(name, bytes);
        }
        bench
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.dir.path().join(name), bytes).unwrap();
    }

    fn take(&self, name: &str) {
        std::fs::remove_file(self.dir.path().join(name)).unwrap();
    }

    fn memory(&self) -> PathBuf {
        self.dir.path().join("fast.vg")
    }

    fn finder(&self, pool: &str) -> Finder {
        let files = ["a", "b", "c", "d"].map(|name| self.dir.path().join(name));
        let place = Place::Files(files.to_vec());
        let finder = Finder::new(PoolName::new(pool).unwrap(), "vg-0".into(), place);
        finder.remembering(self.memory())
    }
}

fn names(members: &Members) -> Vec<String> {
    let names = members.paths().map(|path| path.file_name().unwrap());
    names
        .map(|name| name.to_str().unwrap().to_owned())
        .collect()
}

/// The recorded group with another UUID, as another machine's of the same name.
fn other() -> Vec<u8> {
    let text = |disk: &[u8]| String::from_utf8_lossy(disk).into_owned();
    assert!(text(WITH).contains("GrM9m6-FDgR"));
    crate::vg::label::tests::rewritten(WITH, "GrM9m6-FDgR", "XXXXXX-FDgR")
}

#[tokio::test]
async fn a_groups_disks_are_found_and_its_uuid_is_kept() {
    let bench = Bench::new(&[("a", WITH), ("b", WITHOUT), ("c", ORPHAN), ("d", FOREIGN)]);
    let finder = bench.finder("fast");
    let found = finder.find().await.unwrap().unwrap();
    assert_eq!(
        (names(&found), found.absent.len()),
        (vec!["a".into(), "b".into()], 0)
    );
    let kept = std::fs::read_to_string(bench.memory()).unwrap();
    assert_eq!(kept.trim(), GROUP);
    let again = finder.find().await.unwrap().unwrap();
    assert!(Arc::ptr_eq(&found, &again), "nothing changed");
}

#[tokio::test]
async fn a_disk_that_goes_and_comes_back_elsewhere_is_told_and_found() {
    let bench = Bench::new(&[("a", WITH), ("b", WITHOUT)]);
    let finder = bench.finder("fast");
    finder.find().await.unwrap();
    bench.take("b");
    let found = finder.find().await.unwrap().unwrap();
    assert_eq!(names(&found), ["a"]);
    assert_eq!(found.absent[0].hint, "/dev/loop4");
    bench.put("d", WITHOUT);
    let found = finder.find().await.unwrap().unwrap();
    assert_eq!(
        (names(&found), found.absent.len()),
        (vec!["a".into(), "d".into()], 0)
    );
    bench.take("a");
    assert!(
        finder.find().await.unwrap().is_none(),
        "its metadata are gone"
    );
}

#[tokio::test]
async fn another_group_of_the_name_is_not_taken_for_it() {
    let bench = Bench::new(&[("a", WITH), ("b", WITHOUT)]);
    bench.finder("fast").find().await.unwrap();
    bench.put("a", &other());
    let refused = bench.finder("fast").find().await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Precondition);
    for part in ["vg-0", GROUP, "XXXXXXFDgR", "fast.vg"] {
        assert!(refused.message().contains(part), "{refused}");
    }
    // The way out that was told.
    std::fs::remove_file(bench.memory()).unwrap();
    bench.finder("fast").find().await.unwrap().unwrap();
}

#[tokio::test]
async fn of_two_groups_of_the_name_the_one_known_or_marked_is_it() {
    let bench = Bench::new(&[("a", WITH), ("b", WITHOUT)]);
    bench.finder("fast").find().await.unwrap();
    bench.put("c", &other());
    let two = bench.finder("fast").find().await.unwrap_err();
    // The other bears the same disk: it is a copy.
    assert!(two.message().contains("are both disk"), "{two}");

    let stranger = crate::vg::label::tests::rewritten(FOREIGN, "away {", "vg-0 {");
    let bench = Bench::new(&[("a", WITH), ("b", WITHOUT), ("d", &stranger)]);
    let found = bench.finder("fast").find().await.unwrap().unwrap();
    assert_eq!(found.group.uuid, GROUP, "it is marked as the pool's");
    let found = bench.finder("slow").find().await.unwrap().unwrap();
    assert_eq!(found.group.uuid, GROUP, "it was seen before");
    std::fs::remove_file(bench.memory()).unwrap();
    let refused = bench.finder("slow").find().await.unwrap_err();
    assert!(
        refused.message().contains("2 volume groups vg-0"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_renamed_group_is_told() {
    let bench = Bench::new(&[("a", WITH), ("b", WITHOUT)]);
    bench.finder("fast").find().await.unwrap();
    bench.put(
        "a",
        &crate::vg::label::tests::rewritten(WITH, "vg-0 {", "vg-1 {"),
    );
    let refused = bench.finder("fast").find().await.unwrap_err();
    assert!(refused.message().contains("renamed to vg-1"), "{refused}");
}
