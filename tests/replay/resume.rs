//! Replay: a client that comes back misses nothing, and learns of it where it must.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::support::{
    Client, Fed, Note, data, field,
    origin::{after, get, kept, numbers, settle, with},
    staged, witness,
};
use http::{Method, Request, Response, StatusCode};
use tower::{BoxError, service_fn};
use tower_sse_proxy::{
    ErrorKind, Event, Policy, SseProxyLayer,
    intercept::Verdict,
    profile::Mcp,
    replay::{Bounds, EventId, Gap, Replay},
    session::Sessions,
};

#[tokio::test(start_paused = true)]
async fn a_client_that_comes_back_gets_what_it_has_missed_and_what_is_to_come() {
    let (front, mut origin) = staged(&kept());
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
    assert!(origin.is_idle().await, "nobody asked the upstream again");
}

#[tokio::test(start_paused = true)]
async fn every_event_has_an_id_of_ours_and_none_of_the_upstreams() {
    let (front, mut origin) = staged(&kept());
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.send("id: mine\r\ndata: a\r\n\r\n: c\n").await;
    feed.send("event: e\ndata: b\nid: 1\nid: 2\n\n").await;
    feed.send("id: bare\n\n").await;
    feed.send("data: c\r\rdata: d\n\n").await;
    let a = client.event().await;
    let id = field(&a, "id").unwrap();
    let token = id.split('.').next().unwrap();
    assert_eq!(a, format!("id: {id}\ndata: a\n\n"));
    // A comment has none: a client cannot have it without what comes before it.
    let b = client.event().await;
    assert_eq!(b, format!(": c\nevent: e\ndata: b\nid: {token}.0.2\n\n"));
    assert_eq!(client.event().await, format!("id: {token}.0.3\n\n"));
    let last = format!("id: {token}.0.4\ndata: c\r\rid: {token}.0.5\ndata: d\n\n");
    assert_eq!(client.event().await, last);
    assert_eq!(token.len(), 32);
}

