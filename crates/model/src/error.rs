//! One error vocabulary for the whole house: a kind that says who is at fault and whether to
//! retry, and a text for the person who reads it. Each door maps the kind to its own codes.

use std::error::Error as StdError;
use std::fmt;

/// What sort of failure this is. Doors match on it exhaustively.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The caller asked for something malformed or unknown; asking again cannot help.
    Invalid,
    /// The size asked lies outside of what can be given.
    OutOfRange,
    /// The named thing does not exist.
    NotFound,
    /// A thing of that name exists and differs from what was asked.
    Exists,
    /// The pool has no room; another node or pool may have.
    Full,
    /// The same work is going on right now; ask again later.
    Pending,
    /// The state of the thing forbids the request; a person or another call must change it first.
    Precondition,
    /// Whether the thing exists is not known now, or what it is; ask again later.
    Unavailable,
    /// The caller may not do this.
    Denied,
    /// The request is known but this build or pool cannot serve it.
    Unsupported,
    /// A listing token that was never handed out.
    BadToken,
    /// The machine failed us: a command, a device, a disk.
    Internal,
}

impl Kind {
    /// Every kind, for tests over the doors' code tables.
    pub const ALL: [Kind; 12] = [
        Kind::Invalid,
        Kind::OutOfRange,
        Kind::NotFound,
        Kind::Exists,
        Kind::Full,
        Kind::Pending,
        Kind::Precondition,
        Kind::Unavailable,
        Kind::Denied,
        Kind::Unsupported,
        Kind::BadToken,
        Kind::Internal,
    ];

    /// The word used for this kind in JSON answers and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Invalid => "invalid",
            Kind::OutOfRange => "out-of-range",
            Kind::NotFound => "not-found",
            Kind::Exists => "exists",
            Kind::Full => "full",
            Kind::Pending => "pending",
            Kind::Precondition => "precondition",
            Kind::Unavailable => "unavailable",
            Kind::Denied => "denied",
            Kind::Unsupported => "unsupported",
            Kind::BadToken => "bad-token",
            Kind::Internal => "internal",
        }
    }
}

/// A failure: its kind, a sentence that names the thing and the way out, and the cause.
pub struct Error {
    kind: Kind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The result of anything that can fail in this house.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident),* $(,)?) => {
        $( $(#[$doc])* pub fn $name(message: impl Into<String>) -> Self {
            Self::new(Kind::$kind, message)
        } )*
    };
}

impl Error {
    /// An error of `kind` with a message for people.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
        }
    }

    constructors! {
        /// A malformed or unknown request.
        invalid => Invalid,
        /// A size that cannot be given.
        out_of_range => OutOfRange,
        /// The thing does not exist.
        not_found => NotFound,
        /// The name is taken by something different.
        exists => Exists,
        /// No room.
        full => Full,
        /// The same work is under way.
        pending => Pending,
        /// The state forbids it.
        precondition => Precondition,
        /// What is there is not known.
        unavailable => Unavailable,
        /// Not allowed.
        denied => Denied,
        /// Known but not served here.
        unsupported => Unsupported,
        /// A listing token nobody gave out.
        bad_token => BadToken,
        /// The machine failed.
        internal => Internal,
    }

    /// The same error with its cause attached.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The message without its causes.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The message with every cause behind it, for a log line or a wire message.
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut next = self.source();
        while let Some(cause) = next {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                text.push_str(": ");
                text.push_str(&cause_text);
            }
            next = cause.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.as_str(), self.chain())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source
            .as_deref()
            .map(|e| e as &(dyn StdError + 'static))
    }
}

/// Attach a sentence and a kind to any failure: `read(p).or_internal(|| format!(..))?`.
pub trait Context<T> {
    /// Wrap the failure as [`Kind::Internal`] behind the given sentence.
    fn or_internal(self, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Box<dyn StdError + Send + Sync>>> Context<T> for std::result::Result<T, E> {
    fn or_internal(self, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error::internal(message()).caused_by(e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_names_every_cause_once() {
        let inner = std::io::Error::other("disk on fire");
        let e = Error::internal("failed to write /x").caused_by(inner);
        assert_eq!(e.chain(), "failed to write /x: disk on fire");
    }

    #[test]
    fn every_kind_has_its_own_word() {
        let words: std::collections::BTreeSet<_> = Kind::ALL.iter().map(|k| k.as_str()).collect();
        assert_eq!(words.len(), Kind::ALL.len());
    }
}
