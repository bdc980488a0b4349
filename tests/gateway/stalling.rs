//! The gateway's patience with streams of HTTP/2 whose client takes nothing. Without sockets, so that time can be virtual.

use std::convert::Infallible;

use crate::stall::{StallLimit, WatchedBody};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{
    BodyExt, Empty,
    channel::{Channel, Sender},
};
use hyper::{
    body::Incoming, client::conn::http2 as client, server::conn::http2 as server,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::duplex,
    sync::mpsc,
    time::{Duration, Instant, sleep, timeout},
};

const LIMIT: Duration = Duration::from_secs(30);
const WINDOW: u32 = 64 << 10;

/// A client and a server on one connection, of which the server's streams are fed by hand.
struct Connection {
    client: client::SendRequest<Empty<Bytes>>,
    asked: mpsc::UnboundedReceiver<Sender<Bytes>>,
}

impl Connection {
    async fn open() -> Self {
        let (near, far) = duplex(1 << 20);
        let (asks, asked) = mpsc::unbounded_channel();
        let service = service_fn(move |_: Request<Incoming>| {
            let (feed, body) = Channel::<Bytes, Infallible>::new(1);
            asks.send(feed).unwrap();
            async { Ok::<_, Infallible>(Response::new(WatchedBody::new(body))) }
        });
        tokio::spawn(
            server::Builder::new(StallLimit(LIMIT)).serve_connection(TokioIo::new(far), service),
        );
        let (client, connection) = client::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(64 * WINDOW)
            .handshake(TokioIo::new(near))
            .await
            .unwrap();
        tokio::spawn(connection);
        Self { client, asked }
    }

    async fn stream(&mut self) -> (Sender<Bytes>, Incoming) {
        let answer = self.client.send_request(Request::new(Empty::new())).await;
        (
            self.asked.recv().await.unwrap(),
            answer.unwrap().into_body(),
        )
    }
}

/// Sends for as long as the stream lives.
async fn feed(mut stream: Sender<Bytes>) {
    let chunk = Bytes::from(vec![b'x'; 16 * WINDOW as usize]);
    while stream.send_data(chunk.clone()).await.is_ok() {}
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_client_takes_nothing_is_reset_and_its_sibling_is_not() {
    let mut connection = Connection::open().await;
    let (stalled, shut) = connection.stream().await;
    let (mut lively, mut open) = connection.stream().await;
    let begun = Instant::now();
    timeout(4 * LIMIT, feed(stalled)).await.unwrap();
    assert_eq!(begun.elapsed(), LIMIT);
    assert!(shut.collect().await.is_err());

    lively.send_data("data: 1\n\n".into()).await.unwrap();
    let frame = open.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "data: 1\n\n");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_a_little_now_and_then_is_not_dropped_nor_is_a_silent_stream() {
    let mut connection = Connection::open().await;
    let (mut silent, mut waits) = connection.stream().await;
    silent.send_data("data: 1\n\n".into()).await.unwrap();
    waits.frame().await.unwrap().unwrap();
    let (fed, mut slow) = connection.stream().await;
    let feeding = tokio::spawn(feed(fed));
    for _ in 0..80 {
        slow.frame().await.unwrap().unwrap();
        // A client makes its window wider once it has taken half of it.
        sleep(LIMIT / 8).await;
    }
    assert!(!feeding.is_finished());
    silent.send_data("data: 2\n\n".into()).await.unwrap();
    let frame = waits.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "data: 2\n\n");
}
