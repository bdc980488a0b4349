//! Where messages begin and end on a connection.

use std::sync::{Arc, Mutex};

use http::Method;

use super::{ask, guarded, sized};
use crate::support::{Chunk, SECRET, Upstream, Wire, chunk, connect, data, event, readable};

const STREAM: &str = "content-type: text/event-stream\r\n";

/// Reads a chunked body to its end. Returns its bytes, and whether it is complete.
async fn body(client: &mut Wire) -> (Vec<u8>, bool) {
    let mut all = Vec::new();
    loop {
        match client.chunk().await {
            Chunk::Data(data) => all.extend_from_slice(&data),
            end => return (all, end == Chunk::Last(String::new())),
        }
    }
}

#[tokio::test]
async fn r04_next_response_on_the_connection_is_whole_after_a_stream_with_a_length() {
    let events = [event("before"), event(SECRET), event("after")].concat();
    let events = String::from_utf8(events).unwrap();
    for path in ["/s/a", "/r/a", "/f/a", "/a"] {
        let (gateway, mut upstream) = guarded().await;
        let mut client = ask(gateway, Method::GET, path, "").await;
        let mut exchange = upstream.next().await;
        exchange.write(sized(STREAM, &events)).await;
        let head = client.head().await.unwrap().to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 200"), "{head}");
        assert!(!head.contains("content-length"), "{head}");
        let (got, complete) = body(&mut client).await;
        let got = data(std::str::from_utf8(&got).unwrap());
        assert_eq!(
            (got, complete),
            (vec!["before".into(), "after".into()], true)
        );

        // The next response, on the same connections.
        client
            .write("GET /json HTTP/1.1\r\nhost: test\r\n\r\n")
            .await;
        let head = exchange.wire.head().await.unwrap();
        assert!(head.starts_with("GET /json "), "{head}");
        exchange
            .write(sized("content-type: application/json\r\n", "{\"a\":1}"))
            .await;
        let head = client.head().await.unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert_eq!(client.exactly(7).await.unwrap(), "{\"a\":1}");
        client.finish().await;
        assert_eq!(client.rest().await, "", "{path}");
    }
}

/// For an HTTP/1.0 client, the body ends when the connection closes.
#[tokio::test]
async fn r04_http_1_0_client_gets_no_length_of_another_body() {
    let events = [event(SECRET), event("after")].concat();
    let events = String::from_utf8(events).unwrap();
    for lines in ["", "connection: keep-alive\r\n"] {
        let (gateway, mut upstream) = guarded().await;
        let mut client = connect(gateway).await;
        client
            .write(format!("GET /s/a HTTP/1.0\r\n{lines}\r\n"))
            .await;
        let mut exchange = upstream.next().await;
        exchange.write(sized(STREAM, &events)).await;
        let head = client.head().await.unwrap().to_ascii_lowercase();
        assert!(head.starts_with("http/1.0 200"), "{head}");
        for name in ["content-length", "transfer-encoding"] {
            assert!(!head.contains(name), "{head}");
        }
        assert_eq!(client.rest().await, event("after"));
    }
}

#[tokio::test]
async fn r04_stream_that_is_shorter_than_its_length_is_cut() {
    let (gateway, mut upstream) = guarded().await;
    let mut client = ask(gateway, Method::GET, "/s/a", "").await;
    let mut exchange = upstream.next().await;
    let short = sized(STREAM, "data: 1\n\n").replace("length: 9", "length: 90");
    exchange.write(short).await;
    drop(exchange);
    client.head().await.unwrap();
    let (got, complete) = body(&mut client).await;
    assert_eq!((&*got, complete), (&b"data: 1\n\n"[..], false));
    assert_eq!(client.rest().await, "");
}

/// A client would read the bytes after the length as the response to its next request.
#[tokio::test]
async fn r04_bytes_after_the_length_reach_no_client() {
    for first in [
        sized(STREAM, "data: 1\n\n"),
        sized("", "hello"),
        "HTTP/1.1 204 No Content\r\n\r\n".into(),
    ] {
        let (gateway, mut upstream) = guarded().await;
        let mut client = ask(gateway, Method::GET, "/s/a", "connection: close\r\n").await;
        let mut exchange = upstream.next().await;
        exchange.write(first + &sized("", "planted")).await;
        let got = client.rest().await;
        assert!(!readable(&got, "planted"));

        let mut client = ask(gateway, Method::GET, "/s/b", "connection: close\r\n").await;
        let mut exchange = upstream.next().await;
        exchange.write(sized("", "wanted")).await;
        let got = client.rest().await;
        assert!(got.ends_with(b"wanted"), "{}", got.escape_ascii());
    }
}

/// The heads of all requests that arrive at an upstream, which answers each and closes the connection.
#[derive(Clone, Default)]
struct Requests(Arc<Mutex<Vec<String>>>);

