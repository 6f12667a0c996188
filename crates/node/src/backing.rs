//! What a volume is made of, on its way to a consumer and back. For each backing this is the one place that
//! knows how a volume is made ready, recognised, held still, limited, grown and let go; the rest of the node
//! asks here and not the pool.
//!
//! A block device is the only backing there is. Another one is a variant of [`stowage_pool::Backing`], and the
//! compiler names each function here that has to decide.

pub(crate) mod activation;
pub(crate) mod content;
pub(crate) mod copy;
pub(crate) mod device;
pub(crate) mod format;
pub(crate) mod limit;
pub(crate) mod raw;
pub(crate) mod ready;
pub(crate) mod recognise;
pub(crate) mod resize;
pub(crate) mod thaw;
pub(crate) mod unmount;
pub(crate) mod writers;
