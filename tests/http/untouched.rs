//! A layer without settings changes no byte of an event stream or its head. A range response passes unchanged unless
//! interceptors are installed.

use std::time::Duration;

use crate::support::{
    Answer, BOTH, Deny, Ended, Read, Script, Step, Upstream, event_stream, fetch, forward, get,
    pass, proxy, respond, serve,
};
use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body::Body;
use http_body_util::BodyExt;
use tower_sse_proxy::{ErrorKind, KeepAlive, SseProxyLayer, codec::OversizedEvent, replay::Replay};

/// Reads a complete response, without the `date` field that the server adds.
async fn all(answer: Answer) -> (u16, HeaderMap, Bytes, Ended) {
    let (status, mut headers) = (answer.status, answer.headers.clone());
    headers.remove("date");
    let (body, ended) = answer.rest().await;
    (status, headers, body, ended)
}

const STREAM: &str = "content-type: text/event-stream\r\n";

/// Responses in which a layer that reads event streams would change something.
fn answers() -> Vec<Vec<u8>> {
    let with = |fields: &str, body: &[u8]| {
        let head = format!("HTTP/1.1 200 OK\r\n{fields}connection: close\r\n\r\n");
        [head.as_bytes(), body].concat()
    };
    let sized = |fields: &str, body: &[u8]| {
        with(&format!("{fields}content-length: {}\r\n", body.len()), body)
    };
    let one = b"data: 1\n\n";
    let large = [&b"data: "[..], &vec![b'x'; 17 << 20], b"\n\n"].concat();
    let status = |status: &str| {
        format!("HTTP/1.1 {status}\r\n{STREAM}etag: \"1\"\r\nconnection: close\r\n\r\n")
            .into_bytes()
    };
    vec![
        sized(STREAM, one),
        sized(
            "content-type: text/html, text/event-stream; x=\"a, b\"\r\ncontent-type: text/plain\r\n\
             etag: \"1\"\r\nlast-modified: Mon, 01 Jan 2024 00:00:00 GMT\r\naccept-ranges: bytes\r\n\
             content-digest: sha-256=:eA==:\r\ncache-control: public, max-age=3600\r\n\
             x-accel-buffering: yes\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n",
            one,
        ),
        sized(
            &format!("{STREAM}content-encoding: gzip\r\n"),
            b"\x1f\x8b\x08\0no gzip",
        ),
        sized(&format!("{STREAM}content-encoding: x-new\r\n"), b"\0\x01"),
        sized(
            "content-type: text/event-stream; charset=utf-16\r\n",
            b"\xff\xfed\0",
        ),
        with(STREAM, b"\xef\xbb\xbfdata: \xff\xfe\n\n: unfinished"),
        with(STREAM, b"+/v8-data: 1\n\ndata: half"),
        with(STREAM, b"\r\n\r\r\n\n\0data\r"),
        with(STREAM, b""),
        sized(STREAM, &large),
        format!(
            "HTTP/1.1 206 Partial Content\r\n{STREAM}content-range: bytes 0-8/20\r\n\
             content-length: 9\r\nconnection: close\r\n\r\ndata: 1\n\n"
        )
        .into_bytes(),
        format!(
            "HTTP/1.1 200 OK\r\n{STREAM}transfer-encoding: chunked\r\ntrailer: x-sum\r\n\
             connection: close\r\n\r\n9\r\ndata: 1\n\n\r\n0\r\nx-sum: 7\r\n\r\n"
        )
        .into_bytes(),
        // The connection ends in the middle of the body.
        format!("HTTP/1.1 200 OK\r\n{STREAM}content-length: 900\r\n\r\ndata: 1\n\ndata: h")
            .into_bytes(),
        status("204 No Content"),
        status("304 Not Modified"),
        status("500 Internal Server Error"),
    ]
}

/// The test compares with the same service without the layer.
#[tokio::test]
async fn layer_without_settings_changes_no_byte() {
    for answer in answers() {
        let upstream = Upstream::answering(answer).await;
        let bare = serve(forward(upstream)).await;
        let layered = proxy(SseProxyLayer::default(), upstream).await;
        for protocol in BOTH {
            for request in [Request::get("/"), Request::post("/"), Request::head("/")] {
                let request = request.body(Bytes::new()).unwrap();
                let expected = all(fetch(protocol, bare, request.clone()).await).await;
                let got = all(fetch(protocol, layered, request).await).await;
                assert_eq!(got.0, expected.0);
                assert_eq!(got.1, expected.1);
                // Without the layer, the server may lose unsent data when a body fails.
                let is_cut = expected.3 == Ended::Cut;
                assert!(got.2 == expected.2 || is_cut && got.2.starts_with(&expected.2));
                assert_eq!(got.3, expected.3);
            }
        }
    }
}

