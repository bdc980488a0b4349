//! Event streams are found by the head of the response, whatever the request is.

use bytes::Bytes;
use http::{Method, Request};

use super::{ROUTES, ask, guarded};
use crate::support::{BOTH, SECRET, event, fetch, readable, sse_chunked};

#[tokio::test]
async fn r01_head_arrives_before_the_first_event_and_denied_text_never() {
    for (path, protocol) in ROUTES
        .into_iter()
        .flat_map(|path| BOTH.map(|protocol| (path, protocol)))
    {
        for method in [Method::GET, Method::POST] {
            for accept in [None, Some("application/json"), Some("text/event-stream")] {
                let (gateway, mut upstream) = guarded().await;
                let mut request = Request::builder().method(&method).uri(path);
                if let Some(accept) = accept {
                    request = request.header("accept", accept);
                }
                let request = request.body(Bytes::new()).unwrap();
                let asking = tokio::spawn(fetch(protocol, gateway, request));
                let mut exchange = upstream.next().await;
                exchange.write(sse_chunked()).await;
                // The upstream sends no byte of the body before the client has the head.
                let mut answer = asking.await.unwrap();
                assert_eq!(answer.status, 200);
                exchange.chunk(event(SECRET)).await;
                exchange.chunk(event("after")).await;
                let body = answer.until("data: after\n\n").await;
                assert!(!readable(&body, SECRET), "{path} {method} {accept:?}");
            }
        }
    }
}

#[tokio::test]
async fn r03_no_spelling_of_the_type_hides_a_stream() {
    let inspected: [&[u8]; 12] = [
        b"Content-Type: Text/Event-Stream; charset=UTF-8",
        b"CONTENT-TYPE:TEXT/EVENT-STREAM",
        b"content-type: text/event-stream;charset=\"utf-8\"",
        b"content-type: text/event-stream ;\tCharset = utf8 ; a=\"b;c\"",
        b"content-type: text/event-stream;;",
        b"content-type: text/event-stream,",
        b"content-type: text/event-stream; x=\"\xe9\"",
        b"content-type: text/plain\r\ncontent-type: text/event-stream",
        b"content-type: text/event-stream\r\ncontent-type: application/json",
        b"content-type:\r\nContent-Type: text/event-stream",
        b"content-type: application/json, text/event-stream",
        b"content-type: text/html; x=\"a, b\", Text/Event-Stream; q=1",
    ];
    let rejected: [&[u8]; 6] = [
        b"content-type: text /event-stream",
        b"content-type: text/event-stream charset=utf-8",
        b"content-type: text/event-stream\xa0",
        b"content-type: text/event-stream; x=\"open",
        b"content-type: text/event-stream; charset=\"utf-16le\"",
        b"content-type: text/event-stream; charset=iso-8859-1",
    ];
    let all = inspected
        .map(|types| (types, true))
        .into_iter()
        .chain(rejected.map(|types| (types, false)));
    for (types, is_inspected) in all {
        for method in [Method::GET, Method::POST, Method::DELETE] {
            for accept in ["", "accept: application/json\r\n"] {
                let (gateway, mut upstream) = guarded().await;
                let lines = format!("{accept}connection: close\r\n");
                let mut client = ask(gateway, method.clone(), "/s/a", &lines).await;
                let mut exchange = upstream.next().await;
                let events = [event("before"), event(SECRET), event("after")].concat();
                let end = b"\r\nconnection: close\r\n\r\n";
                let answer = [b"HTTP/1.1 200 OK\r\n", types, end, &events].concat();
                exchange.write(answer).await;
                drop(exchange);
                let got = client.rest().await;
                let types = types.escape_ascii();
                assert!(!readable(&got, SECRET), "{method} {types}");
                let status: &[u8] = if is_inspected {
                    b"HTTP/1.1 200"
                } else {
                    b"HTTP/1.1 502"
                };
                assert!(got.starts_with(status), "{method} {types}");
                assert_eq!(readable(&got, "data: after"), is_inspected, "{types}");
            }
        }
    }
}
