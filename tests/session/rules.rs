//! Rules that end a session, and rules that are rejected.

use std::sync::{Arc, Mutex};

use crate::proxy::{Proxy, answer, by_header, header, opens_session, post};
use http::{HeaderName, Method, Request, StatusCode};
use tower_sse_proxy::{
    SseProxyLayer,
    session::{MappingError, SessionMapping},
};

#[tokio::test]
async fn r49_end_on_delete_or_404_ends_sessions_as_mcp_does() {
    let rules =
        || SessionMapping::header(HeaderName::from_static("x-session")).end_on_delete_or_404();
    for (method, status, ends) in [
        (Method::DELETE, 204, true),
        (Method::DELETE, 405, false),
        (Method::POST, 404, true),
        (Method::GET, 404, false),
        (Method::POST, 400, false),
        (Method::GET, 204, false),
    ] {
        let layer = SseProxyLayer::default().sessions(rules());
        let proxy = Proxy::new(layer, move |request| match request.uri().path() {
            "/" => opens_session(request),
            _ => {
                let mut answer = answer("");
                *answer.status_mut() = StatusCode::from_u16(status).unwrap();
                answer
            }
        });
        let id = header(&proxy.send(post("/")).await, "x-session").unwrap();
        let request = Request::builder()
            .method(method.clone())
            .uri("/end")
            .header("x-session", &id);
        assert_eq!(proxy.send(request).await.status().as_u16(), status);
        let after = proxy.send(post("/").header("x-session", &id)).await;
        assert_eq!(
            after.status() == StatusCode::NOT_FOUND,
            ends,
            "{method} {status}"
        );
    }
    // Without that rule, a 404 does not end the session.
    let proxy = Proxy::new(by_header(), |request| {
        let mut answer = opens_session(request);
        *answer.status_mut() = StatusCode::NOT_FOUND;
        answer
    });
    let id = header(&proxy.send(post("/")).await, "x-session").unwrap();
    proxy.send(post("/").header("x-session", &id)).await;
    proxy.send(post("/").header("x-session", &id)).await;
    assert_eq!(proxy.requests.count(), 3);
}

#[tokio::test]
async fn ends_when_gets_the_client_id_and_the_upstream_id() {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let recorded = Arc::clone(&calls);
    let rules = SessionMapping::header(HeaderName::from_static("x-session")).end_when(
        move |request, response| {
            let ids = [&request.headers, &response.headers];
            let ids = ids.map(|headers| headers["x-session"].to_str().unwrap().to_owned());
            recorded.lock().unwrap().push(ids);
            false
        },
    );
    let proxy = Proxy::new(SseProxyLayer::default().sessions(rules), opens_session);
    let id = header(&proxy.send(post("/")).await, "x-session").unwrap();
    // A request without a session cannot end one.
    assert!(calls.lock().unwrap().is_empty());
    proxy.send(post("/").header("x-session", &id)).await;
    assert_eq!(*calls.lock().unwrap(), [[id, "UP-1".to_owned()]]);
}

#[test]
fn setting_that_can_never_match_is_an_error() {
    type Rule = fn(&str) -> Result<SessionMapping, MappingError>;
    let rules: [Rule; 5] = [
        |name| SessionMapping::none().in_cookie(name),
        |name| SessionMapping::none().in_query(name),
        |pointer| SessionMapping::none().in_data(pointer),
        |origin| SessionMapping::none().allow_upstream_origin(origin),
        |prefix| SessionMapping::none().mount_path(prefix),
    ];
    let [cookie, query, data, origin, prefix] = rules;
    for (rule, wrong) in [
        (cookie, ""),
        (cookie, "sid=1"),
        (cookie, "s;id"),
        (cookie, "s id"),
        (query, ""),
        (data, "session/id"),
        (data, "$.id"),
        (data, "/a~b"),
        (data, "/a~"),
        (origin, "10.0.0.7:9000"),
        (origin, "http://upstream/sse"),
        (prefix, "tools"),
        (prefix, "/tools?a"),
    ] {
        let error = rule(wrong).expect_err(wrong).to_string();
        assert!(error.contains(&format!("{wrong:?}")), "{error}");
    }
    for (rule, valid) in [
        (cookie, "__Host-sid[0]"),
        (data, ""),
        (data, "/a~0b/~1"),
        (origin, "http://upstream:80/"),
        (prefix, ""),
        (prefix, "/"),
    ] {
        rule(valid).unwrap();
    }
}
