use super::text::Member;
use super::*;

/// Recorded, see testdata/lvm/README.md.
pub(crate) const WITH: &[u8] = include_bytes!("../../../testdata/lvm/disks/with-metadata.img");
pub(crate) const WITHOUT: &[u8] =
    include_bytes!("../../../testdata/lvm/disks/without-metadata.img");
pub(crate) const ORPHAN: &[u8] = include_bytes!("../../../testdata/lvm/disks/orphan.img");
pub(crate) const FOREIGN: &[u8] = include_bytes!("../../../testdata/lvm/disks/foreign.img");

/// The UUIDs of the group and of its two disks.
pub(crate) const GROUP: &str = "GrM9m6FDgRCtrk7731FixZJQFfoJsGNa";
const FIRST: &str = "1sqiP6JlB1EVkfVADpZn3iFvC2mrA2tc";
const SECOND: &str = "gkRbSWeNyYZYCJEKWCcpILeahL8j3J0v";

fn read(disk: &[u8]) -> Result<Option<Metadata>, &'static str> {
    let area = label(disk).unwrap().areas[0];
    let start = usize::try_from(area.start).unwrap();
    let Some(location) = location(&disk[start..])? else {
        return Ok(None);
    };
    let mut text = Vec::new();
    for (from, size) in location.parts(area)? {
        let from = usize::try_from(from).unwrap();
        text.extend(&disk[from..from + usize::try_from(size).unwrap()]);
    }
    location.read(&text).map(Some)
}

#[test]
fn a_disk_says_whose_it_is() {
    let first = label(WITH).unwrap();
    assert_eq!((first.uuid.as_str(), first.used), (FIRST, true));
    let found = read(WITH).unwrap().unwrap();
    let member = |uuid: &str, hint: &str| Member {
        uuid: uuid.into(),
        hint: hint.into(),
        missing: false,
    };
    let want = Metadata {
        name: "vg-0".into(),
        uuid: GROUP.into(),
        seqno: 2,
        tags: vec!["stowage.pool=fast".into(), "x".into()],
        members: vec![member(FIRST, "/dev/loop3"), member(SECOND, "/dev/loop4")],
        ..Metadata::default()
    };
    assert_eq!(found, want);
}

#[test]
fn a_disk_without_metadata_says_that_it_is_in_a_group() {
    let second = label(WITHOUT).unwrap();
    assert_eq!((second.uuid.as_str(), second.used), (SECOND, true));
    assert_eq!(second.areas, []);
    let orphan = label(ORPHAN).unwrap();
    assert!(!orphan.used);
    assert_eq!(read(ORPHAN), Ok(None));
}

#[test]
fn another_hosts_group_is_told() {
    let found = read(FOREIGN).unwrap().unwrap();
    assert_eq!(
        (found.name.as_str(), found.system_id.as_str()),
        ("away", "there")
    );
    assert!(!found.exported && found.lock_type.is_empty());
}

#[test]
fn what_is_damaged_is_not_read() {
    assert_eq!(label(&[0; HEAD]), None);
    assert_eq!(label(&WITH[..700]), None);
    let spoilt = |at: usize| {
        let mut disk = WITH.to_vec();
        disk[at] ^= 1;
        disk
    };
    assert_eq!(label(&spoilt(512 + 40)), None);
    assert_eq!(read(&spoilt(4096 + 60)), Err("its header is damaged"));
    let start = usize::try_from(location(&WITH[4096..]).unwrap().unwrap().offset).unwrap();
    assert_eq!(read(&spoilt(4096 + start + 9)), Err("its text is damaged"));
}

#[test]
fn a_text_that_runs_over_the_end_of_the_ring_is_read_whole() {
    let area = Area {
        start: 1 << 20,
        size: 8192,
    };
    let at = |offset, size| Location {
        offset,
        size,
        checksum: 0,
    };
    let parts = |location: Location| location.parts(area);
    assert_eq!(parts(at(512, 7680)), Ok(vec![((1 << 20) + 512, 7680)]));
    assert_eq!(
        parts(at(8000, 300)),
        Ok(vec![((1 << 20) + 8000, 192), ((1 << 20) + 512, 108)])
    );
    for beyond in [at(100, 10), at(8192, 10), at(600, 8000)] {
        assert!(parts(beyond).is_err(), "{beyond:?}");
    }
}

#[test]
fn marks_of_other_hosts_and_hands_are_read() {
    let text = |more: &str, member: &str| {
        format!(
            "g {{\nid = \"aaaaaa-aaaa-aaaa-aaaa-aaaa-aaaa-aaaaaa\"\nseqno = 7\n{more}\n\
             physical_volumes {{\npv0 {{\nid = \"bbbbbb-bbbb-bbbb-bbbb-bbbb-bbbb-bbbbbb\"\n\
             device = \"/dev/a \\\"b\\\"\"\n{member}\n}}\n}}\nlogical_volumes {{\n\"not read"
        )
    };
    let read = |more: &str, member: &str| Metadata::parse(&text(more, member));
    let plain = read("status = [\"RESIZEABLE\"] # }", "flags = []").unwrap();
    assert_eq!(
        (plain.seqno, plain.members[0].hint.as_str()),
        (7, "/dev/a \"b\"")
    );
    assert!(!plain.exported && !plain.members[0].missing);
    assert!(
        read("status = [\"EXPORTED\", \"READ\"]", "")
            .unwrap()
            .exported
    );
    let locked = read("lock_type = \"sanlock\"\nlock_args = \"1.0.0:lvmlock\"", "").unwrap();
    assert_eq!(locked.lock_type, "sanlock");
    assert_eq!(read("lock_type = \"none\"", "").unwrap().lock_type, "");
    let left = read("", "status = [\"MISSING\"]\nflags = [\"MISSING\"]").unwrap();
    assert!(left.members[0].missing);
    for no_group in ["", "g {", "}", "g { id = \"short\" }", "= = ="] {
        assert_eq!(Metadata::parse(no_group), None, "{no_group}");
    }
}

/// A disk whose metadata were changed, as LVM would have written them.
pub(crate) fn rewritten(disk: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut disk = disk.to_vec();
    let area = label(&disk).unwrap().areas[0];
    let header = usize::try_from(area.start).unwrap();
    let location = location(&disk[header..]).unwrap().unwrap();
    let begin = header + usize::try_from(location.offset).unwrap();
    let end = begin + usize::try_from(location.size).unwrap();
    let text = String::from_utf8(disk[begin..end].to_vec()).unwrap();
    assert!(text.contains(from), "{text}");
    disk[begin..end].copy_from_slice(text.replace(from, to).as_bytes());
    let crc = checksum(&disk[begin..end]);
    disk[header + 56..header + 60].copy_from_slice(&crc.to_le_bytes());
    let crc = checksum(&disk[header + 4..header + SECTOR]);
    disk[header..header + 4].copy_from_slice(&crc.to_le_bytes());
    disk
}
