//! Where the bytes are: on this node, named by one topology segment.

use stowage_model::{Error, Result};

use crate::Config;
use crate::fields;
use crate::proto::{Topology, TopologyRequirement};

/// The one segment everything of this node is reachable from.
pub(crate) fn here(config: &Config) -> Topology {
    Topology {
        segments: [(config.topology_key.clone(), config.topology_value.clone())].into(),
    }
}

/// Whether a volume on this node is reachable from all of `place`.
///
/// A place is the overlap of its segments. One that names our node is inside our node whatever
/// else it names (a zone, a rack); one that does not is larger than our node. Keys are
/// case-insensitive (CSI, message Topology), values are not.
pub(crate) fn covers(config: &Config, place: &Topology) -> bool {
    let mut named = place
        .segments
        .iter()
        .filter(|(key, _)| key.eq_ignore_ascii_case(&config.topology_key))
        .peekable();
    named.peek().is_some() && named.all(|(_, value)| *value == config.topology_value)
}

/// Refuse a requirement that this node does not meet.
///
/// # Errors
/// [`stowage_model::Kind::Full`], because external-provisioner answers RESOURCE_EXHAUSTED by
/// letting the scheduler choose another node, which is the mend.
pub(crate) fn check(config: &Config, requirement: Option<&TopologyRequirement>) -> Result<()> {
    let Some(requirement) = requirement else {
        return Ok(());
    };
    for place in requirement.requisite.iter().chain(&requirement.preferred) {
        fields::map("accessibility_requirements", &place.segments)?;
    }
    // `preferred` is a subset of `requisite` and only orders it, so it decides alone only when
    // there is no `requisite`: a local volume where nobody wants it is of no use.
    let places = match requirement.requisite.as_slice() {
        [] => &requirement.preferred,
        requisite => requisite,
    };
    if places.is_empty() || places.iter().any(|place| covers(config, place)) {
        return Ok(());
    }
    Err(Error::full(format!(
        "no required topology is this node's, {}={}; let the volume be made on another node",
        config.topology_key, config.topology_value
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use stowage_model::Kind;

    fn config() -> Config {
        Config {
            driver_name: "local.csi.aliyun.com".into(),
            vendor_version: "1".into(),
            node_id: "n1".into(),
            topology_key: "kubernetes.io/hostname".into(),
            topology_value: "n1".into(),
            max_volumes: 0,
        }
    }

    fn place(segments: &[(&str, &str)]) -> Topology {
        Topology {
            segments: segments
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn a_place_inside_this_node_is_covered_and_a_larger_or_other_one_is_not() {
        for (segments, want) in [
            (&[("kubernetes.io/hostname", "n1")][..], true),
            (&[("Kubernetes.IO/Hostname", "n1")], true),
            (&[("kubernetes.io/hostname", "n1"), ("zone", "z")], true),
            (&[("kubernetes.io/hostname", "N1")], false),
            (&[("kubernetes.io/hostname", "n2")], false),
            (&[("zone", "n1")], false),
            (&[], false),
            (
                &[
                    ("kubernetes.io/hostname", "n1"),
                    ("kubernetes.io/Hostname", "n2"),
                ],
                false,
            ),
        ] {
            assert_eq!(covers(&config(), &place(segments)), want, "{segments:?}");
        }
    }

    #[test]
    fn one_requisite_place_is_enough_and_preferred_only_orders() {
        let n1 = place(&[("kubernetes.io/hostname", "n1")]);
        let n2 = place(&[("kubernetes.io/hostname", "n2")]);
        let ask = |requisite: &[&Topology], preferred: &[&Topology]| {
            let copy = |list: &[&Topology]| list.iter().map(|t| (*t).clone()).collect();
            let requirement = TopologyRequirement {
                requisite: copy(requisite),
                preferred: copy(preferred),
            };
            check(&config(), Some(&requirement)).map_err(|e| e.kind())
        };
        assert_eq!(check(&config(), None).map_err(|e| e.kind()), Ok(()));
        assert_eq!(ask(&[], &[]), Ok(()));
        assert_eq!(ask(&[&n2, &n1], &[&n2]), Ok(()));
        assert_eq!(ask(&[], &[&n2, &n1]), Ok(()));
        assert_eq!(ask(&[&n2], &[&n1]), Err(Kind::Full));
        assert_eq!(ask(&[], &[&n2]), Err(Kind::Full));
    }
}
