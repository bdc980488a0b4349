//! The layer without any socket.

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

/// What the layer makes of a body that is an event stream, without any socket.
pub async fn pass<B>(layer: &SseProxyLayer, body: B) -> SseBody<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    respond(layer, Request::new(()), event_stream(body))
        .await
        .into_body()
}

/// What the layer makes of this answer to this request.
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
        let response = response.lock().unwrap().take().expect("asked once");
        async { Ok::<_, Infallible>(response) }
    });
    layer.layer(upstream).oneshot(request).await.unwrap()
}

/// All that comes out when this goes in, and why it broke off if it did.
pub async fn through(layer: &SseProxyLayer, text: &'static str) -> (String, Option<ErrorKind>) {
    rest(pass(layer, Script::of([text])).await).await
}

/// All that is still to come, and why it broke off if it did.
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

/// The body of a stream that is fed frame by frame.
pub type Open = SseBody<Channel<Bytes>>;

pub async fn open(layer: &SseProxyLayer) -> (Sender<Bytes>, Open) {
    let (sender, body) = Channel::<Bytes, Infallible>::new(64);
    (sender, pass(layer, body).await)
}

pub async fn next(body: &mut Open) -> Bytes {
    soon(body.frame())
        .await
        .unwrap()
        .unwrap()
        .into_data()
        .unwrap()
}

/// Lets everything run that can, and says whether the body has a frame then.
pub async fn is_silent(body: &mut Open) -> bool {
    for _ in 0..20 {
        if body.frame().now_or_never().is_some() {
            return false;
        }
        tokio::task::yield_now().await;
    }
    true
}

/// The layer with a policy without anything for paths below /free.
pub fn with_free_paths(layer: SseProxyLayer) -> SseProxyLayer {
    let free = Arc::new(Policy::default());
    layer.policy(move |request, default| {
        let is_free = request.uri.path().starts_with("/free");
        if is_free { Arc::clone(&free) } else { default }
    })
}
