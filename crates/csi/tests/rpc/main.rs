//! Calls to the door over a real Unix socket, one file per group of RPCs. Behind the door stand
//! in-memory fakes of `Volumes` and `Publish` that keep their traits' promises.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, like the tests"
)]

mod capabilities;
mod capacity;
mod create;
mod create_refusals;
mod fake;
mod fields;
mod group;
mod health;
mod identity;
mod inline;
mod listing;
mod logging;
mod mounts;
mod node;
mod sanity;
mod snapshots;
mod socket;
mod support;
mod volumes;
