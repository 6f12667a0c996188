//! Which device a volume is on.

use super::*;

fn noted(pool: &FilePool, record: &Record) -> Option<PathBuf> {
    let devices = pool.shared.devices.lock().unwrap();
    devices.get(&record.id).cloned()
}

#[tokio::test]
async fn a_noted_device_is_told_only_while_the_volume_is_on_it() {
    let bench = Bench::new(FsKind::Xfs);
    let (v, w) = (
        bench.make("v", Bytes::mib(8)).await,
        bench.make("w", Bytes::mib(8)).await,
    );
    let attached = async |record: &Record| {
        let device = bench.pool.attached(record).await.unwrap();
        device.map(|device| device.path)
    };
    let on = bench.pool.attach(&v, Attach::Held).await.unwrap().path;
    assert_eq!(attached(&v).await, Some(on.clone()));
    // Another's by now.
    bench.pool.shared.note_device(&w.id, &on);
    assert_eq!(attached(&w).await, None);
    assert_eq!(noted(&bench.pool, &w), None);
    // Attached by somebody else, to another device.
    loopdev::detach(&on).unwrap();
    let options = loopdev::Options {
        block_size: Some(4096),
        ..Default::default()
    };
    let elsewhere = loopdev::attach(&bench.pool.shared.data(&v), options);
    let elsewhere = elsewhere.unwrap().path.clone();
    bench.pool.shared.note_device(&v.id, Path::new("/dev/null"));
    assert_eq!(attached(&v).await, Some(elsewhere.clone()));
    assert_eq!(noted(&bench.pool, &v), Some(elsewhere));
    for record in [&v, &w] {
        bench.pool.detach(record).await.unwrap();
        assert_eq!(attached(record).await, None);
        bench.pool.remove(record).await.unwrap();
    }
    assert!(bench.pool.shared.devices.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_start_notes_what_is_attached_in_one_look() {
    let bench = Bench::new(FsKind::Xfs);
    let thick = bench.make("thick", Bytes::mib(8)).await;
    let thin = volume("thin", Provisioning::Thin);
    bench.pool.create(&thin, Bytes::mib(8)).await.unwrap();
    let unused = bench.make("unused", Bytes::mib(8)).await;
    let mut on = Vec::new();
    for record in [&thick, &thin] {
        on.push(bench.pool.attach(record, Attach::Held).await.unwrap().path);
    }
    let again = bench.again();
    again.scan().await.unwrap();
    assert_eq!(noted(&again, &thick).as_ref(), Some(&on[0]));
    assert_eq!(noted(&again, &thin).as_ref(), Some(&on[1]));
    assert_eq!(noted(&again, &unused), None);
    for record in [&thick, &thin] {
        bench.pool.detach(record).await.unwrap();
    }
}