#[tokio::test(start_paused = true)]
async fn interceptors_see_an_event_once_however_often_it_is_sent() {
    let (witness, mut notes) = witness();
    let layer = kept().intercept(witness).intercept(|event: Event| {
        let keep = !event.data().contains("secret");
        keep.then_some(event)
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
async fn the_upstream_goes_on_without_a_client_for_so_long_and_no_longer() {
    let (witness, mut notes) = witness();
    let replay = Replay::default().linger(Duration::from_secs(30));
    let (front, mut origin) = staged(&with(replay).intercept(witness));
    let (client, mut feed) = front.open(&mut origin, get("/")).await;
    drop(client);
    tokio::time::advance(Duration::from_secs(29)).await;
    assert!(!feed.is_let_go().await);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(feed.is_let_go().await);
    assert_eq!(notes.ends().await, [Note::ClientGone]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_comes_back_stops_the_time() {
    let replay = Replay::default().linger(Duration::from_secs(30));
    let (front, mut origin) = staged(&with(replay));
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
    assert!(!feed.is_let_go().await, "the time begins anew");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_not_to_outlive_its_client_does_not() {
    let replay = Replay::default().detach(|request, response| {
        assert_eq!(response.status, StatusCode::OK);
        request.headers.contains_key("x-paid")
    });
    let (front, mut origin) = staged(&with(replay));
    let (client, mut feed) = front.open(&mut origin, get("/")).await;
    let (paid, mut paid_feed) = front
        .open(&mut origin, get("/").header("x-paid", "1"))
        .await;
    drop((client, paid));
    settle().await;
    assert!(feed.is_let_go().await);
    assert!(!paid_feed.is_let_go().await);
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_sends_too_much_to_nobody_is_let_go() {
    let replay = Replay::default().detached_bytes(1000);
    let (front, mut origin) = staged(&with(replay));
    let (client, mut feed) = front.open(&mut origin, get("/")).await;
    drop(client);
    for _ in 0..4 {
        feed.send(format!("data: {}\n\n", "x".repeat(200))).await;
        assert!(!feed.is_let_go().await);
    }
    feed.send(format!("data: {}\n\n", "x".repeat(200))).await;
    assert!(feed.is_let_go().await);
}

#[tokio::test(start_paused = true)]
async fn a_stream_lasts_as_long_as_it_may() {
    let replay = Replay::default().lifetime(Duration::from_secs(100));
    let (front, mut origin) = staged(&with(replay));
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.send("data: a\n\n").await;
    let (_, id) = client.events(1).await;
    tokio::time::advance(Duration::from_secs(101)).await;
    assert_eq!(
        client.rest().await,
        (String::new(), Some(ErrorKind::Aborted))
    );
    let told = front.send(after(&id)).await;
    assert!(told.rest().await.0.contains(r#"{"reason":"failed"}"#));
}

#[tokio::test(start_paused = true)]
async fn what_is_no_longer_kept_is_told_before_anything_else() {
    let replay = Replay::default().bounds(Bounds::default().events(3));
    let (front, mut origin) = staged(&with(replay));
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..1).await;
    let (_, id) = client.events(1).await;
    drop(client);
    feed.events(1..10).await;
    settle().await;
    let mut again = front.send(after(&id)).await;
    assert_eq!(
        again.event().await,
        "event: gap\ndata: {\"reason\":\"evicted\"}\n\n"
    );
    assert_eq!(again.events(3).await.0, numbers(7..10));
    // Who sent a body can read a status, and may take what is left for all.
    let post = Request::post("/").header("last-event-id", &id);
    assert_eq!(front.send(post).await.status, 410);
    assert!(origin.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn an_id_that_is_not_known_is_told_and_reset_and_never_sent_upstream() {
    let (front, mut origin) = staged(&kept());
    let unknown = "0123456789abcdef0123456789abcdef.0.7";
    let told = front.send(after(unknown)).await;
    assert_eq!(
        (told.status, told.headers["content-type"].to_str().unwrap()),
        (200, "text/event-stream")
    );
    let gap = "event: gap\nid: \ndata: {\"reason\":\"unknown\"}\n\n";
    assert_eq!(told.rest().await, (gap.into(), None));
    let post = Request::post("/").header("last-event-id", unknown);
    assert_eq!(front.send(post).await.status, 410);
    // Nor does one that means something elsewhere: where addresses name events.
    let zeros = "00000000000000000000000000000000.0.0";
    let told = front.send(after(zeros)).await;
    assert_eq!(told.rest().await, (gap.into(), None));
    assert!(
        origin.is_idle().await,
        "a stream that is paid for is not asked for again"
    );
    // What does not look like one of ours is the upstream's business.
    let (_, feed) = tokio::join!(front.send(after("up-7")), async {
        let call = origin.next().await;
        assert_eq!(call.header("last-event-id"), Some("up-7"));
        call.stream()
    });
    drop(feed);
}

#[tokio::test(start_paused = true)]
async fn where_all_ids_are_of_the_layer_no_other_goes_upstream() {
    let replay = Replay::default().only_own_ids(true).query("last");
    let (front, mut origin) = staged(&with(replay.clone()));
    let id = "0123456789abcdef0123456789abcdef.0.7";
    let mangled = [
        "up-7",
        "7",
        &id.to_uppercase(),
        &id[..34],
        "0123456789abcdef0123456789abcdef.0.07",
        "0123456789abcdef0123456789abcdef.0.18446744073709551616",
        ",",
        "\u{fc}",
    ];
    for other in mangled {
        let (text, cut) = front.send(after(other)).await.rest().await;
        let gap = "event: gap\nid: \ndata: {\"reason\":\"unknown\"}\n\n";
        assert_eq!((&*text, cut), (gap, None), "{other}");
        let post = Request::post("/").header("last-event-id", other);
        assert_eq!(front.send(post).await.status, 410, "{other}");
    }
    let told = front.send(get("/?last=7")).await;
    assert!(told.rest().await.0.contains("unknown"));
    let two = after("7").header("last-event-id", "8");
    assert!(front.send(two).await.rest().await.0.contains("unknown"));
    let verbatim = with(replay.clone().upstream_ids(true)).owner(|_| Some("me"));
    let (known, mut asked) = staged(&verbatim);
    let told = known.send(after("up-7")).await;
    assert!(told.rest().await.0.contains("unknown"));
    assert!(origin.is_idle().await && asked.is_idle().await);

    for nothing in [get("/"), after(""), get("/?last="), get("/?other=7")] {
        let (client, _feed) = front.open(&mut origin, nothing).await;
        assert_eq!(client.status, 200);
    }
}

#[tokio::test(start_paused = true)]
async fn by_policy_a_gap_is_a_status() {
    let status = StatusCode::BAD_REQUEST;
    let replay = Replay::default().gap(Gap::Status(status));
    let (front, _origin) = staged(&with(replay));
    let told = front
        .send(after("0123456789abcdef0123456789abcdef.0.7"))
        .await;
    assert_eq!(told.status, 400);
    assert!(told.rest().await.0.contains("unknown"));
}

#[tokio::test(start_paused = true)]
async fn another_owner_session_or_target_is_told_what_one_is_told_who_made_it_up() {
    let layer = kept().sessions(Sessions::header("x-session"));
    let (front, mut origin) = staged(&layer);
    let mine = || get("/a?x=1").header("authorization", "mine");
    let (mut client, feed) = tokio::join!(front.send(mine()), async {
        let mut response = Response::new(());
        response
            .headers_mut()
            .insert("x-session", "up".parse().unwrap());
        let call = origin.next().await;
        let (mut feed, body) = Fed::new(16);
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

    let told = async |request: http::request::Builder| {
        let told = front.send(request).await;
        let (status, headers) = (told.status, format!("{:?}", told.headers));
        (status, headers, told.rest().await)
    };
    let made_up = id.replace(
        &id[..4],
        if id.starts_with("0000") {
            "1111"
        } else {
            "0000"
        },
    );
    let unknown = told(
        get("/a?x=1")
            .header("last-event-id", made_up)
            .header("authorization", "mine")
            .header("x-session", &session),
    )
    .await;
    assert!(unknown.2.0.contains("unknown"));
    assert_eq!(told(own("/a?x=2")).await, unknown);
    assert_eq!(told(own("/b?x=1")).await, unknown);
    assert_eq!(told(own("/a&x=1")).await, unknown);
    let without = get("/a?x=1")
        .header("last-event-id", &id)
        .header("authorization", "mine");
    assert_eq!(told(without).await, unknown);
    let another = get("/a?x=1")
        .header("last-event-id", &id)
        .header("authorization", "another's");
    assert_eq!(told(another).await, unknown);
    assert!(origin.is_idle().await);
    drop(feed);
}

#[tokio::test(start_paused = true)]
async fn who_may_resume_is_asked_before_anything_is_looked_up() {
    let asked = Arc::new(Mutex::new(0));
    let count = Arc::clone(&asked);
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
    let layer = with(replay).owner(|_| Some("everybody"));
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    assert_eq!(
        *asked.lock().unwrap(),
        0,
        "it is the upstream that is asked for a new stream"
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
    assert_eq!(*asked.lock().unwrap(), 5);
}

#[tokio::test(start_paused = true)]
async fn the_id_may_come_in_the_query_and_goes_no_further() {
    let replay = Replay::default().query("lastEventId");
    let (front, mut origin) = staged(&with(replay));
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
    // The header is what a client goes by that has both: its URL has not changed since it began.
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
async fn a_finished_stream_is_replayed_and_ends_and_then_is_not_asked_for_again() {
    for (done, status) in [("data: [DONE]\n\n", 204)] {
        let (front, mut origin) = staged(&kept());
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
            "what is paid for is not paid for again"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_ends_without_being_done_is_asked_to_go_on_in_the_same_stream() {
    let (witness, mut notes) = witness();
    let (front, mut origin) = staged(&kept().intercept(witness));
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..2).await;
    feed.end();
    let (_, first) = client.events(1).await;
    let (_, id) = client.events(1).await;
    assert_eq!(client.rest().await, (String::new(), None), "a clean end");
    // In the middle there is something to replay; only at the end the upstream has to go on.
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
async fn an_upstream_gets_the_id_back_that_it_gave_whatever_is_in_it() {
    let long = "7".repeat(10_000);
    for id in ["a b", "\u{e9}\u{1f980}", "\"7\", 8", "7\t8", &long] {
        let (front, mut origin) = staged(&kept());
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
    // What no header can carry is no place to go on from.
    let (front, mut origin) = staged(&kept());
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
async fn what_comes_right_before_the_end_of_an_answer_is_sent_before_it() {
    for broken in [false, true] {
        let (front, mut origin) = staged(&kept());
        let (client, mut feed) = front.open(&mut origin, get("/")).await;
        // A task of its own, so that it may read as soon as there is something.
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
async fn comments_behind_the_last_event_do_not_make_clients_come_back_for_ever() {
    let (number, done) = ("id: up-0\ndata: 0\n\n", "data: [DONE]\n\n");
    for (last, rest, done) in [
        (number, "", false),
        (number, "data: half", false),
        (done, "", true),
        (done, "data: half", true),
    ] {
        let (front, mut origin) = staged(&kept());
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

#[tokio::test(start_paused = true)]
async fn what_an_upstream_sends_again_is_not_sent_on() {
    let (front, mut origin) = staged(&kept());
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..3).await;
    feed.end();
    let (_, id) = client.events(3).await;
    drop(client);
    settle().await;
    let (mut again, mut feed) = front.open(&mut origin, after(&id)).await;
    feed.events(0..5).await;
    assert_eq!(again.events(2).await.0, numbers(3..5));

    // However it is cut into chunks.
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
async fn what_an_upstream_counts_anew_is_not_what_it_has_sent_before() {
    for greeting in ["", "id: up-0\ndata: 0\n\n"] {
        let (front, mut origin) = staged(&kept());
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
async fn a_stream_that_broke_is_cut_for_everybody_and_goes_on_only_where_it_can() {
    for (ids, goes_on) in [(true, true), (false, false)] {
        let (front, mut origin) = staged(&kept());
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
        if goes_on {
            let (mut again, mut feed) = front.open(&mut origin, after(&last)).await;
            feed.events(2..3).await;
            assert_eq!(again.events(1).await.0, ["2"]);
        } else {
            let told = front.send(after(&last)).await;
            assert!(told.rest().await.0.contains(r#"{"reason":"failed"}"#));
            assert!(origin.is_idle().await);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_an_interceptor_refused_is_not_passed_over() {
    let layer = kept().intercept(|event: Event| match &*event.data() {
        "1" => Verdict::fail("told to"),
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
    let told = front.send(after(&id)).await;
    assert!(told.rest().await.0.contains("failed"));
    assert!(origin.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_holds_the_upstream_back_and_loses_nothing() {
    let replay = Replay::default().bounds(Bounds::default().events(10));
    let (front, mut origin) = staged(&with(replay));
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    let fed = async {
        feed.events(0..2000).await;
        feed
    };
    let fed = tokio::spawn(fed);
    settle().await;
    assert!(
        !fed.is_finished(),
        "the upstream is read on although nobody reads"
    );
    let (seen, _) = client.events(2000).await;
    assert_eq!(seen, numbers(0..2000));
}

#[tokio::test(start_paused = true)]
async fn all_streams_together_keep_no_more_than_they_may() {
    let layer = kept().replay_bytes(20_000);
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
        streams.push((first, feed));
    }
    settle().await;
    let mut whole = Vec::new();
    for (first, _) in &streams {
        let mut again: Client = front.send(after(first)).await;
        let event = again.event().await;
        whole.push(field(&event, "event").is_none());
    }
    // There is room for 17 events, and each stream has five.
    assert!(whole.is_sorted() && whole[9] && !whole[6], "{whole:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_known_for_as_long_as_anything_of_it_is_kept() {
    let replay = Replay::default().bounds(Bounds::default().age(Duration::from_secs(60)));
    let (front, mut origin) = staged(&with(replay));
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
async fn the_end_of_a_session_is_the_end_of_its_streams() {
    let sessions = Sessions::header("x-session").end_by_delete_and_404();
    let (front, mut origin) = staged(&kept().sessions(sessions));
    let (mut client, mut feed) = tokio::join!(front.send(get("/")), async {
        let call = origin.next().await;
        let (feed, body) = Fed::new(16);
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
        let (_, body) = Fed::new(1);
        origin.next().await.answer(Response::new(body));
    });
    assert_eq!(answer.status, 200);
    assert_eq!(client.rest().await.1, Some(ErrorKind::Aborted));
    assert!(feed.send_data("data: 1\n\n".into()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn only_a_success_is_kept() {
    let (front, mut origin) = staged(&kept());
    let (client, mut feed) = tokio::join!(front.send(get("/")), async {
        let (feed, body) = Fed::new(16);
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
async fn the_unfinished_rest_of_a_stream_is_replayed_as_it_is() {
    let (front, mut origin) = staged(&kept());
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
async fn a_stream_that_is_primed_can_be_resumed_from_the_start() {
    let replay = Replay::default().prime(Some(Duration::from_millis(700)));
    let (front, mut origin) = staged(&with(replay));
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    let prime = client.event().await;
    let id = field(&prime, "id").unwrap();
    assert_eq!(prime, format!("id: {id}\ndata: \nretry: 700\n\n"));
    drop(client);
    feed.events(0..1).await;
    assert_eq!(front.send(after(&id)).await.events(1).await.0, ["0"]);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_dropped_cuts_its_clients() {
    let tasks = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&tasks);
    let replay = Replay::default().executor(move |task| kept.lock().unwrap().push(task));
    let (front, mut origin) = staged(&with(replay));
    let (client, _feed) = front.open(&mut origin, get("/")).await;
    assert_eq!(tasks.lock().unwrap().drain(..).count(), 1);
    assert_eq!(
        client.rest().await,
        (String::new(), Some(ErrorKind::Aborted))
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_of_ours_goes_upstream() {
    let replay = Replay::default().query("lastEventId");
    let (front, mut origin) = staged(&with(replay));
    let id = "0123456789abcdef0123456789abcdef.0.7";
    let send = |method, header: Option<&str>, query: &str| {
        let mut request = Request::builder().method(method).uri(format!("/?{query}"));
        if let Some(header) = header {
            request = request.header("last-event-id", header);
        }
        let front = front.clone();
        tokio::spawn(async move { front.send(request).await.status })
    };
    let query = format!("a=1&lastEventId={id}&b=2");
    let second = format!("lastEventId=7&lastEventId={id}");
    for method in [Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE] {
        for (header, query, left) in [
            (Some(id), "", ""),
            (Some(id), &*query, "a=1&b=2"),
            (None, &query, "a=1&b=2"),
            (None, &second, ""),
        ] {
            let sent = send(method.clone(), header, query);
            let call = origin.next().await;
            assert_eq!(call.header("last-event-id"), None);
            assert_eq!(call.request.uri().query().unwrap_or_default(), left);
            sent.abort();
        }
    }
    for method in [Method::GET, Method::POST] {
        // The header is what a client goes by that has both.
        let sent = send(method.clone(), Some("7"), &query);
        let call = origin.next().await;
        assert_eq!(call.header("last-event-id"), Some("7"));
        assert_eq!(call.request.uri(), "/?a=1&b=2");
        sent.abort();
        for several in [format!("{id}, {id}"), format!("7,{id}")] {
            let sent = send(method.clone(), Some(&several), "");
            assert_eq!(sent.await.unwrap(), 400);
        }
        assert!(origin.is_idle().await);
        let sent = send(method, Some("7, 8"), "");
        assert_eq!(origin.next().await.header("last-event-id"), Some("7, 8"));
        sent.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_of_ours_goes_upstream_in_a_list_to_a_server_of_mcp() {
    let mcp = Mcp::new(Policy::default().replay(Replay::default()));
    let layer = SseProxyLayer::default().policy(move |request| Some(mcp.policy(request)));
    let (front, mut origin) = staged(&layer);
    let id = "0123456789abcdef0123456789abcdef.0.7";
    for several in [format!("{id}, 7"), format!("7,{id}")] {
        let request = get("/mcp").header("last-event-id", several);
        let sent = tokio::spawn({
            let front = front.clone();
            async move { front.send(request).await.status }
        });
        assert!(origin.is_idle().await);
        assert_eq!(sent.await.unwrap(), 400);
    }
}

#[tokio::test(start_paused = true)]
async fn no_server_of_mcp_is_asked_to_look_up_an_id_that_its_client_cannot_have() {
    let revisions = ["2025-03-26", "2025-06-18", "2025-11-25"];
    let asked = |replay: Replay| async move {
        let mcp = Mcp::new(Policy::default().replay(replay));
        let layer = SseProxyLayer::default().policy(move |request| Some(mcp.policy(request)));
        let (front, mut origin) = staged(&layer);
        let mut asked = Vec::new();
        for revision in revisions {
            let request = get("/mcp").header("mcp-protocol-version", revision);
            let sent = tokio::spawn({
                let front = front.clone();
                async move {
                    front
                        .send(request.header("last-event-id", "7"))
                        .await
                        .status
                }
            });
            if origin.is_idle().await {
                assert_eq!(sent.await.unwrap(), 400);
            } else {
                asked.push(revision);
            }
        }
        asked
    };
    assert!(asked(Replay::default()).await.is_empty());
    // Here it has the upstream's, and they may be older than what is kept.
    let upstreams = Replay::default().upstream_ids(true);
    assert_eq!(asked(upstreams.clone()).await, revisions);
    // ... unless it is said that they are not.
    assert!(asked(upstreams.only_own_ids(true)).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_server_of_mcp_without_sessions_is_resumed_by_clients_that_name_no_revision() {
    let mcp = Mcp::new(Policy::default().replay(Replay::default()));
    let layer = SseProxyLayer::default().policy(move |request| Some(mcp.policy(request)));
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, Request::post("/mcp")).await;
    feed.send("data: {\"method\":\"progress\"}\n\ndata: {\"id\":1,\"result\":{}}\n\n")
        .await;
    let (_, id) = client.events(1).await;
    drop(client);
    let mut again = front.send(get("/mcp").header("last-event-id", id)).await;
    assert_eq!(again.events(1).await.0, [r#"{"id":1,"result":{}}"#]);
    assert!(origin.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_said_it_was_done_is_done_when_it_is_let_go() {
    for (detach, bytes) in [(true, 1 << 20), (false, 1 << 20), (true, 5)] {
        let replay = Replay::default()
            .detach(move |_, _| detach)
            .detached_bytes(bytes);
        let (front, mut origin) = staged(&with(replay));
        let (mut client, mut feed) = front.open(&mut origin, Request::post("/")).await;
        feed.send("data: 0\n\ndata: [DONE]\n\n").await;
        let (_, id) = client.events(1).await;
        let (_, last) = client.events(1).await;
        // Clients of such APIs hang up now, and this upstream does not.
        drop(client);
        settle().await;
        if bytes == 5 {
            feed.send("data: more\n\n").await;
        } else {
            tokio::time::advance(Duration::from_secs(61)).await;
        }
        assert!(feed.is_let_go().await);
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
async fn two_ids_are_too_many() {
    let (front, mut origin) = staged(&kept());
    let two = after("0123456789abcdef0123456789abcdef.0.7").header("last-event-id", "8");
    assert_eq!(front.send(two).await.status, 400);
    assert!(origin.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn a_stream_can_be_ended_by_its_token() {
    let layer = kept();
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..2).await;
    let (_, id) = client.events(1).await;
    let token = id.parse::<EventId>().unwrap().token;
    assert!(layer.abort(token));
    assert!(feed.is_let_go().await);
    assert_eq!(client.rest().await.1, Some(ErrorKind::Aborted));
    let told = front.send(after(&id)).await;
    assert!(told.rest().await.0.contains("unknown"));
    assert!(!layer.abort(token));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_comes_back_while_the_upstream_is_down_is_not_told_to_give_up() {
    let (front, mut origin) = staged(&kept());
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
    let post = Request::post("/").header("last-event-id", &id);
    assert_eq!(failing(post, &mut origin).await.0, 502);
    let (mut again, mut feed) = front.open(&mut origin, after(&id)).await;
    feed.events(1..2).await;
    assert_eq!(again.events(1).await.0, ["1"]);
}

#[tokio::test(start_paused = true)]
async fn an_upstreams_own_ids_can_be_kept() {
    let layer = with(Replay::default().upstream_ids(true).query("last"));
    let (front, mut origin) = staged(&layer);
    let mine = |path: &str| get(path).header("authorization", "mine");
    let (mut client, mut feed) = front.open(&mut origin, mine("/a")).await;
    feed.events(0..3).await;
    assert_eq!(client.event().await, "id: up-0\ndata: 0\n\n");
    drop(client);
    feed.send("id:  up-3 \ndata: 3\n\n").await;
    let mut again = front.send(mine("/a").header("last-event-id", "up-1")).await;
    assert_eq!(
        data(&(again.event().await + &again.event().await)),
        ["2", "3"]
    );
    let mut again = front.send(mine("/a?last=up-2")).await;
    assert_eq!(data(&again.event().await), ["3"]);
    feed.events(4..5).await;
    let mut again = front.send(mine("/a").header("last-event-id", "up-3")).await;
    assert_eq!(data(&again.event().await), ["4"]);
    // Of two streams, in the one that began last.
    let (_, mut second) = front.open(&mut origin, mine("/a")).await;
    second
        .send("id: up-1\ndata: 1\n\nid: x\ndata: new\n\n")
        .await;
    settle().await;
    let mut again = front.send(mine("/a").header("last-event-id", "up-1")).await;
    assert_eq!(data(&again.event().await), ["new"]);
    assert!(origin.is_idle().await);
    // Everything else is for the upstream.
    for request in [
        mine("/a").header("last-event-id", "up-9"),
        mine("/b").header("last-event-id", "up-1"),
        get("/a")
            .header("authorization", "another's")
            .header("last-event-id", "up-1"),
        get("/a").header("last-event-id", "up-1"),
    ] {
        let (_, id) = tokio::join!(front.send(request), async {
            let call = origin.next().await;
            let id = call.header("last-event-id").map(str::to_owned);
            call.stream();
            id
        });
        assert!(id.is_some_and(|id| id.starts_with("up-")));
    }
    // Nobody in particular is no proof.
    let (_, mut feed) = front.open(&mut origin, get("/c")).await;
    feed.events(0..2).await;
    settle().await;
    let (_, _) = front
        .open(&mut origin, get("/c").header("last-event-id", "up-0"))
        .await;
}

#[tokio::test(start_paused = true)]
async fn streams_of_different_scopes_are_told_apart() {
    let [one, two] = ["one", "two"].map(|scope| {
        let replay = Replay::default().scope(scope);
        Arc::new(Policy::default().replay(replay))
    });
    let layer = SseProxyLayer::default().policy(move |request| {
        let in_two = request.headers.contains_key("x-two");
        Some(Arc::clone(if in_two { &two } else { &one }))
    });
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..2).await;
    let (_, id) = client.events(1).await;
    let elsewhere = front.send(after(&id).header("x-two", "1")).await;
    assert!(elsewhere.rest().await.0.contains("unknown"));
    assert_eq!(front.send(after(&id)).await.events(1).await.0, ["1"]);
}

#[tokio::test(start_paused = true)]
async fn what_completes_a_stream_can_be_said() {
    let replay = Replay::default().complete_when(|event| event.event_type() == "bye");
    let (front, mut origin) = staged(&with(replay));
    for (last, status) in [("event: bye\n", 204), ("", 200)] {
        let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
        feed.send(format!("{last}id: up-0\ndata: 0\n\n")).await;
        feed.end();
        let (_, id) = client.events(1).await;
        client.rest().await;
        let asked = async {
            if status == 200 {
                origin.next().await.stream();
            }
        };
        let (again, ()) = tokio::join!(front.send(after(&id)), asked);
        assert_eq!(again.status, status);
    }
    assert!(origin.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn an_upstreams_own_id_is_found_among_what_is_left() {
    let replay = Replay::default().upstream_ids(true);
    let replay = replay.bounds(Bounds::default().events(3));
    let (front, mut origin) = staged(&with(replay));
    let mine = |id: &str| {
        let request = get("/").header("authorization", "mine");
        request.header("last-event-id", id)
    };
    let request = get("/").header("authorization", "mine");
    let (client, mut feed) = front.open(&mut origin, request).await;
    drop(client);
    feed.events(0..10).await;
    settle().await;
    let mut again = front.send(mine("up-8")).await;
    assert_eq!(data(&again.event().await), ["9"]);
    // What is no longer kept is for the upstream to know.
    let (_, _) = front.open(&mut origin, mine("up-3")).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_cut_off_in_the_middle_does_not_complete_a_stream_that_can_go_on() {
    let replay = Replay::default().complete_when(|event| event.data().starts_with("bye"));
    let (front, mut origin) = staged(&with(replay));
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
async fn who_names_a_lost_event_in_its_address_is_told_once_and_begins_anew() {
    let (front, mut origin) = staged(&with(Replay::default().query("last")));
    let address = "/?last=0123456789abcdef0123456789abcdef.0.7&a=1";
    let (told, ended) = front.send(get(address)).await.rest().await;
    assert!(told.starts_with("event: gap\n"));
    assert_eq!(ended, None);
    // An `EventSource` keeps its address.
    let id = field(&told, "id").expect("one that comes first");
    // Others make one of the last id that they have.
    let asked_by_it = get(&format!("/?last={id}&a=1"));
    tokio::join!(front.send(asked_by_it), async {
        let call = origin.next().await;
        assert_eq!(call.request.uri(), "/?a=1");
        call.stream().events(0..1).await;
    });
    let again = get(address).header("last-event-id", id);
    let (mut client, ()) = tokio::join!(front.send(again), async {
        let call = origin.next().await;
        assert_eq!(call.header("last-event-id"), None);
        assert_eq!(call.request.uri(), "/?a=1");
        let mut feed = call.stream();
        feed.events(0..1).await;
        feed.cut();
    });
    // And goes on from there.
    let (_, id) = client.events(1).await;
    let again = get(address).header("last-event-id", id);
    let (mut client, mut feed) = front.open(&mut origin, again).await;
    feed.events(1..2).await;
    assert_eq!(client.events(1).await.0, ["1"]);
}

#[tokio::test(start_paused = true)]
async fn an_upstream_is_asked_again_for_what_it_has_not_finished_though_its_id_was_there() {
    for verbatim in [false, true] {
        let layer = with(Replay::default().upstream_ids(verbatim));
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
