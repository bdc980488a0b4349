//! The proxy that the examples share.

use std::{net::SocketAddr, time::Duration};

use axum::Router;
use tokio::net::{TcpListener, TcpStream};
use tower_sse_proxy::{SseProxyLayer, observe::StreamOutcome};

use crate::{
    forward::Forward,
    support::{Records, Upstream, Wire, connect, recorded},
};

/// How long the proxy waits for the head of a response.
const HEAD_LIMIT: Duration = Duration::from_secs(600);

/// A proxy in front of this base URL, and the records of the layer around it.
async fn proxy(base: &str) -> (SocketAddr, Records) {
    let (layer, records) = recorded(SseProxyLayer::default());
    let upstream = Forward::to(base).unwrap();
    let app = Router::new().fallback_service(upstream.behind(&layer));
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    (address, records)
}

#[tokio::test]
async fn r08_hop_by_hop_fields_cross_in_neither_direction() {
    let mut upstream = Upstream::start().await;
    let (proxy, _) = proxy(&format!("http://{}/base/", upstream.address)).await;
    let mut client = connect(proxy).await;
    let request = "GET /a?b HTTP/1.1\r\nHost: gateway\r\nConnection: \u{e9}, x-named, keep-alive\r\nX-Named: 1\r\nKeep-Alive: 1\r\n\
        HTTP2-Settings: AAMAAABk\r\nProxy-Authorization: 1\r\nTE: trailers\r\nUpgrade: h2c\r\nX-Kept: 1\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n";
    client.write(request).await;
    let mut exchange = upstream.next().await;
    let head = exchange.head.to_ascii_lowercase();
    assert!(head.starts_with("get /base/a?b http/1.1\r\n"), "{head}");
    for name in [
        "connection",
        "x-named",
        "keep-alive",
        "http2-settings",
        "proxy-authorization",
        "te",
        "upgrade",
    ] {
        assert!(!head.contains(&format!("\r\n{name}:")), "{head}");
    }
    let address = upstream.address;
    for field in [
        "x-kept: 1",
        &format!("host: {address}"),
        "x-forwarded-host: gateway",
        "x-forwarded-proto: http",
        "x-forwarded-for: 192.0.2.1, 127.0.0.1",
    ] {
        assert!(head.contains(&format!("\r\n{field}\r\n")), "{head}");
    }
    let answer = "HTTP/1.1 200 OK\r\nConnection: x-named\r\nX-Named: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\n\
        X-Kept: 1\r\nContent-Length: 0\r\n\r\n";
    exchange.write(answer).await;
    let head = client.head().await.unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200 ok\r\n") && head.contains("\r\nx-kept: 1\r\n"));
    for name in ["connection", "x-named", "keep-alive", "proxy-authenticate"] {
        assert!(!head.contains(&format!("\r\n{name}:")), "{head}");
    }
}

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: gateway\r\nAccept: text/event-stream\r\n\r\n";

#[tokio::test]
async fn refused_connection_gives_502_and_the_outcome_upstream_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let free = listener.local_addr().unwrap();
    drop(listener);
    let (proxy, records) = proxy(&format!("http://{free}")).await;
    let mut client = connect(proxy).await;
    client.write(REQUEST).await;
    let head = client.head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
    assert_eq!(records.next().await.outcome, StreamOutcome::UpstreamError);
}

#[tokio::test]
async fn broken_connection_or_unknown_coding_gives_502_and_the_outcome_upstream_error() {
    for answer in [
        "",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ] {
        let upstream = Upstream::answering(answer).await;
        let (proxy, records) = proxy(&format!("http://{upstream}")).await;
        let mut client = connect(proxy).await;
        client.write(REQUEST).await;
        let head = client.head().await.unwrap();
        assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
        assert_eq!(records.next().await.outcome, StreamOutcome::UpstreamError);
    }
}

#[tokio::test]
async fn slow_upstream_gives_504_and_the_outcome_upstream_error() {
    let mut upstream = Upstream::start().await;
    let (proxy, records) = proxy(&format!("http://{}", upstream.address)).await;
    let mut client = connect(proxy).await;
    client.write(REQUEST).await;
    let _unanswered = upstream.next().await;
    // The clock stands still only here, because a paused clock does not wait for sockets.
    tokio::time::pause();
    tokio::time::advance(HEAD_LIMIT).await;
    tokio::time::resume();
    let head = client.head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 504 "), "{head}");
    assert_eq!(records.next().await.outcome, StreamOutcome::UpstreamError);
}

#[tokio::test]
async fn client_disconnect_cancels_the_request_before_and_after_the_head() {
    for answer in ["", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"] {
        let mut upstream = Upstream::start().await;
        let (proxy, _) = proxy(&format!("http://{}", upstream.address)).await;
        let mut client = Wire::new(TcpStream::connect(proxy).await.unwrap());
        client
            .write("GET / HTTP/1.1\r\nHost: gateway\r\n\r\n")
            .await;
        let mut exchange = upstream.next().await;
        if !answer.is_empty() {
            exchange.write(answer).await;
            client.head().await.unwrap();
        }
        drop(client);
        crate::support::soon(exchange.closed()).await;
    }
}
