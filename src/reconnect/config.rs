//! What is asked again.

use std::{fmt, sync::Arc};

use futures_util::{FutureExt, TryFutureExt, future::BoxFuture};
use http::{Method, Request, StatusCode, header, request, response};
use tower::{BoxError, ServiceExt};
use tower_service::Service;

use crate::reconnect::Backoff;

/// Asks an upstream that has broken off to go on, behind its client's back.
///
/// It is asked by the same request once more, with `Last-Event-ID`: the last id that it sent, in the place of any that the client
/// sent (WHATWG HTML 9.2.4). So the upstream has to give its events ids, and a stream in which it gave none is not asked for again
/// but cut. The interceptors see one stream; what was unfinished is dropped; what comes again is not sent on again.
///
/// * **Only what is safe to repeat:** a `GET` without a body, unless [`retry_if`](Self::retry_if) says otherwise.
/// * **Only what has broken:** the end of an answer is passed on, and so is one that an interceptor has cut.
/// * **Only once there is a stream:** a request of the client's own that fails, or is answered by anything else, is not repeated.
/// * **Not for ever:** after so many failures in a row as the [`Backoff`] says the stream is cut. Attempts are counted anew once an
///   event has come, but for the limit of all [attempts of the stream](Backoff::max_total_attempts). An answer of 204 ends the stream, as it does for an `EventSource` (WHATWG HTML 9.2.3), and one that is neither
///   a stream nor a [failure](Self::is_failure) cuts it.
///
/// Attempts are at least 100 ms apart. A stream that breaks, an attempt that fails and the end of all attempts are logged as
/// warnings, by `tracing`: with the status of the answer, or with the text of the error's innermost
/// [source](std::error::Error::source), which is the cause (`connection refused`, say). Errors around it are not shown, as they may
/// contain addresses with credentials. The service's errors are [`Into<BoxError>`](tower::BoxError) for that.
///
/// In the meantime the client gets comments, if there is a [`KeepAlive`](crate::KeepAlive). The request's extensions tell by an
/// [`Attempt`] which one this is, for a service inside that has another upstream to ask.
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
/// Such a request has no body, and is made with `Default::default()` for one: axum's `Body`, `String` and the boxed bodies of
/// `http-body-util` have that, hyper's `Incoming` has not. Put what boxes it around the layer:
///
/// ```
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::{BodyExt, Empty, combinators::BoxBody};
/// use hyper::body::Incoming;
/// use tower::{Layer, service_fn, util::MapRequestLayer};
/// use tower_sse_proxy::{SseProxyLayer, reconnect::Backoff};
///
/// // In real life: a client that asks an upstream.
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
    only: Requests,
    by_get: Requests,
    failure: Answers,
}

type Requests = Arc<dyn Fn(&request::Parts) -> bool + Send + Sync>;
type Answers = Arc<dyn Fn(&response::Parts) -> bool + Send + Sync>;

/// Asks a broken upstream no more: the stream is cut.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoReconnect;

/// Which attempt a request is to go on with a stream, in its extensions: 1 for the first after the stream has broken, and 1 again
/// for the first after it went on. It is not there with the request of a client's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt(pub u32);