#[tokio::test]
async fn request_reaches_the_upstream_unchanged() {
    let mut upstream = Upstream::start().await;
    let proxy = proxy(SseProxyLayer::default(), upstream.address).await;
    let request = Request::get("/")
        .header("accept", "text/event-stream")
        .header("accept-encoding", "x-new, gzip;q=0.5, *")
        .header("last-event-id", "7")
        .header("range", "bytes=0-")
        .body(Bytes::new())
        .unwrap();
    let upstream = async {
        let mut exchange = upstream.next().await;
        exchange.write("HTTP/1.1 204 No Content\r\n\r\n").await;
        exchange.head
    };
    let (head, _) = tokio::join!(upstream, fetch(BOTH[0], proxy, request));
    for field in [
        "accept: text/event-stream",
        "accept-encoding: x-new, gzip;q=0.5, *",
        "last-event-id: 7",
        "range: bytes=0-",
    ] {
        assert!(head.contains(field), "missing field {field:?} in {head}");
    }
}

#[tokio::test]
async fn frames_size_hints_and_trailers_pass_unchanged() {
    let trailers: HeaderMap = [("x".parse().unwrap(), "y".parse().unwrap())]
        .into_iter()
        .collect();
    let steps = || {
        Script::of(["data: 1\n\n", "", "da", "ta: 2\n\n"]).then(Step::Trailers(trailers.clone()))
    };
    let mut plain = steps();
    let mut passed = pass(&SseProxyLayer::default(), steps()).await;
    loop {
        assert_eq!(passed.size_hint().exact(), plain.size_hint().exact());
        assert_eq!(passed.is_end_stream(), plain.is_end_stream());
        let (passed, plain) = (passed.frame().await, plain.frame().await);
        let (Some(passed), Some(plain)) = (passed, plain) else {
            break;
        };
        let (passed, plain) = (passed.unwrap(), plain.unwrap());
        assert_eq!(passed.data_ref(), plain.data_ref());
        assert_eq!(passed.trailers_ref(), plain.trailers_ref());
    }
}

#[tokio::test(start_paused = true)]
async fn error_follows_the_send_of_earlier_frames_and_is_last() {
    let script = Script::of(["data: 1\n\n"]).then(Step::Error);
    let mut body = pass(&SseProxyLayer::default(), script).await;
    let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
    let early = tokio::time::timeout(Duration::from_secs(1), body.frame()).await;
    assert!(
        early.is_err(),
        "the error precedes the send of the last frame"
    );
    assert!(!body.is_end_stream());
    drop(frame);
    let error = body.frame().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Upstream);
    assert!(body.is_end_stream());
    assert!(body.frame().await.is_none());
}

/// Each setting makes the layer read event streams, even if its value is the default.
#[tokio::test(start_paused = true)]
async fn each_setting_makes_the_layer_read_the_stream() {
    let nothing = SseProxyLayer::default;
    for layer in [
        nothing().intercept(Deny::opened),
        nothing().keep_alive(KeepAlive::new(Duration::from_secs(15))),
        nothing().strip_comments(true),
        nothing().max_event_bytes(16 << 20),
        nothing().oversized_event(OversizedEvent::Fail),
        nothing().replay(Replay::default()),
    ] {
        let response = event_stream(Script::of(["data: 1\n\n"]));
        let response = respond(&layer, Request::new(()), response).await;
        assert_eq!(
            response.headers()["cache-control"],
            "no-store, no-transform"
        );
    }
}

#[tokio::test]
async fn range_passes_without_interceptors_and_is_rejected_with_them() {
    let range = "HTTP/1.1 206 Partial Content\r\ncontent-type: text/event-stream\r\netag: \"1\"\r\n\
        content-range: bytes 0-11/20\r\ncontent-length: 12\r\nconnection: close\r\n\r\nid: 1\n\ndata:";
    let upstream = Upstream::answering(range).await;
    for layer in [
        SseProxyLayer::default(),
        SseProxyLayer::default().keep_alive(KeepAlive::new(Duration::from_secs(15))),
        SseProxyLayer::default().strip_comments(true),
        SseProxyLayer::default().replay(Replay::default()),
    ] {
        let proxy = proxy(layer, upstream).await;
        for protocol in BOTH {
            let mut answer = get(protocol, proxy).await;
            assert_eq!(answer.status, 206);
            assert_eq!(answer.header("content-range"), Some("bytes 0-11/20"));
            assert_eq!(answer.header("content-length"), Some("12"));
            assert_eq!(answer.header("etag"), Some("\"1\""));
            assert_eq!(answer.header("cache-control"), None);
            assert_eq!(answer.read().await, Read::Data("id: 1\n\ndata:".into()));
        }
    }
    for layer in [
        SseProxyLayer::default().intercept(Deny::opened),
        SseProxyLayer::default()
            .intercept(Deny::opened)
            .replay(Replay::default()),
    ] {
        let proxy = proxy(layer, upstream).await;
        assert_eq!(get(BOTH[0], proxy).await.status, 502);
    }
}
