//! The one table from the house's error kinds to gRPC codes, and the one place a call's failure
//! is logged.

use stowage_model::{Error, Kind};
use tonic::{Code, Status};

/// The longest message sent. It travels in an HTTP/2 header, percent-encoded (up to three times
/// as long), and clients drop replies whose headers pass 8 KiB (Go's default is larger, C's not).
const LONGEST_MESSAGE: usize = 2048;

/// The code of a kind, from the error schemes of the CSI specification and what the sidecars make
/// of them.
fn code(kind: Kind) -> Code {
    match kind {
        Kind::Invalid => Code::InvalidArgument,
        Kind::OutOfRange => Code::OutOfRange,
        Kind::NotFound => Code::NotFound,
        Kind::Exists => Code::AlreadyExists,
        // external-provisioner gives the pod another node on this one.
        Kind::Full => Code::ResourceExhausted,
        // "Operation pending for volume"; to external-provisioner it means that a volume may
        // still come of the call, so it keeps asking and leaks nothing.
        Kind::Pending => Code::Aborted,
        Kind::Precondition => Code::FailedPrecondition,
        // Every sidecar and kubelet asks again, and takes it that something may be there: none
        // forgets a volume or mount for it. FAILED_PRECONDITION is final to external-provisioner,
        // which would not delete what it once asked for, and "in use" to external-resizer.
        Kind::Unavailable => Code::Unavailable,
        Kind::Denied => Code::PermissionDenied,
        // The spec's "missing or unsupported field" and "source incompatible or not supported"
        // are INVALID_ARGUMENT. FAILED_PRECONDITION would say that another call could mend it
        // (and "in use" to a kubelet that expands), UNIMPLEMENTED that the whole RPC is missing.
        Kind::Unsupported => Code::InvalidArgument,
        // ListVolumes and ListSnapshots: "Invalid starting_token ... ABORTED".
        Kind::BadToken => Code::Aborted,
        Kind::Internal => Code::Internal,
    }
}

/// What a handler may fail with.
pub(crate) trait IntoStatus {
    /// The failure as the caller sees it. Called once per failed RPC.
    fn into_status(self) -> Status;
}

impl IntoStatus for Status {
    fn into_status(self) -> Status {
        self
    }
}

impl IntoStatus for Error {
    fn into_status(self) -> Status {
        let text = self.chain();
        match self.kind() {
            Kind::Internal => tracing::error!(error = text, "call failed"),
            kind => tracing::info!(error = text, kind = kind.as_str(), "call refused"),
        }
        // Details stay empty: CSI reserves them.
        Status::new(code(self.kind()), message(text, self.kind()))
    }
}

/// CSI wants a message for people in every error: never an empty one, nor one too long to send.
fn message(mut text: String, kind: Kind) -> String {
    if text.is_empty() {
        kind.as_str().clone_into(&mut text);
    }
    if text.len() > LONGEST_MESSAGE {
        text.truncate(text.floor_char_boundary(LONGEST_MESSAGE));
        text.push_str(" ...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_becomes_an_error_with_a_text_and_no_details() {
        for kind in Kind::ALL {
            let status = Error::new(kind, "").into_status();
            assert!(
                !matches!(
                    status.code(),
                    Code::Ok | Code::Unknown | Code::Unimplemented
                ),
                "{kind:?}"
            );
            assert!(!status.message().is_empty(), "{kind:?}");
            assert!(status.details().is_empty(), "{kind:?}");
        }
    }

    #[test]
    fn only_work_under_way_and_bad_tokens_are_aborted() {
        let aborted: Vec<Kind> = Kind::ALL
            .into_iter()
            .filter(|k| code(*k) == Code::Aborted)
            .collect();
        assert_eq!(aborted, [Kind::Pending, Kind::BadToken]);
    }

    #[test]
    fn no_failure_but_our_own_is_internal() {
        let internal: Vec<Kind> = Kind::ALL
            .into_iter()
            .filter(|k| code(*k) == Code::Internal)
            .collect();
        assert_eq!(internal, [Kind::Internal]);
    }

    #[test]
    fn the_cause_is_told_and_a_flood_is_cut() {
        let e = Error::internal("failed to make v-1").caused_by(std::io::Error::other("no tty"));
        assert_eq!(e.into_status().message(), "failed to make v-1: no tty");
        let flood = Error::internal("ü".repeat(9000)).into_status();
        assert!(flood.message().len() < LONGEST_MESSAGE + 8);
    }
}
