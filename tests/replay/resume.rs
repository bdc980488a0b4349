//! A client that resumes gets the events that it missed and then live events. Only the owner of a stream can resume it.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::support::{
    FedBody, Note, data, field,
    origin::{after, get, layer_with, numbers, recording_layer, settle},
    staged, witness,
};
use http::{HeaderName, Method, Request, Response, StatusCode};
use tower::{BoxError, service_fn};
use tower_sse_proxy::{Event, Policy, SseProxyLayer, replay::Replay, session::SessionMapping};

#[tokio::test(start_paused = true)]
async fn resuming_client_gets_missed_events_and_then_live_events() {
    let (front, mut origin) = staged(&recording_layer());
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..5).await;
    let (seen, id) = client.events(3).await;
    assert_eq!(seen, numbers(0..3));
    drop(client);
    feed.events(5..8).await;
    let mut again = front.send(after(&id)).await;
    assert_eq!(again.status, 200);
    assert_eq!(again.events(5).await.0, numbers(3..8));
    feed.events(8..9).await;
    assert_eq!(again.events(1).await.0, numbers(8..9));
    assert!(origin.is_idle().await, "no second request to the upstream");
}

#[tokio::test(start_paused = true)]
async fn interceptors_see_each_event_once_with_several_resumes() {
    let (witness, mut notes) = witness();
    let layer = recording_layer()
        .intercept(witness)
        .intercept(|event: Event| {
            let public = !event.data().contains("secret");
            public.then_some(event)
        });
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.send("data: a\n\ndata: secret\n\ndata: b\n\n").await;
    let (seen, id) = client.events(1).await;
    assert_eq!(seen, ["a"]);
    drop(client);
    for _ in 0..3 {
        assert_eq!(front.send(after(&id)).await.events(1).await.0, ["b"]);
    }
    feed.end();
    let expected: Vec<_> = ["a", "secret", "b"]
        .map(|data| Note::Event(data.into()))
        .into();
    let mut all = notes.until_dropped().await;
    assert_eq!(all.pop(), Some(Note::Complete));
    assert_eq!(all, expected);
}

#[tokio::test(start_paused = true)]
async fn r48_id_of_another_owner_session_or_target_is_unknown() {
    let layer =
        recording_layer().sessions(SessionMapping::header(HeaderName::from_static("x-session")));
    let (front, mut origin) = staged(&layer);
    let mine = || get("/a?x=1").header("authorization", "mine");
    let (mut client, feed) = tokio::join!(front.send(mine()), async {
        let mut response = Response::new(());
        response
            .headers_mut()
            .insert("x-session", "up".parse().unwrap());
        let call = origin.next().await;
        let (mut feed, body) = FedBody::new(16);
        let mut response = crate::support::event_stream(body);
        response
            .headers_mut()
            .insert("x-session", "up".parse().unwrap());
        call.answer(response);
        feed.send_data("data: 0\n\ndata: 1\n\n".into())
            .await
            .unwrap();
        feed
    });
    let session = client.headers["x-session"].to_str().unwrap().to_owned();
    let (_, id) = client.events(1).await;
    let own = |path: &str| {
        let request = get(path).header("last-event-id", &id);
        request
            .header("authorization", "mine")
            .header("x-session", &session)
    };
    assert_eq!(front.send(own("/a?x=1")).await.events(1).await.0, ["1"]);

    let answer_to = async |request: http::request::Builder| {
        let answer = front.send(request).await;
        let (status, headers) = (answer.status, format!("{:?}", answer.headers));
        (status, headers, answer.rest().await)
    };
    let made_up = id.replace(
        &id[..4],
        if id.starts_with("0000") {
            "1111"
        } else {
            "0000"
        },
    );
    let unknown = answer_to(
        get("/a?x=1")
            .header("last-event-id", made_up)
            .header("authorization", "mine")
            .header("x-session", &session),
    )
    .await;
    assert!(unknown.2.0.contains("unknown"));
    assert_eq!(answer_to(own("/a?x=2")).await, unknown);
    assert_eq!(answer_to(own("/b?x=1")).await, unknown);
    assert_eq!(answer_to(own("/a&x=1")).await, unknown);
    let without = get("/a?x=1")
        .header("last-event-id", &id)
        .header("authorization", "mine");
    assert_eq!(answer_to(without).await, unknown);
    let another = get("/a?x=1")
        .header("last-event-id", &id)
        .header("authorization", "another's");
    assert_eq!(answer_to(another).await, unknown);
    assert!(origin.is_idle().await);
    drop(feed);
}

