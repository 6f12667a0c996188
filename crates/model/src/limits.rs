//! I/O limits of a volume, and changes to them.

use std::collections::BTreeMap;
use std::fmt;

use crate::{Bytes, Error, Result};

/// Upper bounds on a volume's I/O; `None` is unlimited. Bytes per second and operations per
/// second, each for reading and writing.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case", default)]
pub struct Limits {
    /// Bytes read per second.
    pub read_bps: Option<u64>,
    /// Bytes written per second.
    pub write_bps: Option<u64>,
    /// Read operations per second.
    pub read_iops: Option<u64>,
    /// Write operations per second.
    pub write_iops: Option<u64>,
}

/// The parameter keys that set limits. `bps` and `iops` mean "reading and writing each".
pub const KEYS: [&str; 6] = ["bps", "iops", "rbps", "wbps", "riops", "wiops"];

/// The most operations per second that can be set. The kernel keeps 32 bits (block/blk-throttle.h,
/// `iops`), whose largest value means no limit; version 1 cuts larger ones off, so that 4294967296
/// would be 0.
pub const MAX_IOPS: u64 = u32::MAX as u64 - 1;

/// The most bytes per second that can be set: the largest size there is.
pub const MAX_BPS: u64 = crate::bytes::MAX.0;

impl Limits {
    /// Whether nothing is limited.
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.entries().map(|(k, v)| format!("{k}={v}")).collect();
        f.pad(&if parts.is_empty() {
            "-".to_owned()
        } else {
            parts.join(",")
        })
    }
}

impl Limits {
    fn entries(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("rbps", self.read_bps),
            ("wbps", self.write_bps),
            ("riops", self.read_iops),
            ("wiops", self.write_iops),
        ]
        .into_iter()
        .filter_map(|(k, v)| Some((k, v?)))
    }

    /// `rbps=1,wiops=2`, empty when unlimited: the form kept on the disk.
    pub fn to_text(&self) -> String {
        self.entries()
            .map(|(k, v)| format!("{k}={v}"))
            .collect::<Vec<_>>()
            .join(",")
    }

    /// Read [`Limits::to_text`] back. What is above the most that can be set, as 0.1.0 took it, is no
    /// limit.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] on an unknown key or a bad number.
    pub fn from_text(text: &str) -> Result<Self> {
        let mut change = LimitsChange::default();
        for part in text.split(',').filter(|p| !p.is_empty()) {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| Error::invalid(format!("{part:?} is no I/O limit")))?;
            let beyond = value.parse().is_ok_and(|n: u64| n > most(key));
            change.set(key, if beyond { "max" } else { value })?;
        }
        Ok(change.applied_to(Self::default()))
    }
}

/// Which limits to set or lift; a limit not named stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LimitsChange {
    read_bps: Option<Bound>,
    write_bps: Option<Bound>,
    read_iops: Option<Bound>,
    write_iops: Option<Bound>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
enum Bound {
    Lifted,
    At(u64),
}

impl LimitsChange {
    /// Take one key and its value. Bytes per second are sizes (`1048576`, `1Mi`), operations are
    /// whole numbers; `0` or `max` lifts the limit.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] on an unknown key or a bad value; nothing is taken then.
    pub fn set(&mut self, key: &str, value: &str) -> Result<()> {
        if !KEYS.contains(&key) {
            return Err(Error::invalid(format!(
                "unknown mutable parameter {key:?}; known are {}",
                KEYS.join(", ")
            )));
        }
        let bound = match (key, value) {
            (_, "max") => Bound::Lifted,
            ("bps" | "rbps" | "wbps", _) => value
                .parse::<Bytes>()
                .map(|b| Bound::from(b.0))
                .map_err(|e| Error::invalid(format!("parameter {key}: {e}")))?,
            _ => value.parse::<u64>().map(Bound::from).map_err(|_| {
                Error::invalid(format!(
                    "parameter {key}: {value:?} is no whole number of operations per second"
                ))
            })?,
        };
        if let Bound::At(n) = bound
            && n > most(key)
        {
            return Err(Error::invalid(format!(
                "parameter {key}: {value} is more than {}, the most that can be set; leave it out \
                 or say `max` for no limit",
                most(key)
            )));
        }
        let (read, write) = match key.ends_with("iops") {
            true => (&mut self.read_iops, &mut self.write_iops),
            false => (&mut self.read_bps, &mut self.write_bps),
        };
        if !key.starts_with('w') {
            *read = Some(bound);
        }
        if !key.starts_with('r') {
            *write = Some(bound);
        }
        Ok(())
    }

