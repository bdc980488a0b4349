//! The response: the one place that decides how a body is treated.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header, request, response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower::BoxError;

use crate::{
    body::SseBody,
    detect::foreign_charset,
    head,
    intercept::{Chain, Head},
    policy::Policy,
    upstream::{
        Pipeline, Pull,
        coding::{Coding, Plain},
    },
};

pin_project! {
    /// The future of [`SseProxy`](crate::SseProxy). Dropping it drops the call to the service inside.
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        policy: Arc<Policy>,
        request: Option<request::Parts>,
        head_only: bool,
    }
}

impl<F> ResponseFuture<F> {
    pub(crate) fn new(
        inner: F,
        policy: Arc<Policy>,
        request: Option<request::Parts>,
        method: &Method,
    ) -> Self {
        Self {
            inner,
            policy,
            request,
            head_only: method == Method::HEAD,
        }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<SseBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        let (parts, body) = response.into_parts();
        let response = if has_no_body(parts.status) || !(this.policy.detect)(&parts) {
            Response::from_parts(parts, SseBody::passed(body))
        } else {
            let request = this.request.take();
            event_stream(this.policy, request, *this.head_only, parts, body)
        };
        Poll::Ready(Ok(response))
    }
}

/// Statuses that end with their head whatever it says (RFC 9110 15.2, 15.3.5, 15.4.5).
fn has_no_body(status: StatusCode) -> bool {
    status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// The response to a request that an upstream answers with an event stream.
fn event_stream<B>(
    policy: &Policy,
    request: Option<request::Parts>,
    head_only: bool,
    mut parts: response::Parts,
    body: B,
) -> Response<SseBody<B>>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let coding = Coding::of(&parts.headers);
    if policy.inspects() {
        if let Some(why) = unreadable(&parts, &coding) {
            return refused(&why);
        }
    } else if let Coding::Opaque(_) = coding {
        return Response::from_parts(parts, SseBody::passed(body));
    }
    if head_only {
        // Whatever body the service made for it, none may leave (RFC 9110 9.3.2), and this one nobody has seen.
        head::of_event_stream(&mut parts.headers);
        return Response::from_parts(parts, SseBody::own(String::new()));
    }
    let chain = match request {
        Some(request) => Chain::open(&policy.intercepts, &Head::new(&request, &parts)),
        None => Ok(Chain::default()),
    };
    let Ok(chain) = chain else {
        return refused("an interceptor panicked when it was opened");
    };
    let pipeline = Pipeline::new(chain, policy.strip_comments);
    let body = Plain::new(&coding, body);
    let pull = Pull::new(body, policy.decoder(), pipeline);
    head::of_event_stream(&mut parts.headers);
    let body = SseBody::stream(pull, policy.keep_alive.clone());
    Response::from_parts(parts, body)
}

/// Why interceptors could not read this stream as its client will.
fn unreadable(parts: &response::Parts, coding: &Coding) -> Option<String> {
    if let Coding::Opaque(coding) = coding {
        let hint = if cfg!(feature = "decompression") {
            "only gzip, deflate, br and zstd can be decoded, one at a time"
        } else {
            "decoding is not compiled in"
        };
        return Some(format!("its content coding is `{coding}`, and {hint}"));
    }
    if let Some(charset) = foreign_charset(&parts.headers) {
        return Some(format!("its charset is `{charset}`, not UTF-8"));
    }
    (parts.status == StatusCode::PARTIAL_CONTENT)
        .then(|| "it is a range, and what is looked for may be cut".to_owned())
}

/// A stream that may not pass unseen does not pass.
fn refused<B>(why: &str) -> Response<SseBody<B>> {
    tracing::warn!("refused an event stream of the upstream: {why}");
    let text = format!("The upstream's event stream cannot be inspected: {why}.\n");
    let mut response = Response::new(SseBody::own(text));
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    let headers = response.headers_mut();
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(header::CONTENT_TYPE, plain);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
