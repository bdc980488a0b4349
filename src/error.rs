//! The error that ends a stream's body.

use std::{fmt, sync::Arc};

use tower::BoxError;

/// Why the body of a response broke off.
///
/// On a response that is not an event stream this is the upstream body's own error, to be had by
/// [`source`](std::error::Error::source). Of its own it holds no event data and no ids.
///
/// It is for the code around the layer and for [`StreamEnd::Failed`](crate::intercept::StreamEnd::Failed); the client only sees a
/// cut connection or a reset stream. Boxed bodies wrap it: in an `axum::Error` it is the
/// [`source`](std::error::Error::source), to be had by `downcast_ref`.
///
/// ```
/// # use http_body_util::{BodyExt, Full};
/// # use tower_sse_proxy::{ErrorKind, SseBody};
/// async fn read(body: SseBody<Full<bytes::Bytes>>) {
///     match body.collect().await {
///         Ok(all) => println!("{} bytes", all.to_bytes().len()),
///         Err(error) if error.kind() == ErrorKind::EventTooLarge => println!("who sends such events?"),
///         Err(error) => println!("{error}: {:?}", std::error::Error::source(&error)),
///     }
/// }
/// ```
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    source: Option<BoxError>,
}

/// What went wrong with a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The upstream's body failed; its error is the source.
    Upstream,
    /// An event, or one line of it, is larger than the limit.
    EventTooLarge,
    /// The upstream's body begins with the byte order mark of another encoding than UTF-8, so interceptors cannot read it as its
    /// client may.
    NotUtf8,
    /// An interceptor failed to judge a block; its error is the source.
    InterceptorFailed,
    /// An interceptor took longer than its time limit.
    InterceptorTimedOut,
    /// An interceptor panicked.
    InterceptorPanicked,
    /// A session id in the stream could not be translated; why is the source.
    Session,
    /// The client was too slow: what it had not taken yet is no longer kept. It can go on from the last event it has, and is told
    /// that some are missing.
    Lagged,
    /// The stream was ended from here: by [`abort`](crate::SseProxyLayer::abort), or since it [lived](crate::replay::Replay::max_age)
    /// as long as it may, or went on without a client for [longer](crate::replay::Replay::grace_period) than it may.
    Aborted,
}

impl ErrorKind {
    /// Whether an interceptor failed, rather than the stream under it.
    pub(crate) fn is_of_an_interceptor(self) -> bool {
        matches!(
            self,
            ErrorKind::InterceptorFailed
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

    /// The error of an interceptor's own, which may be that it took too long.
    pub(crate) fn of_an_interceptor(error: BoxError) -> Self {
        match error.downcast::<Self>() {
            Ok(error) if error.kind.is_of_an_interceptor() || error.kind == ErrorKind::Session => {
                *error
            }
            Ok(error) => Self::with_source(ErrorKind::InterceptorFailed, error),
            Err(error) => Self::with_source(ErrorKind::InterceptorFailed, error),
        }
    }

    /// The same error for one more reader.
    pub(crate) fn shared(error: &Arc<Self>) -> Self {
        Self::with_source(error.kind, Arc::clone(error))
    }

    /// What went wrong.
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
            ErrorKind::InterceptorTimedOut => "an interceptor took longer than its time limit",
            ErrorKind::InterceptorPanicked => "an interceptor panicked",
            ErrorKind::Session => "a session id in the stream could not be translated",
            ErrorKind::Lagged => "a reader was too slow for what is kept of the stream",
            ErrorKind::Aborted => "the stream was ended by the proxy",
        })
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
