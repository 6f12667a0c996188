//! Space of a pool that is promised to nobody.

use std::fmt;
use std::str::FromStr;

use crate::{Bytes, Error};

/// So much of a pool, as `10Gi` or `5%` of its size. Nothing by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Reserve {
    /// This much.
    Bytes(Bytes),
    /// This part of the pool, in percent.
    Percent(u8),
}

impl Default for Reserve {
    fn default() -> Self {
        Self::Bytes(Bytes(0))
    }
}

impl Reserve {
    /// What is set aside of a pool of this size.
    pub fn of(self, total: Bytes) -> Bytes {
        match self {
            Self::Bytes(bytes) => bytes.min(total),
            Self::Percent(percent) => Bytes(total.0 / 100 * u64::from(percent)),
        }
    }

    /// Whether nothing is set aside.
    pub fn is_none(self) -> bool {
        matches!(self, Self::Bytes(Bytes(0)) | Self::Percent(0))
    }
}

impl FromStr for Reserve {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let Some(percent) = text.strip_suffix('%') else {
            return text.parse().map(Self::Bytes);
        };
        match percent.trim().parse() {
            Ok(percent) if percent < 100 => Ok(Self::Percent(percent)),
            _ => Err(Error::invalid(format!(
                "{text:?} is no part of a pool; write a whole percentage below 100, as 5%, or a \
                 size, as 10Gi"
            ))),
        }
    }
}

impl fmt::Display for Reserve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{bytes}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl TryFrom<String> for Reserve {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Reserve> for String {
    fn from(reserve: Reserve) -> Self {
        reserve.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_or_a_part_is_set_aside() {
        let of = |text: &str| text.parse::<Reserve>().unwrap().of(Bytes::gib(10));
        assert_eq!(of("1Gi"), Bytes::gib(1));
        assert_eq!(of("20Gi"), Bytes::gib(10), "no more than there is");
        assert_eq!(of("50%"), Bytes(Bytes::gib(10).0 / 100 * 50));
        for none in ["0", "0%"] {
            assert!(none.parse::<Reserve>().unwrap().is_none());
        }
        for bad in ["100%", "-1%", "5.5%", "%", "x", ""] {
            assert!(bad.parse::<Reserve>().is_err(), "{bad}");
        }
        for text in ["10Gi", "5%"] {
            assert_eq!(text.parse::<Reserve>().unwrap().to_string(), text);
        }
    }
}
