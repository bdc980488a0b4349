//! No part of an event stream reaches the client without inspection, whatever bytes the upstream sends.
//!
//! Each test puts the secret into a stream of which the interceptor [`Deny`] drops blocks with the secret, and searches the
//! bytes that the client receives for the secret.

use crate::support::{
    Answer, BOTH, Deny, Protocol, SECRET, Script, Upstream, event_stream, fetch, get, proxy,
    readable, sse, sse_chunked,
};
use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use tower::{Layer, ServiceExt, service_fn};
use tower_sse_proxy::{
    Event, SseProxyLayer,
    codec::{Block, OversizedEvent},
    intercept::{Interceptor, StreamEnd, StreamHead, Verdict},
};

fn guarded() -> SseProxyLayer {
    SseProxyLayer::default().intercept(Deny::opened)
}

/// Blocks that contain the secret, or from which a lenient reader could decode it.
fn blocks() -> Vec<Vec<u8>> {
    let text = [
        "data: hunter2\n\n",
        "data:hunter2\n\n",
        "data: hunter2\r\n\r\n",
        "data: hunter2\r\r",
        "data: x\rdata: hunter2\r\n\n",
        "data: x\r\ndata: hunter2\n\r",
        "data: x\ndata: hunter2\ndata: y\n\n",
        "event: hunter2\ndata: x\n\n",
        "id: hunter2\ndata: x\n\n",
        "id: hunter2\n\n",
        "event: hunter2\n\n",
        ": hunter2\n",
        ": hunter2\n\n",
        ":hunter2\r",
        "data: x\n: hunter2\ndata: y\n\n",
        "retry: hunter2\n",
        "retry: 1\nid: hunter2\n\n",
        "hunter2\n\n",
        "hunter2: x\n\n",
        "unknown: hunter2\ndata: x\n\n",
        "Data: hunter2\n\n",
        "\u{feff}data: hunter2\n\n",
        "data\u{feff}: hunter2\n\n",
    ];
    let bytes: [&[u8]; 9] = [
        b"data: \xffhunter2\xfe\n\n",
        b"data: hun\xffter2\n\n",
        b"data: hun\xe2\x82ter2\n\n",
        b"data: hun\xc0\x80ter2\n\n",
        b"data: hun\xed\xa0\x80ter2\n\n",
        b": hun\xffter2\n",
        b"id: hun\xf0\x9f\x98ter2\n\n",
        b"hun\xffter2: x\n\n",
        b"da\xffta: hunter2\n\n",
    ];
    let text = text.iter().map(|text| text.as_bytes().to_vec());
    text.chain(bytes.iter().map(|bytes| bytes.to_vec()))
        .collect()
}

/// Unfinished last blocks of an upstream that contain the secret.
const TAILS: [&[u8]; 8] = [
    b"data: hunter2",
    b"data: hunter2\n",
    b"data: hunter2\r",
    b"data: x\r\ndata: hunter2",
    b"id: hunter2\n",
    b": hunter2",
    b"hunter2",
    b"data: hun\xffter2",
];

fn around(block: &[u8]) -> Vec<u8> {
    [b"data: before\n\n", block, b"data: after\n\n"].concat()
}

#[track_caller]
fn assert_clean(bytes: &[u8], what: impl AsRef<[u8]>) {
    let what = what.as_ref().escape_ascii();
    assert!(
        !readable(bytes, SECRET),
        "{what} passed: {}",
        bytes.escape_ascii()
    );
}

#[track_caller]
fn assert_between(bytes: &[u8], what: impl AsRef<[u8]>) {
    assert_clean(bytes, &what);
    let (text, what) = (
        bytes.escape_ascii().to_string(),
        what.as_ref().escape_ascii(),
    );
    assert!(
        text.starts_with(r"data: before\n\n"),
        "before {what}: {text}"
    );
    assert!(text.ends_with(r"data: after\n\n"), "after {what}: {text}");
}

/// Passes these frames through the layer and returns the output.
async fn through(layer: &SseProxyLayer, frames: Vec<Bytes>) -> Bytes {
    let upstream = service_fn(move |_: Request<()>| {
        let body = Script::of(frames.clone());
        async { Ok::<_, std::convert::Infallible>(event_stream(body)) }
    });
    let response = layer.layer(upstream).oneshot(Request::new(())).await;
    let body = response.unwrap().into_body();
    body.collect().await.unwrap().to_bytes()
}

