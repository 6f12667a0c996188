//! Snapshots, single and in groups, and volumes that only show one.

pub(crate) mod cut;
pub(crate) mod group;
pub(crate) mod quiesce;
pub(crate) mod reader;
pub(crate) mod single;
