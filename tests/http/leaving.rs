//! Clients that leave, or stay and do not read.

use std::{future::pending, sync::Mutex};

use crate::support::{BOTH, Note, Upstream, get, proxy, soon, sse_chunked, witnessed_layer};
use tokio::{
    sync::oneshot,
    time::{Duration, timeout},
};
use tower_sse_proxy::{Event, intercept::Verdict};

#[tokio::test]
async fn a_client_that_leaves_is_an_end_too_and_lets_the_upstream_go() {
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
async fn a_client_that_leaves_before_the_head_lets_the_upstream_go() {
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
async fn a_client_that_leaves_in_the_middle_of_a_deferral_drops_the_question() {
    for protocol in BOTH {
        let (layer, mut notes) = witnessed_layer();
        let (asked, was_asked) = oneshot::channel();
        let (kept, dropped) = oneshot::channel::<()>();
        let tokens = Mutex::new(Some((asked, kept)));
        let layer = layer.intercept(move |_: Event| {
            let (asked, kept) = tokens.lock().unwrap().take().unwrap();
            Verdict::defer(async move {
                asked.send(()).unwrap();
                let _kept = kept;
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
        soon(was_asked).await.unwrap();
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
async fn nobody_who_reads_nothing_makes_the_upstream_run_on() {
    const MOST: usize = 64 << 20;
    for protocol in BOTH {
        let mut upstream = Upstream::start().await;
        let proxy = proxy(witnessed_layer().0, upstream.address).await;
        let asking = tokio::spawn(async move { get(protocol, proxy).await });
        let mut exchange = upstream.next().await;
        exchange.write(sse_chunked()).await;
        let mut client = asking.await.unwrap();

        let event = format!("data: {}\n\n", "x".repeat(500));
        let chunk = crate::support::chunk(event.repeat(128).as_bytes());
        let (mut chunks, mut writing) = (0, true);
        let held = Duration::from_millis(300);
        while writing && chunks * chunk.len() < MOST {
            writing = timeout(held, exchange.wire.try_write(&chunk)).await.is_ok();
            chunks += usize::from(writing);
        }
        assert!(!writing, "{MOST} bytes were taken, and nobody reads");
        // A reader who comes back finds the stream where it was.
        for _ in 0..chunks {
            client.expect(event.repeat(128)).await;
        }
    }
}
