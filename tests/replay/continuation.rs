//! After an early end, the layer resumes at the upstream and continues the same recorded stream with the next answer.

use crate::support::{
    Note, data,
    origin::{after, continuing_layer, get, layer_with, numbers, settle},
    staged, witness,
};
use http::{Request, StatusCode};
use tower_sse_proxy::{ErrorKind, Event, intercept::Verdict, replay::Replay};

#[tokio::test(start_paused = true)]
async fn early_end_is_continued_in_the_same_stream() {
    let (witness, mut notes) = witness();
    let (front, mut origin) = staged(&continuing_layer().intercept(witness));
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..2).await;
    feed.end();
    let (_, first) = client.events(1).await;
    let (_, id) = client.events(1).await;
    assert_eq!(client.rest().await, (String::new(), None), "a clean end");
    // The log can answer in the middle; only at its end does the layer resume at the upstream.
    let mut middle = front.send(after(&first)).await;
    assert_eq!(middle.events(1).await.0, ["1"]);
    assert_eq!(middle.rest().await, (String::new(), None));
    assert!(origin.is_idle().await);

    let (mut again, mut feed) = tokio::join!(front.send(after(&id)), async {
        let call = origin.next().await;
        assert_eq!(call.header("last-event-id"), Some("up-1"));
        call.stream()
    });
    feed.events(2..4).await;
    let (seen, last) = again.events(2).await;
    assert_eq!(seen, numbers(2..4));
    assert_eq!(
        last.split('.').next(),
        id.split('.').next(),
        "the same stream"
    );
    assert_eq!(
        front.send(after(&first)).await.events(3).await.0,
        numbers(1..4)
    );
    feed.send("data: [DONE]\n\n").await;
    feed.end();
    assert_eq!(data(&again.rest().await.0), ["[DONE]"]);
    assert_eq!(
        notes.ends().await,
        [Note::Complete],
        "the interceptors saw one stream"
    );
}

#[tokio::test(start_paused = true)]
async fn upstream_gets_its_own_id_back_unchanged() {
    let long = "7".repeat(10_000);
    for id in ["a b", "\u{e9}\u{1f980}", "\"7\", 8", "7\t8", &long] {
        let (front, mut origin) = staged(&continuing_layer());
        let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
        feed.send(format!("id: {id}\ndata: 0\n\n")).await;
        feed.end();
        let (_, own) = client.events(1).await;
        client.rest().await;
        let asking = tokio::spawn(async move { front.send(after(&own)).await });
        let call = origin.next().await;
        let header = call.request.headers()["last-event-id"].as_bytes();
        assert_eq!(header, id.as_bytes());
        asking.abort();
    }
    // A header cannot contain this id, so the layer cannot resume from it.
    let (front, mut origin) = staged(&continuing_layer());
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.send("id: \u{1}\ndata: 0\n\n").await;
    feed.end();
    let (_, own) = client.events(1).await;
    client.rest().await;
    assert!(
        front
            .send(after(&own))
            .await
            .rest()
            .await
            .0
            .contains("failed")
    );
}

#[tokio::test(start_paused = true)]
async fn events_right_before_the_end_reach_the_client_before_it() {
    for broken in [false, true] {
        let (front, mut origin) = staged(&continuing_layer());
        let (client, mut feed) = front.open(&mut origin, get("/")).await;
        // A separate task, so that the client reads as soon as an event is ready.
        let reading = tokio::spawn(client.rest());
        settle().await;
        feed.events(0..3).await;
        match broken {
            true => feed.cut(),
            false => feed.end(),
        }
        let (text, cut) = reading.await.unwrap();
        assert_eq!((data(&text), cut.is_some()), (numbers(0..3), broken));
    }
}

#[tokio::test(start_paused = true)]
async fn events_that_the_upstream_repeats_are_dropped() {
    let (front, mut origin) = staged(&continuing_layer());
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..3).await;
    feed.end();
    let (_, id) = client.events(3).await;
    drop(client);
    settle().await;
    let (mut again, mut feed) = front.open(&mut origin, after(&id)).await;
    feed.events(0..5).await;
    assert_eq!(again.events(2).await.0, numbers(3..5));

    // Repeats are recognized with any division into chunks.
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    for part in ["id: a\r\ndata: 0\r\n\r", "\nid: b\r\ndata: 1\r\n\r\n"] {
        feed.send(part).await;
        settle().await;
    }
    feed.end();
    let (_, id) = client.events(2).await;
    drop(client);
    settle().await;
    let (mut again, mut feed) = front.open(&mut origin, after(&id)).await;
    feed.send("id: a\r\ndata: 0\r\n\r\nid: b\r\ndata: 1\r\n\r\n")
        .await;
    feed.send("id: c\ndata: 2\n\n").await;
    assert_eq!(again.events(1).await.0, ["2"]);
}

#[tokio::test(start_paused = true)]
async fn reused_ids_after_a_restart_are_not_repeats() {
    for greeting in ["", "id: up-0\ndata: 0\n\n"] {
        let (front, mut origin) = staged(&continuing_layer());
        let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
        feed.events(0..3).await;
        feed.end();
        let (_, id) = client.events(3).await;
        drop(client);
        settle().await;
        let (mut again, mut feed) = front.open(&mut origin, after(&id)).await;
        feed.send(greeting).await;
        for number in 1..4 {
            feed.send(format!("id: up-{number}\ndata: new {number}\n\n"))
                .await;
        }
        assert_eq!(again.events(3).await.0, ["new 1", "new 2", "new 3"]);
    }
}

