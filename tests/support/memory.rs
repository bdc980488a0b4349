//! Runs the layer in memory, without sockets.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{
    BodyExt,
    channel::{Channel, Sender},
};
use tower::{BoxError, Layer, ServiceExt, service_fn};
use tower_sse_proxy::{ErrorKind, Policy, SseBody, SseProxyLayer, intercept::IntoMakeInterceptor};

use super::{Script, event_stream, soon};

/// A layer with one interceptor.
pub fn layer<M>(interceptor: impl IntoMakeInterceptor<M>) -> SseProxyLayer {
    SseProxyLayer::default().intercept(interceptor)
}

/// Passes `body` through the layer as the body of an event stream, and returns the layer's body.
pub async fn pass<B>(layer: &SseProxyLayer, body: B) -> SseBody<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    respond(layer, Request::new(()), event_stream(body))
        .await
        .into_body()
}

/// Calls the layer with `request`; the service inside returns `response`. Panics if the layer calls it twice.
pub async fn respond<B>(
    layer: &SseProxyLayer,
    request: Request<()>,
    response: Response<B>,
) -> Response<SseBody<B>>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let response = Arc::new(Mutex::new(Some(response)));
    let upstream = service_fn(move |_: Request<()>| {
        let response = response
            .lock()
            .unwrap()
            .take()
            .expect("the service is called once");
        async { Ok::<_, Infallible>(response) }
    });
    layer.layer(upstream).oneshot(request).await.unwrap()
}

/// Passes `text` through the layer. Returns the output and the error kind, if the body failed.
pub async fn through(layer: &SseProxyLayer, text: &'static str) -> (String, Option<ErrorKind>) {
    rest(pass(layer, Script::of([text])).await).await
}

/// Reads the rest of a body. Returns the text and the error kind, if the body failed.
pub async fn rest<B>(mut body: SseBody<B>) -> (String, Option<ErrorKind>)
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let mut all = Vec::new();
    let failed = loop {
        match body.frame().await {
            Some(Ok(frame)) => all.extend_from_slice(&frame.into_data().unwrap()),
            Some(Err(error)) => break Some(error.kind()),
            None => break None,
        }
    };
    (String::from_utf8(all).unwrap(), failed)
}

/// The layer's body for a stream that the test sends frame by frame.
pub type Open = SseBody<Channel<Bytes>>;

/// Opens a stream through the layer. The sender feeds the upstream body.
pub async fn open(layer: &SseProxyLayer) -> (Sender<Bytes>, Open) {
    let (sender, body) = Channel::<Bytes, Infallible>::new(64);
    (sender, pass(layer, body).await)
}

/// Reads the next data frame. Panics if the body ends or fails.
pub async fn next(body: &mut Open) -> Bytes {
    soon(body.frame())
        .await
        .unwrap()
        .unwrap()
        .into_data()
        .unwrap()
}

/// Lets all ready tasks run, and returns whether the body still has no frame.
pub async fn is_silent(body: &mut Open) -> bool {
    for _ in 0..20 {
        if body.frame().now_or_never().is_some() {
            return false;
        }
        tokio::task::yield_now().await;
    }
    true
}

/// Adds a policy to the layer: paths below `/free` get [`Policy::default`], all others the layer's default policy.
pub fn with_free_paths(layer: SseProxyLayer) -> SseProxyLayer {
    let free = Arc::new(Policy::default());
    layer.policy(move |request, default| {
        let is_free = request.uri.path().starts_with("/free");
        if is_free { Arc::clone(&free) } else { default }
    })
}
