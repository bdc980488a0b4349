//! `Replay::share_by`: concurrent equal requests share one upstream call and its stream.

use std::time::Duration;

use crate::support::{
    FedBody, Front, Note, Origin, event_stream,
    origin::{get, numbers, settle},
    staged, witness,
};
use bytes::Bytes;
use http::{HeaderName, Method, Response, StatusCode, request};
use tower_sse_proxy::{
    ErrorKind, SseProxyLayer,
    replay::{Replay, Retention, StartAt},
    session::SessionMapping,
};

fn by_path(request: &request::Parts) -> Option<String> {
    let shared = !request.headers.contains_key("x-alone");
    shared.then(|| request.uri.path().to_owned())
}

fn sharing() -> Replay {
    Replay::default()
        .share_by(by_path)
        .grace_period(Duration::from_secs(10))
}

fn layer(replay: Replay) -> SseProxyLayer {
    SseProxyLayer::default().replay(replay)
}

#[tokio::test(start_paused = true)]
async fn equal_requests_share_one_upstream_call() {
    let (witness, mut notes) = witness();
    let (front, mut origin) = staged(&layer(sharing()).intercept(witness));
    // Both clients wait for the same response head.
    let (mut one, mut two, mut feed) =
        tokio::join!(front.send(get("/a")), front.send(get("/a")), async {
            let call = origin.next().await;
            assert!(origin.is_idle().await);
            call.stream()
        });
    feed.events(0..2).await;
    assert_eq!(one.events(2).await, two.events(2).await);
    // A third client joins the running stream.
    let mut three = front.send(get("/a")).await;
    feed.events(2..4).await;
    let (seen, last) = three.events(2).await;
    assert_eq!(seen, ["2", "3"], "from the live edge");
    assert_eq!(one.events(2).await, (seen, last));
    assert!(origin.is_idle().await);
    feed.send("data: [DONE]\n\n").await;
    feed.end();
    let ended = notes.until_dropped().await;
    assert_eq!(ended.len(), 6, "five events and an end: {ended:?}");
}

#[tokio::test(start_paused = true)]
async fn listed_stream_has_the_number_of_its_clients() {
    let layer = layer(sharing());
    let (front, mut origin) = staged(&layer);
    let streams = layer.streams();
    let clients = || {
        let [stream] = &streams.list()[..] else {
            panic!("one stream")
        };
        assert_eq!(stream.is_detached(), stream.clients == 0);
        stream.clients
    };
    let (one, _feed) = front.open(&mut origin, get("/a")).await;
    assert_eq!(clients(), 1);
    let two = front.send(get("/a")).await;
    assert_eq!(clients(), 2);
    drop(one);
    settle().await;
    assert_eq!(clients(), 1);
    drop(two);
    settle().await;
    assert_eq!(clients(), 0);
}

#[tokio::test(start_paused = true)]
async fn share_from_oldest_replays_the_log_to_joining_clients() {
    let (front, mut origin) = staged(&layer(sharing().share_from(StartAt::Oldest)));
    let (mut one, mut feed) = front.open(&mut origin, get("/a")).await;
    feed.events(0..3).await;
    let all = one.events(3).await;
    assert_eq!(front.send(get("/a")).await.events(3).await, all);
}

#[tokio::test(start_paused = true)]
async fn requests_with_other_key_or_owner_or_without_key_are_not_shared() {
    let (front, mut origin) = staged(&layer(sharing()));
    let requests = [
        get("/a"),
        get("/b"),
        get("/a").header("authorization", "mine"),
        get("/a").header("x-alone", "1"),
        get("/a").header("x-alone", "1"),
    ];
    let mut open = Vec::new();
    for request in requests {
        open.push(front.open(&mut origin, request).await);
    }
    for (number, (client, feed)) in (0..).zip(&mut open) {
        feed.events(number..number + 1).await;
        assert_eq!(client.events(1).await.0, [number.to_string()]);
    }
}

#[tokio::test(start_paused = true)]
async fn first_client_may_disconnect_before_the_response_head() {
    let (front, mut origin) = staged(&layer(sharing()));
    let first = tokio::spawn({
        let front = front.clone();
        async move { front.send(get("/a")).await }
    });
    let call = origin.next().await;
    let second = tokio::spawn({
        let front = front.clone();
        async move { front.send(get("/a")).await }
    });
    assert!(origin.is_idle().await);
    first.abort();
    assert!(first.await.is_err());
    let mut feed = call.stream();
    feed.events(0..1).await;
    let mut second = second.await.unwrap();
    assert_eq!(second.events(1).await.0, ["0"]);
}

