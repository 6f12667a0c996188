use super::*;
use crate::vg::disks::Place;
use crate::vg::label::tests::{FOREIGN, ORPHAN, WITH, WITHOUT, rewritten};

/// What the owner of the second of these disks is said to be, or why it is refused.
async fn asked(disks: &[&[u8]], this: bool) -> Result<Owner, String> {
    let dir = tempfile::tempdir().unwrap();
    let put = |(number, bytes): (usize, &&[u8])| {
        let path = dir.path().join(number.to_string());
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let files = disks.iter().enumerate().map(put).collect();
    let mut survey = Place::Files(files).survey(|_| false).await.unwrap();
    for (disk, minor) in survey.disks.iter_mut().zip(0..) {
        disk.devno = Some(Devno { major: 4000, minor });
    }
    let this = this.then(|| Members {
        group: survey.disks[0].group.clone().unwrap(),
        disks: Vec::new(),
        absent: Vec::new(),
    });
    let second = Devno {
        major: 4000,
        minor: 1,
    };
    owner(&survey, this.as_ref(), Path::new("/dev/x"), second).map_err(|e| e.message().to_owned())
}

async fn refused(disks: &[&[u8]], this: bool, parts: &[&str]) {
    let said = asked(disks, this).await.unwrap_err();
    for part in parts {
        assert!(said.contains(part), "{said}");
    }
}

#[tokio::test]
async fn a_disk_in_another_group_is_refused_with_the_command_that_frees_it() {
    assert_eq!(asked(&[WITH, WITHOUT], true).await, Ok(Owner::This));
    assert_eq!(asked(&[WITH, ORPHAN], true).await, Ok(Owner::Orphan));
    assert_eq!(asked(&[WITH], true).await, Ok(Owner::Nobody));
    let plain = [
        "/dev/x belongs to volume group vg-0;",
        "vgreduce vg-0 /dev/x",
    ];
    refused(&[WITH, WITHOUT], false, &plain).await;
    let hidden = ["group away of the host", "\"there\"", "wipefs -a /dev/x"];
    refused(&[WITH, FOREIGN], true, &hidden).await;
    let lost = ["on other disks", "wipefs -a /dev/x"];
    refused(&[FOREIGN, WITHOUT], true, &lost).await;
    let locked = rewritten(FOREIGN, "system_id = \"there\"", "lock_type = \"idmmm\"");
    let locked_is = ["away, shared through idmmm", "wipefs -a /dev/x"];
    refused(&[WITH, &locked], true, &locked_is).await;
    let exported = rewritten(
        FOREIGN,
        "\nstatus = [\"RESIZEABLE\", \"READ\"]\nflags = [\"WRITE_LOCKED\"]\nsystem_id = \"there\"",
        "\nstatus = [\"EXPORTED\"]\nflags = []                                            ",
    );
    refused(
        &[WITH, &exported],
        true,
        &["exported", "vgimport away; vgremove away"],
    )
    .await;
}

/// A disk that was away while it was taken out of its group, or the group was made anew.
#[tokio::test]
async fn a_disk_that_only_its_own_metadata_claim_is_refused_too() {
    let without_it = rewritten(WITH, "1sqiP6-JlB1", "XsqiP6-JlB1");
    let newer = rewritten(&without_it, "seqno = 2", "seqno = 9");
    let parts = ["vg-0, by the metadata on it", "wipefs -a /dev/x"];
    refused(&[&newer, WITH], false, &parts).await;
    refused(&[&newer, WITH], true, &parts).await;
}
