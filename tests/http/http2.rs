//! HTTP/2 on both sides, over sockets: the proxy forwards all requests on one connection to the upstream, as hyper's client does.

use std::{
    collections::HashSet,
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, Request};
use http_body::Frame;
use http_body_util::{
    BodyExt, Full,
    channel::{Channel, Sender},
    combinators::BoxBody,
};
use hyper::{
    body::Incoming, client::conn::http2 as client, server::conn::http2 as server,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};
use tower::{Layer, ServiceExt};
use tower_sse_proxy::{
    Event, SseProxyLayer, observe::StreamOutcome, reconnect::Backoff, replay::Replay,
};

use crate::support::{event, event_stream, forward_http2, layer, recorded, serve, soon};

/// An upstream over HTTP/2. The test feeds the body of each response.
struct Upstream {
    address: SocketAddr,
    calls: mpsc::UnboundedReceiver<Call>,
    connections: Arc<AtomicUsize>,
    /// Connections with this number or a lower one shut down.
    shut_down: watch::Sender<usize>,
}

/// A request that has reached the upstream.
struct Call {
    path: String,
    /// The number of its connection, from 1.
    connection: usize,
    feed: Sender<Bytes, io::Error>,
}

impl Upstream {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, calls) = mpsc::unbounded_channel();
        let (shut_down, last) = watch::channel(0);
        let connections = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                socket.set_nodelay(true).unwrap();
                let connection = count.fetch_add(1, Ordering::SeqCst) + 1;
                tokio::spawn(serve_upstream(
                    socket,
                    connection,
                    sender.clone(),
                    last.clone(),
                ));
            }
        });
        Self {
            address,
            calls,
            connections,
            shut_down,
        }
    }

    async fn next(&mut self) -> Call {
        soon(self.calls.recv()).await.unwrap()
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Shuts down all open connections gracefully, as a restarting server does: sends GOAWAY, and closes each when its streams have ended.
    fn restart(&self) {
        self.shut_down.send_replace(self.connections());
    }
}

/// Serves one connection of the proxy.
async fn serve_upstream(
    socket: TcpStream,
    connection: usize,
    calls: mpsc::UnboundedSender<Call>,
    mut last: watch::Receiver<usize>,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (feed, body) = Channel::new(1);
        let calls = calls.clone();
        async move {
            let path = request.uri().path().to_owned();
            request.into_body().collect().await.unwrap();
            let _ = calls.send(Call {
                path,
                connection,
                feed,
            });
            Ok::<_, Infallible>(event_stream(body))
        }
    });
    let served =
        server::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service);
    let mut served = std::pin::pin!(served);
    tokio::select! {
        _ = served.as_mut() => return,
        _ = last.wait_for(|last| *last >= connection) => served.as_mut().graceful_shutdown(),
    }
    let _ = served.await;
}

/// Serves the layer in front of hyper's client.
async fn proxy(layer: SseProxyLayer, upstream: &Upstream) -> SocketAddr {
    serve(layer.layer(forward_http2(upstream.address))).await
}

/// A connection to the proxy.
struct Connection(client::SendRequest<Full<Bytes>>);

