//! Records as LV tags.
//!
//! One tag a key: `stowage.<key>=<value>`. LVM takes letters, digits and `_ + . - / = ! : & #` in
//! a tag, 1024 bytes at most (lvm(8), "Tags"); every other byte, and `+` itself, is written `+XX`
//! in hexadecimal. A volume that reads a snapshot in place has no LV of its own: its record lies
//! on the snapshot's LV as `stowage.r.<id>.<key>=<value>`.

use std::collections::BTreeMap;

use stowage_model::{Bytes, Error, Id, Record, Result};

/// Every tag of ours begins so.
const OURS: &str = "stowage.";
/// What comes before the id of an LV's own record.
const ID: &str = "stowage.id=";
/// What comes before the id in a reader's tags.
const READER: &str = "stowage.r.";
/// On an LV that is being made in several steps; its record comes with the last of them.
pub(crate) const HALF: &str = "stowage.half=yes";
/// On a volume that never held anything and has grown, before the size it had: what lies beyond may not
/// look blank yet.
const GROWN: &str = "stowage.grown-from=";
/// On a volume group or thin pool made by us, before the pool's name.
pub(crate) const POOL: &str = "stowage.pool=";
/// The longest tag LVM takes.
const LONGEST: usize = 1024;

/// Whether any of these tags is ours.
pub(crate) fn any_ours(tags: &[String]) -> bool {
    tags.iter().any(|tag| tag.starts_with(OURS))
}

/// Whether any of these tags is part of a record, or marks one in the making.
pub(crate) fn any_record(tags: &[String]) -> bool {
    let record = |tag: &String| tag.starts_with(OURS) && !tag.starts_with(POOL);
    tags.iter().any(record)
}

/// The id an LV's own record is of, as far as that can be read.
pub(crate) fn id(tags: &[String]) -> Option<Id> {
    tags.iter()
        .find_map(|tag| tag.strip_prefix(ID)?.parse().ok())
}

/// The tags of a record on its own LV.
///
/// # Errors
/// [`stowage_model::Kind::Invalid`] when a value is too long for a tag.
pub(crate) fn of_record(record: &Record) -> Result<Vec<String>> {
    encode(OURS, record)
}

/// The tags of a reader's record on the LV of its snapshot.
///
/// # Errors
/// As [`of_record`].
pub(crate) fn of_reader(record: &Record) -> Result<Vec<String>> {
    encode(&reader_prefix(&record.id), record)
}

fn reader_prefix(id: &Id) -> String {
    format!("{READER}{id}.")
}

fn encode(prefix: &str, record: &Record) -> Result<Vec<String>> {
    record
        .to_pairs()
        .into_iter()
        .map(|(key, value)| {
            let tag = format!("{prefix}{key}={}", escape(&value));
            if tag.len() > LONGEST {
                return Err(Error::invalid(format!(
                    "{key} of {} takes {} bytes as an LV tag, LVM keeps {LONGEST}; shorten it",
                    record.id,
                    tag.len()
                )));
            }
            Ok(tag)
        })
        .collect()
}

/// The tags among `tags` that [`of_record`] may have written: no mark of a step.
pub(crate) fn record_part(tags: &[String]) -> impl Iterator<Item = &String> {
    tags.iter().filter(|tag| {
        let other = tag.starts_with(READER) || tag.starts_with(GROWN) || *tag == HALF;
        tag.starts_with(OURS) && !other
    })
}

/// The mark of a volume that had this size before it grew.
pub(crate) fn grown(from: Bytes) -> String {
    format!("{GROWN}{}", from.0)
}

/// The size a volume had before it grew, where what lies beyond may not look blank yet.
pub(crate) fn grown_from(tags: &[String]) -> Option<Bytes> {
    let sizes = tags.iter().filter_map(|tag| tag.strip_prefix(GROWN));
    sizes.filter_map(|size| size.parse().ok().map(Bytes)).min()
}

/// The tags among `tags` that belong to this reader.
pub(crate) fn reader_part<'a>(tags: &'a [String], id: &Id) -> impl Iterator<Item = &'a String> {
    let prefix = reader_prefix(id);
    tags.iter().filter(move |tag| tag.starts_with(&prefix))
}

/// Read the record of an LV from its tags.
///
/// # Errors
/// What is missing or damaged.
pub(crate) fn record(tags: &[String]) -> Result<Record> {
    decode(OURS, record_part(tags))
}

/// The readers whose tags are among `tags`, each with its record or why it cannot be read.
pub(crate) fn readers(tags: &[String]) -> Vec<(String, Result<Record>)> {
    let mut readers: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
    for tag in tags {
        let id = tag
            .strip_prefix(READER)
            .and_then(|rest| rest.split_once('.'));
        if let Some((id, _)) = id {
            readers.entry(id).or_default().push(tag);
        }
    }
    let read = |(id, own): (&str, Vec<&String>)| {
        let record = decode(&format!("{READER}{id}."), own.into_iter());
        let record = record.and_then(|record| match record.id.as_str() == id {
            true => Ok(record),
            false => Err(Error::internal(format!("its record is of {}", record.id))),
        });
        (id.to_owned(), record)
    };
    readers.into_iter().map(read).collect()
}

