//! The response head of a replayed or joined stream.

use crate::support::{
    Call, Client, FedBody, Origin, close, event_stream,
    origin::{after, get, layer_with, settle},
    staged,
};
use http::{HeaderMap, HeaderName, header};
use tower_sse_proxy::{
    SseProxyLayer,
    replay::{EventId, Replay},
    session::SessionMapping,
};

/// Response headers that are only for the client that opened the stream.
const FOR_FIRST_CLIENT_ONLY: [(&str, &str); 14] = [
    ("access-control-allow-origin", "https://first.example"),
    ("access-control-allow-credentials", "true"),
    ("access-control-expose-headers", "x-private"),
    ("vary", "origin"),
    ("x-ratelimit-remaining", "3"),
    ("ratelimit", "\"default\";r=3;t=30"),
    ("retry-after", "7"),
    ("set-cookie", "login=first"),
    ("x-request-id", "first"),
    ("traceparent", "00-1-2-01"),
    ("server-timing", "db;dur=53"),
    ("www-authenticate", "Bearer"),
    ("date", "Sun, 29 Nov 2026 00:00:00 GMT"),
    ("x-anything", "else"),
];

fn answer(call: Call) {
    let (feed, body) = FedBody::new(256);
    let mut response = event_stream(body);
    for (name, value) in FOR_FIRST_CLIENT_ONLY {
        response.headers_mut().append(name, value.parse().unwrap());
    }
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        "text/event-stream; charset=utf-8".parse().unwrap(),
    );
    headers.insert(header::CONTENT_LANGUAGE, "de".parse().unwrap());
    headers.insert("x-session", "UP-1".parse().unwrap());
    call.answer(response);
    tokio::spawn(async move {
        let mut feed = feed;
        for number in 0..3 {
            let event = format!("id: up-{number}\ndata: {number}\n\n");
            if feed.send_data(event.into()).await.is_err() {
                return;
            }
        }
        std::future::pending::<()>().await;
    });
}

fn names(headers: &HeaderMap) -> Vec<&str> {
    let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    names
}

const ALLOWED: [&str; 5] = [
    "cache-control",
    "content-language",
    "content-type",
    "incremental",
    "x-accel-buffering",
];

async fn open(front: &crate::support::Front, origin: &mut Origin) -> (Client, String) {
    let (mut client, ()) = tokio::join!(front.send(get("/a")), async {
        answer(origin.next().await);
    });
    let (_, id) = client.events(1).await;
    (client, id)
}

#[tokio::test(start_paused = true)]
async fn client_that_opens_a_stream_gets_all_upstream_headers() {
    for layer in [layer_with(Replay::default()), layer_with(sharing())] {
        let (front, mut origin) = staged(&layer);
        let (client, _) = open(&front, &mut origin).await;
        for (name, value) in FOR_FIRST_CLIENT_ONLY {
            assert_eq!(client.headers[name], value);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn resumed_stream_has_only_the_allowed_headers() {
    let (front, mut origin) = staged(&layer_with(Replay::default()));
    let (_client, id) = open(&front, &mut origin).await;
    settle().await;
    let mut resumed = front.send(get("/a").header("last-event-id", id)).await;
    assert_eq!(resumed.events(1).await.0, ["1"]);
    assert_eq!(names(&resumed.headers), ALLOWED);
    assert_eq!(
        resumed.headers["content-type"],
        "text/event-stream; charset=utf-8"
    );
    assert_eq!(resumed.headers["content-language"], "de");
    assert_eq!(resumed.headers["cache-control"], "no-store, no-transform");
}

fn sharing() -> Replay {
    Replay::default().share_by(|request| Some(request.uri.path().to_owned()))
}

#[tokio::test(start_paused = true)]
async fn joined_stream_has_only_the_allowed_headers() {
    let (front, mut origin) = staged(&layer_with(sharing()));
    // The second client waits for the response head, the third joins later.
    let (first, second, ()) = tokio::join!(
        biased;
        front.send(get("/a")),
        front.send(get("/a")),
        async { answer(origin.next().await) }
    );
    let third = front.send(get("/a")).await;
    assert!(origin.is_idle().await);
    assert_eq!(first.headers["x-request-id"], "first");
    assert_eq!(names(&second.headers), ALLOWED);
    assert_eq!(names(&third.headers), ALLOWED);
}

#[tokio::test(start_paused = true)]
async fn session_header_and_headers_added_by_the_user_are_replayed() {
    let replay = Replay::default()
        .response_header(HeaderName::from_static("x-anything"))
        .response_header(header::ACCESS_CONTROL_ALLOW_ORIGIN);
    let layer = SseProxyLayer::default()
        .sessions(SessionMapping::header(HeaderName::from_static("x-session")))
        .replay(replay);
    let (front, mut origin) = staged(&layer);
    let (client, id) = open(&front, &mut origin).await;
    settle().await;
    let session = &client.headers["x-session"];
    assert_ne!(session, "UP-1");
    let resumed = front
        .send(
            get("/a")
                .header("last-event-id", id)
                .header("x-session", session),
        )
        .await;
    assert_eq!(&resumed.headers["x-session"], session);
    let mut expected = ALLOWED.to_vec();
    expected.extend(["access-control-allow-origin", "x-anything", "x-session"]);
    expected.sort_unstable();
    assert_eq!(names(&resumed.headers), expected);
}

#[tokio::test(start_paused = true)]
async fn response_extensions_name_the_recorded_stream() {
    let layer = layer_with(sharing());
    let (front, mut origin) = staged(&layer);
    let (first, id) = open(&front, &mut origin).await;
    let stream = id.parse::<EventId>().unwrap().stream();
    assert_eq!(first.stream, Some(stream));
    let joined = front.send(get("/a")).await;
    assert_eq!(joined.stream, Some(stream));
    for method in ["GET", "POST", "HEAD"] {
        let resumed = front.send(after(&id).uri("/a").method(method)).await;
        assert_eq!(resumed.status, 200);
        assert_eq!(resumed.stream, Some(stream), "{method}");
    }
    // The response with a gap event for an unknown id reads no stream.
    let unknown = "0123456789abcdef0123456789abcdef.0.0";
    assert_eq!(front.send(after(unknown).uri("/a")).await.stream, None);
    assert!(close(&layer, first.stream.unwrap()));
    assert_eq!(front.send(after(&id).uri("/a")).await.stream, None);
}

#[tokio::test(start_paused = true)]
async fn response_extensions_of_an_unrecorded_stream_name_none() {
    let (front, mut origin) = staged(&SseProxyLayer::default());
    let (client, _feed) = front.open(&mut origin, get("/a")).await;
    assert_eq!(client.stream, None);
}
