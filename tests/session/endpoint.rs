//! The `endpoint` event of the MCP HTTP+SSE transport, revision 2024-11-05.

use std::convert::Infallible;

use crate::proxy::{Proxy, answer, post, send_stream, text};
use crate::support::{Script, event_stream, rest};
use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt};
use tower_sse_proxy::{
    ErrorKind, SseProxyLayer,
    session::{MemoryStore, SessionMapping},
};

/// Returns the session id in the URL of the first `endpoint` event.
fn endpoint_id<'a>(stream: &'a str, path: &str) -> &'a str {
    let url = stream.strip_prefix("event: endpoint\ndata: ").unwrap();
    let url = url.split('\n').next().unwrap();
    url.strip_prefix(path)
        .unwrap()
        .strip_prefix("?sessionId=")
        .unwrap()
}

#[tokio::test]
async fn endpoint_url_of_any_form_becomes_the_path_of_the_stream_with_an_id() {
    for (endpoint, target) in [
        ("/messages?sessionId=UP-1", "/messages?sessionId=UP-1"),
        (
            "messages/?session_id=UP-1&x=%20",
            "/m/messages/?session_id=UP-1&x=%20",
        ),
        ("/messages/UP-1", "/messages/UP-1"),
        (
            "http://upstream:9000/messages?sid=UP-1",
            "/messages?sid=UP-1",
        ),
        ("http://gateway/messages?sid=UP-1", "/messages?sid=UP-1"),
    ] {
        // The stream stays open, because the session ends with it.
        let layer = SseProxyLayer::default().sessions(
            SessionMapping::none()
                .in_endpoint()
                .allow_upstream_origin("http://upstream:9000")
                .unwrap(),
        );
        let stream = Script::new([
            crate::support::Step::Data(": hi\n\nevent: endp".into()),
            crate::support::Step::Later,
            crate::support::Step::Data(
                format!("oint\r\ndata: {endpoint}\r\n\r\nevent: message\ndata: {endpoint}\n\n")
                    .into(),
            ),
            crate::support::Step::Never,
        ]);
        let request = Request::get("/m/sse?token=1").header("host", "gateway");
        let response =
            crate::support::respond(&layer, request.body(()).unwrap(), event_stream(stream)).await;
        let mut body = response.into_body();
        let mut seen = String::new();
        while !seen.contains("event: message") {
            let frame = crate::support::soon(body.frame()).await.unwrap().unwrap();
            seen.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
        }
        let seen = seen.strip_prefix(": hi\n\n").unwrap();
        // A `message` event passes unchanged.
        assert!(
            seen.ends_with(&format!("event: message\ndata: {endpoint}\n\n")),
            "{seen}"
        );
        let id = endpoint_id(seen, "/m/sse");
        assert!(!id.contains("UP-1"));

        let proxy = Proxy::new(layer, |_| answer("accepted"));
        let request = post(&format!("/m/sse?sessionId={id}"));
        assert_eq!(proxy.send(request).await.status(), StatusCode::OK);
        assert_eq!(proxy.requests.last().uri(), target);
        // The id is valid only in the parameter that the layer sets. The upstream's id is unknown.
        for wrong in [
            post("/messages?sessionId=UP-1"),
            post("/messages?session_id=UP-1"),
            post("/messages?s%65ssionid=UP-1"),
        ] {
            assert_eq!(proxy.send(wrong).await.status(), StatusCode::NOT_FOUND);
        }
        assert_eq!(proxy.requests.count(), 1);
    }
}

#[tokio::test]
async fn endpoint_of_another_origin_cuts_the_stream() {
    for endpoint in [
        "http://evil.example/messages",
        "//evil.example/",
        "/\\evil.example",
        "mailto:me",
    ] {
        let stream = Script::of([format!(
            "data: 1\n\nevent: endpoint\ndata: {endpoint}\n\ndata: 2\n\n"
        )]);
        let (seen, failed) = send_stream(
            SessionMapping::none().in_endpoint(),
            Request::get("/sse"),
            stream,
        )
        .await;
        assert_eq!(
            (&*seen, failed),
            ("data: 1\n\n", Some(ErrorKind::Session)),
            "{endpoint}"
        );
    }
}

#[tokio::test]
async fn endpoint_never_starts_with_two_slashes() {
    for path in ["//evil.example/sse", "///evil.example/sse"] {
        let layer = SseProxyLayer::default().sessions(SessionMapping::none().in_endpoint());
        let proxy = Proxy::new(layer, |_| {
            event_stream(Full::from("event: endpoint\ndata: /messages/UP-1\n\n"))
        });
        let stream = text(proxy.send(Request::get(path)).await).await;
        assert!(
            stream.starts_with("event: endpoint\ndata: /evil.example/sse?sessionId="),
            "{stream}"
        );
    }
}

