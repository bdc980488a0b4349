//! Clients that disconnect, and clients that stay connected and do not read.

use std::{future::pending, sync::Mutex};

use crate::support::{BOTH, Note, Upstream, get, proxy, soon, sse_chunked, witnessed_layer};
use tokio::sync::oneshot;
use tower_sse_proxy::{Event, intercept::Verdict};

#[tokio::test]
async fn r30_disconnect_ends_interceptors_and_closes_the_upstream() {
    for protocol in BOTH {
        for (events, allowed) in [("", ""), ("data: 1\n\n", "data: 1\n\n"), ("data: half", "")] {
            let (layer, mut notes) = witnessed_layer();
            let mut upstream = Upstream::start().await;
            let proxy = proxy(layer, upstream.address).await;
            let asking = tokio::spawn(async move { get(protocol, proxy).await });
            let mut exchange = upstream.next().await;
            exchange.write(sse_chunked()).await;
            if !events.is_empty() {
                exchange.chunk(events).await;
            }
            let mut client = asking.await.unwrap();
            client.expect(allowed).await;
            let _connection = client.leave();
            exchange.closed().await;
            for notes in &mut notes {
                assert_eq!(notes.ends().await, [Note::ClientGone]);
            }
        }
    }
}

#[tokio::test]
async fn disconnect_before_the_head_closes_the_upstream() {
    for protocol in BOTH {
        let mut upstream = Upstream::start().await;
        let proxy = proxy(witnessed_layer().0, upstream.address).await;
        let asking = tokio::spawn(async move { get(protocol, proxy).await });
        let exchange = upstream.next().await;
        asking.abort();
        exchange.closed().await;
    }
}

#[tokio::test]
async fn disconnect_drops_the_future_of_a_deferred_verdict() {
    for protocol in BOTH {
        let (layer, mut notes) = witnessed_layer();
        let (start, started) = oneshot::channel();
        let (guard, dropped) = oneshot::channel::<()>();
        let tokens = Mutex::new(Some((start, guard)));
        let layer = layer.intercept(move |_: Event| {
            let (start, guard) = tokens.lock().unwrap().take().unwrap();
            Verdict::defer(async move {
                start.send(()).unwrap();
                let _guard = guard;
                pending::<Result<Event, _>>().await
            })
        });
        let mut upstream = Upstream::start().await;
        let proxy = proxy(layer, upstream.address).await;
        let asking = tokio::spawn(async move { get(protocol, proxy).await });
        let mut exchange = upstream.next().await;
        exchange.write(sse_chunked()).await;
        exchange.chunk("data: 1\n\ndata: 2\n\n").await;
        let client = asking.await.unwrap();
        soon(started).await.unwrap();
        let _connection = client.leave();
        exchange.closed().await;
        assert!(soon(dropped).await.is_err());
        for notes in &mut notes {
            assert_eq!(
                notes.until_dropped().await,
                [Note::Event("1".into()), Note::ClientGone]
            );
        }
    }
}

#[tokio::test]
async fn r34_client_that_does_not_read_stops_the_upstream() {
    const MOST: usize = 64 << 20;
    for protocol in BOTH {
        let mut upstream = Upstream::start().await;
        let proxy = proxy(witnessed_layer().0, upstream.address).await;
        let asking = tokio::spawn(get(protocol, proxy));
        let mut ticks = upstream.next().await;
        ticks.write(sse_chunked()).await;
        let mut other = asking.await.unwrap();
        let asking = tokio::spawn(get(protocol, proxy));
        let mut exchange = upstream.next().await;
        exchange.write(sse_chunked()).await;
        let mut client = asking.await.unwrap();

        let events = format!("data: {}\n\n", "x".repeat(500)).repeat(128);
        let expected = events.clone();
        let flood = exchange.flood(move |_| events.clone(), MOST);
        let (chunks, bytes) = flood
            .until_stalled(async || {
                ticks.chunk("data: tick\n\n").await;
                other.expect("data: tick\n\n").await;
            })
            .await;
        assert!(bytes < MOST, "the client reads nothing");
        // When the client reads again, it gets every event.
        for _ in 0..chunks {
            client.expect(&expected).await;
        }
    }
}
