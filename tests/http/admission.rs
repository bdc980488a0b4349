//! Limits on the number of streams.

use std::time::Duration;

use http::StatusCode;
use tower_sse_proxy::{SseProxyLayer, observe::StreamOutcome, replay::Replay};

use crate::support::{
    Client, close,
    origin::{get, settle},
    recorded, staged,
};

fn asking(path: &str) -> http::request::Builder {
    get(path).header("accept", "text/event-stream")
}

fn shared() -> Replay {
    Replay::default().share_by(|request| Some(request.uri.path().to_owned()))
}

fn layers() -> [SseProxyLayer; 3] {
    [
        SseProxyLayer::default(),
        SseProxyLayer::default().replay(Replay::default()),
        SseProxyLayer::default().replay(shared()),
    ]
}

fn assert_refused(client: &Client) {
    assert_eq!(client.status, 503);
    let seconds: u32 = client.headers["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=10).contains(&seconds), "{seconds}");
}

#[tokio::test(start_paused = true)]
async fn request_for_a_stream_above_the_limit_is_refused_before_the_upstream_is_asked() {
    for layer in layers() {
        let (layer, records) = recorded(layer.max_streams(2));
        let streams = layer.streams();
        let (front, mut origin) = staged(&layer);
        let (first, _feed) = front.open(&mut origin, asking("/1")).await;
        let (_second, _feed2) = front.open(&mut origin, asking("/2")).await;
        let refused = front.send(asking("/3")).await;
        assert_refused(&refused);
        assert!(origin.is_idle().await);
        let record = records.only().await;
        assert_eq!(record.outcome, StreamOutcome::Rejected);
        assert_eq!(record.status, Some(StatusCode::SERVICE_UNAVAILABLE));
        assert_eq!(streams.count(), 2);
        // A request that does not ask for a stream is refused when its response is one.
        let call = async { origin.next().await.stream() };
        let (refused, mut feed) = tokio::join!(front.send(get("/4")), call);
        assert_refused(&refused);
        assert!(feed.is_dropped().await);
        assert_eq!(records.only().await.outcome, StreamOutcome::Rejected);
        let call = async { origin.next().await.status(StatusCode::OK) };
        let (other, ()) = tokio::join!(front.send(get("/5")), call);
        assert_eq!(other.status, 200);
        assert!(records.take().await.is_empty());
        drop(first);
        settle().await;
        let (third, _feed) = front.open(&mut origin, asking("/6")).await;
        assert_eq!(third.status, 200);
    }
}

#[tokio::test(start_paused = true)]
async fn each_owner_has_its_own_limit() {
    for layer in layers() {
        let layer = layer.max_streams(3).max_streams_per_owner(1);
        let (front, mut origin) = staged(&layer);
        let of = |owner: &str, path: &str| asking(path).header("authorization", owner);
        let (_alice, _feed) = front.open(&mut origin, of("alice", "/1")).await;
        assert_refused(&front.send(of("alice", "/2")).await);
        let (_bob, _feed) = front.open(&mut origin, of("bob", "/1")).await;
        let (_carol, _feed) = front.open(&mut origin, of("carol", "/1")).await;
        assert_refused(&front.send(of("dave", "/1")).await);
        assert!(origin.is_idle().await);
    }
}

#[tokio::test(start_paused = true)]
async fn detached_stream_needs_no_place_and_its_returning_client_needs_one() {
    let layer = SseProxyLayer::default()
        .replay(Replay::default())
        .max_streams(1);
    let streams = layer.streams();
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, asking("/1")).await;
    feed.events(0..1).await;
    let (_, id) = client.events(1).await;
    drop(client);
    settle().await;
    assert!(streams.list()[0].is_detached());
    let (other, _feed) = front.open(&mut origin, asking("/2")).await;
    assert_eq!(other.status, 200);
    let resume = || asking("/1").header("last-event-id", &id);
    assert_refused(&front.send(resume()).await);
    drop(other);
    settle().await;
    let again = front.send(resume()).await;
    assert_eq!(again.status, 200);
    // A second client of the same stream.
    assert_eq!(front.send(resume()).await.status, 200);
    assert_refused(&front.send(asking("/3")).await);
}

#[tokio::test(start_paused = true)]
async fn client_that_joins_a_shared_stream_needs_no_place() {
    let layer = SseProxyLayer::default().replay(shared()).max_streams(1);
    let (front, mut origin) = staged(&layer);
    // The second request waits for the call of the first one, and the third joins the stream.
    let call = async {
        let call = origin.next().await;
        settle().await;
        call.stream()
    };
    let (first, second, _feed) =
        tokio::join!(front.send(asking("/")), front.send(asking("/")), call);
    let third = front.send(asking("/")).await;
    assert_eq!((first.status, second.status, third.status), (200, 200, 200));
    assert_refused(&front.send(asking("/other")).await);
    // The first client leaves: the stream keeps its place.
    drop((first, third));
    settle().await;
    assert_refused(&front.send(asking("/other")).await);
    assert!(close(&layer, second.stream.unwrap()));
    settle().await;
    let (other, _feed) = front.open(&mut origin, asking("/other")).await;
    assert_eq!(other.status, 200);
}

/// The requests of many clients are answered on several threads: each place is given once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn shared_stream_takes_one_place_when_many_clients_ask_at_once() {
    for _ in 0..50 {
        let layer = SseProxyLayer::default().replay(shared()).max_streams(1);
        let (front, mut origin) = staged(&layer);
        let send = || {
            let front = front.clone();
            tokio::spawn(async move { front.send(asking("/")).await })
        };
        let clients: Vec<_> = (0..8).map(|_| send()).collect();
        let _feed = origin.next().await.stream();
        let mut open = Vec::new();
        for client in clients {
            let client = client.await.unwrap();
            assert_eq!(client.status, 200);
            open.push(client);
        }
        assert_refused(&front.send(asking("/other")).await);
        drop(open);
    }
}

#[tokio::test(start_paused = true)]
async fn request_that_is_dropped_before_the_head_frees_its_place() {
    for layer in layers() {
        let layer = layer.max_streams(1);
        let (front, mut origin) = staged(&layer);
        let waiting = tokio::spawn({
            let front = front.clone();
            async move { front.send(asking("/1")).await.status }
        });
        let mut call = origin.next().await;
        assert_refused(&front.send(asking("/2")).await);
        waiting.abort();
        call.canceled().await;
        settle().await;
        let (other, _feed) = front.open(&mut origin, asking("/2")).await;
        assert_eq!(other.status, 200);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
