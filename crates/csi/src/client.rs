//! A connection to a CSI socket, for tests and tools; the generated clients are in
//! [`crate::proto`].

use std::path::Path;

use stowage_model::error::Context;
use stowage_model::{Error, Result};
use tonic::transport::{Channel, Endpoint};

/// Connect to the server at `path`.
///
/// # Errors
/// [`stowage_model::Kind::Internal`] when nobody answers there.
pub async fn connect(path: &Path) -> Result<Channel> {
    let text = path
        .to_str()
        .ok_or_else(|| Error::invalid(format!("the socket path {} is no text", path.display())))?;
    let failed = || format!("failed to connect to {text}");
    Endpoint::from_shared(format!("unix://{text}"))
        .or_internal(failed)?
        .connect()
        .await
        .or_internal(failed)
}
