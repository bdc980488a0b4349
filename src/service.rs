//! The service: the request's side.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower::BoxError;
use tower_service::Service;

use crate::{
    body::SseBody,
    exchange::{
        RecordingContext, context::RequestContext, handle::handle, needs_handling,
        outcome::ResponseContext,
    },
    future::ResponseFuture,
    headers::accept_encoding::narrow_accept_encoding,
    reconnect::{NoReconnect, ReconnectPolicy, RetryRequest},
    state::LayerState,
};

/// A service with intercepted event streams; made by [`SseProxyLayer`](crate::SseProxyLayer).
///
/// ```
/// use http::{Request, Response};
/// use http_body_util::{BodyExt, Full};
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_sse_proxy::{Event, SseProxyLayer};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let upstream = service_fn(|_: Request<()>| async {
///     let body = Full::<bytes::Bytes>::from("data: one\n\ndata: two\n\n");
///     Response::builder().header("content-type", "text/event-stream").body(body)
/// });
/// let proxy = SseProxyLayer::default()
///     .intercept(|event: Event| (event.data() == "two").then_some(event))
///     .layer(upstream);
///
/// let response = proxy.oneshot(Request::new(())).await.unwrap();
/// assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "data: two\n\n");
/// # }
/// ```
#[derive(Clone)]
pub struct SseProxy<S, R = NoReconnect> {
    inner: S,
    state: Arc<LayerState>,
    reconnect: R,
}

impl<S, R> SseProxy<S, R> {
    pub(crate) fn new(inner: S, state: Arc<LayerState>, reconnect: R) -> Self {
        Self {
            inner,
            state,
            reconnect,
        }
    }

    /// The service inside.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S, R, ReqB, B> Service<Request<ReqB>> for SseProxy<S, R>
where
    R: ReconnectPolicy<S, ReqB> + Clone + Send + 'static,
    S: Service<Request<ReqB>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    ReqB: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<SseBody<B>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, B, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        let policy = self.state.policy_for(&parts);
        let context = RequestContext::new(&self.state, policy, &parts);
        let policy = &context.policy;
        if let Some(rejection) = &policy.rejection {
            self.release_permit();
            context.report_rejection(rejection, false);
            return ResponseFuture::rejected(rejection.clone());
        }
        let retry = self.reconnect.retry_request(&self.inner, &parts);
        if policy.inspects() || retry.is_some() {
            narrow_accept_encoding(&mut parts, policy.json_limit().is_some());
        }
        let replay = policy.replay.as_ref();
        let is_handled = policy.sessions.is_some()
            || context.may_answer_without_upstream()
            || replay.is_some_and(|replay| needs_handling(&parts, replay));
        if is_handled {
            let request = Request::from_parts(parts, body);
            let reconnect = self.reconnect.clone();
            let handled = handle(context, reconnect, self.release_permit(), request);
            return ResponseFuture::handled(Box::pin(handled));
        }
        let response = ResponseContext {
            session: None,
            recording: RecordingContext::of(&context, &parts),
            slot: None,
            retry: retry.map(|retry| Box::new(RetryRequest::new(retry))),
        };
        let call = self.inner.call(Request::from_parts(parts, body));
        ResponseFuture::direct(call, context, response)
    }
}

impl<S: Clone, R> SseProxy<S, R> {
    /// Drops the ready service and its permits, because the call may come late or never. Returns a clone that is not ready.
    fn release_permit(&mut self) -> S {
        self.inner = self.inner.clone();
        self.inner.clone()
    }
}

impl<S, R> fmt::Debug for SseProxy<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SseProxy").finish_non_exhaustive()
    }
}
