//! Draining: no new streams, and an orderly end of those that are open.

use std::{collections::BTreeSet, io, net::SocketAddr, time::Duration};

use axum::{
    Router,
    response::sse::{self, Sse},
    routing,
};
use bytes::Bytes;
use futures_util::StreamExt;
use http::Request;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, sync::oneshot, time::Instant};
use tower::{Layer, ServiceExt};
use tower_sse_proxy::{ErrorKind, SseProxyLayer, observe::StreamOutcome, replay::Replay};

use crate::support::{
    BOTH, Upstream, fetch, field, forward,
    origin::{get, settle},
    recorded, soon, sse_chunked, staged,
};

const LIMIT: Duration = Duration::from_secs(20);

/// The number of streams that are drained together.
const STREAMS: usize = 100;

fn asking(path: &str) -> http::request::Builder {
    get(path).header("accept", "text/event-stream")
}

fn resumable() -> SseProxyLayer {
    SseProxyLayer::default().replay(Replay::default())
}

#[tokio::test(start_paused = true)]
async fn drain_of_a_layer_without_streams_is_over_at_once_and_refuses_new_ones() {
    for layer in [SseProxyLayer::default(), resumable()] {
        let (layer, records) = recorded(layer);
        let streams = layer.streams();
        let (front, mut origin) = staged(&layer);
        let start = Instant::now();
        streams.drain(LIMIT).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        let refused = front.send(asking("/")).await;
        assert_eq!(refused.status, 503);
        assert!(refused.headers.contains_key("retry-after"));
        assert!(origin.is_idle().await);
        assert_eq!(records.only().await.outcome, StreamOutcome::Rejected);
        // Also with limits that the clock cannot reach.
        streams.drain(Duration::MAX).await;
    }
}

#[tokio::test(start_paused = true)]
async fn stream_that_ends_within_the_limit_ends_by_itself() {
    for layer in [SseProxyLayer::default(), resumable()] {
        let (layer, records) = recorded(layer);
        let streams = layer.streams();
        let (front, mut origin) = staged(&layer);
        let (client, mut feed) = front.open(&mut origin, get("/")).await;
        let drained = tokio::spawn(streams.drain(LIMIT));
        tokio::time::sleep(LIMIT / 2).await;
        feed.send("data: 1\n\n").await;
        feed.end();
        let (text, failed) = client.rest().await;
        assert!(text.contains("data: 1"));
        assert_eq!(failed, None);
        let start = Instant::now();
        drained.await.unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!(records.only().await.outcome, StreamOutcome::Completed);
    }
}

