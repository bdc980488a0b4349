//! The layer recognizes event streams by the response head alone, and rewrites the head of those that it reads.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use crate::support::{BOTH, Deny, Script, Step, Upstream, fetch, get, pass, proxy, respond, serve};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use tower::{Layer, service_fn};
use tower_sse_proxy::{Event, SseProxyLayer};

/// A body that panics if it is polled before `may_poll` is set.
#[derive(Debug)]
struct PolledLate {
    may_poll: Arc<AtomicBool>,
    text: Option<Bytes>,
}

impl Body for PolledLate {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        assert!(
            self.may_poll.load(Ordering::SeqCst),
            "body polled before the response head was returned"
        );
        Poll::Ready(self.text.take().map(|text| Ok(Frame::data(text))))
    }
}

fn typed<B>(content_type: &str, body: B) -> Response<B> {
    let response = Response::builder().header("content-type", content_type);
    response.body(body).unwrap()
}

/// A layer that replaces every event by `pass_through`, which shows that the layer inspected the stream.
fn marking() -> SseProxyLayer {
    SseProxyLayer::default().intercept(|_: Event| Event::new("pass_through"))
}

async fn is_inspected(layer: &SseProxyLayer, response: Response<&'static str>) -> bool {
    let response = response.map(Full::<Bytes>::from);
    let body = respond(layer, Request::new(()), response).await.into_body();
    match &body.collect().await.unwrap().to_bytes()[..] {
        b"data: pass_through\n\n" => true,
        b"data: x\n\n" => false,
        other => panic!("{}", other.escape_ascii()),
    }
}

#[tokio::test]
async fn r01_detection_does_not_poll_the_body() {
    for content_type in ["text/event-stream", "application/json", "text/plain"] {
        for layer in [SseProxyLayer::default(), marking()] {
            let may_poll = Arc::new(AtomicBool::new(false));
            let text = Some("data: x\n\n".into());
            let body = PolledLate {
                may_poll: Arc::clone(&may_poll),
                text,
            };
            let response = respond(&layer, Request::new(()), typed(content_type, body)).await;
            assert_eq!(response.status(), 200);
            may_poll.store(true, Ordering::SeqCst);
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert!(body.starts_with(b"data: "));
        }
    }
}

/// The upstream sends only its head.
#[tokio::test]
async fn r01_head_is_sent_before_the_first_byte_of_the_body_arrives() {
    for content_type in ["text/event-stream", "application/json"] {
        for protocol in BOTH {
            let mut upstream = Upstream::start().await;
            let proxy = proxy(marking(), upstream.address).await;
            let upstream = async {
                let mut exchange = upstream.next().await;
                let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-type: ";
                exchange
                    .write(format!("{head}{content_type}\r\n\r\n"))
                    .await;
                exchange
            };
            let (_open, answer) = tokio::join!(upstream, get(protocol, proxy));
            assert_eq!(answer.header("content-type"), Some(content_type));
        }
    }
}

#[tokio::test]
async fn r03_event_stream_type_is_found_in_any_spelling() {
    for (types, expected) in [
        (&["text/event-stream"][..], true),
        (&["TEXT/Event-Stream"], true),
        (&["text/event-stream;charset=utf-8"], true),
        (&["text/event-stream ; Charset=\"UTF-8\""], true),
        (&["text/plain", "text/event-stream"], true),
        (&["text/event-stream", "text/plain"], true),
        (&["text/plain, text/event-stream"], true),
        (&["text/event-stream,"], true),
        (&[], false),
        (&[""], false),
        (&["text/event-streams"], false),
        (&["text/event-stream+json"], false),
        (&["application/json; x=text/event-stream"], false),
        (&["text/plain", "application/json"], false),
    ] {
        let mut response = Response::builder();
        for value in types {
            response = response.header("content-type", *value);
        }
        let response = response.body("data: x\n\n").unwrap();
        assert_eq!(
            is_inspected(&marking(), response).await,
            expected,
            "{types:?}"
        );
    }
}