#[tokio::test(start_paused = true)]
async fn r48_authorization_precedes_the_lookup_of_the_id() {
    let calls = Arc::new(Mutex::new(0));
    let count = Arc::clone(&calls);
    let replay = Replay::default().authorize(service_fn(move |request: Request<()>| {
        *count.lock().unwrap() += 1;
        let token = request.headers().get("authorization").cloned();
        async move {
            match token.as_ref().map(|token| token.to_str().unwrap()) {
                Some("good") => Ok(StatusCode::NO_CONTENT),
                Some("broken") => Err(BoxError::from("the directory is down")),
                _ => Ok(StatusCode::UNAUTHORIZED),
            }
        }
    }));
    let layer = layer_with(replay).owner(|_| Some("shared"));
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    assert_eq!(
        *calls.lock().unwrap(),
        0,
        "the upstream authorizes a new stream"
    );
    feed.events(0..2).await;
    let (_, id) = client.events(1).await;
    let by = |token| after(&id).header("authorization", token);
    assert_eq!(front.send(after(&id)).await.status, 401);
    assert_eq!(front.send(by("bad")).await.status, 401);
    assert_eq!(front.send(by("broken")).await.status, 503);
    let unknown = after("0123456789abcdef0123456789abcdef.0.7").header("authorization", "bad");
    assert_eq!(front.send(unknown).await.status, 401);
    assert_eq!(front.send(by("good")).await.events(1).await.0, ["1"]);
    assert_eq!(*calls.lock().unwrap(), 5);
}

#[tokio::test(start_paused = true)]
async fn id_in_the_query_resumes_and_is_removed_from_the_query() {
    let replay = Replay::default()
        .query_param("lastEventId")
        .continue_after_end(true);
    let (front, mut origin) = staged(&layer_with(replay));
    let (mut client, mut feed) = front.open(&mut origin, get("/s?a=1")).await;
    feed.events(0..3).await;
    let (_, id) = client.events(1).await;
    for path in [
        format!("/s?a=1&lastEventId={id}"),
        format!("/s?lastEventId={id}&a=1"),
    ] {
        assert_eq!(
            front.send(get(&path)).await.events(2).await.0,
            numbers(1..3)
        );
    }
    // The header takes precedence, because the URL of an `EventSource` never changes.
    let (_, second) = front
        .send(get("/s?a=1").header("last-event-id", &id))
        .await
        .events(1)
        .await;
    let both = get(&format!("/s?a=1&lastEventId={id}")).header("last-event-id", &second);
    assert_eq!(front.send(both).await.events(1).await.0, ["2"]);
    feed.end();
    settle().await;
    let (_, last) = front
        .send(get("/s?a=1").header("last-event-id", &id))
        .await
        .events(2)
        .await;
    let (_, call) = tokio::join!(
        front.send(get(&format!("/s?a=1&lastEventId={last}"))),
        async {
            let call = origin.next().await;
            assert_eq!(call.request.uri(), "/s?a=1");
            assert_eq!(call.header("last-event-id"), Some("up-2"));
            call.stream()
        }
    );
    drop(call);
}

