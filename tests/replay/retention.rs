//! The retention of a stream, and of all streams of a layer together.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use crate::support::{
    Client, FedBody, Origin, field,
    origin::{after, get, layer_with, recording_layer, settle},
    staged,
};
use http::{HeaderName, Request, Response};
use tower_sse_proxy::{
    ErrorKind,
    replay::{Replay, Retention},
    session::SessionMapping,
};

#[tokio::test(start_paused = true)]
async fn max_replay_bytes_limits_all_streams_together() {
    let layer = recording_layer()
        .max_replay_bytes(20_000)
        .max_replay_bytes_per_owner(20_000);
    let (front, mut origin) = staged(&layer);
    let mut streams = Vec::new();
    for _ in 0..10 {
        let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
        let mut first = String::new();
        for number in 0..5 {
            feed.send(format!("data: {number} {}\n\n", "x".repeat(1000)))
                .await;
            let (_, id) = client.events(1).await;
            if number == 0 {
                first = id;
            }
        }
        streams.push((first, client, feed));
    }
    settle().await;
    let mut complete = Vec::new();
    for (first, ..) in &streams {
        let mut again: Client = front.send(after(first)).await;
        let event = again.event().await;
        complete.push(field(&event, "event").is_none());
    }
    // There is room for 15 events, and each stream has five. Streams with clients are not evicted for newer ones.
    assert!(
        complete[..3].iter().all(|&complete| complete),
        "{complete:?}"
    );
    assert!(!complete[3..].contains(&true), "{complete:?}");
}

#[tokio::test(start_paused = true)]
async fn stream_is_known_until_its_last_event_expires() {
    let replay = Replay::default().retention(Retention::default().age(Duration::from_secs(60)));
    let (front, mut origin) = staged(&layer_with(replay));
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.send("data: 0\n\ndata: 1\n\ndata: [DONE]\n\n").await;
    feed.end();
    let (_, id) = client.events(1).await;
    drop(client);
    tokio::time::advance(Duration::from_secs(59)).await;
    settle().await;
    assert_eq!(front.send(after(&id)).await.events(1).await.0, ["1"]);
    tokio::time::advance(Duration::from_secs(2)).await;
    settle().await;
    assert!(
        front
            .send(after(&id))
            .await
            .rest()
            .await
            .0
            .contains("unknown")
    );
    assert!(format!("{:?}", front.send(after(&id)).await.headers).contains("event-stream"));
}

