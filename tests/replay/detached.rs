//! A recorded stream continues without a client for the grace period, and no task outlives its stream.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::support::{
    Note, data,
    origin::{after, get, layer_with, numbers, settle},
    recorded, staged, witness,
};
use http::StatusCode;
use tower::BoxError;
use tower_sse_proxy::{
    ErrorKind, Event,
    intercept::Verdict,
    observe::StreamOutcome,
    replay::{Replay, Retention},
};

#[tokio::test(start_paused = true)]
async fn r33_upstream_continues_without_a_client_for_the_grace_period() {
    let (witness, mut notes) = witness();
    let replay = Replay::default().grace_period(Duration::from_secs(30));
    let (front, mut origin) = staged(&layer_with(replay).intercept(witness));
    let (client, mut feed) = front.open(&mut origin, get("/")).await;
    drop(client);
    tokio::time::advance(Duration::from_secs(29)).await;
    assert!(!feed.is_dropped().await);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(feed.is_dropped().await);
    assert_eq!(notes.ends().await, [Note::ClientGone]);
}

#[tokio::test(start_paused = true)]
async fn resuming_client_stops_the_grace_period() {
    let replay = Replay::default().grace_period(Duration::from_secs(30));
    let (front, mut origin) = staged(&layer_with(replay));
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..1).await;
    let (_, id) = client.events(1).await;
    drop(client);
    tokio::time::advance(Duration::from_secs(29)).await;
    settle().await;
    let mut again = front.send(after(&id)).await;
    tokio::time::advance(Duration::from_secs(100)).await;
    feed.events(1..2).await;
    assert_eq!(again.events(1).await.0, ["1"]);
    drop(again);
    tokio::time::advance(Duration::from_secs(29)).await;
    assert!(!feed.is_dropped().await, "the grace period starts again");
}

#[tokio::test(start_paused = true)]
async fn stream_that_may_not_detach_ends_with_its_client() {
    let replay = Replay::default().detach_when(|request, response| {
        assert_eq!(response.status, StatusCode::OK);
        request.headers.contains_key("x-paid")
    });
    let (front, mut origin) = staged(&layer_with(replay));
    let (client, mut feed) = front.open(&mut origin, get("/")).await;
    let (paid, mut paid_feed) = front
        .open(&mut origin, get("/").header("x-paid", "1"))
        .await;
    drop((client, paid));
    settle().await;
    assert!(feed.is_dropped().await);
    assert!(!paid_feed.is_dropped().await);
}

#[tokio::test(start_paused = true)]
async fn r33_upstream_is_dropped_above_max_detached_bytes() {
    let replay = Replay::default().max_detached_bytes(1000);
    let (front, mut origin) = staged(&layer_with(replay));
    let (client, mut feed) = front.open(&mut origin, get("/")).await;
    drop(client);
    for _ in 0..4 {
        feed.send(format!("data: {}\n\n", "x".repeat(200))).await;
        assert!(!feed.is_dropped().await);
    }
    feed.send(format!("data: {}\n\n", "x".repeat(200))).await;
    assert!(feed.is_dropped().await);
}

#[tokio::test(start_paused = true)]
async fn exactly_max_detached_bytes_may_be_written() {
    let replay = Replay::default()
        .preserve_upstream_ids(true)
        .max_detached_bytes(100);
    let (front, mut origin) = staged(&layer_with(replay));
    let (client, mut feed) = front.open(&mut origin, get("/")).await;
    drop(client);
    settle().await;
    let event = format!("id: 1\ndata: {}\n\n", "x".repeat(86));
    assert_eq!(event.len(), 100);
    feed.send(event).await;
    assert!(!feed.is_dropped().await);
    feed.send("data: x\n\n").await;
    assert!(feed.is_dropped().await);
}

/// The upstream has sent the terminal event, but does not end, and an interceptor never releases it.
#[tokio::test(start_paused = true)]
async fn interceptors_of_a_complete_stream_have_10_seconds_after_the_grace_period() {
    let (layer, records) = recorded(layer_with(Replay::default()).intercept(|_: Event| {
        Verdict::defer(async { std::future::pending::<Result<Verdict, BoxError>>().await })
    }));
    let (front, mut origin) = staged(&layer);
    let (client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.send("data: [DONE]\n\n").await;
    settle().await;
    drop(client);
    settle().await;
    tokio::time::sleep(Duration::from_secs(69)).await;
    assert!(records.take().await.is_empty());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(records.only().await.outcome, StreamOutcome::ClientLeft);
}

#[tokio::test(start_paused = true)]
async fn resumed_stream_releases_its_detached_slot() {
    let layer = layer_with(Replay::default()).max_detached(1);
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..1).await;
    let (_, id) = client.events(1).await;
    for _ in 0..3 {
        drop(client);
        settle().await;
        assert!(!feed.is_dropped().await);
        client = front.send(after(&id)).await;
        settle().await;
    }
    let (other, mut other_feed) = front.open(&mut origin, get("/other")).await;
    drop(other);
    settle().await;
    assert!(!other_feed.is_dropped().await);
}

