//! How a recorded stream ends, and what its clients see.

use std::time::Duration;

use crate::support::{
    close, data,
    origin::{after, continuing_layer, get, layer_with, numbers, recording_layer, settle},
    recorded, staged,
};
use http::Request;
use tower_sse_proxy::{
    ErrorKind, Event,
    intercept::Verdict,
    observe::StreamOutcome,
    replay::{EventId, Replay},
};

#[tokio::test(start_paused = true)]
async fn comments_after_the_last_event_do_not_cause_endless_resumes() {
    let (number, done) = ("id: up-0\ndata: 0\n\n", "data: [DONE]\n\n");
    for (last, rest, done) in [
        (number, "", false),
        (number, "data: half", false),
        (done, "", true),
        (done, "data: half", true),
    ] {
        let (front, mut origin) = staged(&continuing_layer());
        let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
        feed.send(last).await;
        feed.send(format!(": bye\nretry: 10\n{rest}")).await;
        feed.end();
        let (_, id) = client.events(1).await;
        assert_eq!(client.rest().await.0, format!(": bye\nretry: 10\n{rest}"));
        if done {
            assert_eq!(front.send(after(&id)).await.status, 204);
            continue;
        }
        let (again, call) = tokio::join!(front.send(after(&id)), async {
            let call = origin.next().await;
            assert_eq!(call.header("last-event-id"), Some("up-0"));
            call.stream()
        });
        let mut feed = call;
        feed.send("id: up-1\ndata: 1\n\n").await;
        feed.end();
        let text = again.rest().await.0;
        assert_eq!(data(&text), ["1"]);
        assert_eq!(
            text.starts_with(": bye\nretry: 10\nid: "),
            rest.is_empty(),
            "{text}"
        );
    }
}

