//! Names as callers give them, and the ids we derive from them.
//!
//! A CSI name is any Unicode but control characters, up to 128 bytes (CSI spec, "Size Limits" and
//! CreateVolumeRequest.name). It therefore never becomes a path, an LV name or an argument: the
//! name is hashed into an [`Id`], and kept beside the volume only as data.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// The longest name CSI allows, in bytes.
pub const MAX_NAME: usize = 128;

/// The door a name was given at. Each has a name space of its own, so that `data` of one door never
/// reaches `data` of another. CSI and the command line share the first one, which has no word: what
/// they made before there were others keeps its ids.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Door(Option<String>);

impl Door {
    /// The door of this word: 1 to 16 lower-case letters and digits, a letter first. A word that
    /// this version does not know is a door of a later one.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] with the rule.
    pub fn new(word: &str) -> Result<Self> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let starts = word.starts_with(|c: char| c.is_ascii_lowercase());
        if starts && word.len() <= 16 && word.bytes().all(plain) {
            return Ok(Self(Some(word.to_owned())));
        }
        Err(Error::invalid(format!(
            "{word:?} is no word for a door: use 1 to 16 lower-case letters and digits"
        )))
    }

    /// Its word; none for the one of CSI and the command line.
    pub fn word(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

/// A name given by a caller at a door: 1 to 128 bytes, no control characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    door: Door,
    text: String,
}

impl Name {
    /// Check a name given over CSI or on the command line.
    ///
    /// # Errors
    /// As [`Name::at`].
    pub fn new(text: impl Into<String>) -> Result<Self> {
        Self::at(Door::default(), text)
    }

    /// Check a name given at this door.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] when it is empty, too long or has C0/C1 control characters.
    pub fn at(door: Door, text: impl Into<String>) -> Result<Self> {
        let text = text.into();
        if text.is_empty() {
            return Err(Error::invalid(
                "the name is empty; give the volume or snapshot a name",
            ));
        }
        if text.len() > MAX_NAME {
            return Err(Error::invalid(format!(
                "the name is {} bytes long; at most {MAX_NAME} are allowed",
                text.len()
            )));
        }
        if let Some(c) = text.chars().find(|c| c.is_control()) {
            return Err(Error::invalid(format!(
                "the name {text:?} holds the control character U+{:04X}; remove it",
                u32::from(c)
            )));
        }
        Ok(Self { door, text })
    }

    /// The name as given, without its door.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Where it was given.
    pub fn door(&self) -> &Door {
        &self.door
    }

    /// What an id is derived from. The word is no name's first part alone: `door` stands before it.
    fn parts(&self) -> Vec<&str> {
        match self.door.word() {
            None => vec![&self.text],
            Some(word) => vec!["door", word, &self.text],
        }
    }
}

/// As people see it: `data`, and `docker/data` for what is another door's.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.door.word() {
            None => f.pad(&self.text),
            Some(word) => f.pad(&format!("{word}/{}", self.text)),
        }
    }
}

/// What an id stands for; its first letter says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// A volume, `v-…`.
    Volume,
    /// A snapshot, `s-…`.
    Snapshot,
    /// A group of snapshots cut at one moment, `g-…`.
    Group,
}

impl Role {
    fn letter(self) -> char {
        match self {
            Role::Volume => 'v',
            Role::Snapshot => 's',
            Role::Group => 'g',
        }
    }
}

/// The id of a volume, snapshot or group: a letter, a dash and 32 hexadecimal digits.
///
/// Safe by construction as a file name, an LV name and a CSI id; an [`Id`] can only be derived
/// or parsed, so nothing else ever reaches a path.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(String);

impl Id {
    /// The id of the thing of this role and name: 128 bits of SHA-256. Two names sharing an id
    /// is beyond chance; the full name is stored beside the volume and compared all the same.
    pub fn derive(role: Role, name: &Name) -> Self {
        Self::hash(role, &name.parts())
    }

    /// The id of the snapshot of `member` that belongs to the group called `group`.
    pub fn group_member(group: &Name, member: &Id) -> Self {
        let parts = [&["group"], &group.parts()[..], &[member.as_str()]].concat();
        Self::hash(Role::Snapshot, &parts)
    }

    /// The id of the passing snapshot from which the volume `new` is being filled.
    pub fn filling_snapshot(new: &Id) -> Self {
        Self::hash(Role::Snapshot, &["filling", new.as_str()])
    }

    /// The id of an inline ephemeral volume, from the handle kubelet made up for it.
    pub fn ephemeral(handle: &Name) -> Self {
        let parts = [&["ephemeral"], &handle.parts()[..]].concat();
        Self::hash(Role::Volume, &parts)
    }

    /// The id a CSI volume handle stands for: one of ours, or else the ephemeral volume of the
    /// handle kubelet made up.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] when the handle is no name CSI allows.
    pub fn from_handle(handle: &str) -> Result<Self> {
        handle
            .parse()
            .or_else(|_| Ok(Self::ephemeral(&Name::new(handle)?)))
    }

