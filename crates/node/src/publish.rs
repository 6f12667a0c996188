//! Bringing volumes to their consumers on this node, and taking them back.

pub(crate) mod direct;
pub(crate) mod ephemeral;
pub(crate) mod plan;
pub(crate) mod stage;
pub(crate) mod stats;
pub(crate) mod target;
pub(crate) mod unmount;
pub(crate) mod unpublish;
pub(crate) mod unstage;
