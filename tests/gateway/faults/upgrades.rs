//! Requests for another protocol. The gateway does not inspect an upgraded connection.

use http::Method;

use super::{ask, guarded, sized};
use crate::support::{SECRET, Wire, event, readable};

const WEBSOCKET: &str =
    "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n";

/// Reads up to the end of `text` and returns everything.
async fn until(wire: &mut Wire, text: &[u8]) -> Vec<u8> {
    let mut got = Vec::new();
    while !got.ends_with(text) {
        let byte = wire.exactly(1).await;
        got.extend(byte.unwrap_or_else(|| panic!("closed after {}", got.escape_ascii())));
    }
    got
}

#[tokio::test]
async fn r07_upgraded_connection_is_copied_byte_for_byte() {
    for path in ["/s/a", "/r/a", "/f/a"] {
        // The head looks like that of an event stream, and the bytes like its body.
        for fields in ["", "content-type: text/event-stream\r\n"] {
            let (gateway, mut upstream) = guarded().await;
            let mut client = ask(gateway, Method::GET, path, WEBSOCKET).await;
            let mut exchange = upstream.next().await;
            let head = exchange.head.to_ascii_lowercase();
            assert!(head.contains("\r\nupgrade: websocket\r\n"), "{head}");
            let switching =
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n";
            let first = event(SECRET);
            let answer = [switching, fields, "\r\n"].concat();
            exchange.write([answer.as_bytes(), &first].concat()).await;
            let head = client.head().await.unwrap();
            assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
            assert_eq!(client.exactly(first.len()).await.unwrap(), first);
            for bytes in [
                &b"\x81\x05hello"[..],
                b"GET / HTTP/1.1\r\n\r\n",
                b"\0\r\n\xff",
            ] {
                client.write(bytes).await;
                assert_eq!(exchange.wire.exactly(bytes.len()).await.unwrap(), bytes);
                exchange.write(bytes).await;
                assert_eq!(client.exactly(bytes.len()).await.unwrap(), bytes);
            }
            client.finish().await;
            assert_eq!(exchange.closed().await, "");
            assert_eq!(client.rest().await, "");
            assert_eq!(upstream.requests(), 1);
        }
    }
}

/// The client sends bytes of the other protocol at once.
#[tokio::test]
async fn r07_no_byte_after_a_request_for_an_upgrade_is_forwarded_without_101() {
    let stream = sized("content-type: text/event-stream\r\n", "data: 1\n\n");
    for answer in [
        stream,
        sized("", "no"),
        sized("connection: upgrade\r\nupgrade: websocket\r\n", "no"),
        sized("", "").replace("200 OK", "426 Upgrade Required"),
        sized("", "").replace("200 OK", "403 Forbidden"),
    ] {
        for early in [
            &b"\x81\x05hello"[..],
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET /planted HTTP/1.1\r\nhost: test\r\n\r\n",
        ] {
            let (gateway, mut upstream) = guarded().await;
            let mut client = ask(gateway, Method::GET, "/s/a", WEBSOCKET).await;
            client.write(early).await;
            let mut exchange = upstream.next().await;
            exchange.write(&answer).await;
            let head = client.head().await.unwrap();
            assert!(head.starts_with(&answer[..12]), "{head}");
            client.finish().await;
            let got = client.rest().await;
            assert!(!readable(&got, "hello"));
            exchange.wire.finish().await;
            assert_eq!(exchange.closed().await, "", "{answer}");
            assert_eq!(upstream.requests(), 1);
        }
    }
}

/// A connection that is upgraded to HTTP would bypass the interceptors.
#[tokio::test]
async fn r07_upgrade_to_http_is_not_forwarded() {
    for upgrade in [
        "h2c",
        "H2C, websocket",
        "websocket, HTTP/2.0",
        "h2",
        "TLS/1.0",
        "tls/1.3, http/1.1",
    ] {
        let (gateway, mut upstream) = guarded().await;
        let lines = format!(
            "connection: upgrade, http2-settings\r\nupgrade: {upgrade}\r\nhttp2-settings: AAMAAABk\r\n"
        );
        let mut client = ask(gateway, Method::GET, "/s/a", &lines).await;
        client.write("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        let mut exchange = upstream.next().await;
        let head = exchange.head.to_ascii_lowercase();
        for name in ["upgrade", "connection", "http2-settings"] {
            assert!(!head.contains(&format!("\r\n{name}:")), "{head}");
        }
        // The upstream switches the protocol although the request does not ask for it.
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {upgrade}\r\n\r\ndata: {SECRET}\n\n"
        );
        exchange.write(answer).await;
        let head = client.head().await.unwrap();
        assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
        client.finish().await;
        assert!(!readable(&client.rest().await, SECRET));
        assert_eq!(exchange.closed().await, "", "{upgrade}");
    }
}

#[tokio::test]
async fn r07_unexpected_101_gives_502() {
    let to = |upgrade: &str| {
        let end = format!(
            "connection: upgrade\r\nupgrade: {upgrade}\r\n\r\n{}",
            "data: hunter2\n\n"
        );
        format!("HTTP/1.1 101 Switching Protocols\r\ncontent-type: text/event-stream\r\n{end}")
    };
    for (lines, answer) in [
        ("", to("websocket")),
        (
            "connection: keep-alive\r\nupgrade: websocket\r\n",
            to("websocket"),
        ),
        (WEBSOCKET, to("h2c")),
        (WEBSOCKET, to("HTTP/2.0")),
        (
            WEBSOCKET,
            to("websocket").replace("upgrade: websocket\r\n", ""),
        ),
    ] {
        let (gateway, mut upstream) = guarded().await;
        let mut client = ask(gateway, Method::GET, "/s/a", lines).await;
        let mut exchange = upstream.next().await;
        exchange.write(&answer).await;
        let head = client.head().await.unwrap();
        assert!(
            head.starts_with("HTTP/1.1 502 "),
            "{lines} {answer}: {head}"
        );
        client.finish().await;
        assert!(!readable(&client.rest().await, SECRET));
    }
}

#[tokio::test]
async fn r07_connect_is_refused_and_opens_no_tunnel() {
    for target in ["other:443", "/s/a", "http://other/"] {
        let (gateway, upstream) = guarded().await;
        let mut client = crate::support::connect(gateway).await;
        let head = format!("CONNECT {target} HTTP/1.1\r\nhost: test\r\n\r\n");
        client.write(head + "\x16\x03\x01hello").await;
        let status = until(&mut client, b"\r\n").await;
        assert!(
            status.starts_with(b"HTTP/1.1 4"),
            "{target}: {}",
            status.escape_ascii()
        );
        client.finish().await;
        client.rest().await;
        assert_eq!(upstream.requests(), 0, "{target}");
    }
}