#[tokio::test(start_paused = true)]
async fn r52_stream_that_runs_on_is_cut_between_two_events_within_the_limit() {
    for layer in [SseProxyLayer::default(), resumable()] {
        let (layer, records) = recorded(layer);
        let streams = layer.streams();
        let (front, mut origin) = staged(&layer);
        let mut open = Vec::new();
        let start = Instant::now();
        for _ in 0..STREAMS {
            let (client, mut feed) = front.open(&mut origin, get("/")).await;
            feed.send("data: 1\n\ndata: half").await;
            let rest = async move { (client.rest_on_paused_clock().await, start.elapsed()) };
            open.push((tokio::spawn(rest), feed));
        }
        settle().await;
        streams.drain(LIMIT).await;
        let took = start.elapsed();
        assert!(took > LIMIT / 2 && took <= LIMIT, "{took:?}");
        let (mut hints, mut returns) = (BTreeSet::new(), Vec::new());
        for (client, mut feed) in open {
            let ((text, failed), at) = client.await.unwrap();
            assert_eq!(failed, Some(ErrorKind::Aborted));
            assert!(feed.is_dropped().await);
            assert!(text.contains("data: 1\n\n") && text.ends_with("\n\n"));
            assert!(!text.contains("half"), "{text}");
            let retry = field(&text, "retry");
            assert_eq!(
                retry.is_some(),
                text.contains("id: "),
                "only resumable streams"
            );
            let hint = retry.map(|retry| retry.parse::<u64>().unwrap());
            hints.extend(hint);
            returns.push(at + Duration::from_millis(hint.unwrap_or_default()));
        }
        if let (Some(first), Some(last)) = (hints.first(), hints.last()) {
            assert!(
                *first >= 500 && *last <= 5000 && last - first > 2250,
                "{hints:?}"
            );
        }
        // The clients reconnect one by one. Without `retry` hints, only the ends of their streams would be spread.
        returns.sort();
        let within = Duration::from_millis(200);
        let most = (0..STREAMS).map(|first| {
            let together = returns[first..].iter();
            together
                .take_while(|at| **at <= returns[first] + within)
                .count()
        });
        let most = most.max().unwrap();
        assert!(
            most <= STREAMS / 4,
            "{most} clients within {within:?}: {returns:?}"
        );
        assert_eq!(records.outcomes().await, [StreamOutcome::Drained; STREAMS]);
        assert_eq!(streams.count(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn second_drain_with_a_shorter_limit_ends_at_once() {
    for layer in [SseProxyLayer::default(), resumable()] {
        let (layer, records) = recorded(layer);
        let streams = layer.streams();
        let (front, mut origin) = staged(&layer);
        let (client, _feed) = front.open(&mut origin, get("/")).await;
        let reading = tokio::spawn(client.rest_on_paused_clock());
        let start = Instant::now();
        let first = tokio::spawn(streams.drain(LIMIT));
        settle().await;
        streams.drain(Duration::ZERO).await;
        first.await.unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!(records.only().await.outcome, StreamOutcome::Drained);
        assert_eq!(reading.await.unwrap().1, Some(ErrorKind::Aborted));
    }
}

#[tokio::test(start_paused = true)]
async fn detached_streams_do_not_hold_up_the_drain() {
    let (layer, records) = recorded(resumable());
    let streams = layer.streams();
    let (front, mut origin) = staged(&layer);
    let (client, mut feed) = front.open(&mut origin, get("/")).await;
    drop(client);
    settle().await;
    let start = Instant::now();
    streams.drain(LIMIT).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert!(feed.is_dropped().await);
    assert_eq!(records.only().await.outcome, StreamOutcome::Drained);
}

#[tokio::test(start_paused = true)]
async fn dropped_drain_still_refuses_new_streams() {
    let layer = SseProxyLayer::default();
    let streams = layer.streams();
    let (front, _origin) = staged(&layer);
    drop(streams.drain(LIMIT));
    assert_eq!(front.send(asking("/")).await.status, 503);
}

/// Serves the layer in front of `upstream` by hyper, until the receiver fires, and then shuts down gracefully.
async fn hyper_server(
    layer: SseProxyLayer,
    upstream: SocketAddr,
    mut stop: oneshot::Receiver<()>,
) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = layer.layer(forward(upstream)).map_err(io::Error::other);
    let server = tokio::spawn(async move {
        let graceful = GracefulShutdown::new();
        let builder = auto::Builder::new(TokioExecutor::new());
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let (socket, _) = accepted.unwrap();
                    let service = TowerToHyperService::new(service.clone());
                    let connection = builder.serve_connection(TokioIo::new(socket), service);
                    tokio::spawn(graceful.watch(connection.into_owned()));
                }
                _ = &mut stop => break,
            }
        }
        graceful.shutdown().await;
    });
    (address, server)
}

#[tokio::test]
async fn drain_lets_the_graceful_shutdown_of_hyper_finish() {
    for layer in [SseProxyLayer::default, resumable] {
        for protocol in BOTH {
            // Clones of a layer are drained together.
            let (layer, records) = recorded(layer());
            let streams = layer.streams();
            let mut upstream = Upstream::start().await;
            let (stop, stopped) = oneshot::channel();
            let (address, server) = hyper_server(layer, upstream.address, stopped).await;
            let serve = async {
                let mut exchange = upstream.next().await;
                exchange.write(sse_chunked()).await;
                exchange.chunk("data: 1\n\n").await;
                exchange
            };
            let request = asking("/").body(Bytes::new()).unwrap();
            let (mut answer, exchange) = tokio::join!(fetch(protocol, address, request), serve);
            answer.until("data: 1").await;
            let drained = tokio::spawn(streams.drain(Duration::from_millis(100)));
            stop.send(()).unwrap();
            let (rest, ended) = answer.rest().await;
            assert!(!ended.is_clean());
            let rest = String::from_utf8(rest.to_vec()).unwrap();
            assert!(rest.is_empty() || rest.ends_with("\n\n"), "{rest:?}");
            soon(drained).await.unwrap();
            soon(server).await.unwrap();
            exchange.closed().await;
            assert_eq!(records.next().await.outcome, StreamOutcome::Drained);
        }
    }
}

#[tokio::test]
async fn drain_lets_the_graceful_shutdown_of_axum_finish() {
    for protocol in BOTH {
        let (layer, records) = recorded(SseProxyLayer::default());
        let streams = layer.streams();
        let events = async || {
            let events = futures_util::stream::iter([1])
                .map(|number| Ok::<_, io::Error>(sse::Event::default().data(number.to_string())));
            Sse::new(events.chain(futures_util::stream::pending()))
        };
        let app = Router::new().route("/", routing::get(events)).layer(layer);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            axum::serve(listener, app)
                .with_graceful_shutdown(stopped)
                .await
        });
        let request = Request::get("/").body(Bytes::new()).unwrap();
        let mut answer = fetch(protocol, address, request).await;
        answer.until("data: 1").await;
        stop.send(()).unwrap();
        let drained = tokio::spawn(streams.drain(Duration::from_millis(100)));
        assert!(!answer.rest().await.1.is_clean());
        soon(drained).await.unwrap();
        soon(server).await.unwrap().unwrap();
        assert_eq!(records.next().await.outcome, StreamOutcome::Drained);
    }
}