impl Reconnect {
    /// How long to wait, and how often.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Which requests may be repeated, by their heads as the service gets them. They are repeated without a body.
    pub fn retry_if(
        mut self,
        repeatable: impl Fn(&request::Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.only = Arc::new(repeatable);
        self
    }

    /// For which other requests the upstream is asked to go on by a `GET`, as MCP does with the stream that answers a `POST`. None
    /// unless set.
    pub fn resume_with_get(
        mut self,
        resumable: impl Fn(&request::Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.by_get = Arc::new(resumable);
        self
    }

    /// Which answers are failures, after which there may be another attempt, as there may be after an error of the service: 408,
    /// 429 and 500 to 504 unless set. (In axum, an upstream that cannot be reached is an answer of 502.)
    pub fn is_failure(
        mut self,
        failed: impl Fn(&response::Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.failure = Arc::new(failed);
        self
    }

    /// The request by which an upstream is asked to go on, if it may be.
    pub(crate) fn request(&self, request: &request::Parts) -> Option<request::Parts> {
        let mut again = if (self.only)(request) {
            request.clone()
        } else if (self.by_get)(request) {
            let mut again = request.clone();
            again.method = Method::GET;
            again
        } else {
            return None;
        };
        // There is no body.
        for name in [
            header::CONTENT_LENGTH,
            header::CONTENT_TYPE,
            header::CONTENT_ENCODING,
            header::TRANSFER_ENCODING,
            header::EXPECT,
        ] {
            again.headers.remove(name);
        }
        Some(again)
    }

    pub(crate) fn counts_as_failure(&self, answer: &response::Parts) -> bool {
        (self.failure)(answer)
    }
}

impl Default for Reconnect {
    fn default() -> Self {
        Self {
            backoff: Backoff::default(),
            only: Arc::new(has_no_body),
            by_get: Arc::new(|_| false),
            failure: Arc::new(|answer| {
                matches!(
                    answer.status,
                    StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
                ) || (500..=504).contains(&answer.status.as_u16())
            }),
        }
    }
}

/// A `GET` that says nothing of a body.
fn has_no_body(request: &request::Parts) -> bool {
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

/// Whether a layer [asks again](Reconnect) or [once](NoReconnect). Only who asks again has to have requests without a body.
#[diagnostic::on_unimplemented(
    message = "a service that is asked again takes requests whose bodies are `Default`, as `{ReqB}` should be, and has errors \
               that are `Into<BoxError>`",
    label = "requests with this body cannot be made anew, or the service's errors cannot be logged",
    note = "box the bodies before the layer: `request.map(http_body_util::BodyExt::boxed)`, or `request.map(axum::body::Body::new)`; \
            see the documentation of `Reconnect`"
)]
pub trait ReconnectPolicy<S, ReqB>: sealed::Sealed {
    /// How the service is asked again, and for what.
    #[doc(hidden)]
    fn again<R>(&self, service: &S, request: &request::Parts) -> Option<Resend<R>>
    where
        S: Service<Request<ReqB>, Response = R> + Clone + Send + 'static,
        S::Future: Send,
        R: 'static;
}

/// A request, and how it is sent.
pub(crate) type Resend<R> = (request::Parts, Reconnect, Ask<R>);

/// Sends a request without a body.
pub(crate) type Ask<R> =
    Box<dyn FnMut(request::Parts) -> BoxFuture<'static, Result<R, BoxError>> + Send>;

impl<S, ReqB> ReconnectPolicy<S, ReqB> for NoReconnect {
    fn again<R>(&self, _: &S, _: &request::Parts) -> Option<Resend<R>> {
        None
    }
}

// Else the compiler says that the body is not `Default`, and not why it should be.
#[diagnostic::do_not_recommend]
impl<S, ReqB> ReconnectPolicy<S, ReqB> for Reconnect
where
    S: Service<Request<ReqB>>,
    S::Error: Into<BoxError>,
    ReqB: Default + Send + 'static,
{
    fn again<R>(&self, service: &S, request: &request::Parts) -> Option<Resend<R>>
    where
        S: Service<Request<ReqB>, Response = R> + Clone + Send + 'static,
        S::Future: Send,
        R: 'static,
    {
        let request = self.request(request)?;
        // A clone of a service that is ready is not.
        let service = service.clone();
        let ask = move |request| {
            let request = Request::from_parts(request, ReqB::default());
            service.clone().oneshot(request).map_err(Into::into).boxed()
        };
        Some((request, self.clone(), Box::new(ask)))
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::NoReconnect {}
    impl Sealed for super::Reconnect {}
}

impl fmt::Debug for Reconnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reconnect")
            .field("backoff", &self.backoff)
            .finish_non_exhaustive()
    }
}
