//! An in-memory upstream: the test receives each request, answers it, and feeds the response body.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{
    BodyExt,
    channel::{Channel, Sender},
};
use tokio::sync::{mpsc, oneshot};
use tower::{BoxError, Layer, Service, ServiceExt, util::BoxCloneSyncService};
use tower_sse_proxy::{
    ErrorKind, SseBody, SseProxyLayer,
    reconnect::ReconnectPolicy,
    replay::{Replay, Retention, StreamId},
};

use super::{event_stream, soon};

/// A response body that the test feeds through a channel.
pub type FedBody = Channel<Bytes, BoxError>;

/// The layer around an [`OriginService`]. Clients send their requests here.
#[derive(Clone)]
pub struct Front(BoxCloneSyncService<Request<()>, Response<SseBody<FedBody>>, Infallible>);

/// The requests that the layer forwards, in order.
pub struct Origin(mpsc::UnboundedReceiver<Call>);

/// A request that the test has not answered yet.
#[derive(Debug)]
pub struct Call {
    pub request: Request<()>,
    answer: oneshot::Sender<Response<FedBody>>,
}

/// The sender of a stream's body.
#[derive(Debug)]
pub struct Feed(Option<Sender<Bytes, BoxError>>);

/// A client that has the head of a response and reads the body.
pub struct Client {
    pub status: u16,
    pub headers: HeaderMap,
    /// The id of the recorded stream, from the extensions of the response.
    pub stream: Option<StreamId>,
    body: SseBody<FedBody>,
    read: String,
}

/// Puts the layer around an [`OriginService`]. Returns the client side and the upstream side.
pub fn staged<R>(layer: &SseProxyLayer<R>) -> (Front, Origin)
where
    R: ReconnectPolicy<OriginService, ()> + Clone + Send + Sync + 'static,
{
    let (calls, origin) = mpsc::unbounded_channel();
    let service = OriginService(calls);
    let layered = layer.layer(service);
    let front = Front(BoxCloneSyncService::new(layered));
    (front, Origin(origin))
}

/// A service that hands each request to the test through an [`Origin`].
#[derive(Clone)]
pub struct OriginService(mpsc::UnboundedSender<Call>);

impl Service<Request<()>> for OriginService {
    type Response = Response<FedBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<FedBody>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        let (answer, answered) = oneshot::channel();
        let _ = self.0.send(Call { request, answer });
        async {
            Ok(answered
                .await
                .expect("the test dropped a call without a response"))
        }
        .boxed()
    }
}

impl Front {
    pub async fn send(&self, request: http::request::Builder) -> Client {
        let answer = self.0.clone().oneshot(request.body(()).unwrap());
        let (parts, body) = soon(answer).await.unwrap().into_parts();
        Client {
            status: parts.status.as_u16(),
            stream: parts.extensions.get().copied(),
            headers: parts.headers,
            body,
            read: String::new(),
        }
    }

    /// Sends a request and answers it with an event stream.
    pub async fn open(
        &self,
        origin: &mut Origin,
        request: http::request::Builder,
    ) -> (Client, Feed) {
        let stream = async { origin.next().await.stream() };
        tokio::join!(self.send(request), stream)
    }
}

impl Origin {
    pub async fn next(&mut self) -> Call {
        soon(self.0.recv()).await.unwrap()
    }

    /// The next call, or `None` if none arrives within some hours. Needs a paused clock.
    pub async fn next_within_hours(&mut self) -> Option<Call> {
        let hours = std::time::Duration::from_secs(10_000);
        tokio::time::timeout(hours, self.0.recv()).await.ok()?
    }

    /// Lets all ready tasks run, and returns whether no call has arrived.
    pub async fn is_idle(&mut self) -> bool {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        self.0.try_recv().is_err()
    }
}

impl Call {
    pub fn header(&self, name: &str) -> Option<&str> {
        let value = self.request.headers().get(name)?;
        Some(value.to_str().unwrap())
    }

    pub fn answer(self, response: Response<FedBody>) {
        let _ = self.answer.send(response);
    }

    /// Answers with this status, an empty body and no content type.
    pub fn status(self, status: StatusCode) {
        let (_, body) = FedBody::new(1);
        let mut response = Response::new(body);
        *response.status_mut() = status;
        self.answer(response);
    }

    /// Waits until the layer drops the call.
    pub async fn canceled(&mut self) {
        soon(self.answer.closed()).await;
    }

    /// Answers with an event stream and returns the sender of its body.
    pub fn stream(self) -> Feed {
        let (feed, body) = FedBody::new(256);
        self.answer(event_stream(body));
        Feed(Some(feed))
    }
}

