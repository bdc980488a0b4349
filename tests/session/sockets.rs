//! Sessions between real sockets, with HTTP/1.1 and HTTP/2.

use http::HeaderName;
use std::{
    convert::Infallible,
    future::pending,
    time::{Duration, Instant},
};

use crate::support::{
    BOTH, Ended, Protocol, Upstream, fetch, forward, proxy, serve, soon, sse, sse_chunked,
    with_free_paths,
};
use bytes::Bytes;
use http::Request;
use tower::{Layer, service_fn};
use tower_sse_proxy::{
    Policy, SseProxyLayer,
    profile::{Mcp, OriginCheckLayer},
    session::{MemoryStore, Session, SessionMapping, SessionRequest},
};

fn post(path: &str) -> http::request::Builder {
    Request::post(path)
}

fn body(request: http::request::Builder) -> Request<Bytes> {
    request.body(Bytes::from_static(b"{}")).unwrap()
}

fn mcp() -> SseProxyLayer {
    let mcp = Mcp::new(Policy::default());
    SseProxyLayer::new(MemoryStore::default()).policy(move |request, _| mcp.policy(request))
}

#[tokio::test]
async fn hanging_store_gives_503_in_time_and_other_paths_work() {
    for protocol in BOTH {
        let hung = service_fn(|_: SessionRequest| pending::<Result<Option<Session>, Infallible>>());
        let rules = SessionMapping::header(HeaderName::from_static("x-session"))
            .store_timeout(Duration::from_millis(300));
        let layer = with_free_paths(SseProxyLayer::new(hung).sessions(rules));
        let upstream = Upstream::answering(
            "HTTP/1.1 200 OK\r\nx-session: UP-1\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi",
        )
        .await;
        let proxy = proxy(layer, upstream).await;
        let begun = Instant::now();
        // With an id, the layer calls the store before the upstream, without one after it.
        let with_id = fetch(protocol, proxy, body(post("/").header("x-session", "some")));
        let without = fetch(protocol, proxy, body(post("/")));
        let free = async {
            let answer = fetch(protocol, proxy, body(post("/free"))).await;
            (answer, begun.elapsed())
        };
        let (with_id, without, (free, at)) = tokio::join!(with_id, without, free);
        assert_eq!(
            (with_id.status, without.status, free.status),
            (503, 503, 200)
        );
        assert_eq!(without.headers.get("x-session"), None);
        assert!(at < begun.elapsed(), "the free path waited for the store");
    }
}

#[tokio::test]
async fn client_disconnect_closes_the_upstream_connection() {
    for protocol in BOTH {
        let mut upstream = Upstream::start().await;
        let proxy = proxy(mcp(), upstream.address).await;
        let sent = tokio::spawn(async move { fetch(protocol, proxy, body(post("/mcp"))).await });
        // Before the response head.
        let exchange = upstream.next().await;
        sent.abort();
        exchange.closed().await;
        // After the response head.
        let sent = tokio::spawn(async move { fetch(protocol, proxy, body(post("/mcp"))).await });
        let mut exchange = upstream.next().await;
        exchange
            .write(sse_chunked().replace("\r\n\r\n", "\r\nmcp-session-id: UP-1\r\n\r\n"))
            .await;
        exchange.chunk("data: 1\n\n").await;
        let mut client = sent.await.unwrap();
        client.expect("data: 1\n\n").await;
        let _connection = client.leave();
        exchange.closed().await;
    }
}

#[tokio::test]
async fn endpoint_event_in_pieces_is_mapped_to_the_upstream_url() {
    for protocol in BOTH {
        let mut upstream = Upstream::start().await;
        let proxy = proxy(mcp(), upstream.address).await;
        let get = Request::get("/m/sse").body(Bytes::new()).unwrap();
        let sent = tokio::spawn(async move { fetch(protocol, proxy, get).await });
        let mut stream = upstream.next().await;
        stream.write(sse_chunked()).await;
        let mut client = sent.await.unwrap();
        let event = "event: endpoint\ndata: messages/UP-1?session_id=UP-1\n\n";
        for piece in event.as_bytes().chunks(1) {
            stream.chunk(piece).await;
        }
        let text = client.until("\n\n").await;
        let text = String::from_utf8(text.to_vec()).unwrap();
        let path = text
            .strip_prefix("event: endpoint\ndata: ")
            .unwrap()
            .trim_end();
        assert!(
            path.starts_with("/m/sse?sessionId=") && !path.contains("UP-1"),
            "{text}"
        );

        let to_endpoint = body(post(path));
        let sent = tokio::spawn(async move { fetch(protocol, proxy, to_endpoint).await });
        let mut exchange = upstream.next().await;
        assert!(
            exchange
                .head
                .starts_with("POST /m/messages/UP-1?session_id=UP-1 "),
            "{}",
            exchange.head
        );
        assert_eq!(exchange.body().await, "{}");
        let accepted = "HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        exchange.write(accepted).await;
        assert_eq!(sent.await.unwrap().status, 202);

        // The session ends with its stream. A task removes it later, so the upstream may still get requests.
        let _connection = client.leave();
        stream.closed().await;
        tokio::spawn(async move {
            loop {
                upstream.next().await.write(accepted).await;
            }
        });
        soon(async { while fetch(protocol, proxy, body(post(path))).await.status != 404 {} }).await;
    }
}

