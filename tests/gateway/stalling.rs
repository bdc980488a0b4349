//! The gateway's limit for HTTP/2 streams whose client does not read. Without sockets, so that time can be paused.

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

/// A client and a server on one connection. The test feeds the streams of the server.
struct Connection {
    client: client::SendRequest<Empty<Bytes>>,
    feeds: mpsc::UnboundedReceiver<Sender<Bytes>>,
}

impl Connection {
    async fn open() -> Self {
        let (near, far) = duplex(1 << 20);
        let (calls, feeds) = mpsc::unbounded_channel();
        let service = service_fn(move |_: Request<Incoming>| {
            let (feed, body) = Channel::<Bytes, Infallible>::new(1);
            calls.send(feed).unwrap();
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
        Self { client, feeds }
    }

    async fn stream(&mut self) -> (Sender<Bytes>, Incoming) {
        let answer = self.client.send_request(Request::new(Empty::new())).await;
        (
            self.feeds.recv().await.unwrap(),
            answer.unwrap().into_body(),
        )
    }
}

/// Sends until the stream ends.
async fn feed(mut stream: Sender<Bytes>) {
    let chunk = Bytes::from(vec![b'x'; 16 * WINDOW as usize]);
    while stream.send_data(chunk.clone()).await.is_ok() {}
}

#[tokio::test(start_paused = true)]
async fn r37_unread_stream_is_reset_without_the_other_stream_of_its_client() {
    let mut connection = Connection::open().await;
    let (stalled_feed, stalled_body) = connection.stream().await;
    let (mut live_feed, mut live_body) = connection.stream().await;
    let begun = Instant::now();
    timeout(4 * LIMIT, feed(stalled_feed)).await.unwrap();
    assert_eq!(begun.elapsed(), LIMIT);
    assert!(stalled_body.collect().await.is_err());

    live_feed.send_data("data: 1\n\n".into()).await.unwrap();
    let frame = live_body.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "data: 1\n\n");
}

#[tokio::test(start_paused = true)]
async fn slowly_read_stream_and_silent_stream_are_not_reset() {
    let mut connection = Connection::open().await;
    let (mut silent_feed, mut silent_body) = connection.stream().await;
    silent_feed.send_data("data: 1\n\n".into()).await.unwrap();
    silent_body.frame().await.unwrap().unwrap();
    let (fed, mut slow) = connection.stream().await;
    let feeding = tokio::spawn(feed(fed));
    for _ in 0..80 {
        slow.frame().await.unwrap().unwrap();
        // A client enlarges the flow control window when it has read half of it.
        sleep(LIMIT / 8).await;
    }
    assert!(!feeding.is_finished());
    silent_feed.send_data("data: 2\n\n".into()).await.unwrap();
    let frame = silent_body.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "data: 2\n\n");
}
