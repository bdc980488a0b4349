//! Reconnect as it looks from outside, on both HTTP versions.

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

/// Each costs at least the 100 ms between two attempts.
const CUTS: usize = 40;

/// What an upstream does that is asked to go on.
#[derive(Clone, Copy, Debug)]
enum Does {
    /// What it is asked to.
    Resume,
    /// It does not know the header, and begins with the first event.
    BeginAgain,
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

/// Sends the events from this one on, 250 a second, and breaks off in the middle of the one after the last.
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

/// The event after the one that it is asked to go on after.
fn next_of(exchange: &Exchange) -> usize {
    let head = exchange.head.to_ascii_lowercase();
    let mut lines = head.lines();
    let last = lines.find_map(|line| line.strip_prefix("last-event-id: "));
    last.map_or(0, |last| last.parse::<usize>().unwrap() + 1)
}

/// The upstream is cut often, and its client sees one stream.
async fn cut_often(protocol: Protocol, does: Does, layer: SseProxyLayer<Reconnect>) {
    let seed = fastrand::u64(..);
    println!("{protocol:?}, {does:?}: seed {seed}");
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
        // What was still on its way when the connection was reset has not arrived.
        assert!(next <= sent, "seed {seed}: {next} after {sent}");
        let from = match does {
            Does::Resume => next,
            Does::BeginAgain => 0,
        };
        feed(exchange, from, sent + span, sent).await;
        sent += span;
    }
    let mut exchange = upstream.next().await;
    let from = match does {
        Does::Resume => next_of(&exchange),
        Does::BeginAgain => 0,
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
async fn an_upstream_that_is_cut_often_and_resumes_is_one_stream() {
    let kept = layer().replay(Replay::default());
    tokio::join!(
        cut_often(Protocol::Http1, Does::Resume, layer()),
        cut_often(Protocol::Http2, Does::Resume, layer()),
        cut_often(Protocol::Http1, Does::Resume, kept),
    );
}

#[tokio::test]
async fn an_upstream_that_is_cut_often_and_begins_again_is_one_stream() {
    let kept = layer().replay(Replay::default());
    tokio::join!(
        cut_often(Protocol::Http1, Does::BeginAgain, layer()),
        cut_often(Protocol::Http2, Does::BeginAgain, layer()),
        cut_often(Protocol::Http1, Does::BeginAgain, kept),
    );
}

#[tokio::test]
async fn an_upstream_without_ids_is_cut_for_its_client_each_time() {
    // Before a cut there is a pause, so ten at a time.
    let ten = async |protocol| {
        let mut upstream = Upstream::start().await;
        let proxy = proxied(layer(), upstream.address).await;
        for number in 0..CUTS / 10 {
            let asking = tokio::spawn(fetch(protocol, proxy, get()));
            let mut exchange = upstream.next().await;
            exchange.write(sse_chunked()).await;
            exchange
                .chunk(format!("data: {number}\n\ndata: half"))
                .await;
            exchange.wire.finish().await;
            let mut answer = asking.await.unwrap();
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
        let asked = upstream.requests();
        assert_eq!(asked, CUTS / 10, "nothing was asked for again");
    };
    let protocols = [Protocol::Http1, Protocol::Http2].into_iter().cycle();
    join_all(protocols.take(10).map(ten)).await;
}
