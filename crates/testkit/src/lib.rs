//! The test bench of real parts: a node with device mapper in seconds, file systems on loop
//! devices, and csi-sanity with its counts.
//!
//! ```text
//!   a test ──► Guest ──► linux.uml ──hostfs──► this machine's root: every binary is there
//!     │          │          └──────── ubd ───► sparse files: the guest's disks
//!     │          └─ power_cut: SIGKILL, what was not flushed is gone
//!     ├──────► LoopFs ──► loop device ──► mkfs ──► mount, undone when dropped
//!     └──────► Sanity ──► csi-sanity ──► junit ──► counts, with every skip by name
//! ```
//!
//! For tests only; it knows nothing of the product. Nothing here skips: a missing tool or missing
//! root panics with the line that mends it ([`require`]).

pub mod disk;
pub mod guest;
pub mod requirement;
pub mod sanity;
pub mod scratch;

pub use disk::{LoopFs, SparseFile};
pub use guest::Guest;
pub use requirement::require;
pub use sanity::Sanity;