#[tokio::test]
async fn session_id_is_removed_from_trailers() {
    for (mime, version) in [
        ("text/event-stream", "2025-11-25"),
        ("text/event-stream", "2026-07-28"),
        ("application/json", "2025-11-25"),
        ("application/json", "2026-07-28"),
    ] {
        let upstream = Upstream::answering(format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {mime}\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n\
             9\r\ndata: 1\n\n\r\n0\r\nmcp-session-id: UP-1\r\nmcp_session_id: UP-1\r\nx-sum: 1\r\n\r\n"
        ))
        .await;
        let proxy = proxy(mcp(), upstream).await;
        let request = body(post("/mcp").header("mcp-protocol-version", version));
        // HTTP/1.1 sends only trailers that a `Trailer` field names, and only to clients with `TE: trailers`.
        let answer = fetch(Protocol::Http2, proxy, request).await;
        let (data, ended) = answer.rest().await;
        assert_eq!(data, "data: 1\n\n");
        let Ended::Clean(trailers) = ended else {
            panic!("{mime}: cut");
        };
        assert_eq!(
            trailers.keys().collect::<Vec<_>>(),
            ["x-sum"],
            "{mime} {version}"
        );
    }
}

#[tokio::test]
async fn r47_wrong_origin_or_host_gets_403_and_never_reaches_the_upstream() {
    for protocol in BOTH {
        let upstream = Upstream::start().await;
        let address = upstream.address;
        let answering = Upstream::answering(sse("data: 1\n\n")).await;
        let check = |host: &str| OriginCheckLayer::new([host], ["http://app.example:3000/"]);
        // The check as a separate layer, and the check in the profile.
        let as_layer = serve(check("test").layer(forward(answering))).await;
        let mcp = Mcp::new(Policy::default()).check(check("test"));
        let in_profile = SseProxyLayer::default().policy(move |request, _| mcp.policy(request));
        let in_profile = proxy(in_profile, answering).await;
        let rejecting = serve(check("test").layer(forward(address))).await;
        let other_port = serve(check("test:80").layer(forward(address))).await;
        assert_eq!(
            fetch(protocol, other_port, body(post("/"))).await.status,
            403
        );
        for proxy in [as_layer, in_profile] {
            for (name, value, what) in [
                ("origin", "null", "origin"),
                ("host", "evil.example", "host"),
            ] {
                // With HTTP/1.1 the client adds its own `Host` header, so that there are two.
                let rejected = fetch(protocol, proxy, body(post("/").header(name, value))).await;
                assert_eq!(rejected.status, 403);
                let (text, _) = rejected.rest().await;
                assert!(String::from_utf8_lossy(&text).contains(what), "{text:?}");
            }
            let accepted = fetch(protocol, proxy, body(post("/"))).await;
            assert_eq!(accepted.status, 200);
            let accepted = fetch(
                protocol,
                proxy,
                body(post("/").header("origin", "http://app.example:3000")),
            )
            .await;
            assert_eq!(accepted.status, 200);
        }
        for origin in [
            "http://evil.example",
            "https://app.example:3000",
            "HTTP://app.example:3000",
            "http://APP.example:3000",
            "http://app.example:3001",
            "http://app.example:3000.evil.example",
            "http://app.example:3000@evil.example",
            "null",
            "",
        ] {
            let request = body(post("/").header("origin", origin));
            assert_eq!(
                fetch(protocol, rejecting, request).await.status,
                403,
                "{origin}"
            );
        }
        let twice = post("/")
            .header("origin", "http://app.example:3000")
            .header("origin", "http://evil.example");
        assert_eq!(fetch(protocol, rejecting, body(twice)).await.status, 403);
        assert_eq!(upstream.requests(), 0);
    }
}
