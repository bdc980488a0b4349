//! Session ids in headers and query parameters: the client and the upstream have different ids.

use crate::proxy::{Proxy, answer, by_header, header, opens_session, post, text, with};
use http::{HeaderName, HeaderValue, StatusCode};
use tower_sse_proxy::{
    SseProxyLayer,
    session::{SessionMapping, UpstreamKey},
};

#[tokio::test]
async fn client_id_and_upstream_id_differ() {
    let proxy = Proxy::new(by_header(), opens_session);
    let first = proxy.send(post("/")).await;
    let id = header(&first, "x-session").unwrap();
    assert_ne!(id, "UP-1");
    assert_eq!(proxy.requests.header("x-session"), None);
    let next = proxy.send(post("/").header("x-session", &id)).await;
    assert_eq!(proxy.requests.header("x-session").as_deref(), Some("UP-1"));
    assert_eq!(header(&next, "x-session").as_ref(), Some(&id));
    assert_eq!(text(next).await, "fine");
}

#[tokio::test]
async fn head_of_any_response_is_mapped_and_its_body_is_unchanged() {
    for (status, mime, body) in [
        (200, "application/json", r#"{"id":"UP-1"}"#),
        (202, "text/plain", ""),
        (500, "text/plain", "UP-1 failed"),
        (200, "text/event-stream", "data: UP-1\n\n"),
        (404, "text/event-stream", "data: UP-1\n\n"),
    ] {
        let proxy = Proxy::new(by_header(), move |_| {
            let mut answer = with(answer(body), "x-session", "UP-1");
            *answer.status_mut() = StatusCode::from_u16(status).unwrap();
            with(answer, "content-type", mime)
        });
        let response = proxy.send(post("/")).await;
        assert_eq!(response.status().as_u16(), status);
        assert_ne!(header(&response, "x-session").unwrap(), "UP-1");
        assert_eq!(text(response).await, body);
    }
}

#[tokio::test]
async fn new_upstream_id_gives_a_new_client_id() {
    let proxy = Proxy::new(by_header(), |request| {
        let id = if request.uri().path() == "/new" {
            "UP-2"
        } else {
            "UP-1"
        };
        with(answer(""), "x-session", id)
    });
    let first = header(&proxy.send(post("/")).await, "x-session").unwrap();
    let request = post("/new").header("x-session", &first);
    let second = header(&proxy.send(request).await, "x-session").unwrap();
    assert_ne!(second, first);
    proxy.send(post("/").header("x-session", &second)).await;
    assert_eq!(proxy.requests.header("x-session").as_deref(), Some("UP-2"));
}

#[tokio::test]
async fn upstream_id_is_unknown_to_clients() {
    let proxy = Proxy::new(by_header(), opens_session);
    proxy.send(post("/")).await;
    for name in ["x-session", "X-SESSION", "x_session"] {
        let response = proxy.send(post("/").header(name, "UP-1")).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{name}");
    }
    assert_eq!(proxy.requests.count(), 1);
}

#[tokio::test]
async fn malformed_id_is_rejected_with_a_reason() {
    let proxy = Proxy::new(by_header(), opens_session);
    let id = header(&proxy.send(post("/")).await, "x-session").unwrap();
    let long = "x".repeat(1025);
    for wrong in [&b"a b"[..], b"", b"\xff", b"caf\xc3\xa9", long.as_bytes()] {
        let wrong = HeaderValue::from_bytes(wrong).unwrap();
        let response = proxy.send(post("/").header("x-session", wrong)).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        assert!(text(response).await.contains("visible ASCII"));
    }
    let twice = post("/").header("x-session", &id).header("x-session", &id);
    assert_eq!(proxy.send(twice).await.status(), StatusCode::BAD_REQUEST);
    assert_eq!(proxy.requests.count(), 1);
}

#[tokio::test]
async fn header_spelled_with_underscore_is_removed() {
    let layers = [
        by_header(),
        SseProxyLayer::default()
            .sessions(SessionMapping::none().strip_header(HeaderName::from_static("x-session"))),
    ];
    for layer in layers {
        let proxy = Proxy::new(layer, |_| with(answer(""), "x_session", "UP-1"));
        assert_eq!(header(&proxy.send(post("/")).await, "x_session"), None);
    }
}

#[tokio::test]
async fn malformed_upstream_id_gives_502() {
    let proxy = Proxy::new(by_header(), |_| with(answer(""), "x-session", "UP 1"));
    let response = proxy.send(post("/")).await;
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(header(&response, "x-session"), None);
    assert!(!text(response).await.contains("UP 1"));
}

#[tokio::test]
async fn ignore_unknown_removes_an_unknown_id() {
    let rules = SessionMapping::none()
        .in_cookie("sid")
        .unwrap()
        .ignore_unknown();
    let proxy = Proxy::new(SseProxyLayer::default().sessions(rules), |_| answer(""));
    let long = format!("sid={}; a=1", "x".repeat(2000));
    for cookies in [
        "sid=expired; a=1",
        "sid=; a=1",
        "a=1; sid=two words",
        "sid=one; a=1; sid=another",
        &long,
    ] {
        let request = post("/").header("cookie", cookies);
        assert_eq!(proxy.send(request).await.status(), StatusCode::OK);
        assert_eq!(proxy.requests.header("cookie").unwrap(), "a=1", "{cookies}");
    }
}

#[tokio::test]
async fn parameter_is_mapped_in_any_spelling() {
    let rules = SessionMapping::header(HeaderName::from_static("x-session"))
        .in_query("sid")
        .unwrap();
    let proxy = Proxy::new(SseProxyLayer::default().sessions(rules), opens_session);
    let id = header(&proxy.send(post("/")).await, "x-session").unwrap();
    for (query, forwarded) in [
        (format!("sid={id}"), "sid=UP-1"),
        (format!("a=%20;b&sid={id}&c"), "a=%20;b&sid=UP-1&c"),
        (format!("s%69d={id}"), "s%69d=UP-1"),
        (format!("a=1;sid={id}"), "a=1;sid=UP-1"),
    ] {
        let response = proxy.send(post(&format!("/path?{query}"))).await;
        assert_eq!(response.status(), StatusCode::OK, "{query}");
        let target = proxy.requests.last().uri().to_string();
        assert_eq!(target, format!("/path?{forwarded}"));
    }
    for query in [
        "sid=UP-1",
        "%73id=UP-1",
        "a=1;sid=UP-1",
        "sid=UP%2d1",
        "SID=UP-1",
        "sid[]=UP-1",
        "sid%5B0%5D=UP-1",
    ] {
        let response = proxy.send(post(&format!("/?{query}"))).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{query}");
    }
    let both = post("/?sid=other").header("x-session", &id);
    assert_eq!(proxy.send(both).await.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn each_request_of_a_session_carries_its_upstream_key() {
    let proxy = Proxy::new(by_header(), |request| {
        let mut answer = opens_session(request);
        answer.extensions_mut().insert(UpstreamKey::new("second"));
        answer
    });
    let id = header(&proxy.send(post("/")).await, "x-session").unwrap();
    assert_eq!(
        proxy.requests.last().extensions().get::<UpstreamKey>(),
        None
    );
    proxy.send(post("/").header("x-session", &id)).await;
    let key = proxy
        .requests
        .last()
        .extensions()
        .get::<UpstreamKey>()
        .cloned();
    assert_eq!(key, Some(UpstreamKey::new("second")));
}
