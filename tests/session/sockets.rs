//! Sessions as they look from outside, on both HTTP versions.

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
use http::{HeaderName, Request};
use tower::{Layer, service_fn};
use tower_sse_proxy::{
    Policy, SseProxyLayer,
    profile::{Mcp, OriginCheckLayer},
    session::{MemoryStore, Session, SessionMapping, SessionRequest},
};

fn ask(path: &str) -> http::request::Builder {
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
async fn a_store_that_never_answers_is_a_503_in_time_and_other_paths_go_on() {
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
        // With an id the store is asked before the upstream, without one after it.
        let with_id = fetch(protocol, proxy, body(ask("/").header("x-session", "some")));
        let without = fetch(protocol, proxy, body(ask("/")));
        let free = async {
            let answer = fetch(protocol, proxy, body(ask("/free"))).await;
            (answer, begun.elapsed())
        };
        let (with_id, without, (free, at)) = tokio::join!(with_id, without, free);
        assert_eq!(
            (with_id.status, without.status, free.status),
            (503, 503, 200)
        );
        assert_eq!(without.headers.get("x-session"), None);
        assert!(at < begun.elapsed(), "it waited for the others");
    }
}

#[tokio::test]
async fn a_client_that_leaves_while_in_a_session_lets_the_upstream_go() {
    for protocol in BOTH {
        let mut upstream = Upstream::start().await;
        let proxy = proxy(mcp(), upstream.address).await;
        let asking = tokio::spawn(async move { fetch(protocol, proxy, body(ask("/mcp"))).await });
        // Before the head.
        let exchange = upstream.next().await;
        asking.abort();
        exchange.closed().await;
        // After it.
        let asking = tokio::spawn(async move { fetch(protocol, proxy, body(ask("/mcp"))).await });
        let mut exchange = upstream.next().await;
        exchange
            .write(sse_chunked().replace("\r\n\r\n", "\r\nmcp-session-id: UP-1\r\n\r\n"))
            .await;
        exchange.chunk("data: 1\n\n").await;
        let mut client = asking.await.unwrap();
        client.expect("data: 1\n\n").await;
        let _connection = client.leave();
        exchange.closed().await;
    }
}

#[tokio::test]
async fn an_endpoint_in_pieces_is_of_our_own_and_leads_to_the_upstreams() {
    for protocol in BOTH {
        let mut upstream = Upstream::start().await;
        let proxy = proxy(mcp(), upstream.address).await;
        let get = Request::get("/m/sse").body(Bytes::new()).unwrap();
        let asking = tokio::spawn(async move { fetch(protocol, proxy, get).await });
        let mut stream = upstream.next().await;
        stream.write(sse_chunked()).await;
        let mut client = asking.await.unwrap();
        let event = "event: endpoint\ndata: messages/UP-1?session_id=UP-1\n\n";
        for piece in event.as_bytes().chunks(1) {
            stream.chunk(piece).await;
        }
        let told = client.until("\n\n").await;
        let told = String::from_utf8(told.to_vec()).unwrap();
        let path = told
            .strip_prefix("event: endpoint\ndata: ")
            .unwrap()
            .trim_end();
        assert!(
            path.starts_with("/m/sse?sessionId=") && !path.contains("UP-1"),
            "{told}"
        );

        let post = body(ask(path));
        let asking = tokio::spawn(async move { fetch(protocol, proxy, post).await });
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
        assert_eq!(asking.await.unwrap().status, 202);

        // The stream is the session. It is forgotten behind the client's back, so the upstream may still be asked.
        let _connection = client.leave();
        stream.closed().await;
        tokio::spawn(async move {
            loop {
                upstream.next().await.write(accepted).await;
            }
        });
        soon(async { while fetch(protocol, proxy, body(ask(path))).await.status != 404 {} }).await;
    }
}

#[tokio::test]
async fn no_id_gets_out_in_the_trailers() {
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
        let request = body(ask("/mcp").header("mcp-protocol-version", version));
        // On HTTP/1 only what a `Trailer` field names is sent, and only to who asks for trailers.
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
async fn origins_and_hosts_are_checked_as_a_whole_and_before_the_upstream() {
    for protocol in BOTH {
        let upstream = Upstream::start().await;
        let address = upstream.address;
        let answering = Upstream::answering(sse("data: 1\n\n")).await;
        let check = |host: &str| OriginCheckLayer::new([host], ["http://app.example:3000/"]);
        // As a layer of its own, and in the profile.
        let alone = serve(check("test").layer(forward(answering))).await;
        let mcp = Mcp::new(Policy::default()).check(check("test"));
        let within = SseProxyLayer::default().policy(move |request, _| mcp.policy(request));
        let within = proxy(within, answering).await;
        let refusing = serve(check("test").layer(forward(address))).await;
        let elsewhere = serve(check("test:80").layer(forward(address))).await;
        assert_eq!(fetch(protocol, elsewhere, body(ask("/"))).await.status, 403);
        for proxy in [alone, within] {
            for (name, value, what) in [
                ("origin", "null", "origin"),
                ("host", "evil.example", "host"),
            ] {
                // A client of HTTP/1 here sends a host of its own, so that this is the second one.
                let refused = fetch(protocol, proxy, body(ask("/").header(name, value))).await;
                assert_eq!(refused.status, 403);
                let (text, _) = refused.rest().await;
                assert!(String::from_utf8_lossy(&text).contains(what), "{text:?}");
            }
            let fine = fetch(protocol, proxy, body(ask("/"))).await;
            assert_eq!(fine.status, 200);
            let fine = fetch(
                protocol,
                proxy,
                body(ask("/").header("origin", "http://app.example:3000")),
            )
            .await;
            assert_eq!(fine.status, 200);
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
            let request = body(ask("/").header("origin", origin));
            assert_eq!(
                fetch(protocol, refusing, request).await.status,
                403,
                "{origin}"
            );
        }
        let twice = ask("/")
            .header("origin", "http://app.example:3000")
            .header("origin", "http://evil.example");
        assert_eq!(fetch(protocol, refusing, body(twice)).await.status, 403);
        assert_eq!(upstream.requests(), 0);
    }
}
