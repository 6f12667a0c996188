//! What every service stands on, and how a call passes through: one span, one answer.

use std::future::Future;
use std::sync::Arc;

use stowage_model::{Publish, Volumes};
use tonic::{Response, Status};
use tracing::{Instrument, Span};

use crate::status::IntoStatus;
use crate::{Config, Ready};

pub(crate) struct Door {
    pub(crate) config: Config,
    pub(crate) volumes: Arc<dyn Volumes>,
    pub(crate) publish: Arc<dyn Publish>,
    pub(crate) ready: Ready,
}

/// Run a call inside its span and put its failure on the wire.
pub(crate) async fn answer<T, E: IntoStatus>(
    span: Span,
    call: impl Future<Output = Result<T, E>>,
) -> Result<Response<T>, Status> {
    async {
        let answer = call.await.map_err(IntoStatus::into_status)?;
        tracing::debug!("call answered");
        Ok(Response::new(answer))
    }
    .instrument(span)
    .await
}

/// A caller's text as it may stand in a log: it is not checked yet, and may be megabytes.
pub(crate) fn shown(text: &str) -> &str {
    &text[..text.floor_char_boundary(crate::fields::TEXT)]
}

/// Implements a generated service as a table of RPCs. Each row names the RPC, its messages, the
/// request field that goes into the span (never a secret) and the function that answers.
macro_rules! rpcs {
    ($service:ident {
        $($rpc:literal $method:ident($request:ident)
            $([$($key:ident).+ = $field:ident])? -> $response:ident => $handler:path;)*
    }) => {
        #[tonic::async_trait]
        impl $service for crate::door::Door {
            $(
                async fn $method(
                    &self,
                    request: tonic::Request<crate::proto::$request>,
                ) -> Result<tonic::Response<crate::proto::$response>, tonic::Status> {
                    let request = request.into_inner();
                    let span = tracing::info_span!(
                        "csi",
                        rpc.method = $rpc,
                        $($($key).+ = crate::door::shown(&request.$field))?
                    );
                    crate::door::answer(span, $handler(self, request)).await
                }
            )*
        }
    };
}
pub(crate) use rpcs;
