//! Operators list and close streams, also those of a client that takes nothing.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tower_sse_proxy::{
    ErrorKind, SseProxyLayer, Watchdog,
    observe::{StreamOutcome, WatchdogKind},
    replay::Replay,
    streams::{CloseReason, Select},
};

use crate::support::{
    Script, Step, Upstream, connect, event_stream,
    origin::{get, settle},
    pass, proxy, recorded, respond, sse_chunked, staged,
};

fn layers() -> [SseProxyLayer; 2] {
    [
        SseProxyLayer::default(),
        SseProxyLayer::default().replay(Replay::default()),
    ]
}

/// Sends a request on a connection on which the client takes nothing but the head.
async fn http1_client_that_reads_nothing(proxy: SocketAddr) -> impl Sized {
    let mut wire = connect(proxy).await;
    wire.write("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    wire
}

async fn http2_client_with_a_zero_window(proxy: SocketAddr) -> impl Sized {
    let socket = TcpStream::connect(proxy).await.unwrap();
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(0)
        .handshake(TokioIo::new(socket))
        .await
        .unwrap();
    let task = tokio::spawn(connection);
    let request = Request::get("http://test/").body(Empty::<Bytes>::new());
    let response = sender.send_request(request.unwrap());
    (sender, task, tokio::spawn(response))
}

#[tokio::test]
async fn close_reaches_a_stream_whose_client_takes_nothing() {
    for layer in layers() {
        for is_http2 in [false, true] {
            let (layer, records) = recorded(layer.clone());
            let streams = layer.streams();
            let mut upstream = Upstream::start().await;
            let proxy = proxy(layer, upstream.address).await;
            let client: Box<dyn std::any::Any + Send> = if is_http2 {
                Box::new(http2_client_with_a_zero_window(proxy).await)
            } else {
                Box::new(http1_client_that_reads_nothing(proxy).await)
            };
            let mut exchange = upstream.next().await;
            exchange.write(sse_chunked()).await;
            // Until all buffers on the way are full.
            let block = format!("data: {}\n\n", "x".repeat(60_000));
            while tokio::time::timeout(Duration::from_millis(300), exchange.chunk(&block))
                .await
                .is_ok()
            {}
            assert_eq!(streams.close(Select::All, CloseReason::Revoked), 1);
            exchange.closed().await;
            assert_eq!(records.next().await.outcome, StreamOutcome::Revoked);
            assert_eq!(streams.count(), 0);
            drop(client);
        }
    }
}

/// The upstream has ended, and the client has yet to take the last bytes: the stream is open until then.
#[tokio::test(start_paused = true)]
async fn stream_whose_client_does_not_take_the_end_can_be_ended() {
    let limit = Duration::from_secs(30);
    for way in ["close", "drain", "watchdog", "client"] {
        let watchdog = Watchdog::default().write_stall(limit);
        let (layer, records) = recorded(SseProxyLayer::default().watchdog(watchdog));
        let streams = layer.streams();
        let script = Script::of(["data: 1\n\n"]);
        let taken = script.taken();
        let mut body = pass(&layer, script).await;
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "data: 1\n\n");
        assert!(taken.is_dropped(), "the upstream has ended");
        assert!(records.take().await.is_empty(), "{way}");
        assert_eq!(streams.count(), 1, "{way}");
        let outcome = match way {
            "close" => {
                assert_eq!(streams.close(Select::All, CloseReason::Cancelled), 1);
                StreamOutcome::Cancelled
            }
            "drain" => {
                streams.drain(Duration::from_secs(1)).await;
                StreamOutcome::Drained
            }
            "watchdog" => {
                tokio::time::sleep(limit + Duration::from_secs(1)).await;
                assert_eq!(records.fired(), [WatchdogKind::Write]);
                StreamOutcome::Stalled
            }
            _ => {
                assert!(body.frame().await.is_none());
                assert_eq!(records.only().await.outcome, StreamOutcome::Completed);
                continue;
            }
        };
        assert_eq!(records.only().await.outcome, outcome);
        assert_eq!(streams.count(), 0);
        let error = body.frame().await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Aborted);
        drop(body);
        assert!(records.take().await.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn all_streams_of_an_owner_are_revoked_and_no_others() {
    for layer in layers() {
        let (layer, records) = recorded(layer);
        let streams = layer.streams();
        let (front, mut origin) = staged(&layer);
        let request = |owner: &str| get("/").header("authorization", owner);
        let mut open = Vec::new();
        for _ in 0..1000 {
            open.push(front.open(&mut origin, request("alice")).await);
        }
        let (_other, mut other) = front.open(&mut origin, request("bob")).await;
        assert_eq!(streams.count(), 1001);
        let alice = streams.list();
        let bob = alice.iter().filter(|stream| {
            let same = alice.iter().filter(|other| other.owner == stream.owner);
            same.count() == 1
        });
        let bob = bob.map(|stream| stream.owner).next().unwrap();
        let alice = alice.iter().find(|stream| stream.owner != bob).unwrap();
        assert_eq!(streams.close(alice.owner, CloseReason::Revoked), 1000);
        settle().await;
        for (_client, feed) in &mut open {
            assert!(feed.is_dropped().await);
        }
        let outcomes = records.outcomes().await;
        assert_eq!(outcomes, [StreamOutcome::Revoked; 1000]);
        assert!(!other.is_dropped().await);
        assert_eq!(streams.list()[0].owner, bob);
        assert_eq!(streams.count(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn list_shows_what_is_open() {
    for (layer, is_recorded) in layers().into_iter().zip([false, true]) {
        let layer = layer.route("/a");
        let streams = layer.streams();
        let (front, mut origin) = staged(&layer);
        let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
        feed.send("data: 1\n\n").await;
        let event = client.event().await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let list = streams.list();
        let [stream] = &list[..] else {
            panic!("{list:?}");
        };
        assert_eq!(Some(stream.id), client.stream);
        assert_eq!(stream.route.as_deref(), Some("/a"));
        assert_eq!((stream.clients, stream.is_recorded), (1, is_recorded));
        assert_eq!(stream.age, Duration::from_secs(3));
        assert_eq!(stream.idle, Duration::from_secs(3));
        assert_eq!((stream.events, stream.bytes), (1, event.len() as u64));
        drop(client);
        settle().await;
        assert_eq!(streams.count(), usize::from(is_recorded));
        assert!(streams.list().iter().all(|stream| stream.is_detached()));
    }
}

/// The client of a stream that was closed may hold its connection: its place is free all the same.
#[tokio::test(start_paused = true)]
async fn closed_stream_frees_its_place_at_once() {
    for layer in layers() {
        let layer = layer.max_streams(1);
        let streams = layer.streams();
        let (front, mut origin) = staged(&layer);
        for _ in 0..3 {
            let (client, _feed) = front.open(&mut origin, get("/")).await;
            assert_eq!(client.status, 200);
            assert_eq!(streams.close(Select::All, CloseReason::Cancelled), 1);
            settle().await;
            let (again, _feed) = front.open(&mut origin, get("/")).await;
            assert_eq!(again.status, 200);
            drop((client, again));
            streams.close(Select::All, CloseReason::Cancelled);
            settle().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn head_request_needs_no_place_and_has_no_record() {
    for layer in layers() {
        let (layer, records) = recorded(layer.max_streams(0));
        let script = Script::new([Step::Never]);
        let request = Request::head("/").header("accept", "text/event-stream");
        let response = respond(&layer, request.body(()).unwrap(), event_stream(script)).await;
        assert_eq!(response.status(), 200);
        drop(response);
        assert!(records.take().await.is_empty());
    }
}
