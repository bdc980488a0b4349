//! The record of a recorded stream: one, however many clients read it and however many responses of the upstream it consists of.

use std::time::Duration;

use http::{Request, StatusCode};
use tower_sse_proxy::{
    ErrorKind, SseProxyLayer, Watchdog,
    observe::{EndedBy, StreamOutcome},
    replay::{Gap, Replay, Retention},
    streams::{CloseReason, Select},
};

use crate::support::{
    origin::{after, continuing_layer, get, layer_with, recording_layer, settle},
    recorded, staged,
};

fn asking(path: &str) -> http::request::Builder {
    get(path).header("accept", "text/event-stream")
}

fn shared() -> SseProxyLayer {
    layer_with(Replay::default().share_by(|request| Some(request.uri.path().to_owned())))
}

#[tokio::test(start_paused = true)]
async fn clients_of_a_shared_stream_share_its_record() {
    let (layer, records) = recorded(shared());
    let streams = layer.streams();
    let (front, mut origin) = staged(&layer);
    // A follower of the call, and a client that joins the stream.
    let call = async {
        let call = origin.next().await;
        settle().await;
        call.stream()
    };
    let (first, second, mut feed) =
        tokio::join!(front.send(asking("/")), front.send(asking("/")), call);
    let third = front.send(asking("/")).await;
    assert_eq!(streams.list()[0].clients, 3);
    feed.events(0..2).await;
    feed.end();
    let mut lengths = Vec::new();
    for client in [first, second, third] {
        let (text, failed) = client.rest().await;
        assert_eq!(failed, None);
        lengths.push(text.len() as u64);
    }
    let record = records.only().await;
    assert_eq!(records.opened(), 1);
    assert_eq!(record.outcome, StreamOutcome::Completed);
    assert_eq!((record.events_in, record.events_out), (2, 2));
    assert_eq!(lengths, [record.bytes_out; 3]);
}

#[tokio::test(start_paused = true)]
async fn leader_that_leaves_before_the_head_leaves_the_record_to_the_stream() {
    for others in [0, 2] {
        let (layer, records) = recorded(shared());
        let (front, mut origin) = staged(&layer);
        let send = || {
            let front = front.clone();
            tokio::spawn(async move { front.send(asking("/")).await })
        };
        let leader = send();
        let mut call = origin.next().await;
        let followers: Vec<_> = (0..others).map(|_| send()).collect();
        settle().await;
        leader.abort();
        settle().await;
        if others == 0 {
            call.canceled().await;
            assert!(records.take().await.is_empty());
            continue;
        }
        let mut feed = call.stream();
        feed.events(0..1).await;
        feed.end();
        for follower in followers {
            assert_eq!(follower.await.unwrap().rest().await.1, None);
        }
        assert_eq!(records.only().await.outcome, StreamOutcome::Completed);
    }
}

#[tokio::test(start_paused = true)]
async fn client_that_resumes_is_counted_and_has_no_record_of_its_own() {
    let retention = Retention::default().events(2);
    let replay = Replay::default().retention(retention);
    let (layer, records) = recorded(layer_with(replay));
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..1).await;
    let (_, old) = client.events(1).await;
    drop(client);
    let mut client = front.send(after(&old)).await;
    feed.events(1..6).await;
    client.events(5).await;
    drop(client);
    // The event after the first one was evicted.
    let client = front.send(after(&old)).await;
    feed.end();
    let (text, _) = client.rest().await;
    assert!(text.contains("event: gap"), "{text}");
    let record = records.only().await;
    assert_eq!(record.outcome, StreamOutcome::Completed);
    assert_eq!((record.resumes, record.gaps), (1, 1));
    assert_eq!(record.events_out, 6);
}

#[tokio::test(start_paused = true)]
async fn resume_that_is_answered_with_204_has_no_record_and_one_that_is_refused_is_rejected() {
    let replay = Replay::default().on_gap(Gap::Status(StatusCode::GONE));
    let (layer, records) = recorded(layer_with(replay));
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, asking("/")).await;
    feed.events(0..1).await;
    let (_, id) = client.events(1).await;
    feed.end();
    client.rest().await;
    assert_eq!(records.only().await.outcome, StreamOutcome::Completed);
    let resume = |id: &str| asking("/").header("last-event-id", id);
    assert_eq!(front.send(resume(&id)).await.status, 204);
    assert!(records.take().await.is_empty());
    let unknown = "0123456789abcdef0123456789abcdef.0.1";
    assert_eq!(front.send(resume(unknown)).await.status, 410);
    let record = records.only().await;
    assert_eq!(record.outcome, StreamOutcome::Rejected);
    assert_eq!(record.status, Some(StatusCode::GONE));
}

