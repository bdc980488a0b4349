//! What replay does at its bounds, and where several things happen at once.

mod support;

use std::time::Duration;

use http::Request;
use support::{data, staged};
use tower_sse_proxy::{
    SseProxyLayer,
    replay::{Bounds, Replay},
};

fn with(replay: Replay) -> SseProxyLayer {
    SseProxyLayer::default().replay(replay)
}

fn get(path: &str) -> http::request::Builder {
    Request::get(path)
}

fn after(id: &str) -> http::request::Builder {
    get("/").header("last-event-id", id)
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn times_that_no_clock_can_tell_are_no_limits() {
    let replay = Replay::default()
        .linger(Duration::MAX)
        .lifetime(Duration::MAX)
        .bounds(Bounds::default().age(Duration::MAX));
    let (front, mut origin) = staged(&with(replay));
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..2).await;
    let (_, id) = client.events(1).await;
    drop(client);
    settle().await;
    feed.events(2..3).await;
    let mut again = front.send(after(&id)).await;
    assert_eq!(again.events(2).await.0, numbers(1..3));
    feed.send("data: [DONE]\n\n").await;
    feed.end();
    assert_eq!(again.rest().await.1, None);
    tokio::time::advance(Duration::from_secs(1_000_000)).await;
    settle().await;
    let again = front.send(after(&id)).await.rest().await;
    assert_eq!(data(&again.0), ["1", "2", "[DONE]"]);
}
