//! Volumes that live and die with one consumer (CSI inline volumes).

pub(crate) mod consumer;
pub(crate) mod publish;
