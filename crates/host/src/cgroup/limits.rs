//! Limits as the two versions write them.

use crate::devno::Devno;

/// Bytes and operations a second; `None` is unlimited. A limit of 0 is unlimited in version 1 and
/// refused by version 2: do not set it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IoLimits {
    pub read_bps: Option<u64>,
    pub write_bps: Option<u64>,
    pub read_iops: Option<u64>,
    pub write_iops: Option<u64>,
}

type Field = fn(&IoLimits) -> Option<u64>;

/// One file for each limit, in the order of the struct.
pub(super) const V1_FILES: [(&str, Field); 4] = [
    ("blkio.throttle.read_bps_device", |limits| limits.read_bps),
    ("blkio.throttle.write_bps_device", |limits| limits.write_bps),
    ("blkio.throttle.read_iops_device", |limits| limits.read_iops),
    ("blkio.throttle.write_iops_device", |limits| {
        limits.write_iops
    }),
];

/// The value in a line `8:0 1048576`.
pub(super) fn from_v1(text: &str, dev: Devno) -> Option<u64> {
    line_of(text, dev)?.trim().parse().ok()
}

/// What follows the device on its line.
fn line_of(text: &str, dev: Devno) -> Option<&str> {
    text.lines().find_map(|line| {
        let (found, rest) = line.split_once(' ')?;
        (found.parse() == Ok(dev)).then_some(rest)
    })
}

impl IoLimits {
    /// `8:0 rbps=1048576 wbps=max riops=max wiops=120`
    pub(super) fn to_v2(self, dev: Devno) -> String {
        let value =
            |limit: Option<u64>| limit.map_or_else(|| "max".to_owned(), |it| it.to_string());
        format!(
            "{dev} rbps={} wbps={} riops={} wiops={}",
            value(self.read_bps),
            value(self.write_bps),
            value(self.read_iops),
            value(self.write_iops)
        )
    }

    /// A device without a line has no limits.
    pub(super) fn from_v2(text: &str, dev: Devno) -> Self {
        let mut limits = Self::default();
        for (name, value) in line_of(text, dev)
            .unwrap_or_default()
            .split(' ')
            .filter_map(|it| it.split_once('='))
        {
            // "max" is no number: unlimited.
            let value = value.parse().ok();
            match name {
                "rbps" => limits.read_bps = value,
                "wbps" => limits.write_bps = value,
                "riops" => limits.read_iops = value,
                "wiops" => limits.write_iops = value,
                _ => {}
            }
        }
        limits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEV: Devno = Devno {
        major: 8,
        minor: 16,
    };

    #[test]
    fn version_2_reads_what_it_writes() {
        let limits = IoLimits {
            read_bps: Some(1),
            write_bps: None,
            read_iops: Some(3),
            write_iops: None,
        };
        let line = limits.to_v2(DEV);
        assert_eq!(line, "8:16 rbps=1 wbps=max riops=3 wiops=max");
        assert_eq!(
            IoLimits::from_v2(&format!("8:1 rbps=9\n{line}\n"), DEV),
            limits
        );
        assert_eq!(IoLimits::from_v2("8:1 rbps=9\n", DEV), IoLimits::default());
    }

    #[test]
    fn version_1_finds_the_line_of_the_device() {
        assert_eq!(from_v1("8:1 7\n8:16 1048576\n", DEV), Some(1_048_576));
        assert_eq!(from_v1("8:1 7\n", DEV), None);
    }
}