#[tokio::test(start_paused = true)]
async fn response_that_continues_a_stream_is_in_its_record() {
    let (layer, records) = recorded(continuing_layer());
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..1).await;
    let (_, id) = client.events(1).await;
    feed.end();
    client.rest().await;
    assert!(records.take().await.is_empty(), "a client may resume");
    let (mut client, mut feed) = front.open(&mut origin, after(&id)).await;
    feed.events(1..3).await;
    client.events(2).await;
    feed.end();
    drop(client);
    tokio::time::sleep(Duration::from_secs(120)).await;
    let record = records.only().await;
    assert_eq!(records.opened(), 1);
    assert_eq!(record.outcome, StreamOutcome::Completed);
    assert_eq!(record.events_in, 3);
}

/// No request to the upstream is open.
#[tokio::test(start_paused = true)]
async fn wait_for_a_client_that_resumes_is_not_the_silence_of_the_upstream() {
    let hour = Duration::from_secs(3600);
    let replay = Replay::default()
        .continue_after_end(true)
        .grace_period(2 * hour);
    let watchdog = Watchdog::default()
        .first_content(hour / 12)
        .content_gap(hour / 12);
    let (layer, records) = recorded(layer_with(replay).watchdog(watchdog));
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..1).await;
    let (_, id) = client.events(1).await;
    feed.end();
    client.rest().await;
    tokio::time::sleep(hour).await;
    assert_eq!(records.fired(), []);
    let (_client, mut feed) = front.open(&mut origin, after(&id)).await;
    // Now the upstream is silent.
    tokio::time::sleep(hour / 12 + Duration::from_secs(1)).await;
    assert!(feed.is_dropped().await);
    assert_eq!(records.only().await.outcome, StreamOutcome::Stalled);
}

#[tokio::test(start_paused = true)]
async fn recorded_stream_ends_when_its_upstream_is_silent() {
    let minute = Duration::from_secs(60);
    let watchdog = Watchdog::default().content_gap(minute);
    let (layer, records) = recorded(layer_with(Replay::default()).watchdog(watchdog));
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..1).await;
    client.event().await;
    let (_, failed) = client.rest_on_paused_clock().await;
    assert_eq!(failed, Some(ErrorKind::Aborted));
    let record = records.only().await;
    assert_eq!(record.outcome, StreamOutcome::Stalled);
    assert_eq!(record.duration, minute);
}

