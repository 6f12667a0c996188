//! Who this driver is and where it runs.

use stowage_model::{Error, Result};

/// The topology key open-local and the kubelet use: the node's name as a label.
pub const DEFAULT_TOPOLOGY_KEY: &str = "kubernetes.io/hostname";

/// Identity of the driver and the node it serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Driver name as in the CSIDriver object, such as `local.csi.aliyun.com`: at most 63 letters,
    /// digits, dashes and dots, beginning and ending with a letter.
    pub driver_name: String,
    /// Version told to whoever asks; opaque.
    pub vendor_version: String,
    /// This node's id, at most 256 bytes; on Kubernetes the node's name.
    pub node_id: String,
    /// Topology key that tells nodes apart; usually [`DEFAULT_TOPOLOGY_KEY`].
    pub topology_key: String,
    /// This node's value of that key.
    pub topology_value: String,
    /// How many volumes the node takes; 0 leaves it to the orchestrator.
    pub max_volumes: i64,
}

impl Config {
    /// Check every field against the specification, so that a bad one fails at start and not at
    /// the first call.
    ///
    /// # Errors
    /// [`stowage_model::Kind::Invalid`] naming the field.
    pub fn check(&self) -> Result<()> {
        let (prefix, name) = match self.topology_key.rsplit_once('/') {
            Some((prefix, name)) => (Some(prefix), name),
            None => (None, self.topology_key.as_str()),
        };
        let rules = [
            (
                is_driver_name(&self.driver_name),
                "driver name",
                &self.driver_name,
                "1 to 63 letters, digits, dashes and dots, beginning and ending with a letter",
            ),
            (
                (1..=128).contains(&self.vendor_version.len()),
                "vendor version",
                &self.vendor_version,
                "1 to 128 bytes",
            ),
            (
                (1..=256).contains(&self.node_id.len()),
                "node id",
                &self.node_id,
                "1 to 256 bytes",
            ),
            (
                is_segment(name) && prefix.is_none_or(is_prefix),
                "topology key",
                &self.topology_key,
                "NAME or PREFIX/NAME, each up to 63 letters, digits, dashes, dots (and, in the \
                 name, underscores) between letters or digits",
            ),
            (
                is_segment(&self.topology_value),
                "topology value",
                &self.topology_value,
                "1 to 63 letters, digits, dashes, underscores and dots between letters or digits",
            ),
        ];
        for (holds, what, value, rule) in rules {
            if !holds {
                return Err(Error::invalid(format!(
                    "the {what} {value:?} is not allowed; use {rule}"
                )));
            }
        }
        if self.max_volumes < 0 {
            return Err(Error::invalid(format!(
                "the maximum of {} volumes per node is negative; use 0 for no maximum",
                self.max_volumes
            )));
        }
        Ok(())
    }
}

/// GetPluginInfoResponse.name, with the first and last character a letter as csi-sanity wants it.
fn is_driver_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphabetic);
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && text.split('.').all(|label| !label.is_empty())
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
}

fn is_segment(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn is_prefix(text: &str) -> bool {
    is_segment(text)
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Config {
        Config {
            driver_name: "local.csi.aliyun.com".into(),
            vendor_version: "1".into(),
            node_id: "n1".into(),
            topology_key: DEFAULT_TOPOLOGY_KEY.into(),
            topology_value: "node-1.example".into(),
            max_volumes: 0,
        }
    }

    #[test]
    fn open_locals_identity_passes() {
        good().check().unwrap();
        let plain = Config {
            topology_key: "zone".into(),
            max_volumes: 256,
            ..good()
        };
        plain.check().unwrap();
    }

    #[test]
    fn every_bad_field_is_named() {
        let long = "x".repeat(64);
        type Change = fn(&mut Config, &str);
        let driver: Change = |c, v| c.driver_name = v.into();
        let version: Change = |c, v| c.vendor_version = v.into();
        let node: Change = |c, v| c.node_id = v.into();
        let key: Change = |c, v| c.topology_key = v.into();
        let value: Change = |c, v| c.topology_value = v.into();
        let table: [(&str, Change, &[&str]); 5] = [
            (
                "driver name",
                driver,
                &["", &long, "a_b", "9a", "a9", "-a", "a.", "a..b", "ü", "a b"],
            ),
            ("vendor version", version, &[""]),
            ("node id", node, &["", &"x".repeat(257)]),
            (
                "topology key",
                key,
                &["", "/", "a/", "A.com/x", "a_b/x", "-x", "a/b/c", &long],
            ),
            ("topology value", value, &["", &long, "-n", "n/1", "n 1"]),
        ];
        for (what, change, values) in table {
            for bad in values {
                let mut config = good();
                change(&mut config, bad);
                let e = config.check().unwrap_err();
                assert!(e.message().contains(what), "{bad:?}: {e}");
            }
        }
        let negative = Config {
            max_volumes: -1,
            ..good()
        };
        assert!(negative.check().is_err());
    }
}
