//! The subcommands. Each has `Args` and `run`, and returns the exit code.

pub(crate) mod check;
pub(crate) mod guest;
pub(crate) mod sanity_cell;
pub(crate) mod setup;
pub(crate) mod test;
