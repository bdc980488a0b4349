//! One owner cannot use up the logs or the detached streams of other owners, and no log of a connected client is evicted.

use std::time::Duration;

use crate::support::{
    Client, Feed, Front, Origin, data, field,
    origin::{get, layer_with, recording_layer, settle},
    staged,
};
use tower_sse_proxy::{
    SseProxyLayer,
    replay::{Replay, Retention},
};

fn by(owner: &str) -> http::request::Builder {
    get("/").header("authorization", owner)
}

const KB: usize = 1000;

async fn send(feed: &mut Feed, bytes: usize) {
    feed.send(format!("data: {}\n\n", "x".repeat(bytes))).await;
}

/// Opens a stream and has its client read `events` events of 1 kB. Returns the first id, the client and the feed.
async fn open_and_read(
    front: &Front,
    origin: &mut Origin,
    owner: &str,
    events: usize,
) -> (String, Client, Feed) {
    let (mut client, mut feed) = front.open(origin, by(owner)).await;
    let mut first = String::new();
    for number in 0..events {
        send(&mut feed, KB).await;
        let (_, id) = client.events(1).await;
        if number == 0 {
            first = id;
        }
    }
    (first, client, feed)
}

/// Returns whether a client with this last event id resumes without a gap.
async fn resumes_without_gap(front: &Front, owner: &str, id: &str) -> bool {
    let mut resumed = front.send(by(owner).header("last-event-id", id)).await;
    field(&resumed.event().await, "event").is_none()
}

