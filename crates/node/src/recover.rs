//! What a start finds: pools and the state directory are read, what was cut off is ended.

pub(crate) mod load;
pub(crate) mod read;
pub(crate) mod stagings;
pub(crate) mod state_dir;
pub(crate) mod tidy;
pub(crate) mod uses;
