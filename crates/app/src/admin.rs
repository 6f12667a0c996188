//! The door for people: one JSON request a connection on a root-only Unix socket, answered by
//! JSON lines (progress while it runs, then the outcome).

pub(crate) mod client;
pub(crate) mod protocol;
pub(crate) mod server;