#[tokio::test(start_paused = true)]
async fn complete_stream_is_replayed_without_a_request_to_the_upstream() {
    for (done, status) in [("data: [DONE]\n\n", 204)] {
        let (front, mut origin) = staged(&recording_layer());
        let (mut client, mut feed) = front.open(&mut origin, Request::post("/")).await;
        feed.send("data: a\n\ndata: b\n\n").await;
        feed.send(done).await;
        feed.end();
        let (_, id) = client.events(1).await;
        assert_eq!(data(&client.rest().await.0), ["b", "[DONE]"]);
        for method in [Method::POST, Method::GET] {
            let request = Request::builder()
                .method(method)
                .header("last-event-id", &id);
            let (rest, cut) = front.send(request).await.rest().await;
            assert_eq!(
                (data(&rest), cut),
                (vec!["b".into(), "[DONE]".into()], None)
            );
        }
        let mut again = front.send(after(&id)).await;
        let (_, last) = again.events(2).await;
        assert_eq!(front.send(after(&last)).await.status, status);
        let post = Request::post("/").header("last-event-id", &last);
        assert_eq!(front.send(post).await.rest().await, (String::new(), None));
        assert!(
            origin.is_idle().await,
            "a request for an expensive stream is not repeated"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn only_responses_with_a_success_status_are_recorded() {
    let (front, mut origin) = staged(&recording_layer());
    let (client, mut feed) = tokio::join!(front.send(get("/")), async {
        let (feed, body) = FedBody::new(16);
        let mut response = crate::support::event_stream(body);
        *response.status_mut() = StatusCode::IM_A_TEAPOT;
        origin.next().await.answer(response);
        feed
    });
    feed.send_data("id: 1\ndata: a\n\n".into()).await.unwrap();
    drop(feed);
    assert_eq!(client.rest().await.0, "id: 1\ndata: a\n\n");
}

#[tokio::test(start_paused = true)]
async fn unfinished_last_event_is_replayed_unchanged() {
    let (front, mut origin) = staged(&recording_layer());
    let (mut client, mut feed) = front.open(&mut origin, Request::post("/")).await;
    feed.send("data: a\n\nid: up-1\ndata: [DO").await;
    let (_, id) = client.events(1).await;
    feed.send("NE]\n").await;
    feed.end();
    assert_eq!(client.rest().await, ("data: [DONE]\n".into(), None));
    let post = Request::post("/").header("last-event-id", id);
    assert_eq!(
        front.send(post).await.rest().await,
        ("data: [DONE]\n".into(), None)
    );
    let (mut client, mut feed) = front.open(&mut origin, Request::post("/")).await;
    feed.send("data: a\n\nid: up-").await;
    feed.end();
    client.events(1).await;
    assert_eq!(client.rest().await, (String::new(), None));
}

#[tokio::test(start_paused = true)]
async fn priming_event_lets_clients_resume_from_the_start() {
    let replay = Replay::default().priming_event(Some(Duration::from_millis(700)));
    let (front, mut origin) = staged(&layer_with(replay));
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    let priming = client.event().await;
    let id = field(&priming, "id").unwrap();
    assert_eq!(priming, format!("id: {id}\ndata: \nretry: 700\n\n"));
    drop(client);
    feed.events(0..1).await;
    assert_eq!(front.send(after(&id)).await.events(1).await.0, ["0"]);
}

#[tokio::test(start_paused = true)]
async fn two_last_event_id_headers_are_rejected() {
    let (front, mut origin) = staged(&recording_layer());
    let two = after("0123456789abcdef0123456789abcdef.0.7").header("last-event-id", "8");
    assert_eq!(front.send(two).await.status, 400);
    assert!(origin.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn stream_is_unknown_in_another_namespace() {
    let [one, two] = ["one", "two"].map(|scope| {
        let replay = Replay::default().namespace(scope);
        Arc::new(Policy::default().replay(replay))
    });
    let layer = SseProxyLayer::default().policy(move |request, _| {
        let in_two = request.headers.contains_key("x-two");
        Arc::clone(if in_two { &two } else { &one })
    });
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..2).await;
    let (_, id) = client.events(1).await;
    let other_namespace = front.send(after(&id).header("x-two", "1")).await;
    assert!(other_namespace.rest().await.0.contains("unknown"));
    assert_eq!(front.send(after(&id)).await.events(1).await.0, ["1"]);
}

#[tokio::test(start_paused = true)]
async fn replay_from_the_middle_never_starts_with_a_byte_order_mark() {
    let (front, mut origin) = staged(&recording_layer());
    let (mut client, mut feed) = front.open(&mut origin, Request::post("/")).await;
    let text = "\u{feff}data: 0\r\rdata: 1\r\n\r\n\u{feff}: text\n\n: c\ndata: [DONE]\n\n";
    for byte in text.as_bytes().chunks(1) {
        feed.send(byte.to_vec()).await;
        settle().await;
    }
    feed.end();
    let (first, cut) = (client.event().await, client.rest().await);
    let whole = first + &cut.0;
    let lines = whole.split(['\r', '\n']);
    let lines: Vec<_> = lines.filter(|line| !line.starts_with("id: ")).collect();
    let expected = "data: 0||data: 1|||:||\u{feff}: text||: c|data: [DONE]||";
    assert_eq!(lines.join("|"), expected);
    for id in whole
        .split(['\r', '\n'])
        .filter_map(|line| line.strip_prefix("id: "))
    {
        let again = Request::post("/").header("last-event-id", id);
        let (replayed, cut) = front.send(again).await.rest().await;
        assert_eq!(cut, None);
        assert!(whole.ends_with(&replayed) && !replayed.starts_with('\u{feff}'));
    }
}
