use super::*;
use crate::state::attachments::Publication;
use stowage_model::LimitsChange;
use stowage_model::request::AccessMode;
use stowage_model::volumes::Volumes;

use crate::testing::Bench;

#[tokio::test(start_paused = true)]
async fn a_consumer_that_stays_without_its_limits_is_told() {
    let bench = Bench::new().await;
    let id = bench.volume("v").await;
    let inner = &bench.local.node;
    let uid = "52f1bab4-d39b-4cde-abad-6c5963b47761";
    let pod = format!("/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~csi/pv/mount");
    let targets = [PathBuf::from(&pod), PathBuf::from("/mnt/data")];
    let publication = Publication {
        block: false,
        read_only: false,
        mode: AccessMode::SingleNodeMultiWriter,
        cgroup: None,
        holders: Default::default(),
    };
    let entry = bench.entry(&id).unwrap();
    let how = stowage_pool::Attach::Held;
    crate::backing::device::attach(&entry, how).await.unwrap();
    let noted = targets.clone();
    let hand_out = move |a: &mut crate::state::attachments::Attachment| {
        a.targets = noted.map(|target| (target, publication.clone())).into();
    };
    inner.attachments().update(&id, hand_out).await.unwrap();
    let limit = |value: &str| {
        let mut change = LimitsChange::default();
        change.set("wbps", value).unwrap();
        change
    };
    let told = async || {
        watch_limits(inner, entry.pool.name()).await;
        let found = bench.local.health(&id).await.unwrap();
        found
            .into_iter()
            .filter(|f| f.trouble == Trouble::NotLimited)
    };
    // Without limits there is nothing to miss, however long.
    let _ = told().await.count();
    tokio::time::advance(PATIENCE * 2).await;
    assert_eq!(told().await.count(), 0);
    bench.local.modify(&id, limit("1Mi")).await.unwrap();
    // Kubelet makes a pod's group about when it mounts; that is nothing to worry about.
    assert_eq!(told().await.count(), 0);
    tokio::time::advance(PATIENCE).await;
    let found: Vec<Finding> = told().await.collect();
    let [mounted, in_pod] = found.as_slice() else {
        panic!("{found:?}")
    };
    for (finding, words) in [
        (
            mounted,
            ["/mnt/data", "without a control group", "wbps=1048576"],
        ),
        (in_pod, [pod.as_str(), uid, "wbps=1048576"]),
    ] {
        for word in words {
            assert!(finding.what.contains(word), "{word}: {}", finding.what);
        }
    }
    assert!(mounted.mend.contains("--cgroup"), "{}", mounted.mend);
    bench.local.modify(&id, limit("0")).await.unwrap();
    assert_eq!(told().await.count(), 0);
}
