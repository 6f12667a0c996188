//! Taking volumes and snapshots away, and wiping what they leave.

use std::sync::Arc;

use stowage_host::failpoint::hit;
use stowage_host::{Progress, device, on_own_thread};
