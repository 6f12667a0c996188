//! A volume's life on one node: making, growing, cutting, filling and removing it, and bringing it
//! to its consumers. Stands on `pool` for the bytes and on `host` for mounts; answers the doors
//! through the two traits of `model`.
//!
//! ```text
//!   door ──▶ Volumes / Publish (Local) ──▶ ops (one operation per volume)
//!                │                          journal (what was about to happen)
//!                │                          index  (what is there; rebuilt from the pools)
//!                ├─▶ create · fill · grow · cut · snapshot · group · remove      ──▶ dyn Pool
//!                └─▶ stage · target · simple · ephemeral · throttle · stats ──▶ host
//!   start · recover (scan, journal, thaw, purge) · tidy      every few seconds: tend
//!   ask (what is known of pools that do not answer)
//! ```
//!
//! It must not know Kubernetes, CSI, HTTP or the command line.

mod ask;
mod attachments;
mod choose;
mod create;
mod cut;
mod ended;
mod ephemeral;
mod fill;
mod findings;
mod frozen;
mod group;
mod grow;
mod index;
mod jobs;
mod journal;
mod kubelet;
mod local;
mod nesting;
mod ops;
mod outgrown;
mod pools;
mod reader;
mod recover;
mod remove;
mod simple;
mod snapshot;
mod stage;
mod start;
mod stats;
mod target;
mod tend;
#[cfg(test)]
mod testing;
mod throttle;
mod tidy;
mod unread;

pub use ephemeral::EphemeralRules;
pub use jobs::Job;
pub use local::{Listing, Local, Options};
pub use pools::{PoolConfig, Wipe};
pub use simple::MountRequest;
