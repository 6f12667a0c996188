use super::*;
use crate::vg::label::tests::{FOREIGN, GROUP, ORPHAN, WITH, WITHOUT};

fn paths(survey: &Survey) -> Vec<&str> {
    let names = survey.disks.iter();
    names
        .map(|disk| disk.path.file_name().unwrap().to_str().unwrap())
        .collect()
}

#[tokio::test]
async fn disks_are_read_by_their_labels_and_read_again_when_they_change() {
    let dir = tempfile::tempdir().unwrap();
    let image = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let place = Place::Files(vec![
        image("a", WITH),
        image("b", WITHOUT),
        image("c", ORPHAN),
        image("d", FOREIGN),
        image("e", &[0; 8192]),
        image("f", b"short"),
        dir.path().join("gone"),
    ]);
    let survey = place.survey(|_| false).await.unwrap();
    assert_eq!(paths(&survey), ["a", "b", "c", "d"]);
    assert_eq!(survey.silent, Vec::<PathBuf>::new());
    assert_eq!(survey.disks[0].group.as_ref().unwrap().uuid, GROUP);
    assert_eq!(survey.disks[3].group.as_ref().unwrap().name, "away");

    let same = again(&survey.disks).await;
    assert_eq!(same.disks, survey.disks);
    image("a", FOREIGN);
    image("d", &[0; 8192]);
    let now = again(&survey.disks).await;
    assert_eq!(paths(&now), ["a", "b", "c"]);
    assert_eq!(now.disks[0].group.as_ref().unwrap().name, "away");
}

/// A FIFO without a writer: opening it waits, as for a disk that hangs. Dropped, it gives its readers
/// their end: the runtime waits for their threads, after a failed assertion as well.
struct Hung(PathBuf);

impl Drop for Hung {
    fn drop(&mut self) {
        let_go(&self.0);
    }
}

/// Give readers of this FIFO its end, those as well that come to open it only later.
fn let_go(fifo: &Path) {
    use std::os::unix::fs::OpenOptionsExt;
    let options = || {
        let mut options = std::fs::File::options();
        options.read(true);
        options
    };
    // O_PATH: the file itself, wherever its name has gone, and neither reader nor writer.
    let held = options().custom_flags(0o10_000_000).open(fifo).unwrap();
    std::thread::spawn(move || {
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&held));
        loop {
            drop(options().write(true).open(&path));
            std::thread::sleep(Duration::from_millis(10));
        }
    });
}

#[tokio::test]
async fn a_disk_that_hangs_keeps_no_other_from_being_read() {
    let dir = tempfile::tempdir().unwrap();
    let (good, hung) = (dir.path().join("good"), dir.path().join("hung"));
    std::fs::write(&good, WITH).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &hung, fifo, mode, 0).unwrap();
    let _lets_go = Hung(hung.clone());
    let place = Place::Files(vec![good, hung.clone()]);
    let begun = Instant::now();
    for _ in 0..2 {
        let survey = place.survey(|disks| !disks.is_empty()).await.unwrap();
        assert_eq!(paths(&survey), ["good"]);
        assert_eq!(survey.silent, std::slice::from_ref(&hung));
    }
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    let all = place.survey(|_| false).await.unwrap();
    assert_eq!(all.silent, std::slice::from_ref(&hung));
    // Once it is known to hang nobody waits for it.
    let begun = Instant::now();
    let all = place.survey(|_| false).await.unwrap();
    assert_eq!(paths(&all), ["good"]);
    assert_eq!(all.silent, std::slice::from_ref(&hung));
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
}
