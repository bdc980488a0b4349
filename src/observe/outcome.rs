//! Why an event stream ended: a closed list, and the outcome of each kind of error.

use std::fmt;

use super::RejectionReason;
use crate::error::ErrorKind;

/// Why an event stream ended.
///
/// The list is closed, so that it can be a label of a metric: see [`StreamOutcome::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamOutcome {
    /// The upstream ended the stream between two events. If the stream belongs to an API with a terminal event (`[DONE]`,
    /// `message_stop`, `response.completed`, a JSON-RPC response to a `POST`), that event has arrived.
    Completed,
    /// The upstream ended the stream inside an event, or without the terminal event of its API.
    Truncated,
    /// The inner service returned an error, or the body failed, and no reconnect continued the stream. A response that the inner service
    /// makes itself, such as 502, is not an error.
    UpstreamError,
    /// The client disconnected, and the stream does not continue without a client, its grace period has passed, or a limit on streams
    /// without a client was exceeded.
    ClientLeft,
    /// The stream was closed by its id. See [`Streams::close`](crate::Streams::close).
    Cancelled,
    /// All streams of an owner or of a session were closed, or the right to read the stream ended.
    Revoked,
    /// The verdict of an interceptor ended the stream.
    Blocked,
    /// An interceptor failed, panicked or exceeded its time limit.
    InterceptorFailed,
    /// A watchdog found that the upstream or the client had stalled, or the client was too far behind an HTTP/2 upstream; see
    /// [`Policy::read_ahead`](crate::Policy::read_ahead).
    Stalled,
    /// The stream reached its maximum age.
    Expired,
    /// An event exceeded the limit of its size, or the stream held the most when the open streams exceeded
    /// [`max_buffered_bytes`](crate::SseProxyLayer::max_buffered_bytes).
    Overflow,
    /// The layer was drained, or its runtime shut down.
    Drained,
    /// The layer answered the request itself, or ended the stream: a limit was reached, the request may not have the stream, or the layer
    /// cannot read the response or translate a session id in it.
    Rejected,
}

impl StreamOutcome {
    /// All outcomes.
    pub const ALL: [Self; 13] = [
        Self::Completed,
        Self::Truncated,
        Self::UpstreamError,
        Self::ClientLeft,
        Self::Cancelled,
        Self::Revoked,
        Self::Blocked,
        Self::InterceptorFailed,
        Self::Stalled,
        Self::Expired,
        Self::Overflow,
        Self::Drained,
        Self::Rejected,
    ];

    /// Returns the outcome in snake case, for logs and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Truncated => "truncated",
            Self::UpstreamError => "upstream_error",
            Self::ClientLeft => "client_left",
            Self::Cancelled => "cancelled",
            Self::Revoked => "revoked",
            Self::Blocked => "blocked",
            Self::InterceptorFailed => "interceptor_failed",
            Self::Stalled => "stalled",
            Self::Expired => "expired",
            Self::Overflow => "overflow",
            Self::Drained => "drained",
            Self::Rejected => "rejected",
        }
    }

    /// Returns the party that ended the stream.
    pub fn ended_by(self) -> EndedBy {
        match self {
            Self::Completed | Self::Truncated | Self::UpstreamError => EndedBy::Upstream,
            Self::ClientLeft => EndedBy::Client,
            Self::Cancelled | Self::Revoked => EndedBy::Operator,
            Self::Blocked | Self::InterceptorFailed => EndedBy::Interceptor,
            Self::Stalled | Self::Expired | Self::Overflow | Self::Drained | Self::Rejected => {
                EndedBy::Gateway
            }
        }
    }
}

impl fmt::Display for StreamOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The party that ended a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndedBy {
    /// The upstream.
    Upstream,
    /// The client.
    Client,
    /// An interceptor.
    Interceptor,
    /// The layer, because of a limit or a drain.
    Gateway,
    /// The application, through [`Streams`](crate::Streams).
    Operator,
}

impl EndedBy {
    /// Returns the party in lower case, for logs and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::Client => "client",
            Self::Interceptor => "interceptor",
            Self::Gateway => "gateway",
            Self::Operator => "operator",
        }
    }
}

impl fmt::Display for EndedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a stream ended, and the cause for logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StreamEnded {
    pub(crate) outcome: StreamOutcome,
    /// A text of this crate. Texts of upstreams and interceptors are not used, because they may hold secrets.
    pub(crate) cause: Option<String>,
    /// For the outcome `Rejected`.
    pub(crate) rejection: Option<RejectionReason>,
    /// Whether the stream did not end cleanly, so that its end is logged.
    pub(crate) is_cut: bool,
}

impl StreamEnded {
    pub(crate) fn of(outcome: StreamOutcome) -> Self {
        Self {
            outcome,
            cause: None,
            rejection: None,
            is_cut: !matches!(outcome, StreamOutcome::Completed),
        }
    }

    /// The end of a stream whose body failed with an error of this kind.
    pub(crate) fn failed(kind: ErrorKind) -> Self {
        let (outcome, cause) = match kind {
            ErrorKind::Upstream => (StreamOutcome::UpstreamError, None),
            ErrorKind::EventTooLarge => (StreamOutcome::Overflow, None),
            ErrorKind::NotUtf8 => (StreamOutcome::Rejected, Some("not UTF-8")),
            ErrorKind::Blocked => (StreamOutcome::Blocked, None),
            ErrorKind::InterceptorFailed => (StreamOutcome::InterceptorFailed, None),
            ErrorKind::InterceptorTimedOut => {
                (StreamOutcome::InterceptorFailed, Some("time limit"))
            }
            ErrorKind::InterceptorPanicked => (StreamOutcome::InterceptorFailed, Some("panic")),
            ErrorKind::Session => (StreamOutcome::Rejected, Some("session id")),
            ErrorKind::Lagged => (StreamOutcome::Stalled, Some("slow client")),
            ErrorKind::Aborted => (StreamOutcome::Cancelled, None),
        };
        let rejection = match kind {
            ErrorKind::NotUtf8 => Some(RejectionReason::Uninspectable),
            ErrorKind::Session => Some(RejectionReason::Session),
            _ => None,
        };
        Self {
            cause: cause.map(str::to_owned),
            rejection,
            ..Self::of(outcome)
        }
    }
}
