//! Informational responses, and requests with a body that the client sends only after `100 Continue`.

use http::Method;

use super::{ROUTES, ask, guarded, sized};
use crate::support::{SECRET, Wire, event, readable, sse_chunked};

/// Reads the heads of responses up to the final one. Returns the number of `100 Continue` responses, and the final head.
async fn final_head(client: &mut Wire) -> (usize, String) {
    let mut continues = 0;
    loop {
        let head = client.head().await.expect("no final response");
        if !head.starts_with("HTTP/1.1 1") {
            return (continues, head);
        }
        continues += usize::from(head.starts_with("HTTP/1.1 100 "));
    }
}

#[tokio::test]
async fn r06_stream_arrives_after_informational_responses() {
    let hints = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\ncontent-type: text/plain\r\n\r\n";
    let processing = "HTTP/1.1 102 Processing\r\n\r\n";
    let unasked = "HTTP/1.1 100 Continue\r\n\r\n";
    for path in ROUTES {
        for before in [
            hints.to_owned(),
            hints.repeat(3),
            [processing, hints].concat(),
            unasked.to_owned(),
        ] {
            let (gateway, mut upstream) = guarded().await;
            let mut client = ask(gateway, Method::GET, path, "").await;
            let mut exchange = upstream.next().await;
            exchange.write(&before).await;
            exchange.write(sse_chunked()).await;
            let (_, head) = final_head(&mut client).await;
            assert!(head.starts_with("HTTP/1.1 200 "), "{path}: {head}");
            assert!(head.contains("text/event-stream"), "{path}: {head}");
            exchange.chunk(event(SECRET)).await;
            exchange.chunk(event("after")).await;
            let mut got = Vec::new();
            while !readable(&got, "data: after\n\n") {
                got.extend(client.exactly(1).await.expect("the stream was cut"));
            }
            assert!(!readable(&got, SECRET));
        }
    }
}

#[tokio::test]
async fn r06_body_that_waits_for_100_continue_arrives_once() {
    for path in ["/s/a", "/r/a", "/mcp"] {
        // Some upstreams send `100 Continue` before they read the body, others do not.
        for asks in [true, false] {
            let (gateway, mut upstream) = guarded().await;
            let lines = "expect: 100-continue\r\ncontent-length: 5\r\n";
            let mut client = ask(gateway, Method::POST, path, lines).await;
            let mut exchange = upstream.next().await;
            if asks {
                exchange.write("HTTP/1.1 100 Continue\r\n\r\n").await;
            }
            let head = client.head().await.unwrap();
            assert!(head.starts_with("HTTP/1.1 100 "), "{head}");
            client.write("hello").await;
            assert_eq!(exchange.body().await, "hello");
            let stream = "content-type: text/event-stream\r\nconnection: close\r\n";
            exchange.write(sized(stream, "data: 1\n\n")).await;
            let (continues, head) = final_head(&mut client).await;
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
            assert_eq!(continues, 0, "one 100 Continue is enough");
            client.finish().await;
            assert!(readable(&client.rest().await, "data: 1\n\n"));
            assert_eq!(
                (exchange.closed().await, upstream.requests()),
                ("".into(), 1)
            );
        }
    }
}

#[tokio::test]
async fn r06_request_that_the_upstream_refuses_needs_no_body() {
    for path in ["/s/a", "/r/a", "/mcp"] {
        let (gateway, mut upstream) = guarded().await;
        let lines = "expect: 100-continue\r\ncontent-length: 5\r\n";
        let mut client = ask(gateway, Method::POST, path, lines).await;
        let mut exchange = upstream.next().await;
        let refused = sized("connection: close\r\n", "").replace("200 OK", "413 Too Large");
        exchange.write(refused).await;
        let (_, head) = final_head(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
        assert_eq!(upstream.requests(), 1);
    }
}