#[tokio::test(start_paused = true)]
async fn owner_that_fills_the_logs_evicts_only_its_own_events() {
    let (front, mut origin) = staged(&recording_layer().max_replay_bytes(100 * KB));
    let (first, client, _feed) = open_and_read(&front, &mut origin, "victim", 20).await;
    drop(client);
    let mut flood = Vec::new();
    for _ in 0..50 {
        let (first, client, feed) = open_and_read(&front, &mut origin, "flood", 5).await;
        drop(client);
        flood.push((first, feed));
    }
    settle().await;
    assert!(resumes_without_gap(&front, "victim", &first).await);
    let mut complete = Vec::new();
    for (first, _) in &flood {
        complete.push(resumes_without_gap(&front, "flood", first).await);
    }
    assert!(
        complete.is_sorted() && complete[49] && !complete[0],
        "the oldest streams are evicted first: {complete:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn log_of_a_connected_client_is_not_evicted_for_a_new_stream() {
    for newcomer in ["victim", "flood"] {
        let (front, mut origin) = staged(&recording_layer().max_replay_bytes(100 * KB));
        let (first, mut client, mut feed) = open_and_read(&front, &mut origin, "victim", 20).await;
        // Sent by the upstream, but not read by the client.
        for _ in 0..5 {
            send(&mut feed, KB).await;
        }
        settle().await;
        let mut flood = Vec::new();
        for _ in 0..50 {
            flood.push(open_and_read(&front, &mut origin, newcomer, 5).await);
        }
        assert_eq!(client.events(5).await.0.len(), 5, "{newcomer}");
        drop(client);
        assert!(
            resumes_without_gap(&front, "victim", &first).await,
            "{newcomer}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn connected_clients_that_do_not_read_stop_their_upstreams_and_lose_nothing() {
    let (front, mut origin) = staged(&recording_layer().max_replay_bytes(50 * KB));
    let mut streams = Vec::new();
    for _ in 0..40 {
        let (client, mut feed) = front.open(&mut origin, by("one")).await;
        for _ in 0..10 {
            send(&mut feed, KB).await;
        }
        settle().await;
        streams.push((client, feed));
    }
    // Another owner still has its share.
    let (first, other, _feed) = open_and_read(&front, &mut origin, "other", 10).await;
    drop(other);
    assert!(resumes_without_gap(&front, "other", &first).await);
    for (client, _) in &mut streams {
        let (seen, _) = client.events(10).await;
        assert!(seen.iter().all(|data| data.len() == KB));
    }
}

#[tokio::test(start_paused = true)]
async fn owner_with_connected_clients_leaves_other_owners_their_share() {
    let (front, mut origin) = staged(&recording_layer().max_replay_bytes(100 * KB));
    let mut flood = Vec::new();
    for _ in 0..50 {
        flood.push(open_and_read(&front, &mut origin, "flood", 10).await);
    }
    let (first, client, _feed) = open_and_read(&front, &mut origin, "late", 30).await;
    drop(client);
    assert!(resumes_without_gap(&front, "late", &first).await);
}

fn with_long_grace_period() -> SseProxyLayer {
    layer_with(Replay::default().grace_period(Duration::from_secs(3600)))
}

#[tokio::test(start_paused = true)]
async fn oldest_detached_stream_of_the_owner_ends_above_the_limit() {
    let layer = with_long_grace_period().max_detached_per_owner(3);
    let (front, mut origin) = staged(&layer);
    let (_connected, mut connected_feed) = front.open(&mut origin, by("one")).await;
    let mut feeds = Vec::new();
    for owner in ["other", "one", "one", "one", "one", "one"] {
        let (client, feed) = front.open(&mut origin, by(owner)).await;
        drop(client);
        settle().await;
        feeds.push(feed);
    }
    let mut ended = Vec::new();
    for feed in &mut feeds {
        ended.push(feed.is_dropped().await);
    }
    assert_eq!(ended, [false, true, true, false, false, false]);
    assert!(!connected_feed.is_dropped().await);
}

#[tokio::test(start_paused = true)]
async fn stream_resumed_and_detached_again_is_the_newest() {
    let layer = with_long_grace_period().max_detached_per_owner(2);
    let (front, mut origin) = staged(&layer);
    let mut streams = Vec::new();
    for _ in 0..2 {
        let (mut client, mut feed) = front.open(&mut origin, by("one")).await;
        feed.events(0..1).await;
        let (_, id) = client.events(1).await;
        drop(client);
        settle().await;
        streams.push((id, feed));
    }
    tokio::time::advance(Duration::from_secs(1)).await;
    let resume = by("one").header("last-event-id", &streams[0].0);
    drop(front.send(resume).await);
    settle().await;
    let (client, _feed) = front.open(&mut origin, by("one")).await;
    drop(client);
    settle().await;
    assert!(!streams[0].1.is_dropped().await);
    assert!(streams[1].1.is_dropped().await);
    // Its log can still be resumed.
    let resumed = front
        .send(by("one").header("last-event-id", &streams[0].0))
        .await;
    assert_eq!(resumed.status, 200);
}

#[tokio::test(start_paused = true)]
async fn resumed_stream_does_not_end_for_another_detached_stream() {
    let layer = with_long_grace_period().max_detached_per_owner(1);
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, by("one")).await;
    feed.events(0..1).await;
    let (_, id) = client.events(1).await;
    drop(client);
    settle().await;
    let mut resume = front.send(by("one").header("last-event-id", &id)).await;
    for _ in 0..3 {
        let (client, _feed) = front.open(&mut origin, by("one")).await;
        drop(client);
        settle().await;
    }
    feed.events(1..2).await;
    assert_eq!(resume.events(1).await.0, ["1"]);
}

#[tokio::test(start_paused = true)]
async fn full_layer_ends_the_detached_stream_of_the_newest_client() {
    let layer = with_long_grace_period()
        .max_detached(4)
        .max_detached_per_owner(3);
    let (front, mut origin) = staged(&layer);
    let mut feeds = Vec::new();
    for owner in ["a", "a", "a", "b", "b", "c"] {
        let (client, feed) = front.open(&mut origin, by(owner)).await;
        drop(client);
        settle().await;
        feeds.push(feed);
    }
    let mut ended = Vec::new();
    for feed in &mut feeds {
        ended.push(feed.is_dropped().await);
    }
    assert_eq!(ended, [false, false, false, true, false, true]);
}

#[tokio::test(start_paused = true)]
async fn ended_streams_do_not_count_as_detached() {
    let layer = with_long_grace_period().max_detached_per_owner(1);
    let (front, mut origin) = staged(&layer);
    let (client, mut feed) = front.open(&mut origin, by("one")).await;
    drop(client);
    settle().await;
    for _ in 0..3 {
        let (client, mut other) = front.open(&mut origin, by("one")).await;
        other.send("data: [DONE]\n\n").await;
        other.end();
        client.rest().await;
        settle().await;
    }
    assert!(!feed.is_dropped().await);
}

#[tokio::test(start_paused = true)]
async fn max_age_of_a_stream_is_not_extended_by_resumes() {
    let bounds = Retention::default().age(Duration::from_secs(600));
    let replay = Replay::default()
        .retention(bounds)
        .grace_period(Duration::from_secs(90))
        .max_age(Duration::from_secs(3600));
    for resume_each_minute in [true, false] {
        let (front, mut origin) = staged(&layer_with(replay.clone()));
        let (mut client, mut feed) = front.open(&mut origin, by("one")).await;
        feed.events(0..1).await;
        let mut id = client.events(1).await.1;
        let mut client = Some(client);
        for minute in 1..60 {
            if resume_each_minute {
                drop(client.take());
            }
            tokio::time::advance(Duration::from_secs(60)).await;
            feed.events(minute..minute + 1).await;
            let mut resumed = match client.take() {
                Some(client) => client,
                None => front.send(by("one").header("last-event-id", &id)).await,
            };
            let (seen, last) = resumed.events(1).await;
            assert_eq!(seen, [minute.to_string()]);
            (id, client) = (last, Some(resumed));
        }
        assert!(!feed.is_dropped().await);
        tokio::time::advance(Duration::from_secs(61)).await;
        assert!(
            feed.is_dropped().await,
            "resume each minute: {resume_each_minute}"
        );
        let (rest, _) = client.unwrap().rest().await;
        assert_eq!(data(&rest), [""; 0]);
    }
}
