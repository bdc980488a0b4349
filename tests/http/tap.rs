//! A tap shows an operator what passes a stream.

use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::unconstrained;
use tower_sse_proxy::{
    Event, SseProxyLayer,
    observe::{Tap, TapSide},
    replay::Replay,
    streams::{CloseReason, Select},
};

use crate::support::{
    origin::{get, settle},
    staged,
};

fn layers() -> [SseProxyLayer; 2] {
    let drop_secret = |event: Event| (event.data() != "secret").then_some(event);
    [
        SseProxyLayer::default().intercept(drop_secret),
        SseProxyLayer::default()
            .intercept(drop_secret)
            .replay(Replay::default()),
    ]
}

/// The blocks that the tap has now.
fn ready(tap: &mut Tap) -> Vec<(TapSide, String)> {
    let mut blocks = Vec::new();
    while let Some(Some(block)) = unconstrained(tap.next()).now_or_never() {
        let text = String::from_utf8(block.raw.to_vec()).unwrap();
        blocks.push((block.side, text));
    }
    blocks
}

#[tokio::test(start_paused = true)]
async fn tap_sees_both_sides_from_its_start_to_the_end_of_the_stream() {
    for layer in layers() {
        let streams = layer.streams();
        let (front, mut origin) = staged(&layer);
        let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
        feed.send("data: before\n\n").await;
        client.event().await;
        let id = client.stream.unwrap();
        let mut tap = streams.tap(id).unwrap();
        let mut second = streams.tap(id).unwrap();
        feed.send("data: 1\n\n: comment\n\ndata: secret\n\ndata: 2\n\n")
            .await;
        let mut sent = String::new();
        while !sent.contains("data: 2") {
            sent += &client.event().await;
        }
        settle().await;
        let blocks = ready(&mut tap);
        let of = |side| {
            let blocks = blocks.iter().filter(|(of, _)| *of == side);
            blocks.map(|(_, text)| &**text).collect::<String>()
        };
        let upstream = "data: 1\n\n: comment\n\ndata: secret\n\ndata: 2\n\n";
        assert_eq!(of(TapSide::Upstream), upstream);
        assert_eq!(of(TapSide::Client), sent);
        assert!(!sent.contains("secret"));
        assert_eq!(ready(&mut second), blocks);
        feed.end();
        client.rest().await;
        settle().await;
        assert!(tap.next().await.is_none());
        assert!(streams.tap(id).is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn tap_ends_with_a_stream_that_is_closed() {
    for layer in layers() {
        let streams = layer.streams();
        let (front, mut origin) = staged(&layer);
        let (client, _feed) = front.open(&mut origin, get("/")).await;
        let mut tap = streams.tap(client.stream.unwrap()).unwrap();
        assert!(tap.next().now_or_never().is_none());
        streams.close(Select::All, CloseReason::Cancelled);
        assert!(tap.next().await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn slow_tap_loses_blocks_and_leaves_the_stream_alone() {
    for layer in layers() {
        let streams = layer.streams();
        let (front, mut origin) = staged(&layer);
        let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
        let mut tap = streams.tap(client.stream.unwrap()).unwrap();
        let dropped = streams.tap(client.stream.unwrap()).unwrap();
        drop(dropped);
        let number = 2000;
        let mut seen = 0;
        for at in 0..number {
            feed.send(format!("data: {at}\n\n")).await;
            let event = client.event().await;
            assert!(event.ends_with(&format!("data: {at}\n\n")), "{event}");
        }
        settle().await;
        while let Some(Some(block)) = unconstrained(tap.next()).now_or_never() {
            assert_eq!(block.lost, 0);
            seen += 1;
        }
        assert_eq!(seen, 1024);
        feed.send("data: last\n\n").await;
        client.event().await;
        settle().await;
        let next = tap.next().await.unwrap();
        assert_eq!(next.lost, 2 * number - seen);
        assert_eq!(next.side, TapSide::Upstream);
        assert_eq!(tap.next().await.unwrap().lost, 0);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// The same bytes leave with a tap and without one, in one chunk or many.
#[tokio::test(start_paused = true)]
async fn tapped_stream_is_unchanged() {
    let text = "data: 1\r\n\r\n:c\n\nid: 7\r\rdata: 2\nx: y\n\ndata: half";
    for size in [1, 3, 1000] {
        let mut outputs = Vec::new();
        for taps in [false, true] {
            let layer = SseProxyLayer::default().intercept(|event: Event| event);
            let streams = layer.streams();
            let (front, mut origin) = staged(&layer);
            let (client, mut feed) = front.open(&mut origin, get("/")).await;
            let tap = taps.then(|| streams.tap(client.stream.unwrap()).unwrap());
            let reading = tokio::spawn(client.rest());
            for chunk in text.as_bytes().chunks(size) {
                feed.send(chunk.to_vec()).await;
                settle().await;
            }
            feed.end();
            outputs.push(reading.await.unwrap());
            drop(tap);
        }
        assert_eq!(outputs[0], outputs[1], "{size}");
        assert_eq!(outputs[0].0, text);
    }
}
