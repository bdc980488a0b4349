//! A service that a test answers for, request by request, with bodies that it feeds.

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

pub type Fed = Channel<Bytes, BoxError>;

/// The layer around an [`Origin`].
#[derive(Clone)]
pub struct Front(BoxCloneSyncService<Request<()>, Response<SseBody<Fed>>, Infallible>);

/// What comes through to the service.
pub struct Origin(mpsc::UnboundedReceiver<Call>);

/// A request that waits for its answer.
#[derive(Debug)]
pub struct Call {
    pub request: Request<()>,
    answer: oneshot::Sender<Response<Fed>>,
}

/// A stream that a test feeds.
#[derive(Debug)]
pub struct Feed(Option<Sender<Bytes, BoxError>>);

/// A client in the middle of an answer.
pub struct Client {
    pub status: u16,
    pub headers: HeaderMap,
    /// The recorded stream that the response extensions name.
    pub stream: Option<StreamId>,
    body: SseBody<Fed>,
    read: String,
}

pub fn staged<R>(layer: &SseProxyLayer<R>) -> (Front, Origin)
where
    R: ReconnectPolicy<Asked, ()> + Clone + Send + Sync + 'static,
{
    let (calls, origin) = mpsc::unbounded_channel();
    let service = Asked(calls);
    let layered = layer.layer(service);
    let front = Front(BoxCloneSyncService::new(layered));
    (front, Origin(origin))
}

/// The service that the test answers for.
#[derive(Clone)]
pub struct Asked(mpsc::UnboundedSender<Call>);

impl Service<Request<()>> for Asked {
    type Response = Response<Fed>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Fed>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        let (answer, answered) = oneshot::channel();
        let _ = self.0.send(Call { request, answer });
        async { Ok(answered.await.expect("a call is answered")) }.boxed()
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

    /// Sends a request that the origin answers with a stream.
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

    /// The next call, if there is one within some hours.
    pub async fn maybe(&mut self) -> Option<Call> {
        let hours = std::time::Duration::from_secs(10_000);
        tokio::time::timeout(hours, self.0.recv()).await.ok()?
    }

    /// Lets everything run that can: nobody has asked.
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

    pub fn answer(self, response: Response<Fed>) {
        let _ = self.answer.send(response);
    }

    /// Answers with nothing else, and what is no stream.
    pub fn status(self, status: StatusCode) {
        let (_, body) = Fed::new(1);
        let mut response = Response::new(body);
        *response.status_mut() = status;
        self.answer(response);
    }

    /// Waits until nobody waits for the answer.
    pub async fn is_given_up(&mut self) {
        soon(self.answer.closed()).await;
    }

    pub fn stream(self) -> Feed {
        let (feed, body) = Fed::new(256);
        self.answer(event_stream(body));
        Feed(Some(feed))
    }
}

impl Feed {
    pub async fn send(&mut self, text: impl Into<Bytes>) {
        let feed = self.0.as_mut().expect("open");
        soon(feed.send_data(text.into()))
            .await
            .expect("somebody reads");
    }

    /// Events with this upstream's ids.
    pub async fn events(&mut self, ids: std::ops::Range<u32>) {
        for id in ids {
            self.send(format!("id: up-{id}\ndata: {id}\n\n")).await;
        }
    }

    /// Whether the other side is there no more, once everything has run that can.
    pub async fn is_let_go(&mut self) -> bool {
        for _ in 0..50 {
            tokio::task::yield_now().await;
            let nothing = self.0.as_mut().expect("open").send_data(Bytes::new());
            if nothing.await.is_err() {
                return true;
            }
        }
        false
    }

    pub fn end(&mut self) {
        self.0 = None;
    }

    pub fn cut(&mut self) {
        self.0
            .take()
            .expect("open")
            .abort("the network is down".into());
    }
}

impl Client {
    /// The next event, as it stands on the wire.
    pub async fn event(&mut self) -> String {
        loop {
            if let Some(end) = self.read.find("\n\n") {
                let rest = self.read.split_off(end + 2);
                return std::mem::replace(&mut self.read, rest);
            }
            let frame = soon(self.body.frame())
                .await
                .expect("more")
                .expect("no cut");
            let data = frame.into_data().unwrap();
            self.read += std::str::from_utf8(&data).unwrap();
        }
    }

    /// The data of so many events, and the id of the last.
    pub async fn events(&mut self, number: usize) -> (Vec<String>, String) {
        let (mut data, mut id) = (Vec::new(), String::new());
        for _ in 0..number {
            let event = self.event().await;
            data.push(field(&event, "data").expect("data"));
            id = field(&event, "id").expect("an id");
        }
        (data, id)
    }

    /// As [`rest`](Self::rest), on a paused clock, however many attempts of the layer's it takes.
    pub async fn rest_after_all(self) -> (String, Option<ErrorKind>) {
        let day = std::time::Duration::from_secs(86_400);
        let rest = tokio::time::timeout(day, super::rest(self.body));
        let (rest, ended) = rest.await.expect("it ends");
        (self.read + &rest, ended)
    }

    /// All that is still to come, and why it broke off if it did.
    pub async fn rest(self) -> (String, Option<ErrorKind>) {
        let (rest, ended) = soon(super::rest(self.body)).await;
        (self.read + &rest, ended)
    }
}

/// The value of a field that an event has once.
pub fn field(event: &str, name: &str) -> Option<String> {
    let mut values = event
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let value = values.next()?.to_owned();
    assert_eq!(values.next(), None, "{name} is there twice");
    Some(value)
}

/// The data of all events in this text.
pub fn data(text: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("data: "));
    lines.map(str::to_owned).collect()
}

/// A layer that keeps streams.
pub fn kept() -> SseProxyLayer {
    with(Replay::default())
}

/// A layer that keeps streams and asks the upstream again after a clean end.
pub fn continuing() -> SseProxyLayer {
    with(Replay::default().continue_after_end(true))
}

/// A layer that keeps streams by these rules.
pub fn with(replay: Replay) -> SseProxyLayer {
    SseProxyLayer::default().replay(replay)
}

/// A layer that keeps no more of a stream than this.
pub fn bounded(bounds: Retention) -> SseProxyLayer {
    with(Replay::default().retention(bounds))
}

pub fn get(path: &str) -> http::request::Builder {
    Request::get(path)
}

/// The request of a client that has this event.
pub fn after(id: &str) -> http::request::Builder {
    get("/").header("last-event-id", id)
}

pub fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

/// Lets everything run that can.
pub async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}
