//! Only the essence of a `Content-Type` decides whether a response is an event stream. With interceptors installed, a stream
//! that the layer cannot inspect never reaches the client. The tests run over sockets.

use crate::support::{
    BOTH, Deny, Protocol, SECRET, Script, Step, Upstream, event_stream, get, pass, proxy, readable,
    respond, rest,
};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower_sse_proxy::{
    ErrorKind, Event, SseProxyLayer,
    intercept::{Interceptor, StreamHead, Verdict},
    replay::Replay,
};

fn guarded() -> SseProxyLayer {
    SseProxyLayer::default().intercept(Deny::opened)
}

/// A JSON body that the layer would change if it treated it as an event stream.
fn json() -> String {
    let entries: Vec<_> = (0..4000)
        .map(|n| format!("\"k{n}\": \"{SECRET}\""))
        .collect();
    format!("{{\n{}\n}}\n", entries.join(",\n\n"))
}

/// A response with these content types and with fields that describe the exact body.
fn answer(types: &[&str], body: &str) -> String {
    let types: String = types
        .iter()
        .map(|value| format!("content-type: {value}\r\n"))
        .collect();
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\n{types}etag: \"1\"\r\naccept-ranges: bytes\r\ncache-control: max-age=60\r\n\
         content-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

const STREAM: &str = "data: before\n\ndata: hunter2\n\ndata: after\n\n";
const ALLOWED: &str = "data: before\n\ndata: after\n\n";

#[tokio::test]
async fn event_stream_type_in_a_parameter_passes_unchanged() {
    let body = json();
    for types in [
        &["application/json; note=\"text/event-stream\""][..],
        &["application/json; note=text/event-stream"],
        &["text/html; x=\"a, text/event-stream; b\""],
        &["text/html; x=\"\\\", text/event-stream\""],
        &["application/problem+json; profile=\"x,text/event-stream\"; q=1"],
        &["multipart/mixed; boundary=\"text/event-stream\""],
        &["TEXT/PLAIN; Profile=\"TEXT/EVENT-STREAM\""],
        &["text/plain", "text/html; y=\"text/event-stream\""],
        &["text/plain, text/html; y=\"text/event-stream\""],
        &[",, text/plain ,,"],
        &["text/event-stream+json"],
        &["text/plain; unclosed=\""],
    ] {
        for layer in [guarded(), guarded().replay(Replay::default())] {
            let proxy = proxy(layer, Upstream::answering(answer(types, &body)).await).await;
            for protocol in BOTH {
                let answer = get(protocol, proxy).await;
                let sent: Vec<_> = answer.headers.get_all("content-type").iter().collect();
                assert_eq!(sent, types);
                assert_eq!(answer.header("etag"), Some("\"1\""), "{types:?}");
                assert_eq!(answer.header("cache-control"), Some("max-age=60"));
                let length = body.len().to_string();
                assert_eq!(answer.header("content-length"), Some(&*length), "{types:?}");
                assert_eq!(answer.rest().await.0, body);
            }
        }
    }
}

#[tokio::test]
async fn r03_event_stream_type_in_a_list_is_found_with_its_parameters() {
    for (types, settled) in [
        (
            &["text/event-stream; x=\"a, b; charset=utf-16\"; charset=utf-8"][..],
            "text/event-stream; x=\"a, b; charset=utf-16\"; charset=utf-8",
        ),
        (
            &["text/html; x=\"text/event-stream, y\", Text/Event-Stream; p=\"1,2\""],
            "Text/Event-Stream; p=\"1,2\"",
        ),
        (
            &["application/json; x=\",\"", "text/event-stream;x=\"\\\",\""],
            "text/event-stream;x=\"\\\",\"",
        ),
        (&["text/event-stream,"], "text/event-stream"),
    ] {
        let upstream = Upstream::answering(answer(types, STREAM)).await;
        let proxy = proxy(guarded(), upstream).await;
        for protocol in BOTH {
            let answer = get(protocol, proxy).await;
            assert_eq!(answer.status, 200, "{types:?}");
            assert_eq!(answer.header("content-type"), Some(settled));
            assert_eq!(answer.header("content-length"), None);
            assert_eq!(answer.rest().await.0, ALLOWED);
        }
    }
}

const MALFORMED: [&[&str]; 9] = [
    &["text /event-stream"],
    &["text/ event-stream; charset=utf-8"],
    &["text/event-\tstream"],
    &["text/event-stream charset=utf-8"],
    &["\"text/event-stream\""],
    &["text/event-stream; x=\"unclosed"],
    &["application/json; x=\"a, text/event-stream"],
    &["text/plain", "Text / Event-Stream"],
    &["a/b; x=\"", "a/b; y=\", text/event-stream; z=\""],
];

#[tokio::test]
async fn r03_ambiguous_malformed_value_is_rejected_with_interceptors() {
    for types in MALFORMED {
        let upstream = Upstream::answering(answer(types, STREAM)).await;
        for layer in [guarded(), guarded().replay(Replay::default())] {
            let proxy = proxy(layer, upstream).await;
            for protocol in BOTH {
                let answer = get(protocol, proxy).await;
                assert_eq!(answer.status, 502, "{types:?}");
                assert_eq!(answer.header("etag"), None);
                let (body, ended) = answer.rest().await;
                assert!(!readable(&body, SECRET) && ended.is_clean(), "{types:?}");
            }
        }
        let proxy = proxy(SseProxyLayer::default(), upstream).await;
        let answer = get(Protocol::Http1, proxy).await;
        assert_eq!(answer.status, 200);
        let sent: Vec<_> = answer.headers.get_all("content-type").iter().collect();
        assert_eq!(sent, types);
        assert_eq!(answer.rest().await.0, STREAM);
    }
}

async fn answered(layer: &SseProxyLayer, content_type: &str) -> (u16, Bytes) {
    let response = Response::builder().header("content-type", content_type);
    let response = response.body(Full::<Bytes>::from(STREAM)).unwrap();
    let response = respond(layer, Request::new(()), response).await;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap();
    (status, body.to_bytes())
}

#[tokio::test]
async fn custom_detection_can_inspect_but_not_pass_a_malformed_value() {
    let malformed = "text /event-stream";
    let all = guarded().detect(|_| true);
    assert_eq!(answered(&all, malformed).await, (200, ALLOWED.into()));
    let none = guarded().detect(|_| false);
    assert_eq!(answered(&none, malformed).await.0, 502);
    let well_formed = answered(&none, "text/event-stream").await;
    assert_eq!(well_formed, (200, STREAM.into()));
}

/// Bodies with the byte order mark of another encoding than UTF-8. Clients decode them in that encoding.
fn foreign_marks() -> [Vec<u8>; 9] {
    let utf16 = |unit: fn(u16) -> [u8; 2]| -> Vec<u8> {
        let text = format!("\u{feff}{STREAM}");
        text.encode_utf16().flat_map(unit).collect()
    };
    let utf32 = |unit: fn(u32) -> [u8; 4]| -> Vec<u8> {
        let text = format!("\u{feff}{STREAM}");
        text.chars().map(u32::from).flat_map(unit).collect()
    };
    // UTF-7 encodes the secret as base64 of UTF-16.
    let utf7 = |mark: &str| format!("{mark}-data: +AGgAdQBuAHQAZQByADI-\n\n").into_bytes();
    [
        utf16(u16::to_le_bytes),
        utf16(u16::to_be_bytes),
        utf32(u32::to_le_bytes),
        utf32(u32::to_be_bytes),
        utf7("+/v8"),
        utf7("+/v9"),
        utf7("+/v+"),
        utf7("+/v/"),
        b"+/v8\n\ndata: x\n\n".to_vec(),
    ]
}

#[tokio::test(start_paused = true)]
async fn body_with_foreign_byte_order_mark_is_cut_before_its_first_byte() {
    for body in foreign_marks() {
        for size in [1, 2, 3, body.len()] {
            for layer in [guarded(), guarded().replay(Replay::default())] {
                let chunks = body.chunks(size).map(Bytes::copy_from_slice);
                let out = rest(pass(&layer, Script::of(chunks)).await).await;
                let failed = Some(ErrorKind::NotUtf8);
                assert_eq!(out, (String::new(), failed), "{}", body.escape_ascii());
            }
        }
    }
}

#[tokio::test]
async fn client_sees_a_cut_at_a_foreign_byte_order_mark() {
    for body in foreign_marks() {
        let head =
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
        let upstream = Upstream::answering([&head[..], &body].concat()).await;
        let proxy = proxy(guarded(), upstream).await;
        for protocol in BOTH {
            let (body, ended) = get(protocol, proxy).await.rest().await;
            assert!(body.is_empty() && !ended.is_clean());
        }
    }
}

#[tokio::test]
async fn incomplete_foreign_byte_order_mark_passes() {
    for body in [
        "+/v",
        "+/vx\n\ndata: 1\n\n",
        "\u{feff}data: 1\n\n",
        "data: +/v8\n\n",
    ] {
        for size in [1, body.len()] {
            let chunks = body.as_bytes().chunks(size).map(Bytes::copy_from_slice);
            let out = rest(pass(&guarded(), Script::of(chunks)).await).await;
            assert_eq!(out, (body.to_owned(), None));
        }
    }
}

/// Drops the first block.
struct DropFirst(bool);

impl Interceptor for DropFirst {
    fn event(&mut self, event: Event) -> Verdict {
        if std::mem::replace(&mut self.0, false) {
            return Verdict::Drop;
        }
        event.into()
    }
}

#[tokio::test]
async fn later_text_never_becomes_a_leading_byte_order_mark() {
    let layer = SseProxyLayer::default().intercept(|_: &StreamHead<'_>| Some(DropFirst(true)));
    let script = Script::new([
        Step::Data("data: dropped\n\n".into()),
        Step::Data("+/v8-: +AGgAdQBuAHQAZQByADI-\n\n".into()),
    ]);
    let response = respond(&layer, Request::new(()), event_stream(script)).await;
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(body.ends_with(b"+/v8-: +AGgAdQBuAHQAZQByADI-\n\n"));
    assert!(!body.starts_with(b"+/v8"), "{}", body.escape_ascii());
}