#[tokio::test(start_paused = true)]
async fn events_that_wait_for_a_reader_are_buffered() {
    let replay = Replay::default().retention(Retention::default().bytes(1000));
    let layer = layer_with(replay);
    let streams = layer.streams();
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    let event = format!("data: {}\n\n", "x".repeat(900));
    feed.send([event.as_str(); 3].concat()).await;
    settle().await;
    // The log holds the first event and has no room for the others.
    let buffered = streams.buffered_bytes();
    assert!((1800..5000).contains(&buffered), "{buffered}");
    client.events(3).await;
    settle().await;
    assert_eq!(streams.buffered_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn successor_of_a_closed_stream_has_the_same_outcome() {
    for by_id in [true, false] {
        let (layer, records) = recorded(recording_layer());
        let streams = layer.streams();
        let (front, mut origin) = staged(&layer);
        let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
        feed.events(0..1).await;
        let (_, id) = client.events(1).await;
        let old = client.stream.unwrap();
        feed.send("data: half").await;
        feed.end();
        client.rest().await;
        assert_eq!(records.only().await.outcome, StreamOutcome::Truncated);
        let (client, mut feed) = front.open(&mut origin, after(&id)).await;
        assert_ne!(client.stream.unwrap(), old);
        let select = if by_id {
            Select::Stream(old)
        } else {
            Select::Owner(streams.list()[0].owner)
        };
        streams.close(select, CloseReason::Revoked);
        assert!(feed.is_dropped().await);
        assert_eq!(client.rest().await.1, Some(ErrorKind::Aborted));
        assert_eq!(records.only().await.outcome, StreamOutcome::Revoked);
        assert_eq!(front.send(after(&id)).await.status, 204);
    }
}

#[tokio::test(start_paused = true)]
async fn close_counts_each_stream_once_whatever_the_reason() {
    for (reason, outcome) in [
        (CloseReason::Cancelled, StreamOutcome::Cancelled),
        (CloseReason::Revoked, StreamOutcome::Revoked),
        (CloseReason::Stalled, StreamOutcome::Stalled),
    ] {
        let (layer, records) = recorded(recording_layer());
        let streams = layer.streams();
        let (front, mut origin) = staged(&layer);
        let (_live, mut feed) = front.open(&mut origin, get("/1")).await;
        let (mut ended, mut other) = front.open(&mut origin, get("/2")).await;
        other.events(0..1).await;
        let (_, id) = ended.events(1).await;
        other.end();
        ended.rest().await;
        assert_eq!(records.only().await.outcome, StreamOutcome::Completed);
        assert_eq!(streams.close(Select::All, reason), 2);
        assert_eq!(streams.close(Select::All, reason), 0);
        assert!(feed.is_dropped().await);
        let record = records.only().await;
        assert_eq!(record.outcome, outcome);
        let resume = get("/2").header("last-event-id", id);
        assert_eq!(front.send(resume).await.status, 204);
        assert!(origin.is_idle().await);
    }
}

/// Limits on streams without a client end them as the grace period does.
#[tokio::test(start_paused = true)]
async fn detached_stream_that_loses_its_place_or_memory_is_left_by_its_client() {
    for limit in ["place", "bytes", "memory"] {
        let replay =
            Replay::default().max_detached_bytes(if limit == "bytes" { 1000 } else { 1 << 30 });
        let layer = layer_with(replay);
        let layer = match limit {
            "place" => layer.max_detached_per_owner(1),
            "memory" => layer.max_replay_bytes(100_000),
            _ => layer,
        };
        let (layer, records) = recorded(layer);
        let (front, mut origin) = staged(&layer);
        let (client, mut feed) = front.open(&mut origin, get("/1")).await;
        let large = format!("data: {}\n\n", "x".repeat(2000));
        drop(client);
        settle().await;
        if limit == "bytes" {
            feed.send(large.clone()).await;
        }
        let mut open = Vec::new();
        for number in 0..if limit == "bytes" { 0 } else { 60 } {
            let (mut client, mut feed) =
                front.open(&mut origin, get(&format!("/2/{number}"))).await;
            feed.send(large.clone()).await;
            client.event().await;
            if limit == "place" {
                drop(client);
                settle().await;
                break;
            }
            open.push((client, feed));
        }
        assert!(feed.is_dropped().await, "{limit}");
        let record = records.take().await.remove(0);
        assert_eq!(record.outcome, StreamOutcome::ClientLeft, "{limit}");
        assert_eq!(record.ended_by(), EndedBy::Client);
    }
}

#[tokio::test(start_paused = true)]
async fn stream_whose_task_is_dropped_is_drained() {
    let replay = Replay::default().executor(drop);
    let (layer, records) = recorded(layer_with(replay));
    let streams = layer.streams();
    let (front, mut origin) = staged(&layer);
    let (client, mut feed) = front.open(&mut origin, get("/")).await;
    assert!(feed.is_dropped().await);
    assert_eq!(records.only().await.outcome, StreamOutcome::Drained);
    assert_eq!(client.rest().await.1, Some(ErrorKind::Aborted));
    assert_eq!(streams.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn client_that_cannot_keep_up_is_counted() {
    let retention = Retention::default().events(4);
    let replay = Replay::default()
        .retention(retention)
        .share_by(|request| Some(request.uri.path().to_owned()));
    let (layer, records) = recorded(layer_with(replay));
    let (front, mut origin) = staged(&layer);
    let (mut fast, mut feed) = front.open(&mut origin, get("/")).await;
    let slow = front.send(get("/")).await;
    for number in 0..20 {
        feed.events(number..number + 1).await;
        fast.event().await;
    }
    assert_eq!(slow.rest().await.1, Some(ErrorKind::Lagged));
    feed.end();
    assert_eq!(fast.rest().await.1, None);
    let record = records.only().await;
    assert_eq!(record.outcome, StreamOutcome::Completed);
    assert_eq!(record.lagged_readers, 1);
}

#[tokio::test(start_paused = true)]
async fn stream_ends_as_expired_at_its_maximum_age() {
    let age = Duration::from_secs(100);
    let (layer, records) = recorded(layer_with(Replay::default().max_age(age)));
    let (front, mut origin) = staged(&layer);
    let (client, _feed) = front.open(&mut origin, Request::post("/")).await;
    let (_, failed) = client.rest_on_paused_clock().await;
    assert_eq!(failed, Some(ErrorKind::Aborted));
    let record = records.only().await;
    assert_eq!(record.outcome, StreamOutcome::Expired);
    assert_eq!(record.duration, age);
}
