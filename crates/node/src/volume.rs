//! Making, growing and removing volumes.

pub(crate) mod choose;
pub(crate) mod create;
pub(crate) mod grow;
pub(crate) mod inline;
pub(crate) mod populate;
pub(crate) mod remove;
