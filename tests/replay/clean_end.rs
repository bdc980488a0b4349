//! After a clean end, a client that resumes with all events gets none of them again, and no request goes to the upstream.

use http::{Method, Request};

use crate::support::{
    data,
    origin::{after, get, layer_with, numbers, recording_layer, settle},
    staged,
};
use tower_sse_proxy::{
    Event,
    intercept::{Interceptor, StreamEnd, StreamHead, Verdict},
    replay::{Replay, Retention, StartAt},
};

/// Streams with different ends: with or without ids, and with or without a terminal event.
const ENDINGS: [(&str, &[&str]); 9] = [
    ("no ids", &["data: 0\n\n", "data: 1\n\n"]),
    ("ids", &["id: a\ndata: 0\n\n", "id: b\ndata: 1\n\n"]),
    ("ids and retry", &["retry: 20\n\n", "id: a\ndata: 0\n\n"]),
    ("a bare id", &["data: 0\n\n", "id: a\n\n"]),
    ("a comment", &["id: a\ndata: 0\n\n", ": bye\n\n"]),
    (
        "OpenAI chat",
        &["data: {\"choices\":[]}\n\n", "data: [DONE]\n\n"],
    ),
    (
        "OpenAI responses",
        &[
            "data: {\"type\":\"response.created\"}\n\n",
            "data: {\"type\":\"response.completed\"}\n\n",
        ],
    ),
    (
        "Anthropic",
        &[
            "event: message_start\ndata: {\"type\":\"message_start\"}\n\n",
            "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
        ],
    ),
    (
        "Gemini",
        &["data: {\"candidates\":[{\"finishReason\":\"STOP\"}]}\n\n"],
    ),
];

