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
        handle::{Behind, Call},
        record::Asked,
        resume::{has_parameter, names_an_event},
    },
    future::ResponseFuture,
    headers::accept_encoding::narrow_accept_encoding,
    layer::Config,
    reconnect::{NoReconnect, ReconnectPolicy, RetryRequest},
    replay::recorded_stream::{StreamKey, StreamOwner},
};

/// A service whose event streams are intercepted; made by [`SseProxyLayer`](crate::SseProxyLayer).
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
    config: Arc<Config>,
    reconnect: R,
}

impl<S, R> SseProxy<S, R> {
    pub(crate) fn new(inner: S, config: Arc<Config>, reconnect: R) -> Self {
        Self {
            inner,
            config,
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
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        let policy = self.config.policy(&parts);
        if let Some(refusal) = &policy.rejection {
            self.let_go();
            return ResponseFuture::refused(refusal.clone(), policy);
        }
        let method = parts.method.clone();
        // Kept only where an interceptor may ask for it.
        let seen = policy.inspects().then(|| Box::new(parts.clone()));
        let repeat = self.reconnect.again(&self.inner, &parts);
        if policy.inspects() || repeat.is_some() {
            narrow_accept_encoding(&mut parts);
        }
        let replay = policy.replay.as_ref();
        let comes_back = replay.is_some_and(|replay| {
            names_an_event(&parts, replay)
                || has_parameter(&parts, replay)
                || replay.share.is_some()
        });
        let asked = replay.map(|replay| {
            let owner = self.config.owner(&parts, None);
            let whose = StreamOwner {
                owner,
                session: None,
            };
            let target = StreamKey::of(&parts, replay);
            Box::new(Asked::new(&self.config, replay, whose, target))
        });
        let request = Request::from_parts(parts, body);
        if policy.sessions.is_some() || comes_back {
            let call = Call {
                config: Arc::clone(&self.config),
                policy: Arc::clone(&policy),
                reconnect: self.reconnect.clone(),
            };
            let answer = Box::pin(call.run(self.let_go(), request));
            return ResponseFuture::called(answer, policy, seen, &method);
        }
        let repeat = repeat.map(|asks| Box::new(RetryRequest::new(asks)));
        let behind = Behind {
            in_session: None,
            asked,
            repeat,
        };
        let response = self.inner.call(request);
        ResponseFuture::plain(response, policy, seen, behind, &method)
    }
}

impl<S: Clone, R> SseProxy<S, R> {
    /// Gives back what being ready has reserved, for there may be a long time until the call, or none. Returns a service that
    /// is still to become ready.
    fn let_go(&mut self) -> S {
        self.inner = self.inner.clone();
        self.inner.clone()
    }
}

impl<S, R> fmt::Debug for SseProxy<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SseProxy").finish_non_exhaustive()
    }
}
