//! The error of a response body.

use std::{fmt, sync::Arc};

use tower::BoxError;

/// The error of an [`SseBody`](crate::SseBody): why the response body ended early.
///
/// [`kind`](Self::kind) says what failed, and [`source`](std::error::Error::source) returns the error of the upstream body, the
/// interceptor or the session store, if there is one. On a response that is not an event stream, the source is always the error
/// of the upstream body. On a recorded stream, which may have several readers, the source is an `Error` of the same kind, which
/// has that source in turn. The layer adds no event data and no ids to the error.
///
/// The server that reads the body and [`StreamEnd::Failed`](crate::intercept::StreamEnd::Failed) receive this error. The client
/// sees a closed connection or a reset stream. A boxed body wraps the error: in axum it is the source of the `axum::Error`, and
/// `downcast_ref` returns it.
///
/// ```
/// # use http_body_util::{BodyExt, Full};
/// # use tower_sse_proxy::{ErrorKind, SseBody};
/// async fn read(body: SseBody<Full<bytes::Bytes>>) {
///     match body.collect().await {
///         Ok(all) => println!("{} bytes", all.to_bytes().len()),
///         Err(error) if error.kind() == ErrorKind::EventTooLarge => println!("raise the limit on events?"),
///         Err(error) => println!("{error}: {:?}", std::error::Error::source(&error)),
///     }
/// }
/// ```
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    source: Option<BoxError>,
}

/// What failed, as [`Error::kind`] returns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The upstream body failed. Its error is the source.
    Upstream,
    /// An event, or one line of it, is larger than the limit.
    EventTooLarge,
    /// The upstream body starts with the byte order mark of another encoding than UTF-8. A client may decode it in that encoding,
    /// so interceptors would not see the same text.
    NotUtf8,
    /// An interceptor returned an error, which is the source.
    InterceptorFailed,
    /// An interceptor exceeded its time limit.
    InterceptorTimedOut,
    /// An interceptor [blocked](crate::intercept::Verdict::block) the stream. Its reason is the source.
    Blocked,
    /// An interceptor panicked.
    InterceptorPanicked,
    /// A session id in the stream could not be translated. The source says why.
    Session,
    /// The client was too slow: the log of the recorded stream has evicted events that the client had not read, and if the client
    /// resumes from its last event, it gets a gap event. Or the layer has read an HTTP/2 upstream as far
    /// [ahead](crate::Policy::read_ahead) of the client as it may.
    Lagged,
    /// The layer ended the stream: the application [closed](crate::Streams::close) it, a watchdog or a drain
    /// ended it, or the stream exceeded its
    /// [`max_age`](crate::replay::Replay::max_age) or, without a client, its [`grace_period`](crate::replay::Replay::grace_period).
    Aborted,
}

impl ErrorKind {
    /// Whether an interceptor blocked the stream, failed, exceeded its time limit or panicked.
    pub(crate) fn is_of_an_interceptor(self) -> bool {
        matches!(
            self,
            ErrorKind::Blocked
                | ErrorKind::InterceptorFailed
                | ErrorKind::InterceptorTimedOut
                | ErrorKind::InterceptorPanicked
        )
    }
}

impl Error {
    pub(crate) fn new(kind: ErrorKind) -> Self {
        Self { kind, source: None }
    }

    pub(crate) fn with_source(kind: ErrorKind, source: impl Into<BoxError>) -> Self {
        Self {
            kind,
            source: Some(source.into()),
        }
    }

    /// Converts the error that an interceptor returned. An [`Error`] of this crate that says that an interceptor or a session
    /// failed, or that one blocked the stream, stays as it is; any other error becomes the source of an [`ErrorKind::InterceptorFailed`].
    pub(crate) fn of_an_interceptor(error: BoxError) -> Self {
        match error.downcast::<Self>() {
            Ok(error) if error.kind.is_of_an_interceptor() || error.kind == ErrorKind::Session => {
                *error
            }
            Ok(error) => Self::with_source(ErrorKind::InterceptorFailed, error),
            Err(error) => Self::with_source(ErrorKind::InterceptorFailed, error),
        }
    }

    /// An error of the same kind for another reader of the stream. Its source is `error`.
    pub(crate) fn shared(error: &Arc<Self>) -> Self {
        Self::with_source(error.kind, Arc::clone(error))
    }

    /// What failed.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            ErrorKind::Upstream => "the upstream's body failed",
            ErrorKind::EventTooLarge => "an event is too large",
            ErrorKind::NotUtf8 => "the stream is not UTF-8",
            ErrorKind::InterceptorFailed => "an interceptor failed",
            ErrorKind::Blocked => "an interceptor blocked the stream",
            ErrorKind::InterceptorTimedOut => "an interceptor exceeded its time limit",
            ErrorKind::InterceptorPanicked => "an interceptor panicked",
            ErrorKind::Session => "a session id in the stream could not be translated",
            ErrorKind::Lagged => {
                "the client was too slow: events that it had not read were dropped"
            }
            ErrorKind::Aborted => "the stream was ended by the proxy",
        })
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