#[tokio::test]
async fn r03_status_method_and_accept_do_not_affect_detection() {
    for status in [200, 201, 202, 301, 400, 404, 429, 500, 503] {
        for method in [Method::GET, Method::POST, Method::OPTIONS] {
            for accept in [
                None,
                Some("text/event-stream"),
                Some("application/json"),
                Some("*/*"),
            ] {
                let mut request = Request::builder().method(&method);
                if let Some(accept) = accept {
                    request = request.header("accept", accept);
                }
                let mut response = typed("text/event-stream", Full::<Bytes>::from("data: x\n\n"));
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
                let response = respond(&marking(), request.body(()).unwrap(), response).await;
                assert_eq!(response.status(), status);
                let body = response.into_body().collect().await.unwrap().to_bytes();
                assert_eq!(body, "data: pass_through\n\n");
            }
        }
    }
}

#[tokio::test]
async fn response_with_bodiless_status_keeps_its_head() {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    let layer = marking().detect(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        true
    });
    for status in [101, 103, 204, 304] {
        let mut response = typed("text/event-stream", Full::<Bytes>::from("\0 no events"));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        response
            .headers_mut()
            .insert("etag", "\"1\"".parse().unwrap());
        let before = response.headers().clone();
        let response = respond(&layer, Request::new(()), response).await;
        assert_eq!(
            (response.status().as_u16(), response.headers()),
            (status, &before)
        );
        let body = response.into_body().collect().await.unwrap().to_bytes();
        // A final response with such a status has no body: see `no_body`.
        let is_interim = status < 200;
        assert_eq!(body, if is_interim { "\0 no events" } else { "" });
    }
    assert_eq!(calls.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn custom_detection_replaces_the_default() {
    let ndjson = marking().detect(|head| {
        let value = head.headers.get("content-type");
        value.is_some_and(|value| value == "application/x-ndjson") && head.status == 200
    });
    for (content_type, expected) in [("application/x-ndjson", true), ("text/event-stream", false)] {
        let response = typed(content_type, "data: x\n\n");
        assert_eq!(is_inspected(&ndjson, response).await, expected);
    }
}

/// A head with all fields that the layer must keep, change or remove when it may change the body.
const HEAD: &str = "HTTP/1.1 200 OK\r\n\
    content-type: text/plain\r\ncontent-type: Text/Event-Stream; charset=utf-8\r\n\
    etag: \"strong\"\r\nlast-modified: Mon, 01 Jan 2024 00:00:00 GMT\r\naccept-ranges: bytes\r\n\
    content-md5: Q2hlY2s=\r\ndigest: sha-256=x\r\ncontent-digest: sha-256=:eA==:\r\n\
    repr-digest: sha-256=:eA==:\r\nunencoded-digest: sha-256=:eA==:\r\ncontent-range: bytes 0-8/9\r\n\
    cache-control: public, max-age=3600\r\ncache-control: s-maxage=60\r\nx-accel-buffering: yes\r\n\
    age: 5\r\nexpires: Fri, 01 Jan 2100 00:00:00 GMT\r\nsurrogate-control: max-age=60\r\n\
    x-accel-expires: 60\r\ncdn-cache-control: max-age=60\r\nx-cdn-cache-control: max-age=60\r\n\
    set-cookie: a=1\r\nset-cookie: b=2\r\nvary: accept\r\nx-request-id: 7\r\nretry-after: 3\r\n";

fn assert_rewritten(headers: &HeaderMap, content_type: &str) {
    for (name, value) in [
        ("content-type", content_type),
        ("cache-control", "no-store, no-transform"),
        ("x-accel-buffering", "no"),
        ("vary", "accept"),
        ("x-request-id", "7"),
        ("retry-after", "3"),
    ] {
        let values: Vec<_> = headers.get_all(name).iter().collect();
        assert_eq!(values, [value], "{name}");
    }
    let cookies: Vec<_> = headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=1", "b=2"]);
    for name in [
        "content-length",
        "content-encoding",
        "etag",
        "last-modified",
        "accept-ranges",
        "content-range",
        "content-md5",
        "digest",
        "content-digest",
        "repr-digest",
        "unencoded-digest",
        "age",
        "expires",
        "surrogate-control",
        "x-accel-expires",
        "cdn-cache-control",
        "x-cdn-cache-control",
    ] {
        assert!(!headers.contains_key(name), "{name} was not removed");
    }
}

#[tokio::test]
async fn r09_head_is_rewritten_for_the_new_body() {
    for layer in [SseProxyLayer::default().strip_comments(true), marking()] {
        let answer = format!("{HEAD}content-length: 9\r\nconnection: close\r\n\r\ndata: x\n\n");
        let upstream = Upstream::answering(answer).await;
        let proxy = proxy(layer, upstream).await;
        for protocol in BOTH {
            let answer = get(protocol, proxy).await;
            assert_rewritten(&answer.headers, "Text/Event-Stream; charset=utf-8");
            let (body, ended) = answer.rest().await;
            assert!(!body.is_empty() && ended.is_clean());
        }
    }
}

#[tokio::test]
async fn r09_digest_in_trailers_is_removed() {
    let fields = |names: &[&'static str]| -> HeaderMap {
        let names = names.iter().copied();
        names
            .map(|name| (HeaderName::from_static(name), HeaderValue::from_static("x")))
            .collect()
    };
    let sent = fields(&["content-digest", "repr-digest", "content-md5", "x-sum"]);
    for layer in [SseProxyLayer::default().strip_comments(true), marking()] {
        let script = Script::of(["data: 1\n\n"]).then(Step::Trailers(sent.clone()));
        let body = pass(&layer, script).await.collect().await.unwrap();
        assert_eq!(body.trailers(), Some(&fields(&["x-sum"])));
    }
    let untouched = Script::of(["data: 1\n\n"]).then(Step::Trailers(sent.clone()));
    let body = pass(&SseProxyLayer::default(), untouched).await;
    assert_eq!(body.collect().await.unwrap().trailers(), Some(&sent));
}

#[tokio::test]
async fn head_request_gets_the_rewritten_head_and_no_body() {
    for coding in ["", "content-encoding: gzip\r\n"] {
        let head = format!("{HEAD}{coding}content-length: 900\r\nconnection: close\r\n\r\n");
        let upstream = Upstream::answering(head).await;
        let proxy = proxy(marking(), upstream).await;
        for protocol in BOTH {
            let request = Request::head("/").body(Bytes::new()).unwrap();
            let answer = fetch(protocol, proxy, request).await;
            assert_eq!(answer.status, 200);
            assert_rewritten(&answer.headers, "Text/Event-Stream; charset=utf-8");
        }
    }
    let request = || Request::head("/").body(Bytes::new()).unwrap();
    let refused = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-16\r\n\r\n";
    let proxy = proxy(marking(), Upstream::answering(refused).await).await;
    for protocol in BOTH {
        assert_eq!(fetch(protocol, proxy, request()).await.status, 502);
    }
}

/// Some services answer HEAD with a body and rely on the server to drop it. That body must not bypass the interceptors.
#[tokio::test]
async fn head_request_gets_no_body_if_the_service_returns_one() {
    let text = format!("data: {}\n\n", crate::support::SECRET);
    let layer = SseProxyLayer::default().intercept(Deny::opened);
    let request = Request::head("/").body(()).unwrap();
    let response = typed("text/event-stream", Full::<Bytes>::from(text));
    let response = respond(&layer, request, response).await;
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(
        !crate::support::readable(&body, crate::support::SECRET),
        "the secret passed without inspection"
    );
}

/// If the head has no length, servers take it from the body. That length would be wrong: the layer may change the body of a GET.
#[tokio::test]
async fn head_request_gets_no_content_length_from_the_body() {
    let service = service_fn(|_: Request<hyper::body::Incoming>| async {
        let body = Full::<Bytes>::from("data: x\n\n");
        Ok::<_, Infallible>(typed("text/event-stream", body))
    });
    let server = serve(marking().layer(service)).await;
    for protocol in BOTH {
        let request = Request::head("/").body(Bytes::new()).unwrap();
        let answer = fetch(protocol, server, request).await;
        assert_eq!(answer.header("content-length"), None, "{protocol:?}");
    }
}
