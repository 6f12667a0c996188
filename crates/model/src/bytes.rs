//! Sizes in bytes, written the way people and Kubernetes write them.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// A number of bytes.
///
/// Parses Kubernetes quantities without the milli and exponent forms: `1073741824`, `10Gi`,
/// `10G`, `1.5Gi`. Suffixes follow the Kubernetes resource quantity format: `Ki Mi Gi Ti Pi Ei`
/// are powers of 1024, `k M G T P E` powers of 1000; `K`, and an optional trailing `B`, are
/// accepted because people type them.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(transparent)]
pub struct Bytes(pub u64);

/// The largest size that is not an error: a file or block device offset is a signed 64-bit number.
pub const MAX: Bytes = Bytes(i64::MAX as u64);

impl Bytes {
    /// `n` KiB.
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }
    /// `n` MiB.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }
    /// `n` GiB.
    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }
    /// The next multiple of `unit` at or above this size; saturates.
    #[must_use]
    pub fn round_up(self, unit: Bytes) -> Self {
        self.0.checked_next_multiple_of(unit.0).map_or(MAX, Self)
    }
    /// The multiple of `unit` at or below this size.
    #[must_use]
    pub fn round_down(self, unit: Bytes) -> Self {
        Self(self.0 - self.0 % unit.0)
    }
    /// This size less another, not below zero.
    #[must_use]
    pub fn minus(self, other: Bytes) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl std::ops::Add for Bytes {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl std::iter::Sum for Bytes {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self(0), std::ops::Add::add)
    }
}

const UNITS: [(&str, u64); 13] = [
    ("Ei", 1 << 60),
    ("Pi", 1 << 50),
    ("Ti", 1 << 40),
    ("Gi", 1 << 30),
    ("Mi", 1 << 20),
    ("Ki", 1 << 10),
    ("E", 1_000_000_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("T", 1_000_000_000_000),
    ("G", 1_000_000_000),
    ("M", 1_000_000),
    ("k", 1_000),
    ("K", 1_000),
];

impl FromStr for Bytes {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |why: &str| {
            Error::invalid(format!(
                "{text:?} is not a size: {why}; write it like 10Gi, 500M or 1073741824"
            ))
        };
        let body = text.strip_suffix('B').unwrap_or(text);
        let (number, unit) = UNITS
            .iter()
            .find_map(|(suffix, unit)| Some((body.strip_suffix(suffix)?, *unit)))
            .unwrap_or((body, 1));
        if number.starts_with('-') {
            return Err(bad("it is negative"));
        }
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
            return Err(bad("it is no number with a known unit"));
        }
        if number.ends_with('.') || fraction.len() > 18 {
            return Err(bad("its fraction is malformed"));
        }
        let too_big = || {
            Error::out_of_range(format!(
                "size {text:?} is beyond the largest possible, 8Ei - 1"
            ))
        };
        let mut total = match whole {
            "" => 0,
            _ => whole
                .parse::<u128>()
                .map_err(|_| too_big())?
                .saturating_mul(unit.into()),
        };
        if !fraction.is_empty() {
            let numerator: u128 = fraction
                .parse()
                .map_err(|_| bad("its fraction is malformed"))?;
            let scale = 10u128.pow(u32::try_from(fraction.len()).unwrap_or(18));
            total = total.saturating_add((numerator * u128::from(unit)).div_ceil(scale));
        }
        match u64::try_from(total) {
            Ok(n) if n <= MAX.0 => Ok(Self(n)),
            _ => Err(too_big()),
        }
    }
}

impl fmt::Display for Bytes {
    /// Exact where it is short (`10Gi`), otherwise rounded to one decimal (`1.3Gi`).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match UNITS.iter().take(6).find(|(_, unit)| self.0 >= *unit) {
            None => self.0.to_string(),
            Some((suffix, unit)) if self.0.is_multiple_of(*unit) => {
                format!("{}{suffix}", self.0 / unit)
            }
            Some((suffix, unit)) => {
                let tenths = (u128::from(self.0) * 10 + u128::from(unit / 2)) / u128::from(*unit);
                format!("{}.{}{suffix}", tenths / 10, tenths % 10)
            }
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[test]
    fn sizes_people_write_are_understood() {
        for (text, want) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("10Gi", 10 << 30),
            ("10G", 10_000_000_000),
            ("1.5Gi", 3 << 29),
            (".5Ki", 512),
            ("10GiB", 10 << 30),
            ("3k", 3000),
        ] {
            assert_eq!(text.parse::<Bytes>().unwrap(), Bytes(want), "{text}");
        }
    }

    #[test]
    fn nonsense_sizes_are_refused_by_name() {
        for text in [
            "", "-1", "-5Gi", "ten", "10Gib", "1e3", "1.", ".", "1.2.3", "0x10", "१",
        ] {
            let e = text.parse::<Bytes>().unwrap_err();
            assert_eq!(e.kind(), Kind::Invalid, "{text}");
            assert!(e.message().contains(&format!("{text:?}")), "{e}");
        }
        for text in ["16Ei", "8Ei", "99999999999999999999999999999999999999999Ei"] {
            assert_eq!(
                text.parse::<Bytes>().unwrap_err().kind(),
                Kind::OutOfRange,
                "{text}"
            );
        }
    }

    #[test]
    fn sizes_print_short() {
        assert_eq!(Bytes::gib(10).to_string(), "10Gi");
        assert_eq!(Bytes(1_400_000_000).to_string(), "1.3Gi");
        assert_eq!(Bytes(512).to_string(), "512");
        assert_eq!(Bytes::gib(1536).to_string(), "1.5Ti");
    }

    #[test]
    fn rounding_saturates() {
        assert_eq!(Bytes(5).round_up(Bytes(4)), Bytes(8));
        assert_eq!(Bytes(u64::MAX).round_up(Bytes(4)), MAX);
        assert_eq!(Bytes(7).round_down(Bytes(4)), Bytes(4));
    }
}