impl Connection {
    /// Opens a connection with this flow control window for each stream, in bytes.
    async fn open(proxy: SocketAddr, window: u32) -> Self {
        let socket = TcpStream::connect(proxy).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let (sender, connection) = client::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(window)
            .handshake(TokioIo::new(socket))
            .await
            .unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    /// Opens a stream.
    async fn get(&mut self, upstream: &mut Upstream, path: &str) -> (Incoming, Call) {
        self.send(upstream, Method::GET, path).await
    }

    async fn send(&self, upstream: &mut Upstream, method: Method, path: &str) -> (Incoming, Call) {
        let request = Request::builder().method(method);
        let request = request.uri(format!("http://test{path}"));
        let response = self
            .0
            .clone()
            .send_request(request.body(Full::default()).unwrap());
        let (response, call) = soon(async { tokio::join!(response, upstream.next()) }).await;
        assert_eq!(call.path, path);
        (response.unwrap().into_body(), call)
    }

    /// Sends requests at the same time. Returns the responses, and the calls in the order of their arrival.
    async fn post_all(
        &self,
        upstream: &mut Upstream,
        paths: &[String],
    ) -> (Vec<Incoming>, Vec<Call>) {
        let answers = join_all(paths.iter().map(|path| {
            let request = Request::post(format!("http://test{path}")).body(Full::from("call"));
            self.0.clone().send_request(request.unwrap())
        }));
        let calls = async {
            let mut calls = Vec::new();
            for _ in paths {
                calls.push(upstream.next().await);
            }
            calls
        };
        let (answers, calls) = soon(async { tokio::join!(answers, calls) }).await;
        let answers = answers
            .into_iter()
            .map(|answer| answer.unwrap().into_body());
        (answers.collect(), calls)
    }
}

/// Reads until the received bytes end with this event. The event may have an id before its data.
async fn until(body: &mut Incoming, event: &Bytes) {
    let mut read = Vec::new();
    while !read.ends_with(event) {
        let frame = soon(body.frame()).await.expect("the stream has ended");
        let data = frame.expect("the stream was cut").into_data();
        read.extend_from_slice(&data.unwrap());
    }
}

/// Waits for the clean end of a stream.
async fn expect_end(body: Incoming) {
    let rest = soon(body.collect()).await.expect("the stream was cut");
    assert!(rest.to_bytes().is_empty());
}

/// Waits until the proxy has cancelled a request.
async fn cancelled(call: &mut Call) {
    while soon(call.feed.send_data(event("unheard"))).await.is_ok() {}
}

/// Layers that handle a stream in different ways: pass it unread, pass it unread and observe it, read it, record it.
fn layers() -> [SseProxyLayer; 4] {
    [
        SseProxyLayer::default(),
        recorded(SseProxyLayer::default()).0,
        layer(|event: Event| event),
        SseProxyLayer::default().replay(Replay::default().grace_period(Duration::ZERO)),
    ]
}

/// Two streams share one connection to the client and one to the upstream. The client or the upstream resets one of them.
#[tokio::test]
async fn r55_reset_stream_ends_without_its_sibling() {
    for layer in layers() {
        for by_client in [true, false] {
            let mut upstream = Upstream::start().await;
            let proxy = proxy(layer.clone(), &upstream).await;
            let mut connection = Connection::open(proxy, 1 << 20).await;
            let (mut reset, mut reset_call) = connection.get(&mut upstream, "/reset").await;
            let (mut sibling, mut call) = connection.get(&mut upstream, "/sibling").await;
            reset_call.feed.send_data(event("1")).await.unwrap();
            call.feed.send_data(event("1")).await.unwrap();
            reset.frame().await.unwrap().unwrap();
            sibling.frame().await.unwrap().unwrap();

            if by_client {
                drop(reset);
                cancelled(&mut reset_call).await;
            } else {
                reset_call.feed.abort(io::Error::other("broken"));
                let error = soon(reset.collect()).await.unwrap_err();
                let cause = std::error::Error::source(&error).unwrap().to_string();
                assert!(cause.contains("stream error received"), "{cause}");
            }
            call.feed.send_data(event("2")).await.unwrap();
            drop(call);
            until(&mut sibling, &event("2")).await;
            expect_end(sibling).await;
            let _later = connection.get(&mut upstream, "/later").await;
            assert_eq!(upstream.connections(), 1);
        }
    }
}
/// Two streams share one connection to the client and one to the upstream. The client does not read one of them, so its flow control window
/// closes.
#[tokio::test]
async fn r56_stream_with_a_shut_window_does_not_stall_its_sibling() {
    for layer in layers() {
        let mut upstream = Upstream::start().await;
        let proxy = proxy(layer, &upstream).await;
        let mut connection = Connection::open(proxy, 1 << 16).await;
        let (mut unread, mut unread_call) = connection.get(&mut upstream, "/unread").await;
        let (mut sibling, mut call) = connection.get(&mut upstream, "/sibling").await;

        let large = event(&"x".repeat(16_000));
        let (mut sent, mut refused_in_a_row) = (0, 0);
        while refused_in_a_row < 200 {
            match unread_call.feed.try_send(Frame::data(large.clone())) {
                Ok(()) => (sent, refused_in_a_row) = (sent + 1, 0),
                Err(_) => refused_in_a_row += 1,
            }
            let number = event(&sent.to_string());
            call.feed.send_data(number.clone()).await.unwrap();
            until(&mut sibling, &number).await;
        }
        // The windows and buffers between upstream and client hold a few MiB.
        assert!((20..1000).contains(&sent), "{sent}");
        drop(unread_call);
        let mut read = 0;
        while let Some(frame) = soon(unread.frame()).await {
            read += frame.unwrap().into_data().unwrap().len();
        }
        assert!(read >= sent * large.len(), "{read}");
    }
}

/// The number of streams on the upstream connection beside the stream of the client that does not read.
const SIBLINGS: usize = 2;

/// Opens streams for clients that read, and for one client that does not, on one connection to the upstream. Sends events to the latter until
/// its stream is cut or `most` events are sent. Returns the number of sent events, or `None` if the other streams were cut, too.
async fn unread_events(layer: SseProxyLayer, event_bytes: usize, most: usize) -> Option<usize> {
    let mut upstream = Upstream::start().await;
    let proxy = proxy(layer, &upstream).await;
    let mut siblings = Vec::new();
    for _ in 0..SIBLINGS {
        let mut connection = Connection::open(proxy, 1 << 20).await;
        let stream = connection.get(&mut upstream, "/read").await;
        siblings.push((connection, stream));
    }
    let mut stalled = Connection::open(proxy, 1000).await;
    let (unread, mut call) = stalled.get(&mut upstream, "/unread").await;

    let small = event(&"x".repeat(event_bytes - event("").len()));
    let mut sent = 0;
    while sent < most && soon(call.feed.send_data(small.clone())).await.is_ok() {
        sent += 1;
        // Waits for the siblings, so that the upstream does not send faster than the proxy reads the connection.
        if sent % 200 == 0 {
            let number = event(&sent.to_string());
            for (_, (body, call)) in &mut siblings {
                if call.feed.send_data(number.clone()).await.is_err() {
                    return None;
                }
                match soon(body.frame()).await {
                    Some(Ok(frame)) => assert_eq!(frame.into_data().unwrap(), number),
                    _ => return None,
                }
            }
        }
    }
    if sent < most {
        assert!(soon(unread.collect()).await.is_err());
    }
    for (connection, (body, call)) in siblings {
        drop(call);
        soon(body.collect()).await.ok()?;
        drop(connection);
    }
    // The connection is still open.
    let mut connection = Connection::open(proxy, 1 << 20).await;
    let _later = connection.get(&mut upstream, "/later").await;
    assert_eq!(upstream.connections(), 1);
    Some(sent)
}

/// The number of unread events at which hyper's client closes a connection, as h2 0.4.20 counts them.
fn breaking(event_bytes: usize) -> usize {
    (5 << 20) / 2 / (256 - event_bytes)
}

/// Without reading ahead, hyper's client closes the connection. This test shows the failure that the layer has to prevent.
#[tokio::test]
async fn r57_unread_small_events_would_break_the_connection() {
    let layer = SseProxyLayer::default().read_ahead(0);
    let most = breaking(64) * 9 / 8;
    assert_eq!(unread_events(layer, 64, most).await, None);
}

#[tokio::test]
async fn r57_unread_small_events_leave_the_connection_alone() {
    let most = breaking(64) * 9 / 8;
    let sent = unread_events(SseProxyLayer::default(), 64, 2 * most).await;
    let sent = sent.expect("the siblings live on");
    assert!((most..2 * most).contains(&sent), "cut after {sent} events");
}

/// The layer cuts the stream long before the connection has the number of unread events that closes it.
#[tokio::test]
async fn r57_stream_of_unread_small_events_is_cut_alone() {
    for read in [layer(|event: Event| event), SseProxyLayer::default()] {
        let (layer, records) = recorded(read.read_ahead(64 << 10));
        let sent = unread_events(layer, 16, breaking(16)).await;
        let sent = sent.expect("the siblings live on");
        assert!(sent < breaking(16), "the stream was not cut");
        let records: Vec<_> = records.now().iter().map(|record| record.outcome).collect();
        assert_eq!(records[0], StreamOutcome::Stalled);
        assert_eq!(records[1..], [StreamOutcome::Completed; SIBLINGS]);
    }
}

const RESTARTS: usize = 20;

/// The upstream restarts while it has an open stream and while requests arrive: it sends GOAWAY, completes its open requests, and its
/// successor accepts new connections.
async fn restart_often(proxy: SocketAddr, mut upstream: Upstream) {
    let connection = Connection::open(proxy, 1 << 20).await;
    let mut arrived = HashSet::new();
    for restart in 0..RESTARTS {
        let path = format!("/{restart}/long");
        let (mut long, mut long_call) = connection.send(&mut upstream, Method::POST, &path).await;
        assert!(arrived.insert(path));
        long_call.feed.send_data(event("1")).await.unwrap();
        until(&mut long, &event("1")).await;

        upstream.restart();
        let mut round = 0;
        loop {
            let paths: Vec<_> = (0..8).map(|n| format!("/{restart}/{round}/{n}")).collect();
            let (answers, calls) = connection.post_all(&mut upstream, &paths).await;
            let moved = calls
                .iter()
                .all(|call| call.connection > long_call.connection);
            for mut call in calls {
                assert!(
                    arrived.insert(call.path.clone()),
                    "{} arrived twice",
                    call.path
                );
                call.feed.send_data(event("only")).await.unwrap();
            }
            for mut answer in answers {
                until(&mut answer, &event("only")).await;
                expect_end(answer).await;
            }
            if moved {
                break;
            }
            round += 1;
            assert!(round < 1000, "requests use the old connection");
        }

        long_call.feed.send_data(event("2")).await.unwrap();
        drop(long_call);
        until(&mut long, &event("2")).await;
        expect_end(long).await;
    }
    assert!(upstream.calls.try_recv().is_err(), "a request was repeated");
    assert_eq!(upstream.connections(), RESTARTS + 1);
}

#[tokio::test]
async fn r58_restarting_upstream_ends_no_stream_and_gets_no_post_twice() {
    for layer in [SseProxyLayer::default(), layer(|event: Event| event)] {
        let upstream = Upstream::start().await;
        let (layer, records) = recorded(layer);
        let proxy = proxy(layer, &upstream).await;
        restart_often(proxy, upstream).await;
        let records = records.take().await;
        assert!(records.len() >= 9 * RESTARTS);
        assert!(
            records
                .iter()
                .all(|record| record.outcome == StreamOutcome::Completed)
        );
    }
}

/// A layer that may reconnect does not repeat a `POST`, either.
#[tokio::test]
async fn r58_restarting_upstream_gets_no_post_twice_from_a_layer_that_reconnects() {
    let upstream = Upstream::start().await;
    let backoff = Backoff::default().initial(Duration::from_millis(1));
    let forward = forward_http2::<BoxBody<Bytes, hyper::Error>>(upstream.address);
    let service = SseProxyLayer::default().reconnect(backoff).layer(forward);
    let service = service.map_request(|request: Request<Incoming>| request.map(BodyExt::boxed));
    restart_often(serve(service).await, upstream).await;
}
