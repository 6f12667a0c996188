//! Sizes as CSI writes them: signed, and 0 for "not given".

use stowage_model::request::SizeRange;
use stowage_model::{Bytes, Error, Result};

use crate::fields;
use crate::proto::CapacityRange;

fn bytes(field: &str, value: i64) -> Result<Option<Bytes>> {
    match u64::try_from(value) {
        Ok(0) => Ok(None),
        Ok(n) => Ok(Some(Bytes(n))),
        Err(_) => Err(Error::invalid(format!(
            "{field} is {value}; it must not be negative"
        ))),
    }
}

/// The bounds of a range, at least one of them given.
fn bounds(range: &CapacityRange) -> Result<(Option<Bytes>, Option<Bytes>)> {
    let required = bytes("capacity_range.required_bytes", range.required_bytes)?;
    let limit = bytes("capacity_range.limit_bytes", range.limit_bytes)?;
    if required.is_none() && limit.is_none() {
        return Err(Error::invalid(
            "capacity_range has neither required_bytes nor limit_bytes; give at least one",
        ));
    }
    Ok((required, limit))
}

/// The size of a new volume, and its limit, as far as the caller cares.
pub(crate) fn of_new(range: Option<&CapacityRange>) -> Result<(Option<Bytes>, Option<Bytes>)> {
    let (required, limit) = range.map(bounds).transpose()?.unwrap_or_default();
    if let Some(required) = required {
        SizeRange::new(required, limit)?;
    }
    Ok((required, limit))
}

/// The size to grow to; must be given.
pub(crate) fn of_growth(range: Option<&CapacityRange>) -> Result<SizeRange> {
    let range = range.ok_or_else(|| fields::missing("capacity_range"))?;
    let (required, limit) = bounds(range)?;
    SizeRange::new(required.unwrap_or_default(), limit)
}

/// The size the node should find after growth; may be absent.
pub(crate) fn reached(range: Option<&CapacityRange>) -> Result<Option<Bytes>> {
    let Some(range) = range else { return Ok(None) };
    let required = bytes("capacity_range.required_bytes", range.required_bytes)?;
    let limit = bytes("capacity_range.limit_bytes", range.limit_bytes)?;
    if required.is_some() || limit.is_some() {
        SizeRange::new(required.unwrap_or_default(), limit)?;
    }
    Ok(required)
}

/// A size for the wire.
pub(crate) fn wire(size: Bytes) -> i64 {
    count(size.0)
}

/// A count for the wire.
pub(crate) fn count(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use stowage_model::Kind;

    fn range(required_bytes: i64, limit_bytes: i64) -> CapacityRange {
        CapacityRange {
            required_bytes,
            limit_bytes,
        }
    }

    #[test]
    fn zero_negative_and_crossed_ranges_are_refused() {
        for (r, kind) in [
            (range(0, 0), Kind::Invalid),
            (range(-1, 0), Kind::Invalid),
            (range(1, -1), Kind::Invalid),
            (range(i64::MIN, 0), Kind::Invalid),
            (range(2, 1), Kind::OutOfRange),
        ] {
            assert_eq!(of_new(Some(&r)).unwrap_err().kind(), kind);
            assert_eq!(of_growth(Some(&r)).unwrap_err().kind(), kind);
        }
        assert_eq!(of_growth(None).unwrap_err().kind(), Kind::Invalid);
        assert_eq!(reached(Some(&range(0, 0))).unwrap(), None);
        assert!(reached(Some(&range(-1, 0))).is_err());
    }
}