impl Requests {
    fn record(mut upstream: Upstream) -> Self {
        let requests = Self::default();
        let all = requests.clone();
        tokio::spawn(async move {
            loop {
                let mut exchange = upstream.received().await;
                all.0
                    .lock()
                    .unwrap()
                    .push(exchange.head.to_ascii_lowercase());
                tokio::spawn(async move {
                    exchange.body().await;
                    let fields = "connection: close\r\n";
                    let _ = exchange.wire.try_write(sized(fields, "ok")).await;
                });
            }
        });
        requests
    }

    fn heads(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: test\r\n\r\n";

const CHUNKED: &str = "transfer-encoding: chunked\r\n";

fn first(fields: &str, body: &str) -> String {
    let body = body.replace("SMUGGLED", SMUGGLED);
    format!("POST /first HTTP/1.1\r\nhost: test\r\n{fields}\r\n{body}")
}

/// A `Content-Length` of [`SMUGGLED`] and some more bytes.
fn length(more: usize) -> String {
    format!("content-length: {}\r\n", SMUGGLED.len() + more)
}

/// Requests with two framings. `Transfer-Encoding` applies, and the connection ends (RFC 9112 6.1).
fn with_two_framings() -> Vec<String> {
    let whole = format!("{:x}\r\nSMUGGLED\r\n0\r\n\r\n", SMUGGLED.len());
    let ends = "0\r\n\r\nSMUGGLED";
    vec![
        first(&(length(5) + CHUNKED), ends),
        first(&(CHUNKED.to_owned() + &length(5)), ends),
        first(&format!("content-length: 0\r\n{CHUNKED}"), ends),
        first(&format!("content-length: 4\r\n{CHUNKED}"), &whole),
        first(&format!("{CHUNKED}content-length: 4\r\n"), &whole),
    ]
}

/// Requests with an ambiguous end. If a server ends the request before [`SMUGGLED`], it reads [`SMUGGLED`] as a second request.
fn ambiguous() -> Vec<String> {
    let (post, chunked) = (first, CHUNKED);
    let mut all = vec![
        // Two lengths, and lengths that are not numbers.
        post(&(length(0) + "content-length: 0\r\n"), "SMUGGLED"),
        post(
            &("content-length: 0\r\n".to_owned() + &length(0)),
            "SMUGGLED",
        ),
        post("content-length: 0, 41\r\n", "SMUGGLED"),
        post("content-length: +0\r\n", "SMUGGLED"),
        post("content-length: -1\r\n", "SMUGGLED"),
        post("content-length: 0x0\r\n", "SMUGGLED"),
        post("content-length: 0 0\r\n", "SMUGGLED"),
        post("content-length:\r\n", "SMUGGLED"),
        post("content-length: 18446744073709551616\r\n", "SMUGGLED"),
        // HTTP/1.0 has no transfer codings.
        post(chunked, "0\r\n\r\nSMUGGLED")
            .replace("HTTP/1.1\r\nhost: test\r\nt", "HTTP/1.0\r\nhost: test\r\nt"),
        post(&(length(5) + chunked), "0\r\n\r\nSMUGGLED").replacen("HTTP/1.1", "HTTP/1.0", 1),
        // Line ends and spaces that some readers accept.
        post(&format!("{}content-length : 0\r\n", length(0)), "SMUGGLED"),
        post(&format!("{} {chunked}", length(5)), "0\r\n\r\nSMUGGLED"),
        post(
            &format!("{}x: y\r\n {chunked}", length(5)),
            "0\r\n\r\nSMUGGLED",
        ),
        post(
            &format!("{}x: y\r{chunked}", length(5)),
            "0\r\n\r\nSMUGGLED",
        ),
        post(
            &format!("{}x: y\0\r\n{chunked}", length(5)),
            "0\r\n\r\nSMUGGLED",
        ),
        // Two hosts: two servers may choose different ones.
        post("host: other\r\ncontent-length: 0\r\n", ""),
    ];
    // Transfer codings that some readers take for `chunked`, and others ignore.
    for coding in [
        "transfer-encoding : chunked",
        "transfer-encoding: xchunked",
        "transfer-encoding: chunked, identity",
        "transfer-encoding: identity, chunked",
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: chunked;q=1",
        "transfer-encoding: \"chunked\"",
        "transfer-encoding:\x0bchunked",
        "transfer-encoding: chunked\x0c",
        "transfer-encoding: identity",
        "transfer-encoding:",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity",
        "transfer-encoding: identity\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ntransfer-encoding: x",
    ] {
        all.push(post(
            &format!("{}{coding}\r\n", length(5)),
            "0\r\n\r\nSMUGGLED",
        ));
    }
    // Chunks with a malformed size or end.
    for body in [
        "0\n\nSMUGGLED",
        "+0\r\n\r\nSMUGGLED",
        "-0\r\n\r\nSMUGGLED",
        "0x0\r\n\r\nSMUGGLED",
        "\r\n0\r\n\r\nSMUGGLED",
        "5\r\nhello0\r\n\r\nSMUGGLED",
        "5\r\nhelloXX0\r\n\r\nSMUGGLED",
        "5\r\nhello\n0\r\n\r\nSMUGGLED",
        "5;a\nb\r\nhello\r\n0\r\n\r\nSMUGGLED",
        "10000000000000000\r\n\r\n0\r\n\r\nSMUGGLED",
        "fffffffffffffffff\r\nSMUGGLED",
    ] {
        all.push(post(chunked, body));
    }
    all
}

#[tokio::test]
async fn r10_ambiguous_request_is_never_two_requests() {
    let (gateway, upstream) = guarded().await;
    let requests = Requests::record(upstream);
    let ambiguous = ambiguous().into_iter().map(|request| (request, true));
    let with_two = with_two_framings().into_iter();
    for (request, is_refused) in ambiguous.chain(with_two.map(|request| (request, false))) {
        let before = requests.heads().len();
        let mut client = connect(gateway).await;
        // The gateway may close the connection in the middle of the request.
        let _ = client.try_write(&request).await;
        client.finish().await;
        let got = client.rest().await;
        let heads = requests.heads().split_off(before);
        let shown = request.escape_default().to_string();
        assert!(heads.len() <= 1, "{shown}: {heads:?}");
        for head in &heads {
            assert!(head.starts_with("post /first "), "{shown}: {head}");
            assert_eq!(head.matches("\r\nhost:").count(), 1, "{shown}: {head}");
            let [lengths, codings] = ["\r\ncontent-length:", "\r\ntransfer-encoding:"]
                .map(|name| head.matches(name).count());
            assert!(lengths + codings <= 1, "{shown}: {head}");
        }
        let responses = got.windows(7).filter(|text| text == b"HTTP/1.");
        assert_eq!(responses.count(), 1, "{shown}");
        let status = std::str::from_utf8(&got[9..12]).unwrap();
        assert_eq!(
            ["400", "501"].contains(&status),
            is_refused,
            "{shown}: {status}"
        );
    }

    // Two requests that are not ambiguous arrive.
    let before = requests.heads().len();
    let mut client = connect(gateway).await;
    let first = "POST /first HTTP/1.1\r\nhost: test\r\ncontent-length: 2\r\n\r\n{}";
    client.write(format!("{first}{SMUGGLED}")).await;
    client.finish().await;
    client.rest().await;
    assert_eq!(requests.heads().len() - before, 2);
}

#[tokio::test]
async fn r10_chunked_request_of_1_mib_arrives_once_while_it_is_sent() {
    for path in ["/s/a", "/r/a", "/mcp", "/a"] {
        let (gateway, mut upstream) = guarded().await;
        let lines = "transfer-encoding: chunked\r\nmcp-protocol-version: 2025-11-25\r\n";
        let mut client = ask(gateway, Method::POST, path, lines).await;
        let mut exchange = upstream.next().await;
        for part in 0..16_u8 {
            let part = vec![b'a' + part; 64 << 10];
            client.write(chunk(&part)).await;
            // The client waits with the next part until this one has arrived.
            let mut arrived = Vec::new();
            while arrived.len() < part.len() {
                match exchange.wire.chunk().await {
                    Chunk::Data(data) => arrived.extend_from_slice(&data),
                    end => panic!("{end:?}"),
                }
            }
            assert!(arrived == part, "{path}");
        }
        client.write("0\r\n\r\n").await;
        assert_eq!(exchange.wire.chunk().await, Chunk::Last(String::new()));
        exchange.write(sized("connection: close\r\n", "ok")).await;
        let head = client.head().await.unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert_eq!(exchange.closed().await, "");
        assert_eq!(upstream.requests(), 1);
    }
}

#[tokio::test]
async fn r10_redirect_is_passed_on_and_not_followed() {
    let other = Upstream::start().await;
    for status in [301, 302, 303, 307, 308] {
        for content_type in ["text/html", "text/event-stream"] {
            let (gateway, mut upstream) = guarded().await;
            let lines = "authorization: Bearer key\r\ncontent-length: 2\r\n\r\n{}";
            let mut client = ask(gateway, Method::POST, "/s/a", lines).await;
            let mut exchange = upstream.next().await;
            let location = format!("\r\nlocation: http://{}/\r\n", other.address);
            exchange
                .write(format!(
                    "HTTP/1.1 {status} Moved{location}content-type: {content_type}\r\ncontent-length: 0\r\n\r\n"
                ))
                .await;
            let head = client.head().await.unwrap();
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
            assert!(head.contains(&location), "{head}");
            assert_eq!((upstream.requests(), other.requests()), (1, 0));
        }
    }
}