#[tokio::test(start_paused = true)]
async fn resumed_stream_does_not_count_as_detached() {
    let (front, mut origin) = staged(&layer_with(Replay::default()).max_detached(2));
    let (older, mut older_feed) = front.open(&mut origin, get("/older")).await;
    drop(older);
    settle().await;
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..1).await;
    let (_, id) = client.events(1).await;
    drop(client);
    settle().await;
    let _resumed = front.send(after(&id)).await;
    settle().await;
    let (newer, mut newer_feed) = front.open(&mut origin, get("/newer")).await;
    drop(newer);
    settle().await;
    assert!(!older_feed.is_dropped().await);
    assert!(!newer_feed.is_dropped().await);
}

#[tokio::test(start_paused = true)]
async fn stream_is_cut_at_max_age() {
    let replay = Replay::default().max_age(Duration::from_secs(100));
    let (front, mut origin) = staged(&layer_with(replay));
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.send("data: a\n\n").await;
    let (_, id) = client.events(1).await;
    tokio::time::advance(Duration::from_secs(101)).await;
    assert_eq!(
        client.rest().await,
        (String::new(), Some(ErrorKind::Aborted))
    );
    let answer = front.send(after(&id)).await;
    assert!(answer.rest().await.0.contains(r#"{"reason":"failed"}"#));
}

#[tokio::test(start_paused = true)]
async fn dropped_task_cuts_its_clients() {
    let tasks = Arc::new(Mutex::new(Vec::new()));
    let spawned = Arc::clone(&tasks);
    let replay = Replay::default().executor(move |task| spawned.lock().unwrap().push(task));
    let (front, mut origin) = staged(&layer_with(replay));
    let (client, _feed) = front.open(&mut origin, get("/")).await;
    assert_eq!(tasks.lock().unwrap().drain(..).count(), 1);
    assert_eq!(
        client.rest().await,
        (String::new(), Some(ErrorKind::Aborted))
    );
}

#[tokio::test(start_paused = true)]
async fn durations_beyond_the_clock_are_no_limits() {
    let replay = Replay::default()
        .grace_period(Duration::MAX)
        .max_age(Duration::MAX)
        .retention(Retention::default().age(Duration::MAX));
    let (front, mut origin) = staged(&layer_with(replay));
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

#[tokio::test(start_paused = true)]
async fn task_ends_with_its_stream_and_log() {
    let running = Arc::new(());
    let count = Arc::clone(&running);
    let replay = Replay::default().retention(Retention::default().events(1024));
    let replay = replay.executor(move |task| {
        let running = Arc::clone(&count);
        tokio::spawn(async move {
            task.await;
            drop(running);
        });
    });
    let (front, mut origin) = staged(&layer_with(replay));
    let tasks = || Arc::strong_count(&running) - 2;
    for end in [
        "done",
        "suspended",
        "cut",
        "cut without ids",
        "client gone",
        "stalled",
    ] {
        let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
        match end {
            "cut without ids" => feed.send("data: 0\n\ndata: 1\n\n").await,
            _ => feed.events(0..2).await,
        }
        let (_, id) = client.events(1).await;
        match end {
            "done" => feed.send("data: [DONE]\n\n").await,
            "cut" | "cut without ids" => feed.cut(),
            "suspended" => feed.end(),
            "client gone" => {}
            _ => {
                let again = front.send(after(&id)).await;
                // Two clients do not read, and the upstream has more events than the log has room for.
                let feeding = tokio::spawn(async move { feed.events(2..5000).await });
                settle().await;
                assert!(!feeding.is_finished());
                drop((client, again));
                settle().await;
                assert!(feeding.is_finished());
                assert_eq!(tasks(), 1, "{end}");
                tokio::time::advance(Duration::from_secs(400)).await;
                settle().await;
                assert_eq!(tasks(), 0, "{end}");
                continue;
            }
        }
        settle().await;
        drop(client);
        settle().await;
        assert_eq!(tasks(), 1, "{end}");
        drop(feed);
        // First the grace period, then the retention age.
        for _ in 0..2 {
            tokio::time::advance(Duration::from_secs(301)).await;
            settle().await;
        }
        assert_eq!(tasks(), 0, "{end}");
    }
}