fn decode<'a>(prefix: &str, tags: impl Iterator<Item = &'a String>) -> Result<Record> {
    let mut pairs = BTreeMap::new();
    for tag in tags {
        let Some((key, value)) = tag
            .strip_prefix(prefix)
            .and_then(|rest| rest.split_once('='))
        else {
            continue;
        };
        let value = unescape(value)
            .ok_or_else(|| Error::internal(format!("its tag {tag:?} is no text we wrote")))?;
        if pairs.insert(key.to_owned(), value).is_some() {
            return Err(Error::internal(format!(
                "its record holds the key {key:?} twice"
            )));
        }
    }
    Record::from_pairs(&pairs)
}

/// The `+` goes through [`escape`]'s own door, so that every text has one form.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_.-/=!:&#".contains(&byte)
}

fn escape(text: &str) -> String {
    let mut tag = String::with_capacity(text.len());
    for byte in text.bytes() {
        if is_plain(byte) {
            tag.push(char::from(byte));
        } else {
            tag.push_str(&format!("+{byte:02X}"));
        }
    }
    tag
}

fn unescape(tag: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(tag.len());
    let mut rest = tag.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'+' {
            bytes.push(byte);
            continue;
        }
        let pair = [rest.next()?, rest.next()?];
        let hex = std::str::from_utf8(&pair).ok()?;
        bytes.push(u8::from_str_radix(hex, 16).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vg::samples;
    use stowage_model::Name;

    /// Names of every sort of character, also those LVM, a shell or JSON would trip over.
    fn awkward_names() -> Vec<String> {
        let mut names: Vec<String> = [
            "a",
            "+22",
            "++",
            "Ü ナ 🦀",
            "a,b",
            "\"'`$();\\|<>",
            "@x",
            "-n",
            "=:&#!/",
        ]
        .map(String::from)
        .into();
        // Every character below U+3000 that a name may hold, sixteen to a name.
        let allowed: Vec<char> = (1..0x3000)
            .filter_map(char::from_u32)
            .filter(|c| !c.is_control())
            .collect();
        names.extend(
            allowed
                .chunks(16)
                .map(|chunk| chunk.iter().collect::<String>()),
        );
        names
    }

    #[test]
    fn any_name_survives_and_stays_in_the_alphabet_of_tags() {
        for name in awkward_names() {
            let record = samples::volume(&name);
            let tags = of_record(&record).unwrap();
            assert!(
                tags.iter()
                    .flat_map(|t| t.bytes())
                    .all(|b| is_plain(b) || b == b'+'),
                "{tags:?}"
            );
            assert_eq!(super::record(&tags).unwrap(), record, "{name}");
        }
    }

    #[test]
    fn the_longest_name_fits_also_for_a_reader() {
        let record = samples::volume(&"ü".repeat(64));
        assert!(Name::new("ü".repeat(65)).is_err());
        assert!(of_record(&record).is_ok());
        assert!(of_reader(&record).is_ok());
    }

    #[test]
    fn a_value_too_long_for_a_tag_is_refused_by_its_key() {
        let mut record = samples::volume("v");
        record.mkfs = vec!["x".repeat(1024)];
        assert!(of_record(&record).unwrap_err().message().contains("mkfs"));
    }

    #[test]
    fn readers_lie_beside_the_record_of_their_snapshot() {
        let snapshot = samples::snapshot("s", &samples::volume("v"));
        let (one, two) = (samples::volume("one"), samples::volume("two"));
        let mut tags = of_record(&snapshot).unwrap();
        tags.extend(of_reader(&one).unwrap());
        tags.extend(of_reader(&two).unwrap());
        tags.push("foreign".into());
        assert_eq!(record(&tags).unwrap(), snapshot);
        let mut found: Vec<_> = readers(&tags)
            .into_iter()
            .map(|(_, r)| r.unwrap())
            .collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(found, [one.clone(), two]);
        assert_eq!(
            reader_part(&tags, &one.id).count(),
            of_reader(&one).unwrap().len()
        );
    }

    #[test]
    fn damage_is_told() {
        let mut tags = of_record(&samples::volume("v")).unwrap();
        tags.push("stowage.name=other".into());
        assert!(record(&tags).unwrap_err().message().contains("twice"));
        assert!(
            record(&["stowage.name=+2".into()])
                .unwrap_err()
                .message()
                .contains("+2")
        );
        assert!(record(&["x".into()]).is_err());
    }
}