    /// Take a whole map, general keys (`bps`) before particular ones (`rbps`), so that the
    /// particular one wins whatever the order of the map.
    ///
    /// # Errors
    /// As [`LimitsChange::set`].
    pub fn from_map(map: &BTreeMap<String, String>) -> Result<Self> {
        let mut change = Self::default();
        let mut keys: Vec<_> = map.iter().collect();
        keys.sort_by_key(|(k, _)| (k.len(), k.as_str()));
        // "bps" (3) < "iops", "rbps", "wbps" (4) < "riops", "wiops" (5)
        for (key, value) in keys {
            change.set(key, value)?;
        }
        Ok(change)
    }

    /// The limits that follow from `old` under this change.
    #[must_use]
    pub fn applied_to(self, old: Limits) -> Limits {
        let pick = |new: Option<Bound>, old| match new {
            None => old,
            Some(Bound::Lifted) => None,
            Some(Bound::At(n)) => Some(n),
        };
        Limits {
            read_bps: pick(self.read_bps, old.read_bps),
            write_bps: pick(self.write_bps, old.write_bps),
            read_iops: pick(self.read_iops, old.read_iops),
            write_iops: pick(self.write_iops, old.write_iops),
        }
    }
}

fn most(key: &str) -> u64 {
    match key.ends_with("iops") {
        true => MAX_IOPS,
        false => MAX_BPS,
    }
}

impl From<u64> for Bound {
    fn from(n: u64) -> Self {
        if n == 0 { Bound::Lifted } else { Bound::At(n) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(pairs: &[(&str, &str)]) -> Result<LimitsChange> {
        LimitsChange::from_map(
            &pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
        )
    }

    #[test]
    fn the_particular_key_wins_over_the_general_one() {
        let l = change(&[("bps", "1Mi"), ("rbps", "2Mi"), ("iops", "7")]).unwrap();
        let l = l.applied_to(Limits::default());
        assert_eq!((l.read_bps, l.write_bps), (Some(2 << 20), Some(1 << 20)));
        assert_eq!((l.read_iops, l.write_iops), (Some(7), Some(7)));
    }

    #[test]
    fn absent_keys_stay_and_zero_or_max_lift() {
        let old = Limits {
            read_bps: Some(1),
            write_bps: Some(2),
            ..Limits::default()
        };
        let new = change(&[("rbps", "0")]).unwrap().applied_to(old);
        assert_eq!((new.read_bps, new.write_bps), (None, Some(2)));
        assert!(
            change(&[("bps", "max")])
                .unwrap()
                .applied_to(old)
                .is_unlimited()
        );
    }

    #[test]
    fn bad_keys_and_values_are_named() {
        for (k, v) in [
            ("XXX_FakeKey", "1"),
            ("bps", "fast"),
            ("iops", "-1"),
            ("iops", "1Mi"),
            ("iops", "4294967295"),
            ("wiops", "4294967296"),
            ("bps", "8Ei"),
            ("rbps", "18446744073709551615"),
        ] {
            let e = change(&[(k, v)]).unwrap_err();
            assert!(e.message().contains(k), "{e}");
            assert_eq!(e.message().contains("unknown"), !KEYS.contains(&k), "{e}");
        }
    }

    #[test]
    fn the_most_can_be_set_and_what_was_kept_beyond_it_is_no_limit() {
        let most = change(&[("iops", "4294967294"), ("bps", "9223372036854775807")]).unwrap();
        let most = most.applied_to(Limits::default());
        assert_eq!(most.read_iops, Some(MAX_IOPS));
        assert_eq!(Limits::from_text(&most.to_text()).unwrap(), most);
        let kept = "rbps=1,riops=4294967296,wiops=4294967297,wbps=18446744073709551615";
        let kept = Limits::from_text(kept).unwrap();
        assert_eq!(kept.to_text(), "rbps=1");
    }

    #[test]
    fn text_form_survives_a_round_trip() {
        let l = Limits {
            read_bps: Some(5),
            write_iops: Some(9),
            ..Limits::default()
        };
        assert_eq!(Limits::from_text(&l.to_text()).unwrap(), l);
        assert_eq!(Limits::from_text("").unwrap(), Limits::default());
        assert!(Limits::from_text("x=1").is_err());
    }
}
