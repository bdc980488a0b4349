//! Bodies that an inspecting layer does not change.

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body::Body;
use http_body_util::BodyExt;
use tower_sse_proxy::{
    SseProxyLayer,
    intercept::{Interceptor, StreamHead},
};

use super::{JSON, LIMIT, gzip, inspecting, response, secret};
use crate::support::{
    Answer, BOTH, Deny, Ended, Note, Script, Step, Upstream, fetch, forward, proxy, respond, serve,
    witness,
};

async fn all(answer: Answer) -> (u16, HeaderMap, Bytes, Ended) {
    let (status, mut headers) = (answer.status, answer.headers.clone());
    headers.remove("date");
    let (body, ended) = answer.rest().await;
    (status, headers, body, ended)
}

const FIELDS: &str = "etag: \"v1\"\r\nlast-modified: Mon, 01 Jan 2024 00:00:00 GMT\r\naccept-ranges: bytes\r\n\
    content-digest: sha-256=:eA==:\r\ncache-control: private, max-age=5\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n";

const CLEAN: &str = "{\r\n \"n\": 1.0, \"a\": \"\\u0041\"}\n";

fn with(head: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {head}{FIELDS}connection: close\r\n\r\n");
    [head.as_bytes(), body].concat()
}

fn sized(head: &str, body: &[u8]) -> Vec<u8> {
    with(&format!("{head}content-length: {}\r\n", body.len()), body)
}

/// The test compares with the same service without the layer.
async fn assert_untouched(layer: SseProxyLayer, answers: Vec<Vec<u8>>) {
    for answer in answers {
        let upstream = Upstream::answering(answer.clone()).await;
        let bare = serve(forward(upstream)).await;
        let layered = proxy(layer.clone(), upstream).await;
        for protocol in BOTH {
            for request in [Request::get("/"), Request::post("/"), Request::head("/")] {
                let request = request.body(Bytes::new()).unwrap();
                let expected = all(fetch(protocol, bare, request.clone()).await).await;
                let got = all(fetch(protocol, layered, request).await).await;
                assert_eq!(got, expected, "{}", answer.escape_ascii());
            }
        }
    }
}

#[tokio::test]
async fn forwarded_body_keeps_its_head_and_bytes() {
    let json = "200 OK\r\ncontent-type: application/json\r\n";
    let chunked = format!(
        "{:x}\r\n{CLEAN}\r\n0\r\ncontent-digest: x\r\nx-sum: 7\r\n\r\n",
        CLEAN.len()
    );
    let answers = vec![
        sized(json, CLEAN.as_bytes()),
        with(json, CLEAN.as_bytes()),
        with(
            &format!("{json}transfer-encoding: chunked\r\ntrailer: x-sum\r\n"),
            chunked.as_bytes(),
        ),
        sized(
            &format!("{json}content-encoding: gzip\r\n"),
            &gzip(CLEAN).await,
        ),
        sized(
            "404 Not Found\r\ncontent-type: application/problem+json; charset=utf-8\r\n",
            CLEAN.as_bytes(),
        ),
        sized(
            "200 OK\r\ncontent-type: text/plain\r\ncontent-type: Application/JSON;charset=us-ascii\r\n",
            CLEAN.as_bytes(),
        ),
        sized(json, "\u{feff}[\"not JSON\"".as_bytes()),
        sized(json, &[b' '; LIMIT]),
    ];
    let (witness, mut notes) = witness();
    let count = answers.len();
    assert_untouched(inspecting().intercept(witness), answers).await;
    let notes = notes.so_far();
    // Two protocols, two methods with a body.
    let events = notes.iter().filter(|note| matches!(note, Note::Event(_)));
    assert_eq!(events.count(), 4 * count);
    let ends = notes.iter().filter(|note| **note == Note::Complete);
    assert_eq!(ends.count(), 4 * count);
    assert!(notes.contains(&Note::Event(CLEAN.replace("\r\n", "\n"))));
}

#[tokio::test]
async fn response_without_a_body_is_untouched() {
    let json = "content-type: application/json\r\n";
    let foreign = "content-type: application/json; charset=utf-16\r\ncontent-encoding: x-new\r\n";
    let answers = [json, foreign].into_iter().flat_map(|fields| {
        [
            sized(&format!("202 Accepted\r\n{fields}"), b""),
            with(&format!("200 OK\r\n{fields}"), b""),
            with(
                &format!("206 Partial Content\r\n{fields}transfer-encoding: chunked\r\n"),
                b"0\r\n\r\n",
            ),
            with(&format!("204 No Content\r\n{fields}"), b""),
            with(
                &format!("304 Not Modified\r\n{fields}content-length: 70\r\n"),
                b"",
            ),
        ]
    });
    let (witness, mut notes) = witness();
    assert_untouched(inspecting().intercept(witness), answers.collect()).await;
    let notes = notes.so_far();
    assert!(!notes.iter().any(|note| matches!(note, Note::Event(_))));
}

#[tokio::test]
async fn other_media_types_pass_unread() {
    let types = [
        "text/plain",
        "application/x-ndjson",
        "application/json-seq",
        "text/json",
        "text/plain; x=\"a, application/json\"",
    ];
    let secret = secret();
    let answers = types.map(|mime| {
        let head = format!("200 OK\r\ncontent-type: {mime}; charset=utf-16\r\n");
        sized(&head, secret.as_bytes())
    });
    assert_untouched(inspecting().intercept(Deny::opened), answers.into()).await;
}

/// A body with frames, trailers and an error shows whether the layer reads it.
async fn assert_passes_unread(layer: &SseProxyLayer) {
    let body = || {
        Script::of([secret(), "x".repeat(LIMIT)])
            .then(Step::Later)
            .then(Step::Error)
    };
    let plain = body();
    let answer = respond(layer, Request::new(()), response(&[JSON], body())).await;
    assert_eq!(answer.status(), 200);
    let mut passed = answer.into_body();
    assert_eq!(passed.size_hint().exact(), plain.size_hint().exact());
    for frame in [secret(), "x".repeat(LIMIT)] {
        let passed = passed.frame().await.unwrap().unwrap();
        assert_eq!(passed.into_data().unwrap(), frame);
    }
    assert!(passed.frame().await.unwrap().is_err());
}

#[tokio::test]
async fn json_passes_unread_unless_interceptors_may_see_it() {
    assert_passes_unread(&SseProxyLayer::default().intercept(Deny::opened)).await;
    assert_passes_unread(&inspecting()).await;
    let none = |_: &StreamHead<'_>| None::<Box<dyn Interceptor>>;
    assert_passes_unread(&inspecting().intercept(none)).await;
}
