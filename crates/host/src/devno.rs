//! The number the kernel knows a block device by.

use std::fmt;
use std::str::FromStr;

/// Major and minor number; displayed and parsed as the kernel writes it, `253:4`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Devno {
    pub major: u32,
    pub minor: u32,
}

impl Devno {
    /// From `st_dev` or `st_rdev` of stat(2).
    pub fn from_stat(dev: u64) -> Self {
        Self {
            major: rustix::fs::major(dev),
            minor: rustix::fs::minor(dev),
        }
    }
}

impl fmt::Display for Devno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// The text was not `major:minor`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to read {0:?} as a device number, expected major:minor")]
pub struct NotADevno(pub String);

impl FromStr for Devno {
    type Err = NotADevno;

    fn from_str(text: &str) -> Result<Self, NotADevno> {
        text.trim()
            .split_once(':')
            .and_then(|(major, minor)| {
                Some(Self {
                    major: major.parse().ok()?,
                    minor: minor.parse().ok()?,
                })
            })
            .ok_or_else(|| NotADevno(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let devno = Devno {
            major: 259,
            minor: 70000,
        };
        assert_eq!(devno.to_string().parse(), Ok(devno));
        assert_eq!("7:1\n".parse(), Ok(Devno { major: 7, minor: 1 }));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "7", "7:", "a:b", "7:1:2", "-1:0"] {
            assert!(text.parse::<Devno>().is_err(), "{text}");
        }
    }
}