#[tokio::test]
async fn mount_path_is_part_of_the_endpoint() {
    let rules = SessionMapping::none()
        .in_endpoint()
        .mount_path("/tools/")
        .unwrap();
    let stream = Script::of(["event: endpoint\ndata: /messages?sessionId=UP-1\n\n"]);
    let (seen, _) = send_stream(rules, Request::get("/sse"), stream).await;
    endpoint_id(&seen, "/tools/sse");
}

#[tokio::test]
async fn endpoint_reaches_a_nested_router() {
    use axum::{Router, body::Body, http::Uri, routing};
    let stream = || async {
        // The stream stays open, because the session ends with it.
        let event = Bytes::from("event: endpoint\ndata: /messages?sessionId=UP-1\n\n");
        let first = futures_util::stream::iter([Ok::<_, Infallible>(event)]);
        let body = Body::from_stream(first.chain(futures_util::stream::pending()));
        ([("content-type", "text/event-stream")], body)
    };
    let tools = Router::new().route("/sse", routing::get(stream)).route(
        "/messages",
        routing::post(|uri: Uri| async move { uri.to_string() }),
    );
    let layer = SseProxyLayer::default().sessions(
        SessionMapping::none()
            .in_endpoint()
            .mount_path("/tools")
            .unwrap(),
    );
    let app = Router::new().nest_service("/tools", layer.layer(tools));

    let request = Request::get("/tools/sse").body(Body::empty()).unwrap();
    let stream = app.clone().oneshot(request).await.unwrap();
    let mut stream = stream.into_body();
    let event = crate::support::soon(stream.frame()).await.unwrap().unwrap();
    let event = String::from_utf8(event.into_data().unwrap().to_vec()).unwrap();
    let id = endpoint_id(&event, "/tools/sse");
    let request = Request::post(format!("/tools/sse?sessionId={id}"));
    let request = request.body(Body::empty()).unwrap();
    let answer = app.oneshot(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let received_uri = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(received_uri, "/messages?sessionId=UP-1");
}

#[tokio::test]
async fn session_of_an_endpoint_ends_with_its_stream() {
    let store = MemoryStore::default();
    let layer = SseProxyLayer::new(store.clone()).sessions(SessionMapping::none().in_endpoint());
    let stream = Script::of(["event: endpoint\ndata: /messages?sessionId=UP-1\n\n"]);
    let response = crate::support::respond(
        &layer,
        Request::get("/sse").body(()).unwrap(),
        event_stream(stream),
    )
    .await;
    let (seen, _) = rest(response.into_body()).await;
    let id = endpoint_id(&seen, "/sse").to_owned();
    let proxy = Proxy::new(layer, |_| answer(""));
    // A task removes the session later, so the first requests may still succeed.
    crate::support::soon(async {
        while proxy
            .send(post(&format!("/sse?sessionId={id}")))
            .await
            .status()
            != StatusCode::NOT_FOUND
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn streams_with_the_same_endpoint_are_separate_sessions() {
    let layer = SseProxyLayer::default().sessions(SessionMapping::none().in_endpoint());
    let stream = |last| {
        let event = "event: endpoint\ndata: /messages\n\n";
        event_stream(Script::new([
            crate::support::Step::Data(event.into()),
            last,
        ]))
    };
    let get = || Request::get("/sse").body(()).unwrap();
    let ending = crate::support::respond(&layer, get(), stream(crate::support::Step::Later)).await;
    let open = crate::support::respond(&layer, get(), stream(crate::support::Step::Never)).await;
    let (ended, _) = rest(ending.into_body()).await;
    let mut open = open.into_body();
    let live = open.frame().await.unwrap().unwrap().into_data().unwrap();
    let live = String::from_utf8(live.to_vec()).unwrap();
    let id = |text: &str| endpoint_id(text, "/sse").to_owned();
    assert_ne!(id(&ended), id(&live));
    let proxy = Proxy::new(layer, |_| answer(""));
    let status = async |text: &str| {
        let request = post(&format!("/sse?sessionId={}", id(text)));
        proxy.send(request).await.status()
    };
    crate::support::soon(async {
        while status(&ended).await != StatusCode::NOT_FOUND {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(status(&live).await, StatusCode::OK);
}