#[tokio::test(start_paused = true)]
async fn first_client_may_disconnect_after_the_response_head() {
    let never = sharing().detach_when(|_, _| false);
    let (front, mut origin) = staged(&layer(never));
    let (mut one, mut two, mut feed) =
        tokio::join!(front.send(get("/a")), front.send(get("/a")), async {
            origin.next().await.stream()
        });
    feed.events(0..1).await;
    assert_eq!(one.events(1).await.0, ["0"]);
    drop(one);
    assert!(!feed.is_dropped().await);
    feed.events(1..2).await;
    assert_eq!(two.events(2).await.0, ["0", "1"]);
    drop(two);
    assert!(feed.is_dropped().await, "the last client has disconnected");
}

#[tokio::test(start_paused = true)]
async fn upstream_call_is_dropped_when_all_waiting_clients_disconnect() {
    let (front, mut origin) = staged(&layer(sharing()));
    let send = || {
        let front = front.clone();
        tokio::spawn(async move { front.send(get("/a")).await })
    };
    let (one, two) = (send(), send());
    let mut call = origin.next().await;
    assert!(origin.is_idle().await);
    one.abort();
    two.abort();
    call.canceled().await;
    // The next client causes a new call.
    let (mut client, mut feed) = front.open(&mut origin, get("/a")).await;
    feed.events(0..1).await;
    assert_eq!(client.events(1).await.0, ["0"]);
}

#[tokio::test(start_paused = true)]
async fn response_without_an_event_stream_is_not_shared() {
    let (front, mut origin) = staged(&layer(sharing()));
    let (one, two, ()) = tokio::join!(front.send(get("/a")), front.send(get("/a")), async {
        for text in ["first", "second"] {
            let (mut feed, body) = FedBody::new(1);
            let call = origin.next().await;
            feed.send_data(Bytes::from(text)).await.unwrap();
            call.answer(Response::new(body));
        }
    });
    let (one, two) = (one.rest().await.0, two.rest().await.0);
    assert_eq!((&*one, &*two), ("first", "second"));
}