#[tokio::test(start_paused = true)]
async fn get_gets_204_and_other_methods_get_an_empty_body() {
    for (name, blocks) in ENDINGS {
        for opened_with in [Method::GET, Method::POST, Method::PUT] {
            for present in [true, false] {
                let (front, mut origin) = staged(&recording_layer());
                let request = Request::builder().method(opened_with.clone());
                let (mut client, mut feed) = front.open(&mut origin, request).await;
                for block in blocks {
                    feed.send(*block).await;
                }
                let id = if present {
                    feed.end();
                    let (text, cut) = client.rest().await;
                    assert_eq!(cut, None);
                    let mut ids = text.lines().filter_map(|line| line.strip_prefix("id: "));
                    ids.next_back().expect("an id").to_owned()
                } else {
                    let with_ids = |block: &&&str| block.contains("data") || block.contains("id");
                    let mut id = None;
                    for _ in blocks.iter().filter(with_ids) {
                        let mut event = client.event().await;
                        while !event.contains("id: ") {
                            event = client.event().await;
                        }
                        id = crate::support::field(&event, "id");
                    }
                    drop(client);
                    settle().await;
                    feed.end();
                    settle().await;
                    id.expect("an id")
                };
                for _ in 0..3 {
                    let case = format!("{name}, {opened_with}, {present}");
                    let answer = front.send(after(&id)).await;
                    assert_eq!(answer.status, 204, "{case}");
                    assert_eq!(answer.rest().await, (String::new(), None));
                    let head = after(&id).method(Method::HEAD);
                    assert_eq!(front.send(head).await.status, 204, "{case}");
                    for method in [Method::POST, Method::PUT] {
                        let answer = front.send(after(&id).method(method)).await;
                        assert_eq!(answer.status, 200, "{case}");
                        assert_eq!(answer.headers["content-type"], "text/event-stream");
                        let (text, cut) = answer.rest().await;
                        assert_eq!((data(&text), cut), (vec![], None), "{case}");
                    }
                }
                assert!(origin.is_idle().await, "{name}, {opened_with}, {present}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn client_with_missed_events_gets_them_before_204() {
    let (front, mut origin) = staged(&recording_layer());
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..3).await;
    feed.end();
    let (_, id) = client.events(1).await;
    drop(client);
    let mut again = front.send(after(&id)).await;
    let (seen, last) = again.events(2).await;
    assert_eq!((seen, again.rest().await.1), (numbers(1..3), None));
    assert_eq!(front.send(after(&last)).await.status, 204);
    assert!(origin.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn interceptors_are_ended_before_the_client_resumes() {
    /// Holds each event until the next one, or until the end.
    #[derive(Default)]
    struct HoldLast(Option<Event>);
    impl Interceptor for HoldLast {
        fn event(&mut self, event: Event) -> Verdict {
            self.0.replace(event).into()
        }
        fn end(&mut self, _: StreamEnd<'_>) -> Verdict {
            self.0.take().into()
        }
    }
    let layer = recording_layer().intercept(|_: &StreamHead<'_>| Some(HoldLast::default()));
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..2).await;
    feed.end();
    let (seen, id) = client.events(2).await;
    assert_eq!(seen, numbers(0..2), "including the held event");
    assert_eq!(client.rest().await, (String::new(), None));
    assert_eq!(front.send(after(&id)).await.status, 204);
    assert!(origin.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn shared_stream_ends_for_all_clients() {
    for join in [StartAt::Live, StartAt::Oldest] {
        let share = |request: &http::request::Parts| Some(request.uri.path().to_owned());
        let layer = layer_with(Replay::default().share_by(share).share_from(join));
        let (front, mut origin) = staged(&layer);
        let (mut one, mut feed) = front.open(&mut origin, get("/")).await;
        let mut two = front.send(get("/")).await;
        feed.events(0..2).await;
        let ids = [one.events(2).await.1, two.events(2).await.1];
        feed.end();
        for (client, id) in [(one, &ids[0]), (two, &ids[1])] {
            assert_eq!(client.rest().await, (String::new(), None));
            assert_eq!(front.send(after(id)).await.status, 204);
        }
        assert!(origin.is_idle().await);
    }
}

#[tokio::test(start_paused = true)]
async fn evicted_end_yields_gap_event_and_then_204() {
    let replay = Replay::default().retention(Retention::default().bytes(1000));
    let (front, mut origin) = staged(&layer_with(replay));
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..2).await;
    let (_, id) = client.events(1).await;
    client.event().await;
    feed.send(format!(": {}\n\n", "x".repeat(2000))).await;
    feed.end();
    client.rest().await;
    let mut answer = front.send(after(&id)).await;
    let gap = answer.event().await;
    let id = crate::support::field(&gap, "id").expect("the gap event has an id");
    assert_eq!(front.send(after(&id)).await.status, 204);
    assert!(origin.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn broken_connection_after_terminal_event_is_a_clean_end() {
    for terminal in [
        "data: [DONE]\n\n",
        "event: message_stop\ndata: {\"type\": \"message_stop\"}\n\n",
        "data: {\"type\":\"response.completed\",\"response\":{}}\n\n",
        "data: {\"type\":\"response.incomplete\",\"response\":{}}\n\n",
        "data: {\"type\":\"response.failed\",\"response\":{}}\n\n",
    ] {
        let (front, mut origin) = staged(&recording_layer());
        let (mut client, mut feed) = front.open(&mut origin, Request::post("/")).await;
        feed.send(terminal).await;
        let (_, id) = client.events(1).await;
        feed.cut();
        assert_eq!(client.rest().await, (String::new(), None), "{terminal}");
        let post = after(&id).method(Method::POST);
        assert_eq!(front.send(post).await.rest().await, (String::new(), None));
        assert_eq!(front.send(after(&id)).await.status, 204);
        assert!(origin.is_idle().await);
    }
}

#[tokio::test(start_paused = true)]
async fn end_inside_an_event_without_ids_is_reported_as_failed() {
    let (front, mut origin) = staged(&recording_layer());
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.send("data: 0\n\ndata: half").await;
    let (_, id) = client.events(1).await;
    feed.end();
    assert_eq!(client.rest().await, ("data: half".into(), None));
    let answer = front.send(after(&id)).await.rest().await.0;
    assert!(answer.contains(r#"{"reason":"failed"}"#), "{answer}");
    assert!(origin.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn continue_after_end_makes_a_get_resume_at_the_upstream() {
    let layer = layer_with(Replay::default().continue_after_end(true));
    let (front, mut origin) = staged(&layer);
    for ids in [true, false] {
        let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
        match ids {
            true => feed.events(0..1).await,
            false => feed.send("data: 0\n\n").await,
        }
        feed.end();
        let (_, id) = client.events(1).await;
        client.rest().await;
        let (mut again, mut feed) = tokio::join!(front.send(after(&id)), async {
            let call = origin.next().await;
            assert_eq!(call.header("last-event-id"), ids.then_some("up-0"));
            call.stream()
        });
        feed.send("data: 1\n\ndata: [DONE]\n\n").await;
        feed.end();
        let (seen, last) = again.events(2).await;
        assert_eq!(seen, ["1", "[DONE]"]);
        assert_eq!(last.split('.').next() == id.split('.').next(), ids);
        assert_eq!(front.send(after(&last)).await.status, 204);
        // A `POST` is never sent to the upstream again.
        let (mut client, mut feed) = front.open(&mut origin, Request::post("/")).await;
        feed.events(0..1).await;
        feed.end();
        let (_, id) = client.events(1).await;
        client.rest().await;
        assert_eq!(front.send(after(&id)).await.status, 204);
        assert!(origin.is_idle().await);
    }
}
