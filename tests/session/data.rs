//! `SessionMapping::in_data`: session ids in the data of events.

use std::sync::{Arc, Mutex};

use crate::proxy::{Proxy, answer, by_header, header, opens_session, post, text, with};
use crate::support::{Script, event_stream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use tower_sse_proxy::{Event, SseProxyLayer, intercept::StreamHead, session::SessionMapping};

#[tokio::test]
async fn ids_are_mapped_only_at_the_configured_pointer() {
    let rules = SessionMapping::header(HeaderName::from_static("x-session"))
        .in_data("/session/id")
        .unwrap();
    let proxy = Proxy::new(SseProxyLayer::default().sessions(rules), |_| {
        let stream = concat!(
            "id: 7\ndata: {\"n\": 1.0, \"session\": {\"id\": \"UP-1\"}, \"text\": \"UP-1\"}\n\n",
            "data: {\"session\": {\"id\": \"UP-2\"}}\n\n",
            "data: {\"session\": {\"id\": 5}}\n\n",
            "data: UP-1\n\n",
        );
        with(
            with(answer(stream), "content-type", "text/event-stream"),
            "x-session",
            "UP-1",
        )
    });
    let response = proxy.send(post("/")).await;
    let id = header(&response, "x-session").unwrap();
    let stream = text(response).await;
    let events: Vec<_> = stream.split("\n\n").collect();
    assert_eq!(
        events[0],
        format!(
            "id: 7\ndata: {{\"n\": 1.0, \"session\": {{\"id\": \"{id}\"}}, \"text\": \"UP-1\"}}"
        )
    );
    assert!(!events[1].contains("UP-2") && !events[1].contains(&id));
    assert_eq!(
        events[2..],
        ["data: {\"session\": {\"id\": 5}}", "data: UP-1", ""]
    );
}

#[tokio::test]
async fn interceptors_see_the_ids_of_the_client() {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    let interceptor = move |head: &StreamHead<'_>| {
        let all = [&head.request.headers, &head.response.headers];
        let ids = all.map(|headers: &HeaderMap| headers.get("x-session").cloned());
        seen.lock().unwrap().push(ids);
        Some(Pass)
    };
    let layer = by_header().intercept(interceptor);
    let proxy = Proxy::new(layer, |request| {
        with(opens_session(request), "content-type", "text/event-stream")
    });
    let id = header(&proxy.send(post("/")).await, "x-session").unwrap();
    proxy.send(post("/").header("x-session", &id)).await;
    let id = Some(HeaderValue::from_str(&id).unwrap());
    assert_eq!(
        *heads.lock().unwrap(),
        [[None, id.clone()], [id.clone(), id]]
    );
}

struct Pass;

impl tower_sse_proxy::intercept::Interceptor for Pass {
    fn event(&mut self, event: Event) -> tower_sse_proxy::intercept::Verdict {
        event.into()
    }
}

#[tokio::test]
async fn stream_with_unknown_content_coding_is_rejected() {
    let layer = SseProxyLayer::default().sessions(SessionMapping::none().in_data("/id").unwrap());
    let mut stream = event_stream(Script::of(["?"]));
    stream
        .headers_mut()
        .insert("content-encoding", "compress".parse().unwrap());
    let response = crate::support::respond(&layer, Request::new(()), stream).await;
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
}