#[tokio::test(start_paused = true)]
async fn stream_failed_by_an_interceptor_does_not_continue_past_the_event() {
    let layer = continuing_layer().intercept(|event: Event| match &*event.data() {
        "1" => Verdict::fail("test"),
        _ => event.into(),
    });
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..3).await;
    let (_, id) = client.events(1).await;
    assert_eq!(
        client.rest().await,
        (String::new(), Some(ErrorKind::InterceptorFailed))
    );
    let answer = front.send(after(&id)).await;
    assert!(answer.rest().await.0.contains("failed"));
    assert!(origin.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn client_that_resumes_during_an_upstream_outage_may_retry() {
    let (front, mut origin) = staged(&continuing_layer());
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..1).await;
    feed.end();
    let (_, id) = client.events(1).await;
    client.rest().await;
    let failing = async |request: http::request::Builder, origin: &mut crate::support::Origin| {
        let (answer, ()) = tokio::join!(front.send(request), async {
            origin.next().await.status(StatusCode::BAD_GATEWAY);
        });
        (answer.status, answer.rest().await)
    };
    let (status, rest) = failing(after(&id), &mut origin).await;
    assert_eq!((status, rest), (200, (String::new(), None)));
    // Other methods never resume at the upstream.
    let post = Request::post("/").header("last-event-id", &id);
    assert_eq!(front.send(post).await.status, 410);
    assert!(origin.is_idle().await);
    let (mut again, mut feed) = front.open(&mut origin, after(&id)).await;
    feed.events(1..2).await;
    assert_eq!(again.events(1).await.0, ["1"]);
}

#[tokio::test(start_paused = true)]
async fn unfinished_event_is_requested_again_although_its_id_was_read() {
    for verbatim in [false, true] {
        let layer = layer_with(
            Replay::default()
                .continue_after_end(true)
                .preserve_upstream_ids(verbatim),
        );
        let (front, mut origin) = staged(&layer);
        let mine = || get("/").header("authorization", "mine");
        let (mut client, mut feed) = front.open(&mut origin, mine()).await;
        feed.events(0..1).await;
        feed.send("id: up-1\ndata: ha").await;
        feed.end();
        let (_, id) = client.events(1).await;
        client.rest().await;
        let again = mine().header("last-event-id", id);
        let (mut again, mut feed) = tokio::join!(front.send(again), async {
            let call = origin.next().await;
            assert_eq!(call.header("last-event-id"), Some("up-0"));
            call.stream()
        });
        feed.events(1..2).await;
        assert_eq!(again.events(1).await.0, ["1"]);
    }
}

#[tokio::test(start_paused = true)]
async fn two_clients_that_resume_at_the_end_share_one_stream() {
    let (witness, mut notes) = witness();
    let (front, mut origin) = staged(&continuing_layer().intercept(witness));
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..1).await;
    feed.end();
    let (_, id) = client.events(1).await;
    client.rest().await;
    let send = || {
        let (front, request) = (front.clone(), after(&id));
        tokio::spawn(async move { front.send(request).await })
    };
    let sent = (send(), send());
    let calls = (origin.next().await, origin.next().await);
    let mut feed = calls.0.stream();
    let mut one = sent.0.await.unwrap();
    let mut unused = calls.1.stream();
    let mut other = sent.1.await.unwrap();
    assert!(unused.is_dropped().await);
    feed.events(1..3).await;
    let seen = one.events(2).await;
    assert_eq!(seen.0, numbers(1..3));
    assert_eq!(other.events(2).await, seen, "the same ids");
    feed.send("data: [DONE]\n\n").await;
    feed.end();
    assert_eq!(data(&one.rest().await.0), ["[DONE]"]);
    assert_eq!(data(&other.rest().await.0), ["[DONE]"]);
    assert_eq!(notes.ends().await, [Note::Complete]);
}

#[tokio::test(start_paused = true)]
async fn answer_that_is_no_event_stream_goes_to_the_client_and_the_stream_waits() {
    let (front, mut origin) = staged(&continuing_layer());
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..1).await;
    feed.end();
    let (_, id) = client.events(1).await;
    client.rest().await;
    // Statuses for an `EventSource`: it would stop at a 503, so it gets 200.
    for (status, forwarded) in [(200, 200), (204, 204), (404, 404), (503, 200)] {
        let (answer, ()) = tokio::join!(front.send(after(&id)), async {
            let call = origin.next().await;
            assert_eq!(call.header("last-event-id"), Some("up-0"));
            call.status(StatusCode::from_u16(status).unwrap());
        });
        assert_eq!(answer.status, forwarded);
    }
    let (mut again, mut feed) = front.open(&mut origin, after(&id)).await;
    feed.events(1..2).await;
    let (seen, next) = again.events(1).await;
    assert_eq!(seen, ["1"]);
    assert_eq!(next.split('.').next(), id.split('.').next());
}