#[tokio::test(start_paused = true)]
async fn end_of_a_session_ends_its_streams() {
    let sessions =
        SessionMapping::header(HeaderName::from_static("x-session")).end_on_delete_or_404();
    let (front, mut origin) = staged(&recording_layer().sessions(sessions));
    let (mut client, mut feed) = tokio::join!(front.send(get("/")), async {
        let call = origin.next().await;
        let (feed, body) = FedBody::new(16);
        let mut response = crate::support::event_stream(body);
        response
            .headers_mut()
            .insert("x-session", "up".parse().unwrap());
        call.answer(response);
        feed
    });
    feed.send_data("data: 0\n\n".into()).await.unwrap();
    let session = client.headers["x-session"].to_str().unwrap().to_owned();
    client.events(1).await;
    let delete = Request::delete("/").header("x-session", session);
    let (answer, ()) = tokio::join!(front.send(delete), async {
        let (_, body) = FedBody::new(1);
        origin.next().await.answer(Response::new(body));
    });
    assert_eq!(answer.status, 200);
    assert_eq!(client.rest().await.1, Some(ErrorKind::Aborted));
    assert!(feed.send_data("data: 1\n\n".into()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn streams_of_an_ended_session_take_no_bytes_from_other_streams() {
    let sessions =
        SessionMapping::header(HeaderName::from_static("x-session")).end_on_delete_or_404();
    let layer = recording_layer()
        .sessions(sessions)
        .max_replay_bytes(90_000)
        .max_replay_bytes_per_owner(90_000);
    let (front, mut origin) = staged(&layer);
    let open_in_session = async |origin: &mut Origin| {
        let (mut client, mut feed) = tokio::join!(front.send(get("/")), async {
            let call = origin.next().await;
            let (feed, body) = FedBody::new(16);
            let mut response = crate::support::event_stream(body);
            response
                .headers_mut()
                .insert("x-session", "up".parse().unwrap());
            call.answer(response);
            feed
        });
        let text = format!("data: 0\n\ndata: {}\n\n", "x".repeat(20_000));
        feed.send_data(text.into()).await.unwrap();
        let session = client.headers["x-session"].to_str().unwrap().to_owned();
        let id = client.events(1).await.1;
        client.events(1).await;
        (session, id, feed)
    };
    for _ in 0..5 {
        let (session, _, feed) = open_in_session(&mut origin).await;
        drop(feed);
        settle().await;
        let delete = Request::delete("/").header("x-session", session);
        tokio::join!(front.send(delete), async {
            let (_, body) = FedBody::new(1);
            origin.next().await.answer(Response::new(body));
        });
        settle().await;
    }
    let (session, id, _feed) = open_in_session(&mut origin).await;
    settle().await;
    let request = after(&id).header("x-session", session);
    let (seen, _) = front.send(request).await.events(1).await;
    assert_eq!(seen[0].len(), 20_000);
}

#[tokio::test(start_paused = true)]
async fn connected_streams_without_room_retain_no_read_events() {
    let (front, mut origin) = staged(
        &recording_layer()
            .max_replay_bytes(25_000)
            .max_replay_bytes_per_owner(25_000),
    );
    let mut streams = Vec::new();
    for _ in 0..10 {
        let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
        feed.send("data: 0\n\n").await;
        let (_, first) = client.events(1).await;
        feed.send(format!("data: {}\n\n", "x".repeat(10_000))).await;
        client.events(1).await;
        streams.push((first, client, feed));
    }
    let mut complete = Vec::new();
    for (first, ..) in &streams {
        let event = front.send(after(first)).await.event().await;
        complete.push(field(&event, "event").is_none());
    }
    // There is room for the two oldest. The last stream is complete, because nothing was written after its client had read.
    let last = complete.pop();
    assert_eq!(
        (complete.iter().position(|complete| !complete), last),
        (Some(2), Some(true))
    );
    assert!(!complete[2..].contains(&true), "{complete:?}");
}

#[tokio::test(start_paused = true)]
async fn many_small_ended_streams_stay_within_max_replay_bytes() {
    let (front, mut origin) = staged(
        &recording_layer()
            .max_replay_bytes(100_000)
            .max_replay_bytes_per_owner(100_000),
    );
    let mut ids = Vec::new();
    for _ in 0..200 {
        let (mut client, mut feed) = front.open(&mut origin, Request::post("/")).await;
        feed.send("data: 0\n\ndata: [DONE]\n\n").await;
        feed.end();
        ids.push(client.events(1).await.1);
        client.rest().await;
    }
    let mut known = Vec::new();
    for id in &ids {
        let again = Request::post("/").header("last-event-id", id);
        known.push(front.send(again).await.status == 200);
    }
    let number = known.iter().filter(|known| **known).count();
    // An ended stream counts about 2.4 kB, even if it has sent little.
    assert!((30..50).contains(&number), "{number}");
    assert!(known.is_sorted(), "the oldest streams are evicted first");
}

#[tokio::test(start_paused = true)]
async fn stream_without_any_retained_event_is_unknown() {
    let (front, mut origin) = staged(&recording_layer().max_replay_bytes(10_000));
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.send("data: 0\n\ndata: 1\n\ndata: [DONE]\n\n").await;
    feed.end();
    let (_, id) = client.events(1).await;
    client.rest().await;
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.send(format!("data: {}\n\n", "x".repeat(10_000))).await;
    client.events(1).await;
    settle().await;
    // With a gap event that does not reset the id, the client would resume with the same id again.
    let answer = front.send(after(&id)).await.rest().await.0;
    assert!(
        answer.contains("id: \n") && answer.contains("unknown"),
        "{answer}"
    );
}

#[tokio::test(start_paused = true)]
async fn task_of_an_empty_stream_is_idle_above_max_replay_bytes() {
    let polls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&polls);
    let replay = Replay::default().executor(move |mut task| {
        let counted = Arc::clone(&counted);
        tokio::spawn(poll_fn(move |cx| {
            counted.fetch_add(1, Ordering::Relaxed);
            task.as_mut().poll(cx)
        }));
    });
    let (front, mut origin) = staged(&layer_with(replay).max_replay_bytes(0));
    let (_idle, _silent) = front.open(&mut origin, get("/")).await;
    let (_client, mut feed) = front.open(&mut origin, get("/")).await;
    // The unread event stays in the log, which exceeds the limit of 0 bytes.
    feed.events(0..1).await;
    settle().await;
    let before = polls.load(Ordering::Relaxed);
    settle().await;
    assert_eq!(polls.load(Ordering::Relaxed), before);
}

#[tokio::test(start_paused = true)]
async fn resume_of_an_evicted_stream_whose_task_has_not_run_yet_is_forwarded() {
    let is_held = Arc::new(AtomicBool::new(false));
    let spawned = AtomicUsize::new(0);
    let held = Arc::clone(&is_held);
    let replay = Replay::default().executor(move |mut task| {
        let is_first = spawned.fetch_add(1, Ordering::Relaxed) == 0;
        let held = Arc::clone(&held);
        tokio::spawn(poll_fn(move |cx| {
            if is_first && held.load(Ordering::Relaxed) {
                return Poll::Pending;
            }
            task.as_mut().poll(cx)
        }));
    });
    let layer = layer_with(replay)
        .max_replay_bytes(20_000)
        .max_replay_bytes_per_owner(20_000);
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..1).await;
    let (_, id) = client.events(1).await;
    feed.cut();
    client.rest().await;
    settle().await;
    let before = layer.retained_bytes();
    // The task does not run any more, so that the stream stays in the registry after its eviction.
    is_held.store(true, Ordering::Relaxed);
    let (_unread, mut feed) = front.open(&mut origin, get("/")).await;
    let large = format!("data: {}\n\n", "x".repeat(18_000));
    feed.send(large.clone()).await;
    settle().await;
    let other = layer.retained_bytes();
    assert!(
        other < before + large.len(),
        "the first stream was not evicted: {other} bytes, {before} before"
    );

    let (again, feed) = tokio::join!(front.send(after(&id)), async {
        let call = origin.next_within_hours().await?;
        assert_eq!(call.header("last-event-id"), Some("up-0"));
        Some(call.stream())
    });
    assert_eq!(again.status, 200);
    let (mut again, mut feed) = (again, feed.expect("the request was forwarded"));
    feed.events(1..2).await;
    assert_eq!(again.events(1).await.0, ["1"], "no event is missing");
}
