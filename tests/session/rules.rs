//! Which answers and requests end a session, and which rules are refused.

use std::sync::{Arc, Mutex};

use crate::proxy::{Proxy, answer, ask, by_header, header, opens};
use http::{HeaderName, Method, Request, StatusCode};
use tower_sse_proxy::{
    SseProxyLayer,
    session::{MappingError, SessionMapping},
};

#[tokio::test]
async fn a_session_is_over_when_the_rules_say_so() {
    let rules =
        || SessionMapping::header(HeaderName::from_static("x-session")).end_on_delete_or_404();
    for (method, status, over) in [
        (Method::DELETE, 204, true),
        (Method::DELETE, 405, false),
        (Method::POST, 404, true),
        (Method::GET, 404, false),
        (Method::POST, 400, false),
        (Method::GET, 204, false),
    ] {
        let layer = SseProxyLayer::default().sessions(rules());
        let proxy = Proxy::new(layer, move |request| match request.uri().path() {
            "/" => opens(request),
            _ => {
                let mut answer = answer("");
                *answer.status_mut() = StatusCode::from_u16(status).unwrap();
                answer
            }
        });
        let id = header(&proxy.send(ask("/")).await, "x-session").unwrap();
        let request = Request::builder()
            .method(method.clone())
            .uri("/end")
            .header("x-session", &id);
        assert_eq!(proxy.send(request).await.status().as_u16(), status);
        let after = proxy.send(ask("/").header("x-session", &id)).await;
        assert_eq!(
            after.status() == StatusCode::NOT_FOUND,
            over,
            "{method} {status}"
        );
    }
    // A page that is missing is not the end of a session.
    let proxy = Proxy::new(by_header(), |request| {
        let mut answer = opens(request);
        *answer.status_mut() = StatusCode::NOT_FOUND;
        answer
    });
    let id = header(&proxy.send(ask("/")).await, "x-session").unwrap();
    proxy.send(ask("/").header("x-session", &id)).await;
    proxy.send(ask("/").header("x-session", &id)).await;
    assert_eq!(proxy.asked.count(), 3);
}

#[tokio::test]
async fn what_ends_a_session_is_asked_about_as_it_came() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let ends = Arc::clone(&asked);
    let rules = SessionMapping::header(HeaderName::from_static("x-session")).end_when(
        move |request, response| {
            let ids = [&request.headers, &response.headers];
            let ids = ids.map(|headers| headers["x-session"].to_str().unwrap().to_owned());
            ends.lock().unwrap().push(ids);
            false
        },
    );
    let proxy = Proxy::new(SseProxyLayer::default().sessions(rules), opens);
    let id = header(&proxy.send(ask("/")).await, "x-session").unwrap();
    // Who has no session has none that could be over.
    assert!(asked.lock().unwrap().is_empty());
    proxy.send(ask("/").header("x-session", &id)).await;
    assert_eq!(*asked.lock().unwrap(), [[id, "UP-1".to_owned()]]);
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