#[tokio::test]
async fn no_block_carries_the_secret_over_sockets() {
    for block in blocks() {
        let upstream = Upstream::answering(sse(around(&block))).await;
        let proxy = proxy(guarded(), upstream).await;
        for protocol in BOTH {
            let (body, ended) = get(protocol, proxy).await.rest().await;
            assert_between(&body, &block);
            assert!(ended.is_clean());
        }
    }
}

#[tokio::test]
async fn no_block_carries_the_secret_in_any_chunks() {
    for block in blocks() {
        let stream = Bytes::from(around(&block));
        for cut in 0..stream.len() {
            let frames = vec![stream.slice(..cut), stream.slice(cut..)];
            assert_between(&through(&guarded(), frames).await, &block);
        }
        let dribbled = stream.chunks(1).map(Bytes::copy_from_slice).collect();
        assert_between(&through(&guarded(), dribbled).await, &block);
    }
}

#[tokio::test]
async fn secret_sent_byte_by_byte_does_not_arrive() {
    let mut upstream = Upstream::start().await;
    let proxy = proxy(guarded(), upstream.address).await;
    for protocol in BOTH {
        let feed = async {
            let mut exchange = upstream.next().await;
            exchange.write(sse_chunked()).await;
            for byte in around(b"event: hunter2\r\ndata: hunter2\r\n\r\n") {
                exchange.chunk([byte]).await;
                tokio::task::yield_now().await;
            }
            exchange.write("0\r\n\r\n").await;
        };
        let read = async { get(protocol, proxy).await.rest().await };
        let ((), (body, ended)) = tokio::join!(feed, read);
        assert_eq!(body, "data: before\n\ndata: after\n\n");
        assert!(ended.is_clean());
    }
}

#[tokio::test]
async fn unfinished_last_block_does_not_carry_the_secret() {
    for tail in TAILS {
        for before in ["data: before\n\n", ""] {
            let upstream = Upstream::answering(sse([before.as_bytes(), tail].concat())).await;
            let proxy = proxy(guarded(), upstream).await;
            for protocol in BOTH {
                let (body, _) = get(protocol, proxy).await.rest().await;
                assert_clean(&body, tail);
                assert!(body.starts_with(before.as_bytes()));
            }
        }
    }
}

#[tokio::test]
async fn byte_order_mark_does_not_hide_the_secret() {
    let stream = Bytes::from("\u{feff}data: hunter2\n\ndata: after\n\n");
    for cut in 0..stream.len() {
        let frames = vec![stream.slice(..cut), stream.slice(cut..)];
        assert_eq!(through(&guarded(), frames).await, "\u{feff}data: after\n\n");
    }
}

/// In the middle of a stream, U+FEFF is text, so a field name that begins with it is unknown. If an interceptor drops all
/// earlier blocks, this U+FEFF must not become the leading byte order mark: clients would skip it and read a known field.
#[tokio::test]
async fn dropped_event_does_not_turn_an_unknown_field_into_data() {
    let events_only = SseProxyLayer::default()
        .intercept(|event: Event| (!event.data().contains(SECRET)).then_some(event));
    let stream = "data: hunter2\n\n\u{feff}data: hunter2\n\ndata: after\n\n";
    let out = through(&events_only, vec![stream.into()]).await;
    let text = std::str::from_utf8(&out).unwrap();
    let read = text.strip_prefix('\u{feff}').unwrap_or(text);
    let data: Vec<_> = read
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .collect();
    assert_eq!(data, ["after"], "{text:?}");
}

fn answer(head: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("{head}\r\nconnection: close\r\n\r\n");
    [head.as_bytes(), body].concat()
}

