//! A layer in front of an upstream that is a function.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use crate::support::{Script, event_stream, rest};
use bytes::Bytes;
use http::{HeaderName, Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt, service_fn};
use tower_sse_proxy::{
    ErrorKind, SseBody, SseProxyLayer,
    session::{MemoryStore, Session, SessionMapping, SessionRequest},
};

/// The requests that the upstream got.
#[derive(Clone, Default)]
pub struct UpstreamRequests(Arc<Mutex<Vec<Request<()>>>>);

impl UpstreamRequests {
    pub fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub fn last(&self) -> Request<()> {
        self.0.lock().unwrap().last().expect("a request").clone()
    }

    pub fn header(&self, name: &str) -> Option<String> {
        let last = self.last();
        let mut values = last.headers().get_all(name).iter();
        let value = values
            .next()
            .map(|value| value.to_str().unwrap().to_owned());
        assert!(values.next().is_none(), "two {name} headers");
        value
    }
}

pub type ProxyResponse = Response<SseBody<Full<Bytes>>>;

pub type AnswerFn = Arc<dyn Fn(&Request<()>) -> Response<Full<Bytes>> + Send + Sync>;

/// A layer in front of an upstream that answers by a function.
pub struct Proxy {
    pub layer: SseProxyLayer,
    pub requests: UpstreamRequests,
    pub answer: AnswerFn,
}

impl Proxy {
    pub fn new(
        layer: SseProxyLayer,
        answer: impl Fn(&Request<()>) -> Response<Full<Bytes>> + Send + Sync + 'static,
    ) -> Self {
        let (requests, answer) = (UpstreamRequests::default(), Arc::new(answer));
        Self {
            layer,
            requests,
            answer,
        }
    }

    pub async fn send(&self, request: http::request::Builder) -> ProxyResponse {
        let (requests, answer) = (self.requests.clone(), Arc::clone(&self.answer));
        let upstream = service_fn(move |request: Request<()>| {
            let answer = answer(&request);
            requests.0.lock().unwrap().push(request);
            async { Ok::<_, Infallible>(answer) }
        });
        self.layer
            .layer(upstream)
            .oneshot(request.body(()).unwrap())
            .await
            .unwrap()
    }
}

pub fn post(path: &str) -> http::request::Builder {
    Request::post(path)
}

pub fn header<B>(response: &Response<B>, name: &str) -> Option<String> {
    let value = response.headers().get(name)?;
    Some(value.to_str().unwrap().to_owned())
}

pub async fn text(response: ProxyResponse) -> String {
    let all = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(all.to_vec()).unwrap()
}

pub fn answer(text: &str) -> Response<Full<Bytes>> {
    Response::new(Full::from(text.to_owned()))
}

pub fn with(
    mut response: Response<Full<Bytes>>,
    name: &'static str,
    value: &str,
) -> Response<Full<Bytes>> {
    response.headers_mut().append(name, value.parse().unwrap());
    response
}

/// Answers with the session id of the request, or opens a session, like MCP servers.
pub fn opens_session(request: &Request<()>) -> Response<Full<Bytes>> {
    let id = request.headers().get("x-session");
    let id = id.map_or("UP-1", |id| id.to_str().unwrap());
    with(answer("fine"), "x-session", id)
}

pub fn by_header() -> SseProxyLayer {
    SseProxyLayer::new(MemoryStore::default())
        .sessions(SessionMapping::header(HeaderName::from_static("x-session")))
}

/// Sends a response with this stream through a layer with these rules. Returns the text and the error of the body.
pub async fn send_stream(
    rules: SessionMapping,
    request: http::request::Builder,
    stream: Script,
) -> (String, Option<ErrorKind>) {
    let layer = SseProxyLayer::default().sessions(rules);
    let response =
        crate::support::respond(&layer, request.body(()).unwrap(), event_stream(stream)).await;
    rest(response.into_body()).await
}

/// A layer whose store is a function. Requests for paths below `/free` have a policy without sessions.
pub fn with_store<F, Fut, E>(store: F) -> SseProxyLayer
where
    F: Fn(SessionRequest) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<Option<Session>, E>> + Send + 'static,
    E: Into<tower::BoxError> + 'static,
{
    let layer = SseProxyLayer::new(service_fn(store));
    crate::support::with_free_paths(
        layer.sessions(SessionMapping::header(HeaderName::from_static("x-session"))),
    )
}
