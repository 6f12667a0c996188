//! The subcommands. Each has `Args` and `run`, and returns the exit code.

pub(crate) mod bench;
pub(crate) mod check;
pub(crate) mod demo;
pub(crate) mod guest;
pub(crate) mod sanity_cell;
pub(crate) mod setup;
pub(crate) mod test;
