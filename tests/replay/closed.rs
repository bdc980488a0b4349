//! A stream that was closed stays closed for its client, and nobody else learns that it ever was.

use http::{Method, Request, StatusCode};
use tower_sse_proxy::{
    ErrorKind,
    replay::{EventId, Gap, Replay, StreamId},
};

use crate::support::{
    origin::{after, continuing_layer, get, layer_with, recording_layer, settle},
    staged,
};

fn token(id: &str) -> StreamId {
    id.parse::<EventId>().unwrap().stream
}

fn mine(request: http::request::Builder) -> http::request::Builder {
    request.header("authorization", "mine")
}

#[tokio::test(start_paused = true)]
async fn get_is_answered_204_and_any_other_method_410() {
    for gap in [Gap::Event, Gap::Status(StatusCode::BAD_REQUEST)] {
        for begun in [Method::GET, Method::POST] {
            let layer = layer_with(Replay::default().on_gap(gap));
            let (front, mut origin) = staged(&layer);
            let request = Request::builder().method(begun);
            let (mut client, mut feed) = front.open(&mut origin, request).await;
            feed.events(0..3).await;
            let (_, first) = client.events(1).await;
            let (_, last) = client.events(2).await;
            assert!(layer.abort(token(&last)));
            assert!(feed.is_dropped().await);
            assert_eq!(client.rest().await.1, Some(ErrorKind::Aborted));
            for id in [&first, &last] {
                // A client that has missed events does not get them either: it was told to stop.
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
                !layer.abort(token(&last)),
                "there is no such stream any more"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn it_stays_closed_whatever_state_it_was_closed_in() {
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
        assert!(layer.abort(token(&id)), "{state}");
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
    assert!(layer.abort(token(&id)));
    settle().await;
    let told = async |request: http::request::Builder| {
        let told = front.send(request).await;
        let (status, headers) = (told.status, format!("{:?}", told.headers));
        (status, headers, told.rest().await)
    };
    for method in [Method::GET, Method::POST] {
        let request = |path: &str, id: &str| {
            let request = get(path).method(method.clone());
            request.header("last-event-id", id)
        };
        let expected = told(mine(request("/", unknown))).await;
        let theirs = request("/", &id).header("authorization", "another's");
        assert_eq!(told(theirs).await, expected);
        assert_eq!(told(request("/", &id)).await, expected);
        assert_eq!(told(mine(request("/other", &id))).await, expected);
        assert_ne!(told(mine(request("/", &id))).await, expected);
    }
    assert!(origin.is_idle().await);
}

/// A stream that was given up, and the one that follows on it: their ids.
async fn succeeded(
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
    assert_ne!(token(&old), token(&new));
    (old, new, feed)
}

#[tokio::test(start_paused = true)]
async fn closing_a_stream_closes_those_that_follow_on_it_and_those_that_it_follows_on() {
    for by_old in [true, false] {
        let layer = recording_layer();
        let (front, mut origin) = staged(&layer);
        let (old, new, mut feed) = succeeded(&front, &mut origin).await;
        assert!(layer.abort(token(if by_old { &old } else { &new })));
        assert!(feed.is_dropped().await, "{by_old}");
        for id in [&old, &new] {
            assert_eq!(front.send(after(id)).await.status, 204, "{by_old}");
        }
        assert!(origin.is_idle().await);
    }
}

#[tokio::test(start_paused = true)]
async fn stream_that_is_closed_while_the_upstream_is_asked_to_continue_it_stays_closed() {
    for how in ["suspended", "given up"] {
        let layer = continuing_layer();
        let (front, mut origin) = staged(&layer);
        let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
        feed.events(0..1).await;
        let (_, id) = client.events(1).await;
        if how == "given up" {
            feed.send("data: half").await;
        }
        feed.end();
        client.rest().await;
        let (answer, mut feed) = tokio::join!(front.send(after(&id)), async {
            let call = origin.next().await;
            assert!(layer.abort(token(&id)));
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
async fn clients_that_wait_for_their_turn_do_not_open_a_closed_stream_again() {
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
    assert!(origin.is_idle().await, "one asks for all");
    assert!(layer.abort(token(&id)));
    let mut feed = call.stream();
    for client in waiting {
        assert_eq!(client.await.unwrap(), 204);
    }
    assert!(feed.is_dropped().await);
    assert!(origin.is_idle().await);
}
