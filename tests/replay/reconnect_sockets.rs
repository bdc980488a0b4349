//! Reconnect between real sockets, with HTTP/1.1 and HTTP/2.

use std::{net::SocketAddr, time::Duration};

use crate::support::{
    Ended, Exchange, Protocol, Read, Upstream, data, fetch, forward, serve, sse_chunked,
};
use bytes::Bytes;
use futures_util::future::join_all;
use http::Request;
use http_body_util::{BodyExt, combinators::BoxBody};
use hyper::body::Incoming;
use tokio::time::interval;
use tower::{Layer, ServiceExt};
use tower_sse_proxy::{
    SseProxyLayer,
    reconnect::{Backoff, Reconnect},
    replay::Replay,
};

/// Number of broken connections. Each costs at least the 100 ms between two attempts.
const CUTS: usize = 20;

/// The answer of the upstream to a request with `Last-Event-ID`.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// Continues after that event.
    Resume,
    /// Ignores the header and starts with the first event.
    Restart,
}

fn layer() -> SseProxyLayer<Reconnect> {
    let backoff = Backoff::default().initial(Duration::from_millis(5));
    SseProxyLayer::default().reconnect(backoff)
}

async fn proxied(layer: SseProxyLayer<Reconnect>, upstream: SocketAddr) -> SocketAddr {
    let service = layer.layer(forward::<BoxBody<Bytes, hyper::Error>>(upstream));
    serve(service.map_request(|request: Request<Incoming>| request.map(BodyExt::boxed))).await
}

fn get() -> Request<Bytes> {
    Request::get("/").body(Bytes::new()).unwrap()
}

/// Sends the events from `from`, those from `at_once` on at 250 a second. Breaks the connection inside event `until`.
async fn feed(mut exchange: Exchange, from: usize, until: usize, at_once: usize) {
    exchange.write(sse_chunked()).await;
    let mut pace = interval(Duration::from_millis(4));
    for number in from..until {
        if number >= at_once {
            pace.tick().await;
        }
        let event = format!("id: {number}\ndata: {number}\n\n");
        exchange.chunk(event).await;
    }
    exchange.chunk(format!("id: {until}\ndata: {until}")).await;
    match until % 2 {
        0 => exchange.wire.reset(),
        _ => drop(exchange),
    }
}

/// The number of the event after the `Last-Event-ID` of the request.
fn next_of(exchange: &Exchange) -> usize {
    let head = exchange.head.to_ascii_lowercase();
    let mut lines = head.lines();
    let last = lines.find_map(|line| line.strip_prefix("last-event-id: "));
    last.map_or(0, |last| last.parse::<usize>().unwrap() + 1)
}

/// Breaks the upstream connection `CUTS` times, and checks that the client sees one stream.
async fn broken_often(protocol: Protocol, answers: Answer, layer: SseProxyLayer<Reconnect>) {
    let seed = fastrand::u64(..);
    println!("{protocol:?}, {answers:?}: seed {seed}");
    let mut chance = fastrand::Rng::with_seed(seed);
    let spans: Vec<_> = (0..=CUTS).map(|_| chance.usize(1..=6)).collect();
    let events = spans.iter().sum::<usize>();
    let mut upstream = Upstream::start().await;
    let proxy = proxied(layer, upstream.address).await;
    let client = tokio::spawn(async move {
        let mut answer = fetch(protocol, proxy, get()).await;
        let mut all = String::new();
        loop {
            match answer.read().await {
                Read::Data(data) => all += std::str::from_utf8(&data).unwrap(),
                Read::Over(ended) => return (all, ended),
            }
        }
    });
    let mut sent = 0_usize;
    for span in spans {
        let exchange = upstream.next().await;
        let next = next_of(&exchange);
        // Events that were still in transit when the connection was reset were lost.
        assert!(next <= sent, "seed {seed}: {next} after {sent}");
        let from = match answers {
            Answer::Resume => next,
            Answer::Restart => 0,
        };
        feed(exchange, from, sent + span, sent).await;
        sent += span;
    }
    let mut exchange = upstream.next().await;
    let from = match answers {
        Answer::Resume => next_of(&exchange),
        Answer::Restart => 0,
    };
    exchange.write(sse_chunked()).await;
    for number in from..events {
        let event = format!("id: {number}\ndata: {number}\n\n");
        exchange.chunk(event).await;
    }
    exchange.chunk("data: [DONE]\n\n").await;
    exchange.write("0\r\n\r\n").await;
    let (all, ended) = client.await.unwrap();
    assert!(ended.is_clean());
    let mut expected: Vec<_> = (0..events).map(|number| number.to_string()).collect();
    expected.push("[DONE]".into());
    let wrong = data(&all)
        .into_iter()
        .zip(&expected)
        .find(|(seen, expected)| seen != *expected);
    assert_eq!(wrong, None, "seed {seed}");
    assert_eq!(data(&all).len(), expected.len(), "seed {seed}");
    assert_eq!(upstream.requests(), CUTS + 2);
}

#[tokio::test]
async fn r40_upstream_that_resumes_after_each_break_is_one_stream() {
    let recorded = layer().replay(Replay::default());
    tokio::join!(
        broken_often(Protocol::Http1, Answer::Resume, layer()),
        broken_often(Protocol::Http2, Answer::Resume, layer()),
        broken_often(Protocol::Http1, Answer::Resume, recorded),
    );
}

#[tokio::test]
async fn r40_upstream_that_restarts_after_each_break_is_one_stream() {
    let recorded = layer().replay(Replay::default());
    tokio::join!(
        broken_often(Protocol::Http1, Answer::Restart, layer()),
        broken_often(Protocol::Http2, Answer::Restart, layer()),
        broken_often(Protocol::Http1, Answer::Restart, recorded),
    );
}

#[tokio::test]
async fn upstream_without_ids_cuts_the_client_at_each_break() {
    // The layer waits before each cut, so ten clients run concurrently.
    let ten = async |protocol| {
        let mut upstream = Upstream::start().await;
        let proxy = proxied(layer(), upstream.address).await;
        for number in 0..CUTS / 10 {
            let fetching = tokio::spawn(fetch(protocol, proxy, get()));
            let mut exchange = upstream.next().await;
            exchange.write(sse_chunked()).await;
            exchange
                .chunk(format!("data: {number}\n\ndata: half"))
                .await;
            exchange.wire.finish().await;
            let mut answer = fetching.await.unwrap();
            let mut all = Vec::new();
            let ended = loop {
                match answer.read().await {
                    Read::Data(data) => all.extend_from_slice(&data),
                    Read::Over(ended) => break ended,
                }
            };
            assert_eq!(ended, Ended::Cut);
            assert_eq!(all, format!("data: {number}\n\n").as_bytes());
        }
        let requests = upstream.requests();
        assert_eq!(requests, CUTS / 10, "a request was repeated");
    };
    let protocols = [Protocol::Http1, Protocol::Http2].into_iter().cycle();
    join_all(protocols.take(10).map(ten)).await;
}
