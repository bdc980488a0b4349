//! The layer does not change a response that is not an event stream.

use std::error::Error;

use crate::support::{
    BOTH, Broken, Ended, Note, Protocol, Read, Script, Step, Upstream, fetch, get, proxy, respond,
    witness,
};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tower_sse_proxy::{ErrorKind, SseBody, SseProxyLayer};

async fn json(layer: &SseProxyLayer, script: Script) -> SseBody<Script> {
    let response = Response::builder().header("content-type", "application/json");
    let response = response.body(script).unwrap();
    respond(layer, Request::new(()), response).await.into_body()
}

fn layers() -> [SseProxyLayer; 2] {
    [
        SseProxyLayer::default(),
        SseProxyLayer::default().intercept(witness().0),
    ]
}

fn trailers() -> HeaderMap {
    [("x".parse().unwrap(), "y".parse().unwrap())]
        .into_iter()
        .collect()
}

#[tokio::test]
async fn r11_frames_and_size_hints_pass_unchanged() {
    let steps = || {
        [
            Step::Data("data: 1\n\n".into()),
            Step::Data("".into()),
            Step::Data(Bytes::from_static(b"\xff\0\r\n")),
            Step::Trailers(trailers()),
        ]
    };
    for layer in layers() {
        let mut plain = Script::new(steps());
        let mut passed = json(&layer, Script::new(steps())).await;
        loop {
            assert_eq!(passed.size_hint().exact(), plain.size_hint().exact());
            assert_eq!(passed.is_end_stream(), plain.is_end_stream());
            let (Some(passed), Some(plain)) = (passed.frame().await, plain.frame().await) else {
                break;
            };
            let (passed, plain) = (passed.unwrap(), plain.unwrap());
            assert_eq!(passed.data_ref(), plain.data_ref());
            let pointer = |data: &Bytes| data.as_ptr();
            assert_eq!(
                passed.data_ref().map(pointer),
                plain.data_ref().map(pointer)
            );
            assert_eq!(passed.trailers_ref(), plain.trailers_ref());
        }
    }
}

#[tokio::test]
async fn body_error_is_the_source_and_is_not_delayed() {
    for layer in layers() {
        let script = Script::of(["{"]).then(Step::Error);
        let mut body = json(&layer, script).await;
        assert_eq!(
            body.frame().await.unwrap().unwrap().into_data().unwrap(),
            "{"
        );
        // If the layer delayed the error, the poll would return `Pending`.
        let error = futures_util::FutureExt::now_or_never(body.frame());
        let error = error.expect("the error was delayed").unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Upstream);
        assert_eq!(error.source().unwrap().downcast_ref(), Some(&Broken));
        assert_eq!(error.to_string(), "the upstream's body failed");
    }
}

#[tokio::test]
async fn head_is_unchanged_and_no_interceptor_is_opened() {
    let (witness, mut notes) = witness();
    let layer = SseProxyLayer::default().intercept(witness);
    let mut response = Response::new(Full::<Bytes>::from("data: 1\n\n"));
    for (name, value) in [
        ("content-type", "text/plain"),
        ("content-length", "9"),
        ("etag", "\"1\""),
        ("cache-control", "public"),
        ("content-encoding", "br"),
        ("accept-ranges", "bytes"),
    ] {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    let before = response.headers().clone();
    let response = respond(&layer, Request::new(()), response).await;
    assert_eq!(response.headers(), &before);
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "data: 1\n\n"
    );
    assert_eq!(notes.so_far(), Vec::<Note>::new());
}

#[tokio::test]
async fn length_range_and_coding_arrive_over_a_socket() {
    let head = "HTTP/1.1 206 Partial Content\r\ncontent-type: application/json\r\n\
        content-encoding: gzip\r\ncontent-range: bytes 0-2/9\r\netag: \"1\"\r\n\
        content-length: 3\r\nconnection: close\r\n\r\n\x01\x02\x03";
    for layer in layers() {
        let proxy = proxy(layer, Upstream::answering(head).await).await;
        for protocol in BOTH {
            let answer = get(protocol, proxy).await;
            assert_eq!(answer.status, 206);
            assert_eq!(answer.header("content-length"), Some("3"));
            assert_eq!(answer.header("content-encoding"), Some("gzip"));
            assert_eq!(answer.header("content-range"), Some("bytes 0-2/9"));
            assert_eq!(answer.header("etag"), Some("\"1\""));
            assert_eq!(answer.rest().await.0, &b"\x01\x02\x03"[..]);
        }
    }
}

#[tokio::test]
async fn chunks_are_not_merged_and_a_cut_stays_a_cut() {
    for layer in layers() {
        let mut upstream = Upstream::start().await;
        let proxy = proxy(layer, upstream.address).await;
        let head = async {
            let mut exchange = upstream.next().await;
            let head =
                crate::support::sse_chunked().replace("text/event-stream", "application/json");
            exchange.write(head).await;
            exchange
        };
        let (mut exchange, mut answer) = tokio::join!(head, get(Protocol::Http1, proxy));
        for part in ["{\"half", "data: x\n", "\n"] {
            exchange.chunk(part).await;
            assert_eq!(answer.read().await, Read::Data(part.into()));
        }
        drop(exchange);
        assert_eq!(answer.read().await, Read::Over(Ended::Cut));
    }
}

#[tokio::test]
async fn head_request_gets_the_content_length() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 42\r\n\
        connection: close\r\n\r\n";
    for layer in layers() {
        let proxy = proxy(layer, Upstream::answering(head).await).await;
        for protocol in BOTH {
            let request = Request::head("/").body(Bytes::new()).unwrap();
            let answer = fetch(protocol, proxy, request).await;
            assert_eq!(answer.header("content-length"), Some("42"));
        }
    }
}
