//! A closed stream stays closed for its owner, and its ids are unknown to every other client.

use http::{Method, Request, StatusCode};
use tower_sse_proxy::{
    ErrorKind,
    replay::{EventId, Gap, Replay, StreamId},
};

use crate::support::{
    close,
    origin::{after, continuing_layer, get, layer_with, recording_layer, settle},
    staged,
};

fn stream_of(id: &str) -> StreamId {
    id.parse::<EventId>().unwrap().stream()
}

fn mine(request: http::request::Builder) -> http::request::Builder {
    request.header("authorization", "mine")
}

#[tokio::test(start_paused = true)]
async fn get_gets_204_and_other_methods_get_410() {
    for gap in [Gap::Event, Gap::Status(StatusCode::BAD_REQUEST)] {
        for opened_with in [Method::GET, Method::POST] {
            let layer = layer_with(Replay::default().on_gap(gap));
            let (front, mut origin) = staged(&layer);
            let request = Request::builder().method(opened_with);
            let (mut client, mut feed) = front.open(&mut origin, request).await;
            feed.events(0..3).await;
            let (_, first) = client.events(1).await;
            let (_, last) = client.events(2).await;
            assert!(close(&layer, stream_of(&last)));
            assert!(feed.is_dropped().await);
            assert_eq!(client.rest().await.1, Some(ErrorKind::Aborted));
            for id in [&first, &last] {
                // A client with missed events does not get them either, because the stream was closed on purpose.
                for _ in 0..3 {
                    let answer = front.send(after(id)).await;
                    assert_eq!(answer.status, 204);
                    assert_eq!(answer.rest().await.0, "");
                    let head = after(id).method(Method::HEAD);
                    assert_eq!(front.send(head).await.status, 204);
                    for method in [Method::POST, Method::PUT] {
                        let answer = front.send(after(id).method(method)).await;
                        assert_eq!(answer.status, 410);
                    }
                }
            }
            assert!(origin.is_idle().await);
            assert!(
                !close(&layer, stream_of(&last)),
                "the stream was closed before"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn stream_closed_in_any_state_stays_closed() {
    for state in ["live", "detached", "ended", "broken"] {
        let layer = continuing_layer();
        let (front, mut origin) = staged(&layer);
        let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
        feed.events(0..1).await;
        let (_, id) = client.events(1).await;
        match state {
            "live" => {}
            "detached" => drop(client),
            "ended" => feed.end(),
            _ => feed.cut(),
        }
        settle().await;
        assert!(close(&layer, stream_of(&id)), "{state}");
        settle().await;
        assert_eq!(front.send(after(&id)).await.status, 204, "{state}");
        assert!(origin.is_idle().await, "{state}");
    }
}

#[tokio::test(start_paused = true)]
async fn ids_of_closed_streams_are_unknown_to_other_owners_and_at_other_targets() {
    let (layer, unknown) = (recording_layer(), "0123456789abcdef0123456789abcdef.0.1");
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, mine(get("/"))).await;
    feed.events(0..1).await;
    let (_, id) = client.events(1).await;
    assert!(close(&layer, stream_of(&id)));
    settle().await;
    let answer_to = async |request: http::request::Builder| {
        let answer = front.send(request).await;
        let (status, headers) = (answer.status, format!("{:?}", answer.headers));
        (status, headers, answer.rest().await)
    };
    for method in [Method::GET, Method::POST] {
        let request = |path: &str, id: &str| {
            let request = get(path).method(method.clone());
            request.header("last-event-id", id)
        };
        let expected = answer_to(mine(request("/", unknown))).await;
        let theirs = request("/", &id).header("authorization", "another's");
        assert_eq!(answer_to(theirs).await, expected);
        assert_eq!(answer_to(request("/", &id)).await, expected);
        assert_eq!(answer_to(mine(request("/other", &id))).await, expected);
        assert_ne!(answer_to(mine(request("/", &id))).await, expected);
    }
    assert!(origin.is_idle().await);
}

/// Makes a stream that ended in the middle of an event, and its successor. Returns an id of each, and the feed of the successor.
async fn stream_and_successor(
    front: &crate::support::Front,
    origin: &mut crate::support::Origin,
) -> (String, String, crate::support::Feed) {
    let (mut client, mut feed) = front.open(origin, get("/")).await;
    feed.events(0..1).await;
    let (_, old) = client.events(1).await;
    feed.send("data: half").await;
    feed.end();
    client.rest().await;
    let (mut client, mut feed) = front.open(origin, after(&old)).await;
    feed.events(1..2).await;
    let (_, new) = client.events(1).await;
    assert_ne!(stream_of(&old), stream_of(&new));
    (old, new, feed)
}

#[tokio::test(start_paused = true)]
async fn closing_a_stream_closes_its_predecessors_and_successors() {
    for by_old in [true, false] {
        let layer = recording_layer();
        let (front, mut origin) = staged(&layer);
        let (old, new, mut feed) = stream_and_successor(&front, &mut origin).await;
        assert!(close(&layer, stream_of(if by_old { &old } else { &new })));
        assert!(feed.is_dropped().await, "{by_old}");
        for id in [&old, &new] {
            assert_eq!(front.send(after(id)).await.status, 204, "{by_old}");
        }
        assert!(origin.is_idle().await);
    }
}

#[tokio::test(start_paused = true)]
async fn stream_closed_during_a_resume_at_the_upstream_stays_closed() {
    for how in ["suspended", "ended in an event"] {
        let layer = continuing_layer();
        let (front, mut origin) = staged(&layer);
        let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
        feed.events(0..1).await;
        let (_, id) = client.events(1).await;
        if how == "ended in an event" {
            feed.send("data: half").await;
        }
        feed.end();
        client.rest().await;
        let (answer, mut feed) = tokio::join!(front.send(after(&id)), async {
            let call = origin.next().await;
            assert!(close(&layer, stream_of(&id)));
            settle().await;
            call.stream()
        });
        assert_eq!(answer.status, 204, "{how}");
        assert!(feed.is_dropped().await, "{how}");
        assert_eq!(front.send(after(&id)).await.status, 204, "{how}");
        assert!(origin.is_idle().await);
    }
}

#[tokio::test(start_paused = true)]
async fn clients_waiting_for_the_resume_permit_do_not_reopen_a_closed_stream() {
    let share = |request: &http::request::Parts| Some(request.uri.path().to_owned());
    let replay = Replay::default().continue_after_end(true).share_by(share);
    let layer = layer_with(replay);
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..1).await;
    feed.end();
    let (_, id) = client.events(1).await;
    client.rest().await;
    let send = || {
        let (front, request) = (front.clone(), after(&id));
        tokio::spawn(async move { front.send(request).await.status })
    };
    let waiting = [send(), send(), send()];
    let call = origin.next().await;
    assert!(origin.is_idle().await, "one request for all clients");
    assert!(close(&layer, stream_of(&id)));
    let mut feed = call.stream();
    for client in waiting {
        assert_eq!(client.await.unwrap(), 204);
    }
    assert!(feed.is_dropped().await);
    assert!(origin.is_idle().await);
}