    fn hash(role: Role, parts: &[&str]) -> Self {
        // NUL cannot occur in a name (it is a control character), so parts cannot run together.
        let digest = Sha256::digest(parts.join("\0"));
        let hex: String = digest.iter().take(16).map(|b| format!("{b:02x}")).collect();
        Self(format!("{}-{hex}", role.letter()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What the id stands for.
    pub fn role(&self) -> Role {
        match self.0.as_bytes().first() {
            Some(b's') => Role::Snapshot,
            Some(b'g') => Role::Group,
            _ => Role::Volume,
        }
    }
}

impl FromStr for Id {
    type Err = Error;

    /// Accepts only what [`Id::derive`] can produce; anything else is a thing that does not exist.
    fn from_str(text: &str) -> Result<Self> {
        let known = text.len() == 34
            && matches!(text.as_bytes(), [b'v' | b's' | b'g', b'-', rest @ ..]
                if rest.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
        if known {
            return Ok(Self(text.to_owned()));
        }
        let shown: String = text.chars().take(140).collect();
        Err(Error::not_found(format!(
            "there is no volume or snapshot with the id {shown:?}"
        )))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a pool: 1 to 63 letters, digits, `-`, `_` or `.`, starting with a letter or digit.
#[derive(
    Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct PoolName(String);

impl PoolName {
    /// Check a pool name.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] with the rule.
    pub fn new(text: impl Into<String>) -> Result<Self> {
        let text = text.into();
        if text.len() <= 63 && is_plain_word(&text) {
            return Ok(Self(text));
        }
        Err(Error::invalid(format!(
            "{text:?} is not a pool name: use 1 to 63 letters, digits, '-', '_' or '.', \
             starting with a letter or digit"
        )))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether `text` holds only letters, digits, `-`, `_`, `.` and starts with a letter or digit:
/// what LVM allows for names and what can never be read as an option or climb a path.
pub fn is_plain_word(text: &str) -> bool {
    text.bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

impl fmt::Display for PoolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl TryFrom<String> for PoolName {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        Self::new(text)
    }
}

impl From<PoolName> for String {
    fn from(name: PoolName) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_csi_allows_becomes_a_distinct_safe_id() {
        let names = [
            "../x", "-n", "$(x)", "Ü ナ", "a/b", "a", "A", "..", "x\u{a0}y", "con'\"`;",
        ];
        let mut seen = std::collections::BTreeSet::new();
        for name in names {
            let id = Id::derive(Role::Volume, &Name::new(name).unwrap());
            assert!(is_plain_word(id.as_str()), "{id}");
            assert_eq!(id.as_str().parse::<Id>().unwrap(), id);
            assert!(seen.insert(id));
        }
    }

    #[test]
    fn names_beyond_the_spec_are_refused() {
        for name in ["", "a\nb", "a\0", "\u{85}", "\u{7f}", &"x".repeat(129)] {
            assert!(Name::new(name).is_err(), "{name:?}");
        }
        assert!(Name::new("x".repeat(128)).is_ok());
    }

    #[test]
    fn foreign_ids_are_unknown_not_paths() {
        let upper = format!("v-{}", "A".repeat(32));
        for id in [
            "",
            "../../etc/passwd",
            "v-",
            "some/path",
            &upper,
            "x-00000000000000000000000000000000",
        ] {
            assert_eq!(
                id.parse::<Id>().unwrap_err().kind(),
                crate::Kind::NotFound,
                "{id}"
            );
        }
    }

    #[test]
    fn roles_and_groups_do_not_collide() {
        let n = Name::new("n").unwrap();
        let v = Id::derive(Role::Volume, &n);
        assert_ne!(v.as_str()[2..], Id::group_member(&n, &v).as_str()[2..]);
        assert_ne!(v, Id::ephemeral(&n));
        assert_eq!(Id::derive(Role::Group, &n).role(), Role::Group);
    }

    /// Goldens: what is on disks bears these ids.
    #[test]
    fn ids_stay_what_they_are() {
        let n = Name::new("data").unwrap();
        let v = Id::derive(Role::Volume, &n);
        assert_eq!(v.as_str(), "v-3a6eb0790f39ac87c94f3856b2dd2c5d");
        assert_eq!(
            Id::group_member(&n, &v).as_str(),
            "s-b2871ade849fb89b29c878f97461b330"
        );
        assert_eq!(
            Id::filling_snapshot(&v).as_str(),
            "s-c2b7e6b16ff22a6cdb93c9eb59ee781a"
        );
        assert_eq!(
            Id::ephemeral(&n).as_str(),
            "v-d8243e8608dca82e2b929a180ac75d17"
        );
        let at = Name::at(Door::new("docker").unwrap(), "data").unwrap();
        assert_eq!(
            Id::derive(Role::Volume, &at).as_str(),
            "v-06a191ee52faaed595c9201dea6f0893"
        );
    }

    #[test]
    fn doors_do_not_share_names() {
        let own = Name::new("data").unwrap();
        let lookalike = Name::new("docker/data").unwrap();
        let at = |word| Name::at(Door::new(word).unwrap(), "data").unwrap();
        assert_eq!(at("docker").to_string(), "docker/data");
        let names = [own, lookalike, at("docker"), at("flex")];
        let ids: std::collections::BTreeSet<Id> = names
            .iter()
            .flat_map(|name| {
                let id = Id::derive(Role::Volume, name);
                [Id::group_member(name, &id), Id::ephemeral(name), id]
            })
            .collect();
        assert_eq!(ids.len(), 3 * names.len());
        for bad in ["", "Docker", "a/b", "1a", "-", "abcdefghijklmnopq"] {
            assert!(Door::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn pool_names_cannot_climb_or_look_like_options() {
        for bad in ["", "-x", ".", "..", "a/b", "a b", "ü"] {
            assert!(PoolName::new(bad).is_err(), "{bad:?}");
        }
        assert!(PoolName::new("open-local-pool-0").is_ok());
    }
}
