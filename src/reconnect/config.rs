//! Which requests are sent again.

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use http::{Method, StatusCode, header, request, response};
use tower::BoxError;

use crate::reconnect::Backoff;

/// Reconnects when the upstream connection breaks. The client and the interceptors see one stream.
///
/// The layer sends the request again, with the last event id of the upstream in `Last-Event-ID` (WHATWG HTML 9.2.4). An id that
/// the client sent is replaced. So the upstream has to give its events ids: a stream without ids is not continued and ends with
/// an error. Unfinished events are dropped, and events that the upstream repeats are not sent again.
///
/// * **Only safe requests:** the layer repeats `GET` requests without a body, unless [`retry_if`](Self::retry_if) says otherwise.
/// * **Only broken streams:** a response that ends cleanly is complete, and so is a stream that an interceptor ends.
/// * **Only streams that have begun:** the first request of a client is never repeated, whatever its response or error.
/// * **Bounded:** the [`Backoff`] limits the failures in a row and the attempts of a stream. A response of 204 ends the stream
///   cleanly, as it does for an `EventSource` (WHATWG HTML 9.2.3). A response that is neither a matching event stream nor a
///   [failure](Self::is_failure) ends the stream with an error.
///
/// Attempts are at least 100 ms apart. While the layer reconnects, the client receives keep-alive comments if there is a
/// [`KeepAlive`](crate::KeepAlive). Each attempt has an [`Attempt`] in its request extensions, by which the service can choose
/// another upstream.
///
/// The layer logs a `tracing` warning for a broken stream, for a failed attempt, and when it stops reconnecting. The warning has
/// the status of the response, or the text of the innermost [source](std::error::Error::source) of the error, such as `connection
/// refused`. The errors around it are not logged, because they may contain addresses with credentials. For this the errors of the
/// service have to be [`Into<BoxError>`](tower::BoxError).
///
/// # Example
///
/// ```
/// use http::Method;
/// use tower_sse_proxy::{SseProxyLayer, reconnect::{Backoff, Reconnect}};
///
/// let layer = SseProxyLayer::default().reconnect(
///     Reconnect::default()
///         .backoff(Backoff::default().max_attempts(3))
///         .retry_if(|request| request.method == Method::GET && request.uri.path().starts_with("/feed")),
/// );
/// ```
///
/// # Request bodies
///
/// A repeated request has the `Default` of its body type as its body. The `Body` of axum, `String` and the boxed bodies of
/// `http-body-util` implement `Default`; `Incoming` of hyper does not. Box such bodies before the layer:
///
/// ```
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::{BodyExt, Empty, combinators::BoxBody};
/// use hyper::body::Incoming;
/// use tower::{Layer, service_fn, util::MapRequestLayer};
/// use tower_sse_proxy::{SseProxyLayer, reconnect::Backoff};
///
/// // In a real proxy: a service that forwards the request with an HTTP client.
/// let forward = service_fn(|_: Request<BoxBody<Bytes, hyper::Error>>| async {
///     Ok::<_, hyper::Error>(Response::new(Empty::<Bytes>::new()))
/// });
/// let proxy = SseProxyLayer::default().reconnect(Backoff::default()).layer(forward);
/// let proxy = MapRequestLayer::new(|request: Request<Incoming>| request.map(BodyExt::boxed)).layer(proxy);
/// # fn serves(_: impl tower::Service<Request<Incoming>>) {}
/// # serves(proxy);
/// ```
#[derive(Clone)]
pub struct Reconnect {
    pub(crate) backoff: Backoff,
    retry_if: RequestPredicate,
    resume_with_get: RequestPredicate,
    is_failure: ResponsePredicate,
}

type RequestPredicate = Arc<dyn Fn(&request::Parts) -> bool + Send + Sync>;
type ResponsePredicate = Arc<dyn Fn(&response::Parts) -> bool + Send + Sync>;

/// The number of an attempt to reconnect, in the extensions of its request.
///
/// The first attempt after a new event is number 1. The request of the client itself has no `Attempt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt(pub u32);

impl Reconnect {
    /// Sets the delays and the number of attempts. Default: [`Backoff::default`].
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Sets which requests the layer may repeat, by the head that the service receives. Default: `GET` requests without a body.
    ///
    /// Requests are repeated without their body. Allow only requests that are safe to send twice.
    pub fn retry_if(
        mut self,
        is_repeatable: impl Fn(&request::Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.retry_if = Arc::new(is_repeatable);
        self
    }

    /// Sets for which other requests the layer resumes the stream with a `GET` request to the same URI. Default: none.
    ///
    /// MCP resumes the stream of a `POST` this way.
    pub fn resume_with_get(
        mut self,
        is_resumable: impl Fn(&request::Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.resume_with_get = Arc::new(is_resumable);
        self
    }

    /// Sets which responses count as failures of an attempt, so that another attempt follows. Default: the statuses 408, 429 and
    /// 500 to 504.
    ///
    /// Errors of the service always count as failures. (In axum, where services have no errors, an unreachable upstream usually
    /// is a response with status 502.)
    pub fn is_failure(
        mut self,
        is_failure: impl Fn(&response::Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.is_failure = Arc::new(is_failure);
        self
    }

    /// The head of the request that resumes the stream of `request`. `None` if the request may not be repeated.
    pub(crate) fn retry_head(&self, request: &request::Parts) -> Option<request::Parts> {
        let mut head = if (self.retry_if)(request) {
            request.clone()
        } else if (self.resume_with_get)(request) {
            let mut head = request.clone();
            head.method = Method::GET;
            head
        } else {
            return None;
        };
        // The request is sent without a body.
        for name in [
            header::CONTENT_LENGTH,
            header::CONTENT_TYPE,
            header::CONTENT_ENCODING,
            header::TRANSFER_ENCODING,
            header::EXPECT,
        ] {
            head.headers.remove(name);
        }
        Some(head)
    }

    /// Whether a response counts as a failure of an attempt.
    pub(crate) fn counts_as_failure(&self, response: &response::Parts) -> bool {
        (self.is_failure)(response)
    }
}

impl Default for Reconnect {
    fn default() -> Self {
        Self {
            backoff: Backoff::default(),
            retry_if: Arc::new(is_get_without_body),
            resume_with_get: Arc::new(|_| false),
            is_failure: Arc::new(|response| {
                matches!(
                    response.status,
                    StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
                ) || (500..=504).contains(&response.status.as_u16())
            }),
        }
    }
}

/// Whether this is a `GET` request whose headers announce no body.
fn is_get_without_body(request: &request::Parts) -> bool {
    let length = request.headers.get(header::CONTENT_LENGTH);
    request.method == Method::GET
        && length.is_none_or(|length| length == "0")
        && !request.headers.contains_key(header::TRANSFER_ENCODING)
}

impl From<Backoff> for Reconnect {
    fn from(backoff: Backoff) -> Self {
        Self::default().backoff(backoff)
    }
}

/// The parts of a [`RetryRequest`](crate::reconnect::RetryRequest).
pub(crate) type RetryParts<R> = (request::Parts, Reconnect, Resend<R>);

/// Sends a request with this head and without a body.
pub(crate) type Resend<R> = Box<dyn FnMut(request::Parts) -> AttemptFuture<R> + Send>;

/// The future of one attempt.
pub(crate) type AttemptFuture<R> = Pin<Box<dyn Future<Output = Result<R, BoxError>> + Send>>;

impl fmt::Debug for Reconnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reconnect")
            .field("backoff", &self.backoff)
            .finish_non_exhaustive()
    }
}
