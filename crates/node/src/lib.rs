//! A volume's life on one node: making, growing, cutting, filling and removing it, and bringing it
//! to its consumers. Stands on `pool` for the bytes and on `host` for mounts; answers the doors
//! through the traits of `model`.
//!
//! A verb is a function that is given the node's state; it stands in the file of what it works on, and
//! imports only from floors below its own:
//!
//! ```text
//!   start                                    open, read, begin to maintain
//!   local                                    what the doors call: Volumes, Publish
//!   pools · maintain                         make and extend; every few seconds
//!   findings · recover                       what is wrong; what a kill cut off
//!   ephemeral                                volumes of one consumer
//!   publish                                  stage, publish, and the way back   ──▶ host
//!   volume                                   create, grow, remove               ──▶ dyn Pool
//!   snapshot                                 hold the writers, cut
//!   undo · throttle                          of a failed creation; I/O limits
//!   backing                                  what it is made of: make ready, recognise, let go
//!   mounts · lookup · names                  questions: is it mounted, is it there, which is meant
//!   records · wipe · status · places · own_staging
//!   state                                    index, journal, attachments, operations, …
//!   kinds · config · kubelet
//! ```
//!
//! It must not know Kubernetes, CSI, HTTP or the command line.

mod backing;
mod config;
mod ephemeral;
mod findings;
mod kinds;
mod kubelet;
mod local;
mod lookup;
mod maintain;
mod mounts;
mod names;
mod own_staging;
mod places;
mod pools;
mod publish;
mod records;
mod recover;
mod snapshot;
mod start;
mod state;
mod status;
#[cfg(test)]
mod testing;
mod throttle;
mod undo;
mod volume;
mod wipe;

pub use config::Options;
pub use config::ephemeral::EphemeralRules;
pub use local::Local;