#[tokio::test(start_paused = true)]
async fn r34_slow_reader_is_cut_without_delaying_others_and_can_resume() {
    let replay = sharing().retention(Retention::default().events(10));
    let (front, mut origin) = staged(&layer(replay));
    let (mut quick, mut slow, mut feed) =
        tokio::join!(front.send(get("/a")), front.send(get("/a")), async {
            origin.next().await.stream()
        });
    feed.events(0..1).await;
    let (_, id) = slow.events(1).await;
    quick.events(1).await;
    for number in 1..100 {
        feed.events(number..number + 1).await;
        assert_eq!(quick.events(1).await.0, [number.to_string()]);
    }
    assert_eq!(slow.rest().await.1, Some(ErrorKind::Lagged));
    let mut again = front
        .send(get("/a?other=query").header("last-event-id", &id))
        .await;
    assert!(again.event().await.starts_with("event: gap\n"));
    assert_eq!(
        again.events(10).await.0,
        (90..100).map(|n| n.to_string()).collect::<Vec<_>>()
    );
    assert!(origin.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn ended_stream_is_not_joined() {
    for ids in [true, false] {
        let (front, mut origin) = staged(&layer(sharing()));
        let (client, mut feed) = front.open(&mut origin, get("/a")).await;
        if ids {
            feed.events(0..1).await;
        } else {
            feed.send("data: 0\n\n").await;
        }
        feed.end();
        client.rest().await;
        let (mut next, mut feed) = front.open(&mut origin, get("/a")).await;
        feed.send("data: new\n\n").await;
        assert_eq!(next.events(1).await.0, ["new"]);
    }
}

#[tokio::test(start_paused = true)]
async fn requests_of_different_sessions_are_not_shared() {
    let (front, mut origin) = staged(
        &layer(sharing()).sessions(SessionMapping::header(HeaderName::from_static("x-session"))),
    );
    // Each answer opens a session.
    let (one, two, _feeds) = tokio::join!(front.send(get("/a")), front.send(get("/a")), async {
        let mut feeds = Vec::new();
        for session in ["up-1", "up-2"] {
            let (feed, body) = FedBody::new(1);
            let mut response = event_stream(body);
            response
                .headers_mut()
                .insert("x-session", session.parse().unwrap());
            origin.next().await.answer(response);
            feeds.push(feed);
        }
        feeds
    });
    let session = |client: &crate::support::Client| client.headers["x-session"].clone();
    assert_ne!(session(&one), session(&two));
    // Requests of the same session share one call.
    let in_session = || get("/a").header("x-session", session(&one));
    let (mut three, mut four, mut feed) =
        tokio::join!(front.send(in_session()), front.send(in_session()), async {
            origin.next().await.stream()
        });
    feed.events(0..1).await;
    assert_eq!(three.events(1).await, four.events(1).await);
    assert!(origin.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn interceptors_of_a_shared_stream_are_ended_once() {
    let (witness, mut notes) = witness();
    let (front, mut origin) = staged(&layer(sharing()).intercept(witness));
    let (one, two, feed) = tokio::join!(front.send(get("/a")), front.send(get("/a")), async {
        origin.next().await.stream()
    });
    drop((one, two));
    tokio::time::advance(Duration::from_secs(9)).await;
    assert!(
        front.send(get("/a")).await.status == 200,
        "the stream is still open"
    );
    tokio::time::advance(Duration::from_secs(11)).await;
    assert_eq!(notes.ends().await, [Note::ClientGone]);
    drop(feed);
}

/// Opens a shared stream with two clients, and breaks it. Returns the id of the last event that both clients have.
async fn broken_shared_stream(front: &Front, origin: &mut Origin) -> String {
    let (mut one, mut two, mut feed) =
        tokio::join!(front.send(get("/a")), front.send(get("/a")), async {
            origin.next().await.stream()
        });
    feed.events(0..1).await;
    let (seen, id) = one.events(1).await;
    assert_eq!(two.events(1).await, (seen, id.clone()));
    feed.cut();
    for client in [one, two] {
        assert_eq!(client.rest().await.1, Some(ErrorKind::Upstream));
    }
    id
}

#[tokio::test(start_paused = true)]
async fn clients_that_resume_together_share_one_upstream_call() {
    let (front, mut origin) = staged(&layer(sharing()));
    let id = broken_shared_stream(&front, &mut origin).await;
    let after = || get("/a").header("last-event-id", &id);
    let (mut one, mut two, mut feed) =
        tokio::join!(front.send(after()), front.send(after()), async {
            let call = origin.next().await;
            assert!(origin.is_idle().await);
            call.stream()
        });
    feed.events(1..2).await;
    let (seen, last) = one.events(1).await;
    assert_eq!(seen, ["1"]);
    assert_eq!(two.events(1).await, (seen, last));
    assert!(origin.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn leading_client_of_a_resume_may_disconnect() {
    let (front, mut origin) = staged(&layer(sharing()));
    let id = broken_shared_stream(&front, &mut origin).await;
    let resume = || {
        let (front, after) = (front.clone(), get("/a").header("last-event-id", &id));
        tokio::spawn(async move { front.send(after).await })
    };
    let first = resume();
    let mut call = origin.next().await;
    let second = resume();
    assert!(origin.is_idle().await);
    first.abort();
    call.canceled().await;
    let mut feed = origin.next().await.stream();
    feed.events(1..2).await;
    assert_eq!(second.await.unwrap().events(1).await.0, ["1"]);
}

#[tokio::test(start_paused = true)]
async fn unavailable_upstream_gets_one_request_of_all_resuming_clients() {
    let (front, mut origin) = staged(&layer(sharing()));
    let id = broken_shared_stream(&front, &mut origin).await;
    let after = || get("/a").header("last-event-id", &id);
    let (one, two, ()) = tokio::join!(front.send(after()), front.send(after()), async {
        let call = origin.next().await;
        assert!(origin.is_idle().await);
        call.status(StatusCode::SERVICE_UNAVAILABLE);
    });
    for client in [one, two] {
        assert_eq!(client.status, 200, "an EventSource would stop at 503");
        assert_eq!(client.rest().await.0, "");
    }
    assert!(origin.is_idle().await);
    // The upstream is available again.
    let (mut again, mut feed) = front.open(&mut origin, after()).await;
    feed.events(1..2).await;
    assert_eq!(again.events(1).await.0, ["1"]);
}

#[tokio::test(start_paused = true)]
async fn client_that_joins_before_others_have_read_delays_no_reader() {
    let replay = sharing().retention(Retention::default().events(1));
    let (front, mut origin) = staged(&layer(replay));
    let (mut behind, mut feed) = front.open(&mut origin, get("/a")).await;
    // The writer waits at the first event until a client reads it.
    feed.events(0..3).await;
    settle().await;
    let mut ahead = front.send(get("/a")).await;
    let (seen, ahead_seen) = tokio::join!(behind.events(3), ahead.events(2));
    assert_eq!((seen.0, ahead_seen.0), (numbers(0..3), numbers(1..3)));
}

#[tokio::test(start_paused = true)]
async fn clients_that_resume_a_dropped_shared_stream_share_its_successor() {
    let never = sharing().detach_when(|_, _| false);
    let (front, mut origin) = staged(&layer(never));
    let (mut one, mut two, mut feed) =
        tokio::join!(front.send(get("/a")), front.send(get("/a")), async {
            origin.next().await.stream()
        });
    feed.events(0..1).await;
    let (_, id) = one.events(1).await;
    two.events(1).await;
    drop((one, two));
    assert!(feed.is_dropped().await);
    let resume = || get("/a").header("last-event-id", &id);
    let (mut one, mut two, mut feed) =
        tokio::join!(front.send(resume()), front.send(resume()), async {
            let call = origin.next().await;
            assert_eq!(call.header("last-event-id"), Some("up-0"));
            call.stream()
        });
    feed.events(1..3).await;
    assert_eq!(one.events(2).await, two.events(2).await);
    assert!(origin.is_idle().await, "one upstream call for both clients");
}

#[tokio::test(start_paused = true)]
async fn client_with_an_empty_last_event_id_joins() {
    let (front, mut origin) = staged(&layer(sharing().query_param("last")));
    let (mut one, mut feed) = front.open(&mut origin, get("/a")).await;
    let mut two = front.send(get("/a").header("last-event-id", " ")).await;
    let mut three = front.send(get("/a?last=")).await;
    feed.events(0..1).await;
    let event = one.events(1).await;
    assert_eq!(two.events(1).await, event);
    assert_eq!(three.events(1).await, event);
    assert!(origin.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn client_with_an_upstream_id_does_not_join_a_stream_past_that_id() {
    let (front, mut origin) = staged(&layer(sharing()));
    let (_one, mut feed) = front.open(&mut origin, get("/a")).await;
    feed.events(0..3).await;
    settle().await;
    let late = get("/a").header("last-event-id", "up-0");
    let (mut late, mut late_feed) = tokio::join!(front.send(late), async {
        let call = origin.next().await;
        assert_eq!(call.header("last-event-id"), Some("up-0"));
        call.stream()
    });
    late_feed.events(1..3).await;
    assert_eq!(late.events(2).await.0, numbers(1..3));
    // Other clients do not join the stream of the late client, which starts in the middle.
    let mut two = front.send(get("/a")).await;
    assert!(origin.is_idle().await);
    feed.events(3..4).await;
    assert_eq!(two.events(1).await.0, ["3"]);
}

#[tokio::test(start_paused = true)]
async fn head_options_and_delete_requests_are_forwarded_and_not_shared() {
    let (front, mut origin) = staged(&layer(sharing()));
    let (mut one, mut feed) = front.open(&mut origin, get("/a")).await;
    for method in [Method::HEAD, Method::OPTIONS, Method::DELETE] {
        let request = get("/a").method(method.clone());
        let (answer, ()) = tokio::join!(front.send(request), async {
            let call = origin.next().await;
            assert_eq!(call.request.method(), method);
            call.status(StatusCode::NO_CONTENT);
        });
        assert_eq!(answer.status, 204);
    }
    // No client waits for the response to a HEAD request.
    let head = front.send(get("/b").method(Method::HEAD));
    let (head, mut two, mut other) = tokio::join!(head, front.send(get("/b")), async {
        let (head, two) = (origin.next().await, origin.next().await);
        assert_eq!(head.request.method(), Method::HEAD);
        let other = two.stream();
        drop(head.stream());
        other
    });
    assert_eq!(head.rest().await, (String::new(), None));
    other.events(0..1).await;
    assert_eq!(two.events(1).await.0, ["0"]);
    feed.events(0..1).await;
    assert_eq!(one.events(1).await.0, ["0"]);
}