impl Feed {
    pub async fn send(&mut self, text: impl Into<Bytes>) {
        let feed = self.0.as_mut().expect("open");
        soon(feed.send_data(text.into()))
            .await
            .expect("the layer dropped the body");
    }

    /// Sends one event for each number: the id is `up-<number>`, the data is the number.
    pub async fn events(&mut self, ids: std::ops::Range<u32>) {
        for id in ids {
            self.send(format!("id: up-{id}\ndata: {id}\n\n")).await;
        }
    }

    /// Lets all ready tasks run, and returns whether the layer has dropped the body.
    pub async fn is_dropped(&mut self) -> bool {
        for _ in 0..50 {
            tokio::task::yield_now().await;
            let nothing = self.0.as_mut().expect("open").send_data(Bytes::new());
            if nothing.await.is_err() {
                return true;
            }
        }
        false
    }

    /// Ends the body cleanly.
    pub fn end(&mut self) {
        self.0 = None;
    }

    /// Ends the body cleanly, with these trailers.
    pub async fn end_with(&mut self, trailers: HeaderMap) {
        let mut feed = self.0.take().expect("open");
        soon(feed.send_trailers(trailers))
            .await
            .expect("the layer dropped the body");
    }

    /// Ends the body with an error.
    pub fn cut(&mut self) {
        self.0
            .take()
            .expect("open")
            .abort("the network is down".into());
    }
}

impl Client {
    /// Reads the next event and returns its bytes as text.
    pub async fn event(&mut self) -> String {
        loop {
            if let Some(end) = self.read.find("\n\n") {
                let rest = self.read.split_off(end + 2);
                return std::mem::replace(&mut self.read, rest);
            }
            let frame = soon(self.body.frame())
                .await
                .expect("body ended")
                .expect("body failed");
            let data = frame.into_data().unwrap();
            self.read += std::str::from_utf8(&data).unwrap();
        }
    }

    /// Reads `number` events. Returns the data of each and the id of the last.
    pub async fn events(&mut self, number: usize) -> (Vec<String>, String) {
        let (mut data, mut id) = (Vec::new(), String::new());
        for _ in 0..number {
            let event = self.event().await;
            data.push(field(&event, "data").expect("event has no data field"));
            id = field(&event, "id").expect("event has no id field");
        }
        (data, id)
    }

    /// As [`rest`](Self::rest), for a paused clock: waits up to a day, through all reconnect attempts of the layer.
    pub async fn rest_on_paused_clock(self) -> (String, Option<ErrorKind>) {
        let day = std::time::Duration::from_secs(86_400);
        let rest = tokio::time::timeout(day, super::rest(self.body));
        let (rest, ended) = rest.await.expect("body did not end within a day");
        (self.read + &rest, ended)
    }

    /// Reads the rest of a body that ends cleanly. Returns its trailers.
    pub async fn trailers(self) -> Option<HeaderMap> {
        let collected = soon(self.body.collect()).await.expect("body failed");
        collected.trailers().cloned()
    }

    /// Reads the rest of the body. Returns the text and the error kind, if the body failed.
    pub async fn rest(self) -> (String, Option<ErrorKind>) {
        let (rest, ended) = soon(super::rest(self.body)).await;
        (self.read + &rest, ended)
    }
}

/// The value of an event's field. Panics if the field is repeated.
pub fn field(event: &str, name: &str) -> Option<String> {
    let mut values = event
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let value = values.next()?.to_owned();
    assert_eq!(values.next(), None, "field {name} is repeated");
    Some(value)
}

/// The data of all events in `text`.
pub fn data(text: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("data: "));
    lines.map(str::to_owned).collect()
}

/// A layer that records streams with the default settings.
pub fn recording_layer() -> SseProxyLayer {
    layer_with(Replay::default())
}

/// A layer that records streams and asks the upstream for a continuation after a clean end.
pub fn continuing_layer() -> SseProxyLayer {
    layer_with(Replay::default().continue_after_end(true))
}

/// A layer that records streams with these settings.
pub fn layer_with(replay: Replay) -> SseProxyLayer {
    SseProxyLayer::default().replay(replay)
}

/// A layer that records streams with this retention.
pub fn layer_with_retention(retention: Retention) -> SseProxyLayer {
    layer_with(Replay::default().retention(retention))
}

pub fn get(path: &str) -> http::request::Builder {
    Request::get(path)
}

/// The request of a client that resumes after the event with this id.
pub fn after(id: &str) -> http::request::Builder {
    get("/").header("last-event-id", id)
}

/// The numbers as text, as [`Feed::events`] sends them in `data`.
pub fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

/// Lets all ready tasks run.
pub async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}