#[tokio::test]
async fn r03_no_status_method_or_type_spelling_bypasses_interceptors() {
    let status = |status: &str| format!("HTTP/1.1 {status}\r\ncontent-type: text/event-stream");
    let types = |types: &str| format!("HTTP/1.1 200 OK\r\n{types}");
    for head in [
        status("201 Created"),
        status("203 Non-Authoritative Information"),
        status("302 Found"),
        status("400 Bad Request"),
        status("404 Not Found"),
        status("500 Internal Server Error"),
        status("299 Whatever"),
        types("Content-Type: Text/Event-Stream; charset=UTF-8"),
        types("CONTENT-TYPE:TEXT/EVENT-STREAM"),
        types("content-type: text/event-stream;"),
        types("content-type: text/event-stream;;charset=utf8;"),
        types("content-type: text/event-stream\t;\tCharset=\"UTF-8\""),
        types("content-type: text/event-stream; charset=\"u\\tf-8\"; boundary=\"a;b\""),
        types("content-type:\r\ncontent-type: text/event-stream"),
        types("content-type: text/plain\r\ncontent-type: text/event-stream"),
        types("content-type: text/event-stream\r\ncontent-type: text/plain"),
        types("content-type: text/plain, text/event-stream"),
        types("content-type: TEXT/EVENT-STREAM , application/json"),
        types("content-type: text/plain; x=\"a, b\", text/event-stream ;y=z"),
    ] {
        let upstream = Upstream::answering(answer(&head, &around(b"data: hunter2\n\n"))).await;
        let proxy = proxy(guarded(), upstream).await;
        for protocol in BOTH {
            for method in ["GET", "POST", "PUT", "DELETE", "QUERY"] {
                let request = Request::builder().method(method).uri("/");
                let request = request.body(Bytes::new()).unwrap();
                let answer: Answer = fetch(protocol, proxy, request).await;
                assert!(head.contains(&answer.status.to_string()));
                let one = answer.header("content-type").unwrap();
                assert!(!one.contains(',') && one.to_ascii_lowercase().starts_with("text/event"));
                let (body, _) = answer.rest().await;
                assert_eq!(body, "data: before\n\ndata: after\n\n", "{method} {head}");
            }
        }
    }
}

#[tokio::test]
async fn oversized_event_does_not_pass_without_inspection() {
    let padding = "x".repeat(100);
    for (head, tail) in [("hunter2", ""), ("", "hunter2")] {
        let large = format!("data: {head}\ndata: {padding}\ndata: {padding}{tail}\n{tail}: x\n\n");
        let stream = Bytes::from(around(large.as_bytes()));
        for size in [1, 7, 64, 1000] {
            let frames: Vec<_> = stream.chunks(size).map(Bytes::copy_from_slice).collect();
            let discarding = guarded()
                .max_event_bytes(64)
                .oversized_event(OversizedEvent::Discard);
            assert_between(&through(&discarding, frames.clone()).await, &large);

            let upstream = Upstream::answering(sse(&stream)).await;
            let proxy = proxy(guarded().max_event_bytes(64), upstream).await;
            let (body, ended) = get(Protocol::Http1, proxy).await.rest().await;
            assert_eq!(body, "data: before\n\n");
            assert!(!ended.is_clean());
        }
    }
}

/// Adds the secret to the stream in every way that an interceptor has.
struct AddsSecret;

impl Interceptor for AddsSecret {
    fn event(&mut self, event: Event) -> Verdict {
        let secret = Event::new(SECRET);
        match &*event.data() {
            "replace" => vec![secret, event].into(),
            "defer" => Verdict::defer(async { Ok(vec![Event::new(SECRET), event]) }),
            "end" => Verdict::End(vec![event.into(), secret.into()]),
            _ => event.into(),
        }
    }

    fn end(&mut self, _: StreamEnd<'_>) -> Verdict {
        vec![
            Block::comment(SECRET),
            Event::new(SECRET).into(),
            Event::new("last").into(),
        ]
        .into()
    }
}

#[tokio::test]
async fn later_interceptor_sees_blocks_added_by_an_earlier_one() {
    let layer = SseProxyLayer::default()
        .intercept(|_: &StreamHead<'_>| Some(AddsSecret))
        .intercept(Deny::opened);
    for data in ["replace", "defer", "end", "plain"] {
        let out = through(&layer, vec![format!("data: {data}\n\n").into()]).await;
        // An interceptor that ended the stream gets no call of `end`.
        let last = if data == "end" { "" } else { "data: last\n\n" };
        assert_eq!(out, format!("data: {data}\n\n{last}"));
    }
}
