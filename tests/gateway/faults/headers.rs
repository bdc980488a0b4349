//! Hop-by-hop header fields, and header fields that describe a body that the gateway replaces.

use bytes::Bytes;
use http::{Method, Request};

use super::{ROUTES, ask, guarded};
use crate::support::{Ended, Protocol, chunk, event, fetch};

/// Hop-by-hop header lines of a request or a response.
const OF_ONE_CONNECTION: &str = "Connection: x-one, X-Two\r\nconnection: keep-alive ,\t x-three,,\r\n\
    Connection: \"quoted\", \u{e9}, x-four\r\nX-One: 1\r\nx-two: 2\r\nX-THREE: 3\r\nx-four: 4\r\nKeep-Alive: timeout=5\r\n\
    Proxy-Connection: keep-alive\r\nTE: trailers, deflate\r\nTrailer: x-sum\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\
    Proxy-Authorization: Basic eDp5\r\nProxy-Authenticate: Basic\r\n";

/// End-to-end header lines.
const END_TO_END: &str =
    "X-Kept: 1\r\nAuthorization: Bearer key\r\nSet-Cookie: a=1\r\nVary: accept\r\nLink: </a>\r\n";

fn check(head: &str) {
    let head = head.to_ascii_lowercase();
    for name in [
        "x-one",
        "x-two",
        "x-three",
        "x-four",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "upgrade",
        "http2-settings",
        "proxy-authorization",
        "proxy-authenticate",
    ] {
        assert!(!head.contains(&format!("\r\n{name}:")), "{name}: {head}");
    }
    for line in END_TO_END.lines() {
        let line = line.to_ascii_lowercase();
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{line}: {head}");
    }
}

#[tokio::test]
async fn r08_fields_of_one_connection_cross_in_neither_direction() {
    for path in ROUTES {
        for content_type in ["text/event-stream", "application/json"] {
            let (gateway, mut upstream) = guarded().await;
            let lines = format!("{OF_ONE_CONNECTION}{END_TO_END}");
            let mut client = ask(gateway, Method::GET, path, &lines).await;
            let mut exchange = upstream.next().await;
            check(&exchange.head);
            let answer = format!(
                "HTTP/1.1 200 OK\r\n{lines}content-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n"
            );
            exchange.write(answer).await;
            check(&client.head().await.unwrap());
        }
    }
}

/// If the gateway forwarded a hop-by-hop field in the trailers, the HTTP/2 stream would be reset and lose its last events.
#[tokio::test]
async fn r07_trailers_follow_the_last_event_without_fields_of_one_connection() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let (gateway, mut upstream) = guarded().await;
        let request = Request::get("/s/a").header("te", "trailers");
        let request = request.body(Bytes::new()).unwrap();
        let asking = tokio::spawn(fetch(protocol, gateway, request));
        let mut exchange = upstream.next().await;
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\
            trailer: x-sum, connection, keep-alive\r\n\r\n";
        exchange.write(head).await;
        exchange.write(chunk(&event("last"))).await;
        let trailers =
            "0\r\nx-sum: 7\r\ndata: hi\r\nconnection: x-sum2\r\nx-sum2: 8\r\nkeep-alive: 5\r\n\r\n";
        exchange.write(trailers).await;
        let (body, ended) = asking.await.unwrap().rest().await;
        assert_eq!(body, event("last"), "{protocol:?}");
        let Ended::Clean(trailers) = ended else {
            panic!("the stream was cut")
        };
        let names: Vec<_> = trailers.keys().map(|name| name.as_str()).collect();
        match protocol {
            // The field `Trailer` is hop-by-hop. Without it, hyper drops HTTP/1.1 trailers.
            Protocol::Http1 => assert_eq!(names, [""; 0]),
            Protocol::Http2 => assert_eq!(names, ["x-sum", "data"]),
        }
    }
}