/// By default, the upstream is not asked to continue after a clean end.
#[tokio::test(start_paused = true)]
async fn clean_end_of_a_stream_with_ids_is_final() {
    let (layer, records) = recorded(recording_layer());
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..2).await;
    let (_, id) = client.events(2).await;
    feed.end();
    assert_eq!(client.rest().await.1, None);
    assert_eq!(records.only().await.outcome, StreamOutcome::Completed);
    assert_eq!(front.send(after(&id)).await.status, 204);
    assert!(origin.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn broken_stream_is_cut_for_all_clients_and_continues_only_with_ids() {
    for (ids, continues) in [(true, true), (false, false)] {
        let (front, mut origin) = staged(&recording_layer());
        let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
        if ids {
            feed.events(0..2).await;
        } else {
            feed.send("data: 0\n\ndata: 1\n\n").await;
        }
        let (_, id) = client.events(1).await;
        feed.cut();
        let (rest, cut) = client.rest().await;
        assert_eq!(
            (data(&rest), cut),
            (numbers(1..2), Some(ErrorKind::Upstream))
        );
        let mut again = front.send(after(&id)).await;
        let (_, last) = again.events(1).await;
        assert_eq!(again.rest().await.1, Some(ErrorKind::Upstream));
        if continues {
            let (mut again, mut feed) = front.open(&mut origin, after(&last)).await;
            feed.events(2..3).await;
            assert_eq!(again.events(1).await.0, ["2"]);
        } else {
            let answer = front.send(after(&last)).await;
            assert!(answer.rest().await.0.contains(r#"{"reason":"failed"}"#));
            assert!(origin.is_idle().await);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn stream_with_terminal_event_is_complete_when_its_upstream_is_dropped() {
    for (detach, bytes) in [(true, 1 << 20), (false, 1 << 20), (true, 5)] {
        let replay = Replay::default()
            .detach_when(move |_, _| detach)
            .max_detached_bytes(bytes);
        let (front, mut origin) = staged(&layer_with(replay));
        let (mut client, mut feed) = front.open(&mut origin, Request::post("/")).await;
        feed.send("data: 0\n\ndata: [DONE]\n\n").await;
        let (_, id) = client.events(1).await;
        let (_, last) = client.events(1).await;
        // After the terminal event, clients of such APIs disconnect; this upstream keeps the connection open.
        drop(client);
        settle().await;
        if bytes == 5 {
            feed.send("data: more\n\n").await;
        } else {
            tokio::time::advance(Duration::from_secs(61)).await;
        }
        assert!(feed.is_dropped().await);
        let post = |id: &str| Request::post("/").header("last-event-id", id);
        let (text, cut) = front.send(post(&id)).await.rest().await;
        assert_eq!((&*data(&text)[0], cut), ("[DONE]", None));
        if bytes == 5 {
            continue;
        }
        let empty = (String::new(), None);
        assert_eq!(front.send(post(&last)).await.rest().await, empty);
        assert_eq!(front.send(after(&last)).await.status, 204);
        assert!(origin.is_idle().await);
    }
}

#[tokio::test(start_paused = true)]
async fn stream_can_be_closed_by_its_id() {
    let layer = recording_layer();
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..2).await;
    let (_, id) = client.events(1).await;
    let stream = id.parse::<EventId>().unwrap().stream();
    assert!(close(&layer, stream));
    assert!(feed.is_dropped().await);
    assert_eq!(client.rest().await.1, Some(ErrorKind::Aborted));
    assert_eq!(front.send(after(&id)).await.status, 204);
    assert!(!close(&layer, stream));
}

#[tokio::test(start_paused = true)]
async fn complete_when_sets_the_terminal_event() {
    let replay = Replay::default().continue_after_end(true);
    let replay = replay.complete_when(|event| event.event_type() == "bye");
    let (front, mut origin) = staged(&layer_with(replay));
    for (last, status) in [("event: bye\n", 204), ("", 200)] {
        let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
        feed.send(format!("{last}id: up-0\ndata: 0\n\n")).await;
        feed.end();
        let (_, id) = client.events(1).await;
        client.rest().await;
        let upstream = async {
            if status == 200 {
                origin.next().await.stream();
            }
        };
        let (again, ()) = tokio::join!(front.send(after(&id)), upstream);
        assert_eq!(again.status, status);
    }
    assert!(origin.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn unfinished_event_does_not_complete_a_stream_that_can_continue() {
    let replay = Replay::default().complete_when(|event| event.data().starts_with("bye"));
    let (front, mut origin) = staged(&layer_with(replay));
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..1).await;
    feed.send("id: up-1\ndata: bye, and than").await;
    feed.end();
    let (_, id) = client.events(1).await;
    client.rest().await;
    let (mut again, mut feed) = front.open(&mut origin, after(&id)).await;
    feed.send("id: up-1\ndata: bye, and thanks\n\n").await;
    assert_eq!(again.events(1).await.0, ["bye, and thanks"]);
}

#[tokio::test(start_paused = true)]
async fn stream_ended_by_an_interceptor_is_complete_for_resuming_clients() {
    let layer = recording_layer().intercept(|event: Event| match &*event.data() {
        "1" => Verdict::End(vec![event.into()]),
        _ => event.into(),
    });
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..3).await;
    let (_, id) = client.events(2).await;
    assert_eq!(client.rest().await, (String::new(), None));
    assert_eq!(front.send(after(&id)).await.status, 204);
    let post = Request::post("/").header("last-event-id", &id);
    assert_eq!(front.send(post).await.rest().await, (String::new(), None));
    assert!(
        origin.is_idle().await,
        "no request for the events after the end"
    );
}

#[tokio::test(start_paused = true)]
async fn broken_connection_after_the_terminal_event_is_a_complete_stream() {
    let (front, mut origin) = staged(&recording_layer());
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..1).await;
    feed.send("data: [DONE]\n\n").await;
    let (_, id) = client.events(2).await;
    feed.cut();
    assert_eq!(client.rest().await, (String::new(), None));
    assert_eq!(front.send(after(&id)).await.status, 204);
    let post = Request::post("/").header("last-event-id", &id);
    assert_eq!(front.send(post).await.rest().await, (String::new(), None));
    assert!(origin.is_idle().await);
}
